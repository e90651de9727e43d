"""Try one config: its stock model, its A-FAN version, the proof, and a prediction after a step."""
from __future__ import annotations

import contextlib
import copy
import re
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Dict, List, Optional, Tuple

import torch
from mmengine.logging import MessageHub
from mmengine.model import BaseAveragedModel
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..analysis.exactness import agrees, device_of, exact_arithmetic
from ..analysis.proof import prove
from ..analysis.reference import floats_in
from ..cli.configs import PREFIX, build_model, family_of, read_config, stock_model, type_name
from ..cli.probe import find_candidates, training_step
from ..cli.recipes import choose_recipe
from ..cli.taps_command import BATCH_SIZE, Search
from .batches import make_batch
from .shrink import IMAGE_SIZES, narrow_resnet, short_resnets, shrink_model

OUTCOMES = ('passed', 'explained', 'failed')
# What a stock model may fail of here that is no fault of the batch: these errors explain a family.
KINDS = (ImportError, NotImplementedError)
MESSAGES = re.compile(r'implementation for device cpu|not implemented for .?CPU|not compiled with GPU|no NVIDIA|CUDA|'
                      r'pip install|is not installed|not implemented on|only support', re.I)
FAULTS = re.compile(r'CUDA error|device-side|out of memory', re.I)  # after which everything fails alike
LARGE = 50e6  # parameters; the memory of a further copy with gradients is saved
INPUTS = dict(taps=dict(inputs=dict(module='inputs', step_size=1.0)))


@dataclass
class Row:
    """What became of one family.

    Attributes:
        codebase: Package of the stock model.
        family: Folder of its configs.
        config: The config that stands for the family.
        outcome: ``'passed'``, ``'explained'`` (the stock model fails alike) or ``'failed'``.
        reason: Why, where it has not passed.
        model: The stock type.
        taps: Module of each tap.
        image_size: Side of the random images.
        before: Parameters proven to have 1.0 times the stock gradient.
        after: Parameters proven to have 2.0 times the stock gradient.
        between: Parameters on both sides of a tap, or beside it.
        error: Largest relative error of a gradient.
        prediction: ``'equal'``, or why there is none.
        seconds: Time it took.
        device: Where it was tried.
        spread: Largest relative difference of two runs of the stock step there; 0 on a CPU.
    """
    codebase: str
    family: str
    config: str = ''
    outcome: str = 'failed'
    reason: str = ''
    model: str = ''
    taps: Dict[str, str] = field(default_factory=dict)
    image_size: Optional[int] = None
    before: int = 0
    after: int = 0
    between: int = 0
    error: float = 0.0
    prediction: str = ''
    seconds: float = 0.0
    device: str = 'cpu'
    spread: float = 0.0

    def to_dict(self) -> Dict[str, Any]:
        """Return plain values."""
        return asdict(self)


class Explained(Exception):
    """The stock model fails, and its A-FAN version alike."""


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
        with short_resnets(), exact_arithmetic(device):
            _try(row)
        row.outcome = 'passed'
    except Explained as error:
        row.outcome, row.reason = 'explained', str(error)
    except Exception as error:
        row.reason = describe(error)
    row.seconds = round(time.perf_counter() - begin, 1)
    return row


def describe(error: BaseException) -> str:
    """Return the kind of an error and the first line of its message."""
    lines = str(error).strip().splitlines() or ['']
    return f'{type(error).__name__}: {lines[0]}'[:400]


def _try(row: Row) -> None:
    cfg = read_config(row.config)
    row.model = type_name(cfg.model.type)
    cfg, batch, stock = _stock_arm(row, cfg)
    model = _afan_arm(row, cfg, _look(cfg, stock, batch))
    stir(model)
    stock.load_state_dict(model.state_dict())
    steps = dict(two_phase=2, single_graph=1)
    if sum(parameter.numel() for parameter in model.parameters()) > LARGE:
        del steps['single_graph']
    proof = prove(model, batch, stock, steps=steps)
    row.before, row.after, row.between, row.error = proof.before, proof.after, proof.between, float(proof.error)
    row.spread = max(proof.spread.values(), default=0.0)
    if not proof.holds:
        raise ValueError(f'{len(proof.wrong)} disagree, the first: {proof.wrong[0]}')
    row.prediction = _predict(model, stock, batch, proof.spread.allows('loss'))


