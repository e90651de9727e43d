"""Workarounds for stock OpenMMLab behaviour, each in one function, applied when mmafan is imported."""
from __future__ import annotations

import functools
from pickle import UnpicklingError
from typing import Any

import numpy as np


def register_config_package() -> None:
    """Let ``_base_ = 'mmafan::...'`` resolve.

    mmengine looks package names up in a fixed table (``does not support to load mmafan config``). No longer needed
    once mmengine accepts packages it does not know; ``tests/test_compat.py`` tells when.
    """
    from mmengine.config.utils import MODULE2PACKAGE
    MODULE2PACKAGE.setdefault('mmafan', 'mmafan')


def allow_checkpoint_classes() -> None:
    """Let torch >= 2.6 load mmengine's checkpoints, whose message hub holds ``HistoryBuffer`` and numpy arrays.

    mmengine 0.10.7 calls ``torch.load`` without ``weights_only``, which torch >= 2.6 reads as True. Numpy's names get
    stand-ins (:mod:`mmafan.storage.arrays`). No longer needed once mmengine registers these classes itself;
    ``tests/test_compat.py`` tells when.
    """
    import torch
    if tuple(int(part) for part in torch.__version__.split('.')[:2]) < (2, 6):  # weights_only is False by default
        return
    from mmengine.logging.history_buffer import HistoryBuffer

    from .storage.arrays import stand_ins
    torch.serialization.add_safe_globals([HistoryBuffer, (_history_method, 'builtins.getattr'), *stand_ins()])


def _history_method(owner: Any, name: str) -> Any:
    """Stand in for ``getattr`` in checkpoints, where it fetches the statistics of ``HistoryBuffer``.

    The real one would open every object of the process to whoever wrote the checkpoint.
    """
    from mmengine.logging.history_buffer import HistoryBuffer
    if owner is not HistoryBuffer or name.startswith('_'):
        raise UnpicklingError(f'a checkpoint may name a method of HistoryBuffer alone, got {name!r} of {owner!r}')
    return getattr(owner, name)


def keep_statistics() -> None:
    """Let a checkpoint bring the values of mmengine's log, but not what computes their means, as mmengine 0.10.7 does.

    No longer needed once ``HistoryBuffer.__setstate__`` leaves its class alone; ``tests/test_compat.py`` tells when.
    """
    from mmengine.logging.history_buffer import HistoryBuffer

    def __setstate__(self: Any, state: Any) -> None:
        fields: Any = state if isinstance(state, dict) else {}
        pair = [fields.get(name) for name in ('_log_history', '_count_history')]
        arrays = all(isinstance(part, np.ndarray) and part.ndim == 1 and part.shape == pair[0].shape for part in pair)
        if not arrays or not isinstance(fields.get('max_length'), int):
            raise UnpicklingError('a HistoryBuffer in a checkpoint must hold two arrays of one length, and a limit')
        self.__init__(max_length=fields['max_length'])
        self._log_history, self._count_history = pair
    HistoryBuffer.__setstate__ = __setstate__


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


def write_files_whole() -> None:
    """Let mmengine write a file under a temporary name, flush and rename it, so that a kill leaves no half of one.

    mmengine 0.10.7 writes checkpoints in place. All of its ways to write one (``Runner``, the strategies of
    ``FlexibleRunner`` except deepspeed's own format, published models) end in ``LocalBackend.put``. No longer needed
    once mmengine does so; ``tests/test_compat.py`` tells when.
    """
    import os

    from mmengine.fileio import LocalBackend

    from .storage.writing import write_whole

    def put(self: Any, obj: bytes, filepath: Any) -> None:
        os.makedirs(os.path.dirname(filepath) or '.', exist_ok=True)
        write_whole(filepath, obj)

    LocalBackend.put = put


def remove_checkpoints_last() -> None:
    """Let ``CheckpointHook`` remove the checkpoints that are too many after the new one is whole, not before.

    With ``max_keep_ckpts=1``, mmengine 0.10.7 leaves a run without any checkpoint while it writes one; the same holds
    for the best one. The new checkpoint names those that are about to go, so that a resumed run removes what a killed
    one did not get to (``CheckpointHook.before_train`` does that). No longer needed once mmengine keeps this order;
    ``tests/test_compat.py`` tells when.
    """
    from mmengine.hooks import CheckpointHook

    from .storage.keeping import save_best_then_remove, save_then_remove
    if hasattr(CheckpointHook._save_checkpoint_with_step, '__wrapped__'):
        return
    CheckpointHook._save_checkpoint_with_step = save_then_remove(CheckpointHook._save_checkpoint_with_step)
    CheckpointHook._save_best_checkpoint = save_best_then_remove(CheckpointHook._save_best_checkpoint)


def run_no_config_of_checkpoints() -> None:
    """Leave the config out that a checkpoint brings as Python source, which a resume would run.

    ``Runner.resume`` of mmengine 0.10.7 executes ``meta['config']``, to compare numbers of GPUs. mmengine itself has
    written it under another name (``cfg``) for long. No longer needed once mmengine leaves it alone;
    ``tests/test_compat.py`` tells when.
    """
    from mmengine.runner import CheckpointLoader
    stock = CheckpointLoader.load_checkpoint.__func__
    if hasattr(stock, '__wrapped__'):
        return

    @functools.wraps(stock)
    def load_checkpoint(cls: Any, *args: Any, **kwargs: Any) -> Any:
        loaded = stock(cls, *args, **kwargs)
        if isinstance(loaded, dict) and isinstance(loaded.get('meta'), dict):
            loaded['meta'].pop('config', None)
        return loaded

    CheckpointLoader.load_checkpoint = classmethod(load_checkpoint)


def download_weights_only() -> None:
    """Let mmengine load what it downloads as it loads a file: without running what it holds.

    ``torch.hub.load_state_dict_from_url``, by which mmengine 0.10.7 loads URLs and the names of torchvision's and
    OpenMMLab's weights, unpickles everything unless told otherwise (``weights_only=False``). No longer needed once
    either of them says True; ``tests/test_compat.py`` tells when.
    """
    import os

    import torch
    from mmengine.runner import checkpoint
    stock = checkpoint.load_url
    if hasattr(stock, '__wrapped__') or tuple(int(n) for n in torch.__version__.split('.')[:2]) < (2, 6):
        return

    @functools.wraps(stock)
    def load_url(*args: Any, **kwargs: Any) -> Any:
        trusted = os.environ.get('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '').lower() in ('1', 'y', 'yes', 'true')
        kwargs.setdefault('weights_only', not trusted)
        return stock(*args, **kwargs)

    checkpoint.load_url = load_url


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


def end_process() -> None:
    """End a process that has trained beside others through gloo, with status 0; return in any other.

    Gloo's threads let go of the last tensors a little late. Where Python takes itself apart at that moment, it aborts a
    process that has done all its work (https://github.com/pytorch/pytorch/pull/179291), and the launch counts as
    failed. So what is registered for the end runs here, and Python is not taken apart. No longer needed once torch
    waits for these threads before Python ends.
    """
    import atexit
    import os
    import sys

    from torch import distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    if distributed.get_backend() != 'gloo':
        distributed.destroy_process_group()
        return
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)


def apply() -> None:
    """Apply every workaround that concerns mmengine; safe to call again."""
    register_config_package()
    allow_checkpoint_classes()
    keep_statistics()
    accept_shape_beside_inputs()
    load_fsdp_optimizers()
    write_files_whole()
    remove_checkpoints_last()
    run_no_config_of_checkpoints()
    download_weights_only()
