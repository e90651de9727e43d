"""How much of a classifier's accuracy is left when its input is attacked."""
from __future__ import annotations

import contextlib
import copy
from typing import Any, Dict, List, Sequence, Tuple

import torch
from torch import Tensor, nn

from .corruptions import numpy_seed, require_library

PIXEL_RANGE = (0.0, 255.0)


class PixelClassifier(nn.Module):
    """Logits of images in pixel values, 0 to 255: the model's own normalisation, then the model.

    Args:
        model: An mmpretrain classifier in evaluation mode.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(N, classes)`` of images ``(N, 3, H, W)`` in the channel order of the model."""
        preprocessor = self.model.data_preprocessor
        if getattr(preprocessor, '_enable_normalize', False):
            images = (images - preprocessor.mean) / preprocessor.std
        return self.model(images, mode='tensor')


def read_pixels(model: Any, data: Any) -> Tuple[Tensor, Tensor]:
    """Return images and labels of a batch, as the model sees them but for the normalisation.

    Args:
        model: An mmpretrain classifier.
        data: A batch as the data loader gives it; not modified.

    Returns:
        Images, float ``(N, 3, H, W)`` with values from 0 to 255, and labels, int ``(N,)``, on the model's device.

    Raises:
        ValueError: If the images are no pixel values, or a sample has not exactly one label.
    """
    preprocessor = model.data_preprocessor
    normalises = getattr(preprocessor, '_enable_normalize', False)
    preprocessor._enable_normalize = False
    try:
        batch = preprocessor(copy.deepcopy(data), False)
    finally:
        preprocessor._enable_normalize = normalises
    images = batch['inputs'].float()
    low, high = float(images.min()), float(images.max())
    if low < PIXEL_RANGE[0] or high > PIXEL_RANGE[1] or high <= 1:
        raise ValueError(f'the images must come to data_preprocessor as pixels from 0 to 255, for a radius in 1/255 to '
                         f'mean something; got values from {low:g} to {high:g}: let data_preprocessor normalise')
    labels: List[Any] = [getattr(sample, 'gt_label', ()) for sample in batch['data_samples'] or [None]]
    if any(len(label) != 1 for label in labels):
        raise ValueError(f'every sample must have one label, got {[len(label) for label in labels]} labels')
    return images, torch.cat(labels).to(images.device)


def attack_images(classifier: nn.Module, images: Tensor, labels: Tensor, radius: float, num_steps: int = 10,
                  seed: int = 0) -> Tensor:
    """Attack images by projected gradient descent (Madry et al., arXiv 1706.06083) on the cross-entropy, L-infinity.

    It starts at a random point of the ball, and a step is 2.5 ``radius / num_steps``, as in that paper's code.

    Args:
        classifier: Images to logits, in evaluation mode.
        images: ``(N, 3, H, W)``, 0 to 255; not modified.
        labels: ``(N,)``.
        radius: Largest change of a value, in 1/255 of the range of a pixel.
        num_steps: Steps of the attack.
        seed: Of the random start.

    Returns:
        Attacked images, of the same shape and range.

    Raises:
        ValueError: If the radius or the number of steps makes no sense, or the library is missing.
    """
    if not 0 <= radius <= PIXEL_RANGE[1]:
        raise ValueError(f'radius must lie from 0 to 255, in units of 1/255, got {radius!r}')
    if num_steps < 1:
        raise ValueError(f'num_steps must be at least 1, got {num_steps!r}')
    require_library('art')
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier
    with torch.no_grad():
        num_classes = classifier(images[:1]).shape[1]
    estimator = PyTorchClassifier(
        classifier, nn.CrossEntropyLoss(), tuple(images.shape[1:]), num_classes, clip_values=PIXEL_RANGE,
        device_type='gpu' if images.is_cuda else 'cpu')
    attack = ProjectedGradientDescentPyTorch(
        estimator, eps=float(radius), eps_step=2.5 * radius / num_steps or 1.0, max_iter=num_steps, num_random_init=1,
        batch_size=len(images), verbose=False)
    with numpy_seed(seed), torch.cuda.device(images.device) if images.is_cuda else contextlib.nullcontext():
        attacked = attack.generate(images.cpu().numpy(), labels.cpu().numpy())
    return torch.from_numpy(attacked).to(images)


def measure_pgd(model: Any, batches: Sequence[Any], radii: Sequence[float], num_steps: int = 10,
                seed: int = 0) -> Dict[str, Any]:
    """Measure the share of images that are classified right, and still are after an attack.

    Only images that are right without an attack are attacked: the others count as wrong at every radius.

    Returns:
        ``images``: how many; ``clean``: accuracy without an attack in percent; ``accuracy``: for each radius.
    """
    classifier = PixelClassifier(model).eval()
    right: Dict[float, int] = {radius: 0 for radius in radii}
    count = clean = 0
    for index, data in enumerate(batches):
        images, labels = read_pixels(model, data)
        with torch.no_grad():
            logits = classifier(images)
        if logits.dim() != 2:
            raise ValueError(f'the model must give logits (N, classes) for pixel attacks, got {tuple(logits.shape)}')
        good = logits.argmax(1) == labels
        count, clean = count + len(labels), clean + int(good.sum())
        for radius in radii if good.any() else ():
            attacked = attack_images(classifier, images[good], labels[good], radius, num_steps, seed + index)
            with torch.no_grad():
                right[radius] += int((classifier(attacked).argmax(1) == labels[good]).sum())
    return dict(images=count, clean=100 * clean / count,
                accuracy={radius: 100 * value / count for radius, value in right.items()})
