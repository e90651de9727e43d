"""The summary of gpu_check.py: its state as a markdown document."""
from __future__ import annotations

from typing import Any, Dict, List

from .cost import ROWS

PARTS = ('tests', 'cost', 'study')


def summary_of(state: Dict[str, Any]) -> str:
    """Lay everything out: conditions, and for each part how it ended and what it found."""
    lines = ['# What one GPU shows', '', ', '.join(f'{k} {v}' for k, v in state['conditions'].items()), '']
    for part in PARTS:
        known = state.get(part, {})
        seconds = f' ({known["seconds"]:.0f} s)' if 'seconds' in known else ''
        lines += [f'## {part}: {known.get("status", "not asked for")}{seconds}', '', *TELL[part](known)]
    return '\n'.join(lines).rstrip() + '\n'


def tell_tests(known: Dict[str, Any]) -> List[str]:
    """Lay the outcomes out."""
    if 'outcomes' not in known:
        return []
    counts = ', '.join(f'{count} {word}' for word, count in known['outcomes'].items()) or 'none has ended'
    return [counts, '', *(f'- {note}' for note in known['notes']), *([''] if known['notes'] else [])]


def tell_cost(known: Dict[str, Any]) -> List[str]:
    """Lay the table out."""
    if 'rows' not in known:
        return []
    return ['In units of the baseline step and its peak memory; random images; medians of steps in turn.', '',
            table_of(known['rows']), '']


def tell_study(known: Dict[str, Any]) -> List[str]:
    """Lay the table of the study out."""
    if 'epochs' not in known:
        return []
    return [f'MMAFAN_STUDY_EPOCHS={known["epochs"]}', '', known.get('table', ''), '']


TELL = dict(tests=tell_tests, cost=tell_cost, study=tell_study)


def table_of(results: Dict[str, Dict[str, Any]]) -> str:
    """Lay the rows out as a markdown table; what failed or was not run says why."""
    lines = ['| model, batch, precision | baseline, ms | A-FAN | theory | A-FAN / theory | published order '
             '| peak memory, A-FAN | published order |', '|---|---|---|---|---|---|---|---|']
    for row in ROWS:
        found = results.get(row, {})
        if 'result' not in found:
            lines.append(f'| {row} | {found.get("error", "not run: no time was left")} | | | | | | |')
            continue
        result = found['result']
        ratios = result['ratios']
        numbers = [ratios['afan_over_baseline'], result['theory'], ratios['afan_over_theory'],
                   ratios['published_over_baseline'], ratios['afan_memory_over_baseline'],
                   ratios['published_memory_over_baseline']]
        lines.append(f'| {row} | {result["seconds"]["baseline"] * 1000:.1f} | '
                     + ' | '.join(f'{number:.2f}' for number in numbers) + ' |')
    return '\n'.join(lines)
