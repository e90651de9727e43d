"""The stages of a network, whatever it calls them."""
from __future__ import annotations

import re
from typing import Dict, List, Tuple

from torch import nn


def find_series(network: nn.Module) -> List[str]:
    """Return the paths of a network's stages, in their order; an empty list where none are numbered.

    They are the largest series of modules, by parameters, that are numbered side by side: ``layer1``, ``layer2``, ...;
    ``stages.0``, ``stages.1``, ...; ``layers.0``, ...

    Example:
        >>> net = nn.Module()
        >>> net.layer1, net.layer2, net.head = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(9, 9)
        >>> find_series(net)
        ['layer1', 'layer2']
    """
    groups: Dict[str, List[Tuple[int, str, int]]] = {}
    for path, module in network.named_modules():
        match = re.fullmatch(r'((?:\w+\.)?[A-Za-z_]*?)_?(\d+)', path)
        if match is not None:
            size = sum(p.numel() for p in module.parameters())
            groups.setdefault(match.group(1), []).append((int(match.group(2)), path, size))
    groups = {key: members for key, members in groups.items() if len(members) > 1}
    if not groups:
        return []
    largest = max(groups.values(), key=lambda members: sum(size for _, _, size in members))
    return [path for _, path, _ in sorted(largest)]
