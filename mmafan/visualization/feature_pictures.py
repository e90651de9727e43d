"""Pictures of clean, perturbed and re-injected features."""
from __future__ import annotations

from typing import Any, List, Optional, Sequence, Tuple

import torch
from torch import Tensor

from ..functional import mix_strength, reinject_statistics


def attack_features(model: Any, data: dict, tap: str, prepared: bool = False) -> Tuple[Tensor, Tensor]:
    """Attack the feature at a tap of an A-FAN model, with the model in evaluation mode and left as it was.

    Args:
        model: The A-FAN model.
        data: A batch as the data loader gives it, with labels.
        tap: Name of the tap in ``model.afan.config.taps``.
        prepared: Whether ``data`` has been through the model's data preprocessor.

    Returns:
        Clean and fully perturbed feature, detached.

    Raises:
        ValueError: As of :func:`mmafan.models.tap_attack.attack_tap`.
    """
    from ..models.tap_attack import attack_tap
    from ..replay import Batch
    training = model.training
    model.eval()
    try:
        batch = Batch((), data if prepared else model.data_preprocessor(data, False))
        attack = attack_tap(model, batch, tap, generator=torch.Generator().manual_seed(0)).attack
    finally:
        model.train(training)
    return attack.clean[0], attack.adversarial[0]


def collect_pictures(images: Sequence[Tensor], bgr: bool) -> Tensor:
    """Stack the images of a batch for display.

    Args:
        images: Pixels ``(3, H, W)`` as the data loader gives them, of different sizes or not.
        bgr: Whether their channels are in OpenCV's order.

    Returns:
        RGB, ``(N, 3, H', W')``; smaller images are black on the right and below, as preprocessors pad them.
    """
    sizes = [image.shape[-2:] for image in images]
    pictures = torch.zeros(len(sizes), 3, max(h for h, _ in sizes), max(w for _, w in sizes))
    for picture, image, (height, width) in zip(pictures, images, sizes):
        picture[:, :height, :width] = image.flip(0) if bgr else image
    return pictures


def make_rows(clean: Tensor, adversarial: Tensor, strengths: Sequence[float], moments: str = 'channel',
              num_groups: int = 32) -> List[Tuple[str, Tensor]]:
    """Compute what a feature picture shows.

    Args:
        clean: ``f``, shape ``(N, C, H, W)``; not modified.
        adversarial: ``f_adv``, same shape: the feature after the attack at full strength.
        strengths: Fractions of the perturbation, each in (0, 1].
        moments: Which statistics are re-injected, see :func:`mmafan.functional.feature_moments`.
        num_groups: For ``moments='group'``.

    Returns:
        Caption and tensor ``(N, C, H, W)``: the clean feature, then ``f_i`` for every strength, then ``f_mix_i``.

    Raises:
        ValueError: If the shapes differ or are not those of images.
    """
    if clean.dim() != 4 or clean.shape != adversarial.shape:
        raise ValueError(f'clean and adversarial must have one shape (N, C, H, W), got {tuple(clean.shape)} and '
                         f'{tuple(adversarial.shape)}')
    if not strengths:
        raise ValueError('strengths must name at least one fraction in (0, 1]')
    clean, adversarial = clean.detach().float(), adversarial.detach().float()
    additive = [mix_strength(clean, adversarial, s) for s in strengths]
    rows = [('clean', clean)]
    rows += [(f'perturbed {s:g}', f) for s, f in zip(strengths, additive)]
    rows += [(f're-injected {s:g}', reinject_statistics(clean, f, moments, num_groups=num_groups))
             for s, f in zip(strengths, additive)]
    return rows


def draw_features(clean: Tensor,
                  adversarial: Tensor,
                  strengths: Sequence[float] = (0.5, 1.0),
                  images: Optional[Tensor] = None,
                  moments: str = 'channel',
                  num_groups: int = 32,
                  num_samples: int = 4,
                  path: Optional[str] = None) -> Any:
    """Draw features of a few samples: clean, perturbed by strength, re-injected, and what each adds to the clean one.

    Every sample has two columns: the feature, and its difference from the clean feature. Both show the channel that
    the attack moves most relative to its own spread. All features of a sample share one colour scale, and all
    differences in the figure another, which is symmetric around 0.

    Args:
        clean: ``f``, shape ``(N, C, H, W)``.
        adversarial: ``f_adv``, same shape.
        strengths: Fractions of the perturbation, each in (0, 1].
        images: Input images ``(N, 3, H', W')`` with values in [0, 255], for a row at the top.
        moments: Which statistics are re-injected.
        num_groups: For ``moments='group'``.
        num_samples: How many samples to draw, from the first.
        path: File to save to; its ending gives the format.

    Returns:
        The ``matplotlib.figure.Figure``. No window and no global state of matplotlib is touched.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    rows = make_rows(clean, adversarial, strengths, moments, num_groups)
    clean = rows[0][1]
    num_samples = min(num_samples, clean.shape[0])
    channels = [_most_moved_channel(clean[n], adversarial[n].detach().float()) for n in range(num_samples)]
    limit = max(float((tensor[n, c] - clean[n, c]).abs().max()) for _, tensor in rows
                for n, c in enumerate(channels)) or 1.0
    first = 0 if images is None else 1
    figure = Figure(figsize=(0.9 + 2.3 * num_samples, 1.2 * (len(rows) + first)), dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows) + first, 2 * num_samples, squeeze=False)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_visible(False)
    difference: Any = None
    for n, channel in enumerate(channels):
        if images is not None:
            picture = images[n].detach().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
            axes[0, 2 * n].imshow(picture, interpolation='nearest')
        axes[first, 2 * n].set_title(f'channel {channel}', fontsize=8)
        axes[first, 2 * n + 1].set_title('minus clean', fontsize=8)
        values = torch.stack([tensor[n, channel] for _, tensor in rows])
        low, high = float(values.min()), float(values.max())
        for r, value in enumerate(values):
            axes[first + r, 2 * n].imshow(value.cpu().numpy(), cmap='viridis', vmin=low, vmax=high)
            difference = axes[first + r, 2 * n + 1].imshow(
                (value - values[0]).cpu().numpy(), cmap='RdBu_r', vmin=-limit, vmax=limit)
    for r, name in enumerate([*([] if images is None else ['image']), *(name for name, _ in rows)]):
        axes[r, 0].set_ylabel(name, rotation=0, ha='right', va='center', fontsize=8)
    figure.colorbar(difference, ax=list(axes.flat), shrink=0.6, label='minus clean')
    if path is not None:
        figure.savefig(path, bbox_inches='tight')
    return figure


def _most_moved_channel(clean: Tensor, adversarial: Tensor) -> int:
    """Channel of a ``(C, H, W)`` feature with the largest perturbation among those that are not flat."""
    spread = clean.flatten(1).std(dim=1)
    moved = (adversarial - clean).flatten(1).abs().mean(dim=1)
    moved = torch.where(spread > 0.1 * spread.median(), moved, torch.zeros_like(moved))
    return int((moved / spread.clamp_min(1e-12)).argmax())
