"""Batch norm that keeps adversarial statistics apart from the clean ones inference uses."""
from __future__ import annotations

import copy
import functools
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Optional, Tuple

from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.modules.batchnorm import _BatchNorm

from ..config import BATCH_NORM_POLICIES
from ..registry import MODELS
from ..replay.state import PassKind, current_pass
from .norm_mode import MODES, by_groups

AUXILIARY = 'auxiliary'
Stock: Any = _BatchNorm if TYPE_CHECKING else object
_TORCH_FORWARDS = (_BatchNorm.forward, nn.SyncBatchNorm.forward)


class MadeNorm:
    """Mixin of classes made on demand: pickle cannot find them by name, so it gets what they are made of."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        parts = vars(type(self)).get('_made_of')
        return super().__reduce_ex__(protocol) if parts is None else (_remake, parts, self.__dict__)


class PassAwareNorm(MadeNorm, Stock):
    """Mixin in front of a batch norm class: its forward asks :func:`current_pass` which statistics to use.

    In a clean pass, and wherever the layer is in ``eval()`` mode (``norm_eval=True``), it is the stock layer bit for
    bit. In an adversarial pass of a layer that trains, ``policy`` decides (None: the model's ``afan.batch_norm``), see
    :mod:`mmafan.layers.norm_mode`. Further attack steps never store anything.

    State-dict keys are those of the stock layer: the auxiliary norm of ``'separate'`` is for training only; it starts
    as a copy of the main one, follows it when weights are loaded, and travels in a part of its own of the checkpoint
    (:class:`mmafan.hooks.AdvFeatureHook`).
    """
    policy: Optional[str] = None
    _afan_hooked = False

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``(N, C, ...)`` with the statistics the running pass asks for."""
        if isinstance(input, Proxy):  # torch.fx takes a layer of torch.nn as a whole, and this one stands for it
            return input.tracer.create_proxy('call_module', input.tracer.path_of_module(self), (input, ), {})
        state = current_pass()
        stock: Any = super().forward
        if stock.__func__ not in _TORCH_FORWARDS:
            stock = functools.partial(_as_stock, self, stock)
        if state.kind is PassKind.CLEAN or not self.training:
            return stock(input)
        if state.kind is PassKind.JOINED:
            return by_groups(functools.partial(type(self).forward, self), input, state)
        mode = MODES[state.kind, self.policy or state.batch_norm]
        if mode.frozen and self.running_mean is not None:
            return _with(self, 'training', False, stock, input)
        auxiliary: Any = self._modules.get(AUXILIARY) if mode.auxiliary else None
        norm, run = self, stock
        if auxiliary is not None:
            norm, run = auxiliary, functools.partial(_as_stock, auxiliary, auxiliary.forward)
        if mode.stores and (auxiliary is not None or not mode.auxiliary):
            return run(input)
        if not mode.alike and getattr(run, '__func__', None) in _TORCH_FORWARDS:
            return _with(norm, 'track_running_stats', False, run, input)
        with _storing_nothing(norm):
            return run(input)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        _sync(self)


class AuxiliaryNorm(MadeNorm):
    """Mixin of the norm inside a norm: invisible to state dicts."""

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Load nothing: the norm around it has already copied its own state."""


def _sync(norm: PassAwareNorm) -> None:
    """Make the auxiliary norm, where there is one, a copy of its main one."""
    own, auxiliary = {**norm._parameters, **norm._buffers}, norm._modules.get(AUXILIARY)
    if auxiliary is not None:
        for name, value in [*auxiliary._parameters.items(), *auxiliary._buffers.items()]:
            if value is not None:
                value.data.copy_(own[name].data)


def _as_stock(norm: nn.Module, run: Callable[[Tensor], Tensor], input: Tensor) -> Tensor:
    """Run a forward of a user's class on an object of that class: some say ``super(type(self), self)``."""
    own: Any = type(norm)
    norm.__class__ = _stock_class(own)
    try:
        return run(input)
    finally:
        norm.__class__ = own


def _stock_class(own: type) -> Any:
    return next(c for c in own.__mro__ if issubclass(c, _BatchNorm) and not issubclass(c, MadeNorm))


def _with(norm: nn.Module, name: str, value: Any, run: Callable[[Tensor], Tensor], input: Tensor) -> Tensor:
    """Run a forward while an attribute of the layer has another value."""
    own = vars(norm)  # past `Module.__setattr__`, which takes its time
    kept, own[name] = own[name], value
    try:
        return run(input)
    finally:
        own[name] = kept


@contextmanager
def _storing_nothing(norm: _BatchNorm) -> Iterator[None]:
    """Use batch statistics and let the layer store into copies of its buffers.

    Copies, not ``track_running_stats=False``: a clean pass that is recomputed has to save the same tensors for the
    backward as its forward did, and a user's own layer may look at nothing but its buffers.
    """
    kept = dict(norm._buffers)
    norm._buffers.update({name: None if value is None else value.clone() for name, value in kept.items()})
    try:
        yield
    finally:
        norm._buffers.update(kept)


def sync_auxiliary(model: nn.Module) -> None:
    """Make every auxiliary norm a copy of its main one, as it is when training starts."""
    for module in model.modules():
        if isinstance(module, PassAwareNorm):
            _sync(module)


def _drop_auxiliary(module: nn.Module, state_dict: Dict[str, Any], prefix: str, _: Any) -> None:
    for key in [k for k in state_dict if k.startswith(f'{prefix}{AUXILIARY}.')]:
        del state_dict[key]


class AFANNorm(PassAwareNorm, nn.BatchNorm2d, _BatchNorm):
    """Batch norm for A-FAN, usable through any ``norm_cfg=dict(type='AFANNorm')``.

    Args:
        num_features: Number of channels C.
        eps: Added to the variance.
        momentum: Of the running statistics.
        affine: Whether there are weight and bias.
        track_running_stats: Whether there are running statistics.
        policy: ``'shared'``, ``'batch'``, ``'frozen'`` or ``'separate'`` for this layer alone, whatever the model's
            ``afan.batch_norm`` says; None follows the model.
        **kwargs: ``device`` and ``dtype`` of :class:`torch.nn.BatchNorm2d`.

    Raises:
        ValueError: If ``policy`` is unknown.

    Example:
        >>> import torch
        >>> norm, stock = AFANNorm(4), nn.BatchNorm2d(4)
        >>> x = torch.randn(2, 4, 3, 3)
        >>> bool((norm(x) == stock(x)).all()), norm.state_dict().keys() == stock.state_dict().keys()
        (True, True)
    """
    _abbr_ = 'bn'

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: Optional[float] = 0.1, affine: bool = True,
                 track_running_stats: bool = True, policy: Optional[str] = None, **kwargs: Any) -> None:
        if policy is not None and policy not in BATCH_NORM_POLICIES:
            raise ValueError(f'AFANNorm.policy must be None or one of {BATCH_NORM_POLICIES}, got {policy!r}')
        super().__init__(num_features, eps, momentum, affine, track_running_stats, **kwargs)
        self.policy = policy
        if policy == 'separate':
            _add_auxiliary(self)


