"""Arrays of checkpoints, rebuilt without numpy's own constructors.

torch's ``weights_only`` unpickler calls whatever class it is allowed to. Numpy's are not made for that:
``numpy.ndarray(shape, dtype('O'), buffer)`` takes the bytes of a file for pointers to objects, and the state of a
``numpy.dtype`` may say anything of a type's size. So a checkpoint gets stand-ins under numpy's names. They rebuild
what numpy itself writes, with every length checked, and refuse the rest.
"""
from __future__ import annotations

import math
from pickle import UnpicklingError
from typing import Any, List, Tuple

import numpy as np

KINDS = 'biufcSUO'  # of types that hold plain numbers, text, or (as a list, never as bytes) objects
MAX_ITEM = 1 << 20  # bytes of one item, which is a text where it is long


class StoredType:
    """Stand-in for ``numpy.dtype`` in checkpoints: a type that is built once all of it is known.

    Args:
        code: Kind and size, as ``'f8'``.
        align: As numpy writes it; of no use for the types that are accepted.
        copy: The same.
    """

    def __init__(self, code: Any, align: Any = False, copy: Any = True) -> None:
        if (not isinstance(code, str) or not code[:1] or code[0] not in KINDS or not code[1:].isdecimal()
                or not code[1:].isascii() or len(code) > 8 or int(code[1:]) > MAX_ITEM):
            raise UnpicklingError(f'a checkpoint may hold arrays of numbers, text and objects, got dtype {code!r}')
        self._code = code
        self._order = '|'

    def __setstate__(self, state: Any) -> None:
        # Version, byte order, parts of structured types (three), size and alignment of text, flags; dates have a ninth.
        if not isinstance(state, tuple) or len(state) != 8 or any(part is not None for part in state[2:5]):
            raise UnpicklingError('a checkpoint may not hold arrays of structured types')
        if state[1] not in ('<', '>', '=', '|'):
            raise UnpicklingError(f'the byte order of an array must be one of < > = |, got {state[1]!r}')
        self._order = state[1]

    @property
    def dtype(self) -> np.dtype:
        """The type, made by numpy from its name alone."""
        try:
            return np.dtype(object if self._code[0] == 'O' else self._order + self._code)
        except TypeError:
            raise UnpicklingError(f'a checkpoint may hold arrays of types that numpy has, got dtype {self._code!r}')


class StoredArray(np.ndarray):
    """Stand-in for ``numpy.ndarray`` in checkpoints: an array that cannot be made, only rebuilt by its own state.

    It is pickled as the array that it is, and joined with another one it gives an ordinary array.
    """
    __array_priority__ = -1.0

    def __new__(cls, *args: Any, **kwargs: Any) -> 'StoredArray':
        """Refuse: this is what a crafted file would call."""
        raise UnpicklingError('a checkpoint may hold arrays as numpy pickles them, not calls of numpy.ndarray')

    def __setstate__(self, state: Any) -> None:
        if (not isinstance(state, tuple) or len(state) != 5 or state[0] != 1 or not isinstance(state[1], tuple)
                or not all(type(n) is int and n >= 0 for n in state[1]) or not isinstance(state[2], StoredType)):
            raise UnpicklingError('the state of an array in a checkpoint must be what numpy writes')
        _, shape, stored, fortran, content = state
        dtype, count = stored.dtype, math.prod(shape)
        if dtype.kind == 'O':
            right = type(content) is list and len(content) == count
        else:
            right = type(content) is bytes and len(content) == count * dtype.itemsize
        if not right or self.size:
            raise UnpicklingError(f'an array of shape {shape} and type {dtype} in a checkpoint must hold {count} items')
        checked: Any = (1, shape, dtype, bool(fortran), content)
        super().__setstate__(checked)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.view(np.ndarray).__reduce_ex__(protocol)


def rebuild_array(kind: Any, shape: Any = (0, ), code: Any = b'b') -> np.ndarray:
    """Stand in for numpy's ``_reconstruct``: an empty array, whose state comes after it."""
    if kind is not StoredArray:
        raise UnpicklingError(f'a checkpoint may hold arrays of the type numpy.ndarray, got {kind!r}')
    return np.ndarray.__new__(StoredArray, (0, ), 'b')


def rebuild_scalar(stored: Any, content: Any = None) -> Any:
    """Stand in for numpy's ``scalar``: a number or a text from its bytes."""
    if not isinstance(stored, StoredType):
        raise UnpicklingError(f'the type of a number in a checkpoint must be a numpy.dtype, got {stored!r}')
    dtype = stored.dtype
    if dtype.kind == 'O' or type(content) is not bytes or len(content) != dtype.itemsize:
        raise UnpicklingError(f'a {dtype} in a checkpoint must have {dtype.itemsize} bytes')
    return np.frombuffer(content, dtype)[0] if content else dtype.type()


def no_bytes(*args: Any) -> bytes:
    """Stand in for ``bytes``, by which a pickle writes an empty one (of an empty array)."""
    if args:
        raise UnpicklingError('a checkpoint may not call bytes')
    return b''


def stand_ins() -> List[Tuple[Any, str]]:
    """Return the stand-ins and the names that checkpoints give them, under numpy 1 and 2."""
    found: List[Tuple[Any, str]] = [(StoredArray, 'numpy.ndarray'), (StoredType, 'numpy.dtype'),
                                    (no_bytes, 'builtins.bytes')]
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        found += [(rebuild_array, f'{module}._reconstruct'), (rebuild_scalar, f'{module}.scalar')]
    return found
