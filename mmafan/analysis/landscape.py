"""Loss landscapes around trained weights, along filter-normalised random directions.

After Li et al., "Visualizing the Loss Landscape of Neural Nets" (NeurIPS 2018): a direction d is drawn from a Gaussian
and each of its filters is given the norm of the filter it moves,

    d_i,k  <-  d_i,k * ||w_i,k|| / ||d_i,k||

for filter k of weight i, so that networks whose weights have different scales can be compared. Biases and the scales
and shifts of norms (parameters of one dimension) are not moved. What is drawn is ``L(w + a d_1 + b d_2)``.

Why not the package ``loss_landscapes``: its random directions are uniform in [0, 1], not Gaussian, it moves biases and
norms too, and it reaches each point by adding steps up, so that the weights at the centre are not those of the model.
"""
from __future__ import annotations

from contextlib import contextmanager
from typing import Callable, Dict, Iterator, Mapping, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn

Direction = Dict[str, Tensor]


def normalize_filters(direction: Tensor, weight: Tensor) -> Tensor:
    """Give each filter of a direction the norm of the weight's filter.

    Args:
        direction: ``d``, shape ``(K, ...)`` with at least two dimensions; filter k is ``d[k]``.
        weight: ``w``, same shape.

    Returns:
        The normalised direction; a filter of zeros stays where it is, as the direction is 0 there.

    Raises:
        ValueError: If the shapes differ or have fewer than two dimensions.

    Example:
        >>> normalize_filters(torch.tensor([[3., 4.], [1., 0.]]), torch.tensor([[0., 10.], [0., 0.]])).tolist()
        [[6.0, 8.0], [0.0, 0.0]]
    """
    if direction.shape != weight.shape or weight.dim() < 2:
        raise ValueError(f'direction and weight must have one shape of at least two dimensions, got '
                         f'{tuple(direction.shape)} and {tuple(weight.shape)}')
    shape = (-1, *([1] * (weight.dim() - 1)))
    lengths = direction.flatten(1).norm(dim=1).clamp_min(torch.finfo(direction.dtype).tiny)
    return direction * (weight.detach().flatten(1).norm(dim=1) / lengths).reshape(shape)


def draw_direction(model: nn.Module, generator: torch.Generator) -> Direction:
    """Draw a filter-normalised direction for every weight of at least two dimensions.

    Args:
        model: Not modified.
        generator: On the CPU; the same draws for every model of the same shape.

    Returns:
        By name of the parameter; what is not named is not moved.
    """
    with torch.no_grad():
        return {name: normalize_filters(torch.randn(weight.shape, generator=generator).to(weight), weight)
                for name, weight in model.named_parameters() if weight.dim() > 1}


@contextmanager
def moved_weights(model: nn.Module, directions: Sequence[Direction]) -> Iterator[Callable[[Sequence[float]], None]]:
    """Context that moves weights along directions, and puts them back bit for bit at its end.

    Args:
        model: The model.
        directions: As of :func:`draw_direction`.

    Yields:
        A function that moves the weights to ``w + sum_i c_i d_i``, from the weights ``w`` that the model came with.
    """
    parameters = dict(model.named_parameters())
    kept = {name: parameters[name].detach().clone() for name in sorted(set().union(*directions))}

    def move(coordinates: Sequence[float]) -> None:
        with torch.no_grad():
            for name, weight in kept.items():
                moved = weight
                for length, direction in zip(coordinates, directions):
                    if length and name in direction:
                        moved = moved + length * direction[name]
                parameters[name].copy_(moved)

    try:
        yield move
    finally:
        with torch.no_grad():
            for name, weight in kept.items():
                parameters[name].copy_(weight)


def measure_landscape(model: nn.Module, loss: Callable[[], float], directions: Tuple[Direction, Direction],
                      coordinates: Sequence[float]) -> np.ndarray:
    """Evaluate the loss on a square grid of two directions.

    Args:
        model: In the mode the loss is to be taken in; its weights are the same afterwards, also where the loss raises.
        loss: Evaluates the loss with the weights as they are.
        directions: ``d_1`` and ``d_2``.
        coordinates: Values of a and of b.

    Returns:
        ``L(w + a_i d_1 + b_j d_2)`` at ``[i, j]``, shape ``(P, P)``.
    """
    values = np.empty((len(coordinates), len(coordinates)))
    with moved_weights(model, directions) as move:
        for i, a in enumerate(coordinates):
            for j, b in enumerate(coordinates):
                move((a, b))
                values[i, j] = loss()
    return values


def ring_means(values: np.ndarray, coordinates: Sequence[float]) -> Mapping[float, float]:
    """Mean loss on the squares ``max(|a|, |b|) = r`` around the centre.

    Args:
        values: Of :func:`measure_landscape`.
        coordinates: Symmetric around 0.

    Returns:
        Distance r to mean loss, the centre first.

    Example:
        >>> ring_means(np.array([[4., 4., 4.], [4., 1., 4.], [4., 4., 12.]]), (-1., 0., 1.))
        {0.0: 1.0, 1.0: 5.0}
    """
    sides = np.abs(np.asarray(coordinates, dtype=float))
    distance = np.maximum(sides[:, None], sides[None, :]).round(12)
    return {float(r): float(values[distance == r].mean()) for r in np.unique(distance)}
