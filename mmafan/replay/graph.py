"""What depends on what, read off the autograd graph without computing anything."""
from __future__ import annotations

from typing import Any, Iterable, Set

from torch import Tensor


def node_of(tensor: Tensor) -> Any:
    """Return the node of the graph that a tensor's gradient comes to."""
    if tensor.grad_fn is not None:
        return tensor.grad_fn
    return tensor.view_as(tensor).grad_fn.next_functions[0][0]  # type: ignore[union-attr]


def nodes_behind(tensors: Iterable[Tensor]) -> Set[Any]:
    """Return all nodes that a backward from the tensors comes to, their own included.

    Example:
        >>> import torch
        >>> x, y = torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)
        >>> middle = x * 2
        >>> behind = nodes_behind([middle + 1])
        >>> node_of(middle) in behind, node_of(x) in behind, node_of(y) in behind
        (True, True, False)
    """
    waiting = [node_of(tensor) for tensor in tensors if tensor.requires_grad]
    seen: Set[Any] = set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting.extend(following for following, _ in node.next_functions)
    return seen
