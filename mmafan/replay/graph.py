"""What depends on what, read off the autograd graph without computing anything."""
from __future__ import annotations

import re
from collections import defaultdict
from typing import Any, Container, Dict, Iterable, List, Set

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
        >>> side, feature = stem.exp(), stem * 2
        >>> leaves_before([node_of(feature)], nodes_behind([feature * head + side])) == {id(stem)}
        True
        >>> leaves_before([node_of(feature)], nodes_behind([feature * head + stem.exp()]))  # made after the feature
        set()
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
    later = {node for node in nodes if _time(node) > _time(sources[0])}
    used_after, used_late = _used_by(after, later - _of_data(nodes, users)), _used_by(later - behind(sources))
    earlier = leaves_among(behind(sources))
    return (earlier | leaves_among(nodes) - leaves_among(used_late)) - leaves_among(used_after)


def _of_data(nodes: Set[Any], users: Dict[Any, List[Any]]) -> Set[Any]:
    """Return the nodes that come from more than parameters, numbers and vectors of constants."""
    waiting = [node for node in nodes if takes_data(node)]
    found = set(waiting)
    while waiting:
        more = [user for user in users[waiting.pop()] if user not in found]
        found.update(more)
        waiting += more
    return found


def takes_data(node: Any) -> bool:
    """Whether something of a batch goes into a node: what needs no gradient, such as an image, has no node of its own.

    Nor has a bias that is not there, a number that a weight is multiplied by, or a vector that its norm is found with.
    """
    used = [following for following, _ in node.next_functions]
    if re.match('Convolution|(Native|Cudnn)(Batch|Layer|Group)Norm', node.name()):
        return used[0] is None
    if None not in used or re.match('(Mv|V?[Dd]ot)Backward', node.name()):
        return False
    if re.match('(Add|Sub|Rsub|Mul|Div)Backward', node.name()):
        sizes = [_size(following, number) for following, number in node.next_functions if following is not None]
        return _size(node, 0) not in sizes
    return True


def _size(node: Any, number: int) -> Any:
    return node._input_metadata[number].shape if hasattr(node, '_input_metadata') else None  # torch < 2.1


def _used_by(nodes: Iterable[Any], through: Container[Any] = ()) -> Set[Any]:
    """Return what some nodes use, and what those of ``through`` use that they use, such as a view of a weight."""
    found: Set[Any] = set()
    waiting = list(nodes)
    while waiting:
        used = {following for following, _ in waiting.pop().next_functions if following is not None} - found
        found |= used
        waiting += [node for node in used if node in through]
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
