"""What depends on what, read off the autograd graph without computing anything."""
from __future__ import annotations

from collections import defaultdict
from typing import Any, Dict, Iterable, List, Set

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
    return _behind(node_of(tensor) for tensor in tensors if tensor.requires_grad)


def leaves_among(nodes: Iterable[Any]) -> Set[int]:
    """Return the leaves (parameters) that gradients come to at these nodes, by ``id``."""
    return {id(node.variable) for node in nodes if hasattr(node, 'variable')}


def leaves_before(sources: Iterable[Any], nodes: Set[Any]) -> Set[int]:
    """Return the leaves that some nodes of a graph come from, or that were used earlier, and never after them.

    Args:
        sources: The nodes, in the order in which they were made.
        nodes: The whole graph.

    Returns:
        The leaves (parameters), by ``id``.

    Example:
        >>> import torch
        >>> stem, head = torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)
        >>> feature = stem * 2
        >>> graph = nodes_behind([feature * head + stem.exp()])
        >>> leaves_before([node_of(feature)], graph) == {id(stem)}
        True
    """
    users: Dict[Any, List[Any]] = defaultdict(list)
    for node in nodes:
        for following, _ in node.next_functions:
            users[following].append(node)
    sources = list(sources)
    after: Set[Any] = set()
    waiting = list(sources)
    while waiting:
        found = [user for user in users[waiting.pop()] if user not in after]
        after.update(found)
        waiting += found
    late = {node for node in nodes if _time(node) > _time(sources[0])} - _behind(sources)
    used_after = {following for node in after for following, _ in node.next_functions}
    used_late = {following for node in late for following, _ in node.next_functions}
    behind = leaves_among(_behind(sources))
    return (behind | leaves_among(nodes) - leaves_among(used_late)) - leaves_among(used_after)


def _time(node: Any) -> int:
    """Number of a node in the order in which they were made; a leaf has the time of its users alone."""
    return -1 if hasattr(node, 'variable') else node._sequence_nr()


def _behind(nodes: Iterable[Any]) -> Set[Any]:
    waiting: List[Any] = list(nodes)
    seen: Set[Any] = set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting.extend(following for following, _ in node.next_functions)
    return seen
