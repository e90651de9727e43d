"""A stock model that trains a step on random images, and its A-FAN version, with the same weights of ordinary size."""
from __future__ import annotations

import contextlib
import copy
import re
from typing import Any, List, Tuple
from urllib.error import URLError

import torch
from mmengine.model import BaseAveragedModel
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..analysis.exactness import device_of
from ..cli.configs import PREFIX, build_model, family_of, stock_model, type_name
from ..cli.probe import find_candidates, training_step
from ..cli.recipes import choose_recipe
from ..cli.taps_command import BATCH_SIZE, Search
from .batches import make_batch
from .row import Row, describe
from .shrink import IMAGE_SIZES, narrow_resnet, shrink_model

# What a stock model may fail of here that is no fault of the batch: these errors explain a family.
KINDS = (ImportError, NotImplementedError, URLError)
MESSAGES = re.compile(r'implementation for device cpu|not implemented for .?CPU|not compiled with GPU|no NVIDIA|CUDA|'
                      r'pip install|is not installed|not implemented on|batch_norm eps must be positive', re.I)
FAULTS = re.compile(r'CUDA error|device-side|out of memory', re.I)  # after which everything fails alike
INPUTS = dict(taps=dict(inputs=dict(module='inputs', step_size=1.0)))


class Explained(Exception):
    """The stock model fails, and its A-FAN version alike."""


class StockFails(RuntimeError):
    """The stock model fails, by an error that may be one of the batch."""


def stock_arm(row: Row, given: Any) -> Tuple[Any, Any, Any, Search]:
    """Build the stock model, and find the first size of images that a copy of it trains a step on."""
    last, batch = '', None
    with contextlib.suppress(KeyError):  # what is worked around for A-FAN is so for the stock model
        MODELS.get(f'mmafan.{PREFIX}{row.codebase}.{row.model}')
    sizes = IMAGE_SIZES[row.codebase]
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
            stock = build_model(cfg, stock_model(cfg)[0]).to(row.device)
            stock.train()  # which of some models returns nothing
            initialize(stock)
            return cfg, batch, stock, _look(cfg, copy.deepcopy(stock), batch)
        except Exception as error:
            _explain(cfg, error, batch, row.device)
            last = describe(error)
    raise StockFails(f'the stock model does not train a step on random images ({last})')


def _side(batch: Any) -> int:
    inputs = batch['inputs']
    while not isinstance(inputs, Tensor):
        inputs = (list(inputs.values()) if isinstance(inputs, dict) else inputs)[0]
    return int(inputs.shape[-1])


def _explain(cfg: Any, error: Exception, batch: Any, device: str) -> None:
    """Raise where an error of the stock model is one of this machine, and the A-FAN model has the same one.

    So it is where no config of a family trains: those are for models without a head.
    """
    headless = not cfg.get('train_dataloader') and "'NoneType' object" in str(error)
    known = headless or isinstance(error, KINDS) or MESSAGES.search(str(error))
    if FAULTS.search(str(error)) or not known:
        return
    fields = stock_model(cfg)[0]
    fields.update(type=f'mmafan.{PREFIX}{type_name(fields["type"])}', afan=INPUTS)
    try:
        model = build_model(cfg, fields).to(device)
        model.train()
        training_step(model, [batch])(0)
    except Exception as own:
        if describe(own) == describe(error):
            raise Explained(f'the stock model fails alike: {describe(error)}') from None
        raise RuntimeError(f'the stock model fails by {describe(error)}, but its A-FAN version by '
                           f'{describe(own)}') from own


def _look(cfg: Any, stock: Any, batch: Any) -> Search:
    losses: List[Tuple[str, ...]] = []
    candidates = find_candidates(stock, lambda number: losses.append(training_step(stock, [batch])(number)), repeats=0)
    side = _side(batch)
    return Search(cfg, stock, candidates, (side, side), losses[0])


def afan_arm(row: Row, cfg: Any, found: Search) -> Any:
    """Build the A-FAN version with the taps of the default recipe, where ``mmafan taps`` puts them."""
    recipe = found.place(choose_recipe(family_of(cfg), 'default', found.paths()))
    if not recipe.taps:
        raise ValueError('no tap of the default recipe has a place in this model')
    row.taps = {name: tap['module'] for name, tap in recipe.taps.items()}
    fields = stock_model(cfg)[0]
    fields.update(type=f'mmafan.{PREFIX}{type_name(fields["type"])}', afan=recipe.fields)
    model = build_model(cfg, fields).to(row.device)
    initialize(model)
    return model


def initialize(model: Any) -> None:
    """Initialize a model, where some switch the gradients of parts off; some can only do so from weights."""
    try:
        model.init_weights()
    except AttributeError:
        stir(model)


def take_weights(stock: nn.Module, model: nn.Module) -> None:
    """Give the stock model the weights of another; some have further names for them after their first step.

    Teachers that are no part of a model, as plain attributes, have weights, too.

    Raises:
        RuntimeError: If one is missing.
    """
    for path, module in model.named_modules():
        for name, teacher in vars(module).items():
            if isinstance(teacher, nn.Module):
                vars(stock.get_submodule(path))[name].load_state_dict(teacher.state_dict())
    left_out = stock.load_state_dict(stock.state_dict(), strict=False).missing_keys  # stock code drops some itself
    for key in stock.load_state_dict(model.state_dict(), strict=False).missing_keys:
        if key not in left_out:
            raise RuntimeError(f'the state of the A-FAN model lacks {key}')


def stir(model: nn.Module) -> None:
    """Give a model weights of ordinary size: stock heads begin with some so small that gradients vanish.

    Momentum networks are moved away from what they follow, and have made a step, so that another one shows.
    """
    device = device_of(model)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'proposal_bboxes' in name:  # learned boxes, whose sizes must not be negative
                continue
            if parameter.dim() > 1:
                parameter.normal_(std=max(parameter[0].numel(), 1)**-0.5, generator=generator)
            else:  # some norms begin with weights of 0
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, device=device))
        for module in model.modules():
            if isinstance(module, BaseAveragedModel):
                module.steps.fill_(1)
