"""The rows of a sweep as a table for a document."""
from __future__ import annotations

from typing import Any, Dict, List, Sequence

from .row import OUTCOMES

MARK = '<!-- The rest is written by the last of the commands above. -->'


def summarize(rows: Sequence[Dict[str, Any]]) -> str:
    """Count the outcomes.

    Example:
        >>> summarize([dict(outcome='passed'), dict(outcome='failed'), dict(outcome='passed')])
        '3 families: 2 passed, 0 explained, 1 failed'
    """
    counts = [sum(row['outcome'] == outcome for row in rows) for outcome in OUTCOMES]
    return f'{len(rows)} families: ' + ', '.join(f'{n} {outcome}' for n, outcome in zip(counts, OUTCOMES))


def choose_rows(rows: Sequence[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """Keep one row of a family, where it was tried on several devices: one that has passed, else one that is explained.

    Of several, that of a CPU comes first, where every digit counts.

    Example:
        >>> first, other = (dict(codebase='mmdet', family='ssd', device=device) for device in ('cpu', 'cuda'))
        >>> [row['device'] for row in choose_rows([dict(first, outcome='failed'), dict(other, outcome='passed')])]
        ['cuda']
    """
    ordered = sorted(rows, key=lambda row: (row['codebase'], row['family'], OUTCOMES.index(row['outcome']),
                                            row['device'] != 'cpu'))
    chosen: Dict[Any, Dict[str, Any]] = {}
    for row in ordered:
        chosen.setdefault((row['codebase'], row['family']), row)
    return list(chosen.values())


def render_table(rows: Sequence[Dict[str, Any]]) -> str:
    """Lay the rows out as Markdown, codebase by codebase."""
    lines, rows = [], choose_rows(rows)
    for codebase in dict.fromkeys(row['codebase'] for row in rows):
        own = [row for row in rows if row['codebase'] == codebase]
        lines += [f'## {codebase}', '', f'{summarize(own)}.', '',
                  '| Family | Config | Taps | Parameters x1 / x2 / other | Outcome |', '|---|---|---|---|---|']
        for row in own:
            config = row['config'].rpartition('/')[2][:-3]
            taps = ', '.join(f'`{module}`' for module in row['taps'].values())
            counts = f'{row["before"]} / {row["after"]} / {row["between"]}' if row['outcome'] == 'passed' else ''
            reason = f': {_plain(row["reason"])}' if row['reason'] else ''
            place = '' if row['device'] == 'cpu' else f' on {row["device"]}'
            lines.append(f'| {row["family"]} | {config} | {taps} | {counts} | {row["outcome"]}{place}{reason} |')
        lines.append('')
    return '\n'.join(lines).rstrip()


def write_table(path: str, table: str) -> None:
    """Put a table in the place of what is below the mark of a document.

    Raises:
        ValueError: If it has no mark.
    """
    with open(path) as file:
        head, mark, _ = file.read().partition(MARK)
    if not mark:
        raise ValueError(f'{path} must have the line {MARK}, below which the table is written')
    with open(path, 'w') as file:
        file.write(f'{head}{mark}\n\n{table}\n')


def _plain(text: str) -> str:
    return text.replace('|', '\\|').replace('<', '&lt;')
