"""A pytest plugin that runs the tests of a codebase on A-FAN models which are switched off, in place of its own.

``tools/upstream_tests.sh`` runs a checkout's tests with and without it, and compares what became of each of them.
Every registered model class gives way to its A-FAN version with a tap of weight 0: in the registries, and where a test
has imported it by name.
"""
from __future__ import annotations

import sys
from typing import Any, Dict, List, Type
from xml.etree import ElementTree

from mmengine.model import BaseModel
from mmengine.registry import MODELS

from ..models.model import AFANModelMixin, make_afan_class

OFF = dict(taps=dict(inputs=dict(module='inputs', step_size=1.0, weight=0.0)))
BUILT: Dict[str, int] = {}  # by class, how many were
TWINS: Dict[Type, Type] = {}


def twin(stock: Type) -> Type:
    """Make (once) the A-FAN version of a model class which is off, and which is built as the stock class is."""
    if stock not in TWINS:
        made: Any = make_afan_class(stock)

        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
            BUILT[stock.__name__] = BUILT.get(stock.__name__, 0) + 1
            made.__init__(self, *args, **{'afan': OFF, **kwargs})

        TWINS[stock] = type(stock.__name__, (made, ), dict(__init__=__init__, __module__=stock.__module__))
    return TWINS[stock]


def _is_stock(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseModel) and not issubclass(value, AFANModelMixin)


def replace_models(modules: List[Any]) -> None:
    """Put twins into the registries, and into the names of modules in place of classes that are registered."""
    for registry in (MODELS, *MODELS._children.values()):
        registry.import_from_location()
        for name, stock in registry._module_dict.items():
            if _is_stock(stock):
                registry._module_dict[name] = twin(stock)
    for module in modules:
        for name, value in list(vars(module).items()):
            if _is_stock(value) and value in TWINS:
                setattr(module, name, TWINS[value])


def pytest_collection_modifyitems(items: List[Any]) -> None:
    """Replace the models once every test has been imported."""
    replace_models(list({item.module.__name__: item.module for item in items}.values()))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how many twins were built: none would mean that nothing was tested."""
    found = ', '.join(f'{count} {name}' for name, count in sorted(BUILT.items()))
    terminalreporter.write_line(f'A-FAN models that are off: {sum(BUILT.values())} built ({found or "none"})')


def outcomes(path: str) -> Dict[str, str]:
    """Read what became of every test from a file of ``pytest --junitxml``.

    Returns:
        By test, ``'passed'``, ``'skipped'``, or the first line of what failed.
    """
    found = {}
    for case in ElementTree.parse(path).iter('testcase'):
        part = next((part for part in case if part.tag in ('failure', 'error', 'skipped')), None)
        text = 'passed' if part is None else part.tag
        if part is not None and text != 'skipped':
            text += ': ' + (part.get('message') or '').strip().partition('\n')[0][:120]
        found[f'{case.get("classname")}::{case.get("name")}'] = text
    return found


def compare(stock: str, twins: str) -> List[str]:
    """Name the tests of which something else became."""
    left, right = outcomes(stock), outcomes(twins)
    return [f'{name}: {left.get(name, "missing")} with stock models, {right.get(name, "missing")} with A-FAN off'
            for name in sorted({*left, *right}) if left.get(name) != right.get(name)]


if __name__ == '__main__':
    different = compare(*sys.argv[1:])
    counts = list(outcomes(sys.argv[1]).values())
    print('\n'.join([*different, f'{len(counts)} tests, {counts.count("passed")} pass with stock models, '
                     f'{len(different)} differ with A-FAN off']))
    raise SystemExit(bool(different) or 'passed' not in counts)
