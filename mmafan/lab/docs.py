"""Write what the documentation takes from the code: the tables of fields, and the page of what is public.

Writes docs/fields.md, and in README.md what stands between the two marks of the table of fields, if they are there.
`--check` writes nothing and ends with status 1 where a file is not what it would be. `--api` writes the page of what is
public, which no commit holds: `tools/build_docs.sh` makes it. Only Python's own modules are imported:
`tools/write_docs.py` runs this file where no package is installed.
"""
from __future__ import annotations

import argparse
import ast
import re
import textwrap
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = '<!-- fields: written by tools/write_docs.py -->', '<!-- end of fields -->'
NOTE = '<!-- Written by `python tools/write_docs.py` from the docstrings: change those. -->'


class Field(NamedTuple):
    """A field: its name, its default as code or None where it has none, and what its docstring says."""
    name: str
    default: Optional[str]
    text: str


def find_class(path: str, name: str) -> ast.ClassDef:
    """Return a class of a file of the package."""
    tree = ast.parse((ROOT / 'mmafan' / path).read_text())
    return next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)


def read_section(docstring: str, title: str) -> Dict[str, str]:
    """Return the entries of a section of a docstring in Google's style, each as one line."""
    lines = iter(docstring.splitlines())
    entries: Dict[str, str] = {}
    name = ''
    for line in lines:
        if line.strip() == f'{title}:':
            break
    for line in lines:
        if line.strip() and not line.startswith('    '):
            break
        found = re.match(r'    (\w+): (.*)', line)
        if found:
            name, entries[found[1]] = found[1], found[2]
        elif line.strip():
            entries[name] += f' {line.strip()}'
    return entries


def read_fields(path: str, name: str) -> List[Field]:
    """Return the fields of a dataclass or the arguments of a class, with their defaults."""
    node = find_class(path, name)
    docstring = ast.get_docstring(node) or ''
    texts = read_section(docstring, 'Attributes') or read_section(docstring, 'Args')
    defaults = dict(_defaults(node))
    return [Field(key, defaults[key], text) for key, text in texts.items()]


def _defaults(node: ast.ClassDef) -> Iterator[Tuple[str, Optional[str]]]:
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            yield item.target.id, None if item.value is None else ast.unparse(item.value)
        elif isinstance(item, ast.FunctionDef) and item.name == '__init__':
            names = [argument.arg for argument in item.args.args[1:]]
            values: List[Optional[str]] = [ast.unparse(value) for value in item.args.defaults]
            yield from zip(names, [None] * (len(names) - len(values)) + values)


def as_markdown(text: str) -> str:
    """Turn the markup of a docstring into that of the documents, for a cell of a table."""
    text = re.sub(r':\w+:`~?([^`]+)`', r'`\1`', text).replace('``', '`')
    return text.replace('|', r'\|')


def table(fields: List[Field], prefix: str = '') -> str:
    """Lay fields out as a table."""
    rows = [f'| `{prefix}{f.name}` | {"" if f.default is None else f"`{_plain(f.default)}`"} | {as_markdown(f.text)} |'
            for f in fields]
    return '\n'.join(['| field | default | meaning |', '|---|---|---|', *rows])


def _plain(default: str) -> str:
    return re.sub(r'^\(([^,()]+),\)$', r'\1', default)  # one entry means the same as the entry alone


TAPS = ('tap_config.py', 'TapConfig')
AFAN = ('config.py', 'AFANConfig')
TABLES = [
    ('`afan`', 'What `afan=dict(...)` of a model takes.', AFAN),
    ('`afan.taps.<name>`', 'A tap: where features are perturbed, how, and what their losses count.', TAPS),
    ('`afan.learn_strengths`', "The authors' variant with learned factors on the strengths.",
     ('config.py', 'LearnStrengthsConfig')),
    ('`AdvFeatureHook`', "`custom_hooks = [dict(type='mmafan.AdvFeatureHook')]`: schedule, log, checks.",
     ('hooks/adv_feature_hook.py', 'AdvFeatureHook')),
    ('`FeaturePictureHook`', "`dict(type='mmafan.FeaturePictureHook', interval=500)`: pictures of features.",
     ('visualization/feature_picture_hook.py', 'FeaturePictureHook')),
]


def fields_page() -> str:
    """Return docs/fields.md."""
    parts = ['# Fields', NOTE, 'Each default is what a field is where a config does not say it; one without a default '
             'must be said.\nA wrong field ends in one sentence before the first weight changes.']
    for title, text, source in TABLES:
        parts += [f'## {title}', text, table(read_fields(*source))]
    return '\n\n'.join(parts) + '\n'


