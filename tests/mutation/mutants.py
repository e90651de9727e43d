"""Small faults for the core, one each, made by the operators of cosmic-ray."""
from __future__ import annotations

import ast
import difflib
import hashlib
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

# Not what is inside: backbones are networks like others.
FOLDERS = ('mmafan/functional', 'mmafan/layers', 'mmafan/replay', 'mmafan/models')


class Mutant(NamedTuple):
    """A small fault: where it is, and the lines before and after."""
    path: str
    line: int
    last_line: int
    operator: str
    occurrence: int
    before: str = ''
    after: str = ''

    @property
    def key(self) -> str:
        """What stays the same while other lines of the file change."""
        return f'{self.path}: {self.before} -> {self.after}'


def find_files(root: Path) -> List[str]:
    """List the files to mutate."""
    return [path.relative_to(root).as_posix() for folder in FOLDERS for path in sorted((root / folder).glob('*.py'))
            if path.name != '__init__.py']


def rank(seed: int, *words: Any) -> str:
    """Give a place its turn: random, but the same whatever else is in the repository."""
    return hashlib.sha256(':'.join(map(str, (seed, *words))).encode()).hexdigest()


def list_places(path: str, source: str, seed: int) -> List[Tuple[str, List[Mutant]]]:
    """List the places of a file that can be changed, each with its turn, and what can be done there, in turn."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names
    nodes, lines = list(ast_nodes(get_ast(source))), source.splitlines()
    places: Dict[Tuple[Any, Any], List[Mutant]] = {}
    for name in operator_names():
        operator = get_operator(name)
        if operator.arguments():
            continue
        found = [place for node in nodes for place in operator().mutation_positions(node)]
        for number, (begin, end) in enumerate(found):
            places.setdefault((begin, end), []).append(Mutant(path, begin[0], end[0], name, number))
    made, seen = [], {}  # type: ignore[var-annotated]
    for begin, end in sorted(places):
        text = lines[begin[0] - 1]
        seen[text] = seen.get(text, 0) + 1  # the same line may stand there twice
        words = (path, text, seen[text])
        made.append((rank(seed, *words), sorted(places[begin, end], key=lambda m: rank(seed, *words, m.operator))))
    return made


def without_annotations(source: str) -> str:
    """Dump what is executed of a module: its annotations are never evaluated."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        for field in ('annotation', 'returns'):
            if getattr(node, field, None) is not None:
                setattr(node, field, None if field == 'returns' or isinstance(node, ast.arg) else ast.Constant(None))
    return ast.dump(tree)


def mutate(source: str, mutant: Mutant) -> Optional[str]:
    """Return the changed source; None where it is the same program, or none at all."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator
    try:
        changed = mutate_code(source, get_operator(mutant.operator)(), mutant.occurrence)
        return None if changed is None or without_annotations(changed) == without_annotations(source) else changed
    except SyntaxError:
        return None


def describe(mutant: Mutant, source: str, changed: str) -> Mutant:
    """Add the lines before and after."""
    lines = [line for line in difflib.unified_diff(source.splitlines(), changed.splitlines(), n=0, lineterm='')
             if not line.startswith(('---', '+++', '@@'))]
    before, after = (' '.join(line[1:].strip() for line in lines if line[0] == sign) for sign in '-+')
    return mutant._replace(before=before, after=after)


def choose_mutants(root: Path, sample: Optional[int], seed: int, only: str = '') -> List[Tuple[Mutant, str]]:
    """Choose places at random and one mutant at each; all mutants of all places without a number.

    Returns:
        Each mutant with the changed source.
    """
    sources = {path: (root / path).read_text() for path in find_files(root) if only in path}
    places = sorted((place for path, source in sources.items() for place in list_places(path, source, seed)),
                    key=lambda place: place[0])
    chosen: List[Tuple[Mutant, str]] = []
    for _, mutants in places:
        for mutant in mutants:
            changed = mutate(sources[mutant.path], mutant)
            if changed is not None:
                chosen.append((describe(mutant, sources[mutant.path], changed), changed))
                if sample is not None:
                    break
        if sample is not None and len(chosen) >= sample:
            break
    return chosen
