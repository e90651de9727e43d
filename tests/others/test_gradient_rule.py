"""The rule of gradients on models of codebases that mmafan knows nothing of, where they are installed.

`docs/conformance.md` says what was tried.
"""
from __future__ import annotations

import copy
import importlib
import os.path as osp

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, init_default_scope

from mmafan.analysis import prove
from mmafan.conformance.shrink import short_resnets, shrink_model
from mmafan.conformance.trial import stir

from .cases import CASES

pytestmark = pytest.mark.slow


def import_models(package):
    """Import the models of a codebase, or skip; return where its configs lie."""
    try:
        importlib.import_module(f'{package}.models')
    except (ImportError, AssertionError) as error:  # the latter where it refuses the version of another package
        pytest.skip(f'{package} is no codebase that mmafan needs, and cannot be imported: {error}')
    return osp.join(osp.dirname(importlib.import_module(package).__file__), '.mim', 'configs')


@pytest.mark.parametrize('name', CASES)
def test_prove(name):
    case = CASES[name]
    package, _, path = case.config.partition('::')
    cfg = Config.fromfile(osp.join(import_models(package), path))
    init_default_scope(package)
    for name_of_count in ('epoch', 'iter'):  # of which some losses and data preprocessors ask
        MessageHub.get_current_instance().update_info(name_of_count, 0)
    fields = shrink_model(cfg.model)
    case.change(fields)
    taps = {f'tap{n}': dict(module=module, step_size=0.1) for n, module in enumerate(case.taps)}
    with short_resnets():
        stock = MODELS.build(copy.deepcopy(fields))
        model = MODELS.build(dict(fields, type=f'mmafan.AFAN{fields.type.split(".")[-1]}', afan=dict(taps=taps)))
    stir(model)
    stock.load_state_dict(model.state_dict())
    torch.manual_seed(0)
    proof = prove(model, case.batch(), stock)
    assert proof.holds, proof.wrong
    assert proof.before and proof.after
