"""The A-FAN version of a stock model: a subclass made on demand, which takes ``afan=dict(...)``."""
from __future__ import annotations

import functools
import importlib
import inspect
from typing import TYPE_CHECKING, Any, Callable, Dict, Optional, Tuple, Type

from mmengine.model import BaseModel, is_model_wrapper

from ..config import AFANConfig
from ..layers.afan_norm import sync_auxiliary
from ..naming import afan_name, stock_name
from ..registry import CODEBASES, MODELS, codebase_scope
from .codebase import Codebase
from .losses import Losses, parse_parts
from .norms import ModelNorms
from .runtime import AFANRuntime
from .schedules import check_not_compiled, owns_run_forward, runs_two_phase, single_graph_losses, train_two_phase
from .tap_paths import check_model

Stock: Any = BaseModel if TYPE_CHECKING else object
# Which module of mmafan knows a codebase; imported only when one of its models is asked for.
_CODEBASES = {'mmdet': '.detection', 'mmseg': '.segmentation'}
_MADE: Dict[Type, Type] = {}


class AFANModelMixin(Stock):
    """Put in front of a stock model class (see :func:`make_afan_class`).

    Args:
        *args: Of the stock model.
        afan: Fields of :class:`mmafan.config.AFANConfig`.
        **kwargs: Of the stock model.

    Attributes:
        afan: Run-time state, see :class:`mmafan.models.runtime.AFANRuntime`.

    Raises:
        ValueError: If ``afan`` is missing or wrong: one sentence with field, value and what would be right.
    """
    _afan_codebase = Codebase()

    def __init__(self, *args: Any, afan: Optional[Dict[str, Any]] = None, **kwargs: Any) -> None:
        if '_afan_building' in self.__dict__:
            raise TypeError(f'{type(self).__name__} must call super().__init__() without arguments of super: after '
                            f'@afan_model its own name means the decorated class')
        self.__dict__['_afan_building'] = True
        if afan is None:
            name = type(self).__name__
            raise ValueError(f'model.afan is missing: {name} needs afan=dict(taps=dict(...)); for the '
                             f"stock model write type='{stock_name(name) or name}'")
        config = AFANConfig.from_dict(afan)
        with codebase_scope(type(self)):
            super().__init__(*args, **kwargs)
        del self.__dict__['_afan_building']
        config = check_model(self, config)
        self.afan = AFANRuntime(config, ModelNorms(self, config.batch_norm), self._afan_codebase)
        self.afan.has_own_sum = super().parse_losses.__func__ is not BaseModel.parse_losses

    def init_weights(self) -> None:
        """Initialise as the stock model does; auxiliary norms start as copies of the initialised ones."""
        first = not self.is_init
        super().init_weights()
        if first:
            sync_auxiliary(self)

    def train_step(self, data: Any, optim_wrapper: Any) -> Any:
        """Train one step in two phases: clean forward and backward, then every adversarial pass in turn.

        The clean graph is gone before the first of them runs. Where the stock class has a step of its own or A-FAN is
        off, the stock step runs (and finds the single-graph loss).

        Args:
            data: As for ``BaseModel.train_step``.
            optim_wrapper: As for ``BaseModel.train_step``.

        Returns:
            Log variables: total loss, weighted clean losses, ``adv_<tap>_<i>.<name>``.

        Raises:
            ValueError: If this step is compiled (``compile`` of the config).
        """
        check_not_compiled(self)
        if runs_two_phase(self, optim_wrapper):
            return train_two_phase(self, data, optim_wrapper)
        self.afan.meters.stepped = False
        log = super().train_step(data, optim_wrapper)
        if self.afan.taps and not self.afan.meters.stepped:
            self.afan.say_once(f'A-FAN was on, but no adversarial pass ran: the training step of {type(self).__name__} '
                               "does not call the model in mode='loss'")
        return log

    def parse_losses(self, losses: Losses) -> Tuple[Any, Dict[str, Any]]:
        """Sum up losses as the stock model does: its own method sees every part of a step under its own names."""
        return parse_parts(super().parse_losses, losses)


class _LossEntry(Stock):
    """For stock models with a method ``loss``: the single-graph loss is there, also for callers of ``model.loss``."""

    def loss(self, *args: Any, **kwargs: Any) -> Losses:
        """Losses of the stock model, with adversarial terms while training; arguments are the stock model's."""
        return single_graph_losses(self, super().loss, args, kwargs)


