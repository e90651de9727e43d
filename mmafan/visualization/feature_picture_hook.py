"""Pictures of features in the course of a training, for the backends of the runner's visualizer."""
from __future__ import annotations

import copy
from typing import Any, Optional, Sequence

import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from torch import Tensor

from ..naming import afan_name
from ..registry import HOOKS
from ..replay.rng import RandomState
from ..validation import check_integer, suggest
from .feature_pictures import attack_features, collect_pictures, draw_features


@HOOKS.register_module()
class FeaturePictureHook(Hook):
    """Every ``interval`` iterations, draw clean, perturbed and re-injected features of the batch that was trained on.

    The attack is at full strength, with the model in evaluation mode; model, gradients and random generators stay as
    they were. The picture of a tap is ``afan_<tap>`` in every backend of the runner's visualizer: a file with
    ``LocalVisBackend``, an image with those of TensorBoard and Weights & Biases. Every process makes the attack,
    because some losses wait for all of them; the first one draws. Engines that shard parameters are not supported.

    Args:
        interval: Iterations between two pictures.
        taps: Names of the taps; None: all whose feature is a map ``(N, C, H, W)``.
        num_samples: How many samples of the batch are drawn, from the first.

    Raises:
        ValueError: If a number is out of range; before training, if the model is no A-FAN model or has no such tap.
    """
    priority = 'LOW'

    def __init__(self, interval: int = 500, taps: Optional[Sequence[str]] = None, num_samples: int = 4) -> None:
        check_integer('FeaturePictureHook.interval', interval, 1)
        check_integer('FeaturePictureHook.num_samples', num_samples, 1)
        self.interval, self.num_samples = interval, num_samples
        self.taps = (taps, ) if isinstance(taps, str) else taps

    def before_train(self, runner: Any) -> None:
        """Check that the taps are there."""
        model = _unwrap(runner.model)
        if not hasattr(model, 'afan'):
            name = type(model).__name__
            raise ValueError(f'FeaturePictureHook needs an A-FAN model, got model.type={name!r}; write '
                             f"type='mmafan.{afan_name(name)}' with afan=dict(taps=dict(...)), or remove the hook")
        names = list(model.afan.config.taps)
        for name in self.taps or ():
            if name not in names:
                raise ValueError(f'FeaturePictureHook.taps must name taps of the model, got {name!r}: '
                                 f'{suggest(name, names)}')

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None,
                         outputs: Optional[dict] = None) -> None:
        """Draw, in every ``interval``-th iteration."""
        if not self.every_n_train_iters(runner, self.interval) or data_batch is None:
            return
        model, state = _unwrap(runner.model), RandomState()
        images = _images(data_batch, 'LoadImage' in str(runner.cfg.get('train_dataloader')))  # mmcv loads BGR
        try:
            for name in self.taps or model.afan.config.taps:
                tap = model.afan.config.taps[name]
                clean, adversarial = attack_features(model, copy.deepcopy(data_batch), name)
                if clean.dim() != 4 or not is_main_process():
                    continue
                if tap.channel_dim is not None:
                    clean, adversarial = clean.movedim(tap.channel_dim, 1), adversarial.movedim(tap.channel_dim, 1)
                shown = images if images is not None and len(images) == len(clean) else None
                figure = draw_features(clean, adversarial, tap.strengths, shown, tap.moments, tap.num_groups,
                                       self.num_samples)
                runner.visualizer.add_image(f'afan_{name}', _pixels(figure), step=runner.iter + 1)
        finally:
            state.restore()


def _images(batch: Any, bgr: bool) -> Any:
    """Return the images of a batch, or None where it holds none."""
    inputs = batch.get('inputs') if isinstance(batch, dict) else None
    if inputs is None or any(not isinstance(image, Tensor) or image.dim() != 3 or len(image) != 3 for image in inputs):
        return None
    return collect_pictures(inputs, bgr)


def _pixels(figure: Any) -> np.ndarray:
    """Return a figure as ``(H, W, 3)`` in RGB."""
    figure.canvas.draw()
    return np.ascontiguousarray(np.asarray(figure.canvas.buffer_rgba())[..., :3])


def _unwrap(model: Any) -> Any:
    from ..models.model import unwrap
    return unwrap(model)
