"""Whether the recipe of a resumed training is the one that its checkpoint was made with."""
from __future__ import annotations

from dataclasses import asdict
from typing import Any, Dict, List, Optional

RECIPE = 'recipe'  # beside the training-only state in a checkpoint
KEEPS = ('resuming keeps weights, optimizer, schedule and what A-FAN has learned, where it fits; load_from without '
         'resume starts a new training from the weights')


def recipe_of(model: Any) -> Dict[str, Any]:
    """Return the ``afan=dict(...)`` of a model as plain values, for a checkpoint."""
    return _plain(asdict(model.afan.config))


def changes(before: Any, after: Any, where: str = 'afan') -> List[str]:
    """List what differs between two recipes; a field that one of them does not know is no difference.

    Example:
        >>> changes(dict(taps=dict(a=dict(weight=1.0)), batch_norm='batch'),
        ...         dict(taps=dict(a=dict(weight=0.5), b={}), batch_norm='batch'))
        ['afan.taps.a.weight was 1.0 and is 0.5', 'afan.taps.b is new']
    """
    if not isinstance(before, dict) or not isinstance(after, dict):
        return [] if before == after else [f'{where} was {_short(before)} and is {_short(after)}']
    found = []
    if where == 'afan.taps':
        found += [f'{where}.{name} is gone' for name in before if name not in after]
    for name, value in after.items():
        if name in before:
            found += changes(before[name], value, f'{where}.{name}')
        elif where == 'afan.taps':
            found.append(f'{where}.{name} is new')
    return found


def check_recipe(model: Any, optim_wrapper: Any, state: Dict[str, Any], checkpoint: Dict[str, Any]) -> Optional[str]:
    """Compare the recipe of a model with that of the checkpoint which it is resumed from.

    Args:
        model: The A-FAN model.
        optim_wrapper: Of the runner, built.
        state: What the checkpoint holds for A-FAN; empty where it was trained without.
        checkpoint: The whole checkpoint.

    Returns:
        A sentence for the user where something has changed and training can go on; None where nothing has.

    Raises:
        ValueError: If the optimizer in the checkpoint is that of other parameters.
    """
    before = state.get(RECIPE)
    found = changes(before, recipe_of(model)) if isinstance(before, dict) else []
    groups = getattr(getattr(optim_wrapper, 'optimizer', None), 'param_groups', [])
    counts = [len(group['params']) for group in groups]
    stored = _parameter_counts(checkpoint.get('optimizer'))
    if counts and stored and counts != stored:
        if not found:
            found = ['it was made with another recipe or another model' if state else
                     'it was made without A-FAN or with another model']
        raise ValueError(
            f'this training cannot be resumed from its checkpoint, whose optimizer has {sum(stored)} parameters in '
            f'{len(stored)} groups where this config gives {sum(counts)} in {len(counts)}: {"; ".join(found)}; resume '
            'with the config it was made with, or set load_from without resume, which starts a new training from the '
            'weights')
    return f'the recipe has changed since the checkpoint: {"; ".join(found)}; {KEEPS}' if found else None


def _parameter_counts(state: Any) -> List[int]:
    """Parameters in each group of an optimizer's state; empty where an engine names or shards them its own way."""
    groups = state.get('param_groups') if isinstance(state, dict) else None
    if not isinstance(groups, list) or not all(isinstance(group, dict) and isinstance(group.get('params'), list)
                                               and all(type(n) is int for n in group['params']) for group in groups):
        return []
    return [len(group['params']) for group in groups]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items() if name != 'where'}
    if isinstance(value, (tuple, list)):
        return [_plain(inner) for inner in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:57]}...'
