"""What depends on what, read off the autograd graph without computing anything."""
from __future__ import annotations

from collections import defaultdict
from typing import Any, Dict, Iterable, List, Set

from torch import Tensor

# Beginnings of the names of nodes that give the values of what they are made from.
_SAME_VALUES = ('TBackward', 'ToCopyBackward', 'ViewBackward', 'ReshapeAliasBackward', 'TransposeBackward',
                'PermuteBackward', 'SplitBackward', 'SelectBackward', 'SliceBackward', 'UnsqueezeBackward')


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
    return behind(node_of(tensor) for tensor in tensors if tensor.requires_grad)


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
    late = {node for node in nodes if _time(node) > _time(sources[0])} - behind(sources)
    used_after, used_late = _used_by(after), _used_by(late)
    earlier = leaves_among(behind(sources))
    return (earlier | leaves_among(nodes) - leaves_among(used_late)) - leaves_among(used_after)


def _used_by(nodes: Iterable[Any]) -> Set[Any]:
    """Return what some nodes use: a weight itself where they use a view or a cast of it, as a linear layer does."""
    found = set()
    for node in nodes:
        for following, _ in node.next_functions:
            while following is not None and following.name().startswith(_SAME_VALUES):
                following = following.next_functions[0][0]
            found.add(following)
    return found


def leaves_until(source: Any, nodes: Iterable[Any]) -> Set[int]:
    """Return the leaves that some nodes use which were made before another one, by ``id``."""
    return leaves_among(following for node in nodes if _time(node) < _time(source)
                        for following, _ in node.next_functions)


def _time(node: Any) -> int:
    """Number of a node in the order in which they were made; a leaf has the time of its users alone."""
    return -1 if hasattr(node, 'variable') else node._sequence_nr()


def behind(nodes: Iterable[Any]) -> Set[Any]:
    """Return all nodes that a backward from the nodes comes to, their own included."""
    waiting = list(nodes)
    seen: Set[Any] = set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting.extend(following for following, _ in node.next_functions)
    return seen