def _forward_of(stock: Type) -> Any:
    """Make ``forward`` for models that compute their losses in ``forward(..., mode='loss')``, whatever else it takes.

    Its signature is the stock model's, and so is the mode where the caller gives none.
    """

    @functools.wraps(stock.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        run = super(_MADE[stock], self).forward
        if _mode_of(run, args, kwargs) != 'loss':
            return run(*args, **kwargs)
        return single_graph_losses(self, run, args, kwargs)

    return forward


def _run_forward_of(stock: Type) -> Any:
    """Make ``_run_forward`` for models with one of their own, which may compute losses without their ``forward``."""

    def _run_forward(self: Any, data: Any, mode: str) -> Any:
        run = super(_MADE[stock], self)._run_forward
        if mode != 'loss':
            return run(data, mode=mode)
        return single_graph_losses(self, functools.partial(run, mode=mode), (data, ), {})

    return _run_forward


def _owner(cls: Type, name: str) -> Type:
    return next(base for base in cls.__mro__ if name in vars(base))


def _loss_is_entry(stock: Type) -> bool:
    """Whether a class has the method ``loss(inputs, data_samples)`` of the codebases, and no helper of that name."""
    method = inspect.getattr_static(stock, 'loss', None)
    return inspect.isfunction(method) and any('data_samples' in name for name in inspect.signature(method).parameters)


def _mode_of(function: Callable, args: Any, kwargs: Dict[str, Any]) -> Any:
    """Return the mode of a call, given by name or by position, or else the function's default."""
    if 'mode' in kwargs:
        return kwargs['mode']
    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
    except TypeError:  # the call itself tells better what is wrong with it
        return None
    bound.apply_defaults()
    return bound.arguments.get('mode')


def _codebase_of(stock: Type) -> Codebase:
    for base in stock.__mro__:
        module = _CODEBASES.get(base.__module__.partition('.')[0])
        if module is not None:
            return importlib.import_module(module, __package__).CODEBASE
    return AFANModelMixin._afan_codebase


def make_afan_class(stock: Type) -> Type:
    """Make (once) the class ``AFAN<Stock>``, a subclass of ``stock`` that takes the argument ``afan``.

    Args:
        stock: A subclass of :class:`mmengine.model.BaseModel`.

    Raises:
        TypeError: If it is not, for example a backbone.
    """
    if not (isinstance(stock, type) and issubclass(stock, BaseModel)):
        raise TypeError(f'A-FAN wraps whole models (subclasses of mmengine.model.BaseModel such as ImageClassifier), '
                        f'got {getattr(stock, "__name__", stock)!r}')
    if issubclass(stock, AFANModelMixin):
        return stock
    if stock not in _MADE:
        namespace: Dict[str, Any] = {'__module__': __package__, '__doc__': stock.__doc__,
                                     '_afan_codebase': _codebase_of(stock)}
        has_entry = _loss_is_entry(stock)
        bases: Tuple[Type, ...] = (AFANModelMixin, *([_LossEntry] if has_entry else []), stock)
        if not has_entry or _owner(stock, 'forward').__module__.partition('.')[0] not in CODEBASES:
            namespace['forward'] = _forward_of(stock)
        if owns_run_forward(stock):
            namespace['_run_forward'] = _run_forward_of(stock)
        _MADE[stock] = type(afan_name(stock.__name__), bases, namespace)
    return _MADE[stock]


def afan_model(cls: Type) -> Type:
    """Class decorator: give a user's own model the argument ``afan=dict(...)``.

    The decorated class keeps its name, so it is registered and configured as before. ``forward(..., mode='loss')``
    or, where there is one, ``loss`` must return a dict of losses, as everywhere in OpenMMLab. Inside the class write
    ``super()``, not ``super(Net, self)``: the name now means the decorated class.

    Raises:
        TypeError: If the class is no :class:`mmengine.model.BaseModel`.

    Example:
        >>> @afan_model
        ... class Net(BaseModel):
        ...     def forward(self, inputs, data_samples=None, mode='tensor'):
        ...         return inputs
        >>> Net.__name__, issubclass(Net, AFANModelMixin)
        ('Net', True)
    """
    made = make_afan_class(cls)
    if made is cls:
        return cls
    return type(cls.__name__, (made, ), {'__module__': cls.__module__, '__qualname__': cls.__qualname__,
                                         '__doc__': cls.__doc__})


def unwrap(model: Any) -> Any:
    """Return the model inside distributed wrappers."""
    while is_model_wrapper(model):
        model = model.module
    return model


MODELS.make_class = make_afan_class
