"""Scenes of handwritten digits on noise: boxes, masks and classes of every pixel, composed from a seed."""
from __future__ import annotations

from typing import NamedTuple, Sequence

import numpy as np

from .digits import load_digit_images, split_digits

INK = 0.35  # a pixel belongs to a digit from this share of full ink on
TRIES = 20  # places tried for a digit before it is left out


class DigitScene(NamedTuple):
    """One scene.

    Attributes:
        image: uint8, shape (H, W, 3).
        boxes: int64, shape (n, 4): x1, y1, x2, y2 in pixels, the right and lower end excluded; tight around the masks.
        labels: int64, shape (n,), from 0 to 9.
        masks: bool, shape (n, H, W); no two overlap.
        semantic: uint8, shape (H, W): 0 for the background, 1 + label for a digit.
    """
    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    masks: np.ndarray
    semantic: np.ndarray


def compose_scene(digits: np.ndarray,
                  labels: np.ndarray,
                  random: np.random.RandomState,
                  size: int = 96,
                  max_digits: int = 4,
                  sides: Sequence[int] = (16, 36),
                  contrast: Sequence[float] = (80.0, 150.0)) -> DigitScene:
    """Put some digits on a background of coarse texture and fine noise.

    Args:
        digits: uint8 images of shape (M, 8, 8) to draw from.
        labels: Their classes, shape (M,).
        random: Source of all choices; it moves on.
        size: Height and width of the scene in pixels.
        max_digits: The scene has 1 to this many digits, fewer where no free place is found.
        sides: Smallest and largest side in pixels that a digit is enlarged to.
        contrast: Smallest and largest brightness that full ink adds, of 255.

    Raises:
        ValueError: If an argument has a wrong value.

    Example:
        >>> digits, labels = load_digit_images()
        >>> scene = compose_scene(digits, labels, np.random.RandomState(0))
        >>> scene.image.shape, len(scene.boxes) == len(scene.labels) == len(scene.masks)
        ((96, 96, 3), True)
    """
    import cv2
    if max_digits < 1:
        raise ValueError(f'max_digits must be at least 1, got {max_digits!r}')
    if not 8 <= sides[0] <= sides[1] <= size:
        raise ValueError(f'sides must be two numbers from 8 to the {size} pixels of the scene, got {tuple(sides)!r}')
    image = _background(random, size)
    taken = np.zeros((size, size), bool)
    masks, classes = [], []
    for _ in range(random.randint(1, max_digits + 1)):
        index, side = random.randint(len(digits)), random.randint(sides[0], sides[1] + 1)
        brightness = random.uniform(contrast[0], contrast[1]) * random.uniform(0.8, 1.0, 3)
        for _ in range(TRIES):
            top, left = random.randint(0, size - side + 1, 2)
            place = slice(top, top + side), slice(left, left + side)
            if not taken[place].any():
                break
        else:
            continue
        taken[place] = True
        ink = cv2.resize(digits[index].astype(np.float32) / 255, (side, side), interpolation=cv2.INTER_LINEAR)
        image[place] += ink[:, :, None] * brightness.astype(np.float32)
        mask = np.zeros((size, size), bool)
        mask[place] = ink >= INK
        masks.append(mask)
        classes.append(labels[index])
    semantic = np.zeros((size, size), np.uint8)
    for mask, label in zip(masks, classes):
        semantic[mask] = 1 + label
    return DigitScene(
        image.clip(0, 255).round().astype(np.uint8), np.array([tight_box(mask) for mask in masks], np.int64),
        np.array(classes, np.int64), np.array(masks), semantic)


def tight_box(mask: np.ndarray) -> np.ndarray:
    """Return the smallest box around a mask, as x1, y1, x2, y2 with the ends excluded.

    Example:
        >>> tight_box(np.array([[0, 0, 0], [0, 1, 1]], bool))
        array([1, 1, 3, 2])
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def make_scenes(split: str,
                count: int,
                seed: int = 0,
                size: int = 96,
                max_digits: int = 4,
                sides: Sequence[int] = (16, 36)) -> list:
    """Compose the first ``count`` scenes of a split, each from a random state of its own.

    Args:
        split: ``'train'`` or ``'test'``: of the digit images, which the two do not share.
        count: Number of scenes; a smaller one gives the first part of a larger one.
        seed: Of all choices.
        size: See :func:`compose_scene`.
        max_digits: See :func:`compose_scene`.
        sides: See :func:`compose_scene`.

    Returns:
        A list of :class:`DigitScene`.

    Raises:
        ValueError: If an argument has a wrong value.
    """
    if split not in ('train', 'test'):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    digits, labels = load_digit_images()
    own = split_digits(labels, split)
    stream = ('train', 'test').index(split)
    randoms = (np.random.RandomState([seed, stream, number]) for number in range(count))
    return [compose_scene(digits[own], labels[own], random, size, max_digits, sides) for random in randoms]


def _background(random: np.random.RandomState, size: int) -> np.ndarray:
    """Make float32 (size, size, 3): a random tone, coarse blotches, and noise in every pixel."""
    import cv2
    tone = random.uniform(40, 100) + random.uniform(-15, 15, 3)
    blotches = random.normal(0, 10, (size // 12, size // 12, 3)).astype(np.float32)
    coarse = cv2.resize(blotches, (size, size), interpolation=cv2.INTER_CUBIC)
    return (tone + coarse + random.normal(0, 8, (size, size, 1))).astype(np.float32)