def _stock_arm(row: Row, given: Any) -> Tuple[Any, Any, Any]:
    """Build the stock model, and find the first size of images that it trains a step on."""
    last, batch = '', None
    with contextlib.suppress(KeyError):  # what is worked around for A-FAN is so for the stock model
        MODELS.get(f'mmafan.{PREFIX}{row.codebase}.{row.model}')
    sizes = IMAGE_SIZES[row.codebase]
    MessageHub.get_current_instance().update_info('max_iters', 100)  # of which schedules inside of models ask
    for size, narrow in [(sizes[0], True), *((size, False) for size in sizes)]:
        cfg = copy.deepcopy(given)
        shrink_model(cfg.model, size)
        shrink_model(cfg.get('data_preprocessor'))
        if narrow and not narrow_resnet(cfg.model):
            continue
        try:
            batch = make_batch(cfg, BATCH_SIZE, size)
            row.image_size = _side(batch)
            torch.manual_seed(0)
            stock = build_model(cfg, stock_model(cfg)[0]).to(row.device).train()
            stock.init_weights()  # where some switch the gradients of parts off
            training_step(stock, [batch])(0)
            return cfg, batch, stock
        except Exception as error:
            _explain(cfg, error, batch, row.device)
            last = describe(error)
    raise RuntimeError(f'the stock model does not train a step on random images ({last})')


def _side(batch: Any) -> int:
    inputs = batch['inputs']
    while not isinstance(inputs, Tensor):
        inputs = (list(inputs.values()) if isinstance(inputs, dict) else inputs)[0]
    return int(inputs.shape[-1])


def _explain(cfg: Any, error: Exception, batch: Any, device: str) -> None:
    """Raise where an error of the stock model is one of this machine, and the A-FAN model has the same one."""
    if FAULTS.search(str(error)) or not (isinstance(error, KINDS) or MESSAGES.search(str(error))):
        return
    fields = stock_model(cfg)[0]
    fields.update(type=f'mmafan.{PREFIX}{type_name(fields["type"])}', afan=INPUTS)
    try:
        training_step(build_model(cfg, fields).to(device).train(), [batch])(0)
    except Exception as own:
        if describe(own) == describe(error):
            raise Explained(f'the stock model fails alike: {describe(error)}') from None
        raise RuntimeError(f'the stock model fails by {describe(error)}, but its A-FAN version by '
                           f'{describe(own)}') from own


def _look(cfg: Any, stock: Any, batch: Any) -> Search:
    candidates = find_candidates(stock, training_step(stock, [batch]), repeats=0)
    side = _side(batch)
    return Search(cfg, stock, candidates, (side, side))


def _afan_arm(row: Row, cfg: Any, found: Search) -> Any:
    """Build the A-FAN version with the taps of the default recipe, where ``mmafan taps`` puts them."""
    recipe = found.place(choose_recipe(family_of(cfg), 'default', found.paths()))
    if not recipe.taps:
        raise ValueError('no tap of the default recipe has a place in this model')
    row.taps = {name: tap['module'] for name, tap in recipe.taps.items()}
    fields = stock_model(cfg)[0]
    fields.update(type=f'mmafan.{PREFIX}{type_name(fields["type"])}', afan=recipe.fields)
    model = build_model(cfg, fields).to(row.device)
    model.init_weights()
    return model


def stir(model: nn.Module) -> None:
    """Give a model weights of ordinary size: stock heads begin with some so small that gradients vanish.

    Momentum networks are moved away from what they follow, and have made a step, so that another one shows.
    """
    device = device_of(model)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=max(parameter[0].numel(), 1)**-0.5, generator=generator)
            else:  # some norms begin with weights of 0
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, device=device))
        for module in model.modules():
            if isinstance(module, BaseAveragedModel):
                module.steps.fill_(1)


def _predict(model: Any, stock: Any, batch: Any, allowed: float) -> str:
    """Train the A-FAN model for a step, and predict with it and with the stock model of the same weights."""
    from mmengine.optim import OptimWrapper
    wrapper = OptimWrapper(torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4))
    model.train().train_step(batch, wrapper)
    stock.load_state_dict(model.state_dict())
    results: List[Any] = []
    for arm in (stock.eval(), model.eval()):
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
