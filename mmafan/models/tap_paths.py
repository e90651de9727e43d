"""The modules of a model that taps name: whether they are there, and whether a batch can ever come to them."""
from __future__ import annotations

import difflib
import dis
import inspect
import re
from dataclasses import replace
from typing import Any, Dict, Iterator, List, Tuple

from mmengine.logging import print_log
from torch import nn

from ..config import AFANConfig
from ..replay import INPUTS
from ..validation import suggest


def check_model(model: nn.Module, config: AFANConfig) -> AFANConfig:
    """Check the taps against the modules of a freshly built model.

    Returns:
        The config; a tap at a list of modules is now at the last of them.

    Raises:
        ValueError: For a tap's module that does not exist or is never called.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    taps = dict(config.taps)
    for tap_name, tap in config.taps.items():
        where = f'afan.taps.{tap_name}.module'
        if tap.module == INPUTS:
            continue
        if tap.module not in modules:
            raise ValueError(f'{where} must name a module of {type(model).__name__}, got {tap.module!r}: '
                             f'{_closest(tap.module, model)}')
        if isinstance(modules[tap.module], nn.ModuleDict):
            entries = [f'{tap.module}.{name}' for name, _ in modules[tap.module].named_children()]
            raise ValueError(f'{where} must name a module that is called, got {tap.module!r}, a container without a '
                             f'forward; name one of its entries, such as {(entries or ["?"])[-1]!r}')
        if isinstance(modules[tap.module], nn.ModuleList):
            if not len(modules[tap.module]):
                raise ValueError(f'{where} must name a module that is called, got {tap.module!r}, an empty list')
            last = f'{tap.module}.{len(modules[tap.module]) - 1}'
            print_log(f'{where}={tap.module!r} is a list of modules: the tap is its last one, {last!r}',
                      logger='current')
            taps[tap_name] = replace(tap, module=last)
    places: Dict[Any, str] = {}
    for tap_name, tap in taps.items():
        other = places.setdefault((id(modules.get(tap.module, tap.module)), tap.at), tap_name)
        if other != tap_name:
            raise ValueError(f'afan.taps.{tap_name}.module must differ from that of afan.taps.{other}, but '
                             f'{tap.module!r} and {taps[other].module!r} are one module under two names')
    return replace(config, taps=taps)


def _closest(path: str, model: nn.Module) -> str:
    """Suggest what a wrong path may mean: a sibling of a similar name, a stage of the backbone, or a similar path."""
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    parent, _, leaf = path.rpartition('.')
    siblings = [n.rpartition('.')[2] for n in names if n.rpartition('.')[0] == parent]
    close = difflib.get_close_matches(leaf, siblings)
    if close:
        return 'did you mean ' + ' or '.join(repr(f'{parent}.{name}' if parent else name) for name in close) + '?'
    backbone = model._modules.get('backbone')
    stages = find_series(backbone) if parent == 'backbone' and backbone is not None else []
    if stages:
        return (f'the stages of its backbone are {", ".join(repr(f"backbone.{stage}") for stage in stages)}; '
                f'`mmafan taps` lists every module that can be a tap')
    depth = path.count('.')
    hint = suggest(path, [n for n in names if n.count('.') == depth])
    return hint if hint.startswith('did') else suggest(path, [n for n in names if n.count('.') <= max(depth, 1)])


def may_run(model: nn.Module, path: str) -> bool:
    """Whether the code of a model reads a module from where it lies, so that a forward may come to it.

    What is only stored there by ``__init__`` will not be reached by any batch.
    """
    parent, _, leaf = path.rpartition('.')
    while leaf.isdigit():  # an entry of a list is read with the list
        parent, _, leaf = parent.rpartition('.')
    return any(step.opname in ('LOAD_ATTR', 'LOAD_METHOD') and step.argval == leaf
               for code in _codes(type(model.get_submodule(parent))) for step in dis.get_instructions(code))


def may_return(model: nn.Module, name: str) -> bool:
    """Whether the code of a model's parts writes the name of a loss, which may come in a later step then."""
    last = name.rpartition('.')[2].strip('*')
    return bool(last) and any(last in _texts(code.co_consts) for cls in {type(module) for module in model.modules()}
                              for code in _codes(cls))


def _codes(cls: type) -> Iterator[Any]:
    """Yield what the methods of a class compile to, but for those of torch and mmengine."""
    for base in cls.__mro__:
        if not base.__module__.startswith(('torch.', 'mmengine.')):
            for value in vars(base).values():
                code = getattr(inspect.unwrap(value), '__code__', None) if callable(value) else None
                yield from () if code is None else _inner(code)


def _inner(code: Any) -> Iterator[Any]:
    yield code
    for constant in code.co_consts:
        if inspect.iscode(constant):
            yield from _inner(constant)


def _texts(constants: Any) -> Iterator[str]:
    for constant in constants:
        if isinstance(constant, tuple):
            yield from _texts(constant)
        elif isinstance(constant, str):
            yield constant


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
