"""Workarounds for stock OpenMMLab behaviour, each in one function, applied when mmafan is imported."""
from __future__ import annotations

import functools
from pickle import UnpicklingError
from typing import Any, List


def register_config_package() -> None:
    """Let ``_base_ = 'mmafan::...'`` resolve.

    mmengine looks package names up in a fixed table (``does not support to load mmafan config``). No longer needed
    once mmengine accepts packages it does not know; ``tests/test_compat.py`` tells when.
    """
    from mmengine.config.utils import MODULE2PACKAGE
    MODULE2PACKAGE.setdefault('mmafan', 'mmafan')


def allow_checkpoint_classes() -> None:
    """Let torch >= 2.6 load mmengine's checkpoints, whose message hub holds ``HistoryBuffer`` and numpy arrays.

    mmengine 0.10.7 calls ``torch.load`` without ``weights_only``, which torch >= 2.6 reads as True. No longer needed
    once mmengine registers these classes itself; ``tests/test_compat.py`` tells when.
    """
    import torch
    if tuple(int(part) for part in torch.__version__.split('.')[:2]) < (2, 6):  # weights_only is False by default
        return
    import numpy as np
    from mmengine.logging.history_buffer import HistoryBuffer
    core: Any = getattr(np, '_core', None) or np.core
    classes: List[Any] = [
        HistoryBuffer, np.ndarray, np.dtype, core.multiarray._reconstruct, core.multiarray.scalar
    ]
    classes += [type(np.dtype(kind)) for kind in ('f8', 'f4', 'f2', 'i8', 'i4', 'u1', '?', 'U1', 'O')]
    # Checkpoints written under numpy 1 name numpy.core, those under numpy 2 numpy._core.
    torch.serialization.add_safe_globals(classes)
    torch.serialization.add_safe_globals([
        (_history_method, 'builtins.getattr'),
        (core.multiarray._reconstruct, 'numpy.core.multiarray._reconstruct'),
        (core.multiarray._reconstruct, 'numpy._core.multiarray._reconstruct'),
        (core.multiarray.scalar, 'numpy.core.multiarray.scalar'),
        (core.multiarray.scalar, 'numpy._core.multiarray.scalar'),
    ])


def _history_method(owner: Any, name: str) -> Any:
    """Stand in for ``getattr`` in checkpoints, where it fetches the statistics of ``HistoryBuffer``.

    The real one would open every object of the process to whoever wrote the checkpoint.
    """
    from mmengine.logging.history_buffer import HistoryBuffer
    if owner is not HistoryBuffer or name.startswith('_'):
        raise UnpicklingError(f'a checkpoint may name a method of HistoryBuffer alone, got {name!r} of {owner!r}')
    return getattr(owner, name)


def accept_shape_beside_inputs() -> None:
    """Let mmengine count operations for inputs whose shape is given too, as mmseg 1.2.2's ``get_flops.py`` does.

    mmengine 0.10.7 refuses both (``"input_shape" and "inputs" cannot be both set``). No longer needed once mmseg's tool
    gives one of them; ``tests/test_compat.py`` tells when.
    """
    from mmengine import analysis
    stock = analysis.get_model_complexity_info
    if getattr(stock, '_accepts_both', False):
        return

    @functools.wraps(stock)
    def get_model_complexity_info(model: Any, input_shape: Any = None, inputs: Any = None, *args: Any,
                                  **kwargs: Any) -> Any:
        return stock(model, None if inputs is not None else input_shape, inputs, *args, **kwargs)

    get_model_complexity_info._accepts_both = True  # type: ignore[attr-defined]
    analysis.get_model_complexity_info = get_model_complexity_info


def load_fsdp_optimizers() -> None:
    """Let mmengine's ``FSDPStrategy`` resume.

    mmengine 0.10.7 passes the arguments of ``FullyShardedDataParallel.optim_state_dict_to_load`` in the order of torch
    2.0 (``unhashable type: 'dict'`` since torch 2.1). By name they are right for both. No longer needed once mmengine
    does so; ``tests/test_compat.py`` tells when.
    """
    try:
        from mmengine._strategy.fsdp import FSDP, FSDPStrategy
    except ImportError:  # a torch without FSDP
        return

    def load_optim_state_dict(self: Any, state_dict: dict) -> None:
        optimizer = self.optim_wrapper.optimizer
        state = FSDP.optim_state_dict_to_load(model=self.model, optim=optimizer, optim_state_dict=state_dict)
        self.optim_wrapper.load_state_dict(state)

    FSDPStrategy.load_optim_state_dict = load_optim_state_dict


def leave_ignored_labels_unweighted() -> None:
    """Let mmseg's cross entropy have class weights where labels are ignored.

    For its mean, mmseg 1.2.2 looks the weight of every label up, that of the ignored ones too (``index 255 is out of
    bounds``; https://github.com/open-mmlab/mmsegmentation/issues/3734). Here they weigh nothing, as in
    :func:`torch.nn.functional.cross_entropy`; without ignored labels, and where their number can be looked up, the
    stock function runs as it is. Applied when a segmentor is made. No longer needed once mmseg leaves them out;
    ``tests/models/test_segmentation.py`` tells when.
    """
    from mmseg.models.losses import cross_entropy_loss
    stock = cross_entropy_loss.cross_entropy
    if getattr(stock, '_leaves_ignored', False):
        return

    @functools.wraps(stock)
    def cross_entropy(pred: Any, label: Any, weight: Any = None, class_weight: Any = None, reduction: str = 'mean',
                      avg_factor: Any = None, ignore_index: int = -100, **kwargs: Any) -> Any:
        if class_weight is not None and reduction == 'mean' and avg_factor is None:
            kept = label != ignore_index
            if not -len(class_weight) <= ignore_index < len(class_weight) and not bool(kept.all()):
                avg_factor = class_weight[label[kept]].sum()
        return stock(pred, label, weight, class_weight, reduction, avg_factor, ignore_index, **kwargs)

    cross_entropy._leaves_ignored = True  # type: ignore[attr-defined]
    cross_entropy_loss.cross_entropy = cross_entropy


def apply() -> None:
    """Apply every workaround that concerns mmengine; safe to call again."""
    register_config_package()
    allow_checkpoint_classes()
    accept_shape_beside_inputs()
    load_fsdp_optimizers()