class AFANNorm1d(PassAwareNorm, nn.BatchNorm1d, _BatchNorm):
    """:class:`AFANNorm` for ``(N, C)`` and ``(N, C, L)``."""


class AFANNorm3d(PassAwareNorm, nn.BatchNorm3d, _BatchNorm):
    """:class:`AFANNorm` for ``(N, C, D, H, W)``."""


class AFANSyncNorm(PassAwareNorm, nn.SyncBatchNorm, _BatchNorm):
    """:class:`AFANNorm` with statistics over all processes."""


MODELS.register_module(name='AFANNorm', module=AFANNorm)
# build_norm_layer of every codebase searches its own registry and then the root one.
MMENGINE_MODELS.register_module(name='AFANNorm', module=AFANNorm, force=True)

_MADE: Dict[Tuple[type, type], type] = {
    (PassAwareNorm, made.__bases__[1]): made for made in (AFANNorm1d, AFANNorm, AFANNorm3d, AFANSyncNorm)}


def _mixed(mixin: type, cls: type) -> type:
    if (mixin, cls) not in _MADE:
        # mmengine's init_cfg finds layers by the names of their class and its direct bases.
        bases = (mixin, cls, *(base for base in cls.__bases__ if base is not object))
        namespace = {'__module__': __name__, '_made_of': (mixin, cls)}
        _MADE[mixin, cls] = type(f'{mixin.__name__}{cls.__name__}', bases, namespace)
    return _MADE[mixin, cls]


def _remake(mixin: type, cls: type) -> Any:
    made: Any = _mixed(mixin, cls)
    return made.__new__(made)


def _add_auxiliary(norm: Any) -> None:
    auxiliary = norm._modules.get(AUXILIARY)
    if auxiliary is None:
        auxiliary = copy.deepcopy(norm)
    if not isinstance(auxiliary, AuxiliaryNorm):
        stock = next(c for c in type(auxiliary).__mro__
                     if issubclass(c, _BatchNorm) and not issubclass(c, PassAwareNorm))
        auxiliary.__class__ = _mixed(AuxiliaryNorm, stock)
    norm._modules[AUXILIARY] = auxiliary
    if not norm._afan_hooked:
        norm._register_state_dict_hook(_drop_auxiliary)
        norm._afan_hooked = True


def adopt_norms(model: nn.Module, policy: str) -> List[PassAwareNorm]:
    """Make every batch norm of a model pass-aware, in place, keeping its parameters, buffers and keys.

    Safe to call again: after mmengine or torch has replaced layers (conversion to or from SyncBN creates new stock
    layers, but carries the auxiliary norm over as a child), a second call restores them.

    Args:
        model: Searched recursively; SyncBN and users' own subclasses of torch's batch norm included.
        policy: ``afan.batch_norm``; ``'separate'`` gives each layer an auxiliary norm.

    Returns:
        The pass-aware norms of the model.
    """
    inner = {id(m._modules[AUXILIARY]) for m in model.modules() if m._modules.get(AUXILIARY) is not None}
    norms: List[Any] = [m for m in model.modules() if isinstance(m, _BatchNorm) and id(m) not in inner]
    for norm in norms:
        if not isinstance(norm, PassAwareNorm):
            norm.__class__ = _mixed(PassAwareNorm, type(norm))
        if AUXILIARY in norm._modules or (norm.policy or policy) == 'separate':
            _add_auxiliary(norm)
    return norms