def readme_table() -> str:
    """Return what stands in README.md between the marks."""
    return f'{table(read_fields(*TAPS), "taps.<name>.")}\n' + '\n'.join(
        table(read_fields(*AFAN)).splitlines()[2:])


# ---------------------------------------------------------------- what is public
PACKAGES = [
    ('mmafan', 'Importing it registers everything.'),
    ('mmafan.hooks', 'For `custom_hooks`, with `mmafan.` in front of the type.'),
    ('mmafan.layers', 'Norms that know which pass is running.'),
    ('mmafan.functional', 'The algebra: pure functions of tensors.'),
    ('mmafan.models', 'The step and the class that is made from a stock model.'),
    ('mmafan.replay', 'Records a forward and replays its prefix; knows no A-FAN.'),
    ('mmafan.engine', 'For several processes.'),
    ('mmafan.datasets', 'Small data sets that need no download.'),
    ('mmafan.evaluation', 'A metric beside those of the codebases.'),
    ('mmafan.analysis', 'Measuring; never imported by the parts above.'),
    ('mmafan.visualization', 'Drawing; never imported by the parts above.'),
]


def find_definition(module: Path, name: str) -> Optional[ast.AST]:
    """Return the class or function that a module defines or imports from a neighbour, None for anything else."""
    tree = ast.parse(module.read_text())
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
            return node
        if isinstance(node, ast.ImportFrom) and node.level and any((a.asname or a.name) == name for a in node.names):
            folder = module.parents[node.level - 1]
            path = folder.joinpath(*(node.module or '').split('.'))
            original = next(a.name for a in node.names if (a.asname or a.name) == name)
            for file in (path.with_suffix('.py'), path / '__init__.py'):
                if file.is_file():
                    return find_definition(file, original)
    return None


def public_names(module: Path) -> List[str]:
    """Return ``__all__`` of a package."""
    for node in ast.parse(module.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == '__all__':
            return list(ast.literal_eval(node.value))
    return []


def signature(node: Any) -> str:
    """Return how a class or function is called."""
    if isinstance(node, ast.FunctionDef):
        returns = f' -> {ast.unparse(node.returns)}' if node.returns else ''
        return f'{node.name}({ast.unparse(node.args)}){returns}'
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == '__init__':
            arguments = re.sub(r'^self(, )?', '', ast.unparse(item.args))
            return f'class {node.name}({arguments})'
    return f'class {node.name}'


def api_page() -> str:
    """Return the page of what is public."""
    parts = ['# API', 'What each package names as public, with its docstring.']
    for package, text in PACKAGES:
        module = ROOT.joinpath(*package.split('.')) / '__init__.py'
        entries = [(name, find_definition(module, name)) for name in public_names(module)]
        found = [(name, node) for name, node in entries if node is not None]
        if not found:
            continue
        parts += [f'## {package}', text]
        for name, node in found:
            call = '\n'.join(textwrap.wrap(signature(node), 110, subsequent_indent='    '))
            parts += [f'### {package}.{name}', f'```python\n{call}\n```',
                      f'```text\n{ast.get_docstring(node) or ""}\n```']  # type: ignore[arg-type]
    return '\n\n'.join(parts) + '\n'


def wanted() -> Dict[Path, str]:
    """Return what each file should be."""
    files = {ROOT / 'docs' / 'fields.md': fields_page()}
    readme = ROOT / 'README.md'
    before, mark, rest = readme.read_text().partition(BEGIN)
    if mark:
        files[readme] = f'{before}{BEGIN}\n{readme_table()}\n{END}{rest.partition(END)[2]}'
    return files


def main(argv: Optional[List[str]] = None) -> int:
    """Write, or check."""
    parser = argparse.ArgumentParser(
        prog='write_docs.py', description='Write what the documentation takes from the code.')
    parser.add_argument('--check', action='store_true', help='write nothing; status 1 where a file is out of date')
    parser.add_argument('--api', type=Path, metavar='FILE', help='where to write the page of what is public')
    args = parser.parse_args(argv)
    if args.api is not None:
        args.api.write_text(api_page())
    stale = [path for path, text in wanted().items() if not path.is_file() or path.read_text() != text]
    for path in stale:
        if not args.check:
            path.write_text(wanted()[path])
        print(f'{path.relative_to(ROOT)}: {"is out of date" if args.check else "written"}')
    return int(args.check and bool(stale))


if __name__ == '__main__':
    raise SystemExit(main())
