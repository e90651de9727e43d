"""Checks of what a user wrote; each failure is one sentence with the field, the value and what would be right."""
from __future__ import annotations

import difflib
from dataclasses import MISSING, fields
from numbers import Real
from typing import Any, Iterable, Mapping, Sequence, Type, TypeVar

LARGEST = (2 - 2**-23) * 2**127  # of float32


def suggest(name: str, valid: Iterable[str]) -> str:
    """Say which valid names come closest to a wrong one, or list all where none does.

    Example:
        >>> suggest('step_sise', ['step_size', 'weight'])
        "did you mean 'step_size'?"
    """
    valid = list(valid)
    close = difflib.get_close_matches(name, valid, n=3, cutoff=0.5)
    if close:
        return 'did you mean ' + ' or '.join(repr(c) for c in close) + '?'
    return 'valid names are ' + ', '.join(repr(v) for v in valid[:12])


def fail(where: str, value: Any, right: str) -> None:
    """Raise a ValueError: ``<where> must be <right>, got <value>``."""
    raise ValueError(f'{where} must be {right}, got {value!r}')


def is_number(value: Any) -> bool:
    """Whether a value is a finite number (and no bool), in float32 too."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    number: Any = value
    return bool(abs(number) <= LARGEST)  # of integers too, which may be beyond float64


def check_choice(where: str, value: Any, choices: Sequence[str]) -> None:
    """Raise a ValueError unless the value is one of the choices."""
    if value not in choices:
        hint = suggest(value, choices) if isinstance(value, str) else ''
        fail(where, value, f'one of {tuple(choices)}' + (f' ({hint})' if hint.startswith('did') else ''))


def check_number(where: str, value: Any, right: str, low: float, open_low: bool = False) -> None:
    """Raise a ValueError unless the value is a finite number of at least (or above) ``low``."""
    if not is_number(value) or value < low or (open_low and value == low):
        fail(where, value, right)


def check_integer(where: str, value: Any, low: int) -> None:
    """Raise a ValueError unless the value is an integer of at least ``low``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        fail(where, value, f'an integer of at least {low}')
    if value >= 2**63:
        fail(where, value, 'an integer below 2**63')


T = TypeVar('T')


def build_dataclass(cls: Type[T], value: Any, where: str) -> T:
    """Make a dataclass from a mapping; an unknown or missing key is one sentence.

    Args:
        cls: Dataclass with a last field ``where``, which its own messages begin with.
        value: The mapping a user wrote.
        where: Its place in the config.

    Raises:
        ValueError: If ``value`` is no mapping, has an unknown key, or lacks a field without a default.
    """
    if not isinstance(value, Mapping):
        fail(where, value, 'a dict')
    names = [f.name for f in fields(cls) if f.name != 'where']  # type: ignore[arg-type]
    for key in value:
        if key not in names:
            raise ValueError(f'{where} has no field {key!r}: {suggest(str(key), names)}')
    for f in fields(cls):  # type: ignore[arg-type]
        if f.default is MISSING and f.name not in value:
            raise ValueError(f'{where} needs the field {f.name!r}')
    return cls(**value, where=where)  # type: ignore[call-arg]
