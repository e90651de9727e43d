"""Try one config: its stock model, its A-FAN version, the proof, and a prediction after a step."""
from __future__ import annotations

import os
import os.path as osp
import time
from contextlib import contextmanager
from itertools import islice
from typing import Any, Iterator, List

import torch

from ..analysis.exactness import agrees, exact_arithmetic
from ..analysis.proof import prove
from ..analysis.reference import floats_in
from ..cli.configs import type_name
from .arms import Explained, StockFails, afan_arm, stir, stock_arm, take_weights
from .families import configs_of, read_family_config, training_configs
from .row import Row, describe
from .shrink import short_resnets

MOST = 8  # configs that are tried of a family
LARGE = 50e6  # parameters; the memory of a further copy with gradients is saved


def try_family(codebase: str, family: str, device: str = 'cpu') -> Row:
    """Try the configs of a family until the stock model of one trains a step; return its row, else that of the first.

    Args:
        codebase: Package of the stock model.
        family: Folder of its configs.
        device: Where, such as ``'cuda'``.

    Raises:
        ValueError: If there is no such family.
    """
    rows: List[Row] = []
    for config in islice(training_configs(codebase, family), MOST):
        rows.append(try_config(codebase, family, config, device))
        if rows[-1].model_trains:
            return rows[-1]
    if not rows:
        return Row(codebase, family, outcome='explained', reason='no config of it has a model', device=device)
    return rows[0]


def try_config(codebase: str, family: str, config: str, device: str = 'cpu') -> Row:
    """Try a config; no error of it gets out.

    Args:
        codebase: Package of the stock model.
        family: Folder of its configs.
        config: Name of the config, such as ``mmdet::ssd/ssd300_coco.py``.
        device: Where, such as ``'cuda'``.
    """
    row, begin = Row(codebase, family, config, device=device), time.perf_counter()
    try:
        with short_resnets(), exact_arithmetic(device), _at_home(codebase):
            _try(row)
        row.outcome = 'passed'
    except Explained as error:
        row.outcome, row.reason, row.model_trains = 'explained', str(error), False
    except Exception as error:
        row.reason, row.model_trains = describe(error), not isinstance(error, StockFails)
    row.seconds = round(time.perf_counter() - begin, 1)
    return row


@contextmanager
def _at_home(codebase: str) -> Iterator[None]:
    """Be in the folder from which configs name files of their codebase."""
    before = os.getcwd()
    os.chdir(osp.dirname(configs_of(codebase)))
    try:
        yield
    finally:
        os.chdir(before)


def _try(row: Row) -> None:
    cfg = read_family_config(row.config)
    row.model = type_name(cfg.model.type)
    cfg, batch, stock, found = stock_arm(row, cfg)
    model = afan_arm(row, cfg, found)
    stir(model)
    take_weights(stock, model)
    steps = dict(two_phase=2, single_graph=1)
    if sum(parameter.numel() for parameter in model.parameters()) > LARGE:
        del steps['single_graph']
    proof = prove(model, batch, stock, steps=steps)
    row.before, row.after, row.between, row.error = proof.before, proof.after, proof.between, float(proof.error)
    row.spread = max(proof.spread.values(), default=0.0)
    if not proof.holds:
        raise ValueError(f'{len(proof.wrong)} disagree, the first: {proof.wrong[0]}')
    row.prediction = _predict(model, stock, batch, proof.spread.allows('loss'))


def _predict(model: Any, stock: Any, batch: Any, allowed: float) -> str:
    """Train the A-FAN model for a step, and predict with it and with the stock model of the same weights."""
    from mmengine.optim import OptimWrapper
    wrapper = OptimWrapper(torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4))
    model.train()
    model.train_step(batch, wrapper)
    take_weights(stock, model)
    results: List[Any] = []
    for arm in (stock, model):
        arm.eval()
        torch.manual_seed(0)
        try:
            with torch.no_grad():
                results.append([t.clone() for t in floats_in(arm.test_step(batch))])
        except Exception as error:
            results.append(describe(error))
    stocks, own = results
    if isinstance(stocks, str) and stocks == own:
        return f'none: the stock model fails alike by {stocks}'
    if isinstance(own, str) or isinstance(stocks, str):
        raise RuntimeError(f'the prediction fails: {own if isinstance(own, str) else stocks}')
    if len(stocks) != len(own) or not all(agrees(a, b, allowed) for a, b in zip(own, stocks)):
        raise RuntimeError('the predictions differ from those of the stock model with the same weights')
    return f'equal ({len(own)} tensors)'
