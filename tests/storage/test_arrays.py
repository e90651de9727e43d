"""Arrays of checkpoints: what numpy writes is rebuilt, and what a crafted file asks for is refused."""
from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

import mmafan  # noqa: F401  (registers the stand-ins)
from mmafan.storage.arrays import StoredArray, StoredType, no_bytes, rebuild_array, rebuild_scalar

pytestmark = pytest.mark.skipif(
    tuple(int(n) for n in torch.__version__.split('.')[:2]) < (2, 6),
    reason=f'torch {torch.__version__} loads any class by default; 2.6 was the first that does not')

VALUES = dict(
    floats=np.arange(3.0), half=np.arange(3, dtype='f2'), complex=np.array([1j]), empty=np.array([]),
    none=np.zeros((2, 0, 3), 'i4'), columns=np.array([[1, 2], [3, 4]], order='F'), scalar=np.array(5),
    words=np.array(['abc', 'defg']), no_word=np.array(['']), raw=np.array([b'ab']), flags=np.array([True, False]),
    objects=np.array([None, {1: 2}, 'x'], dtype=object), large=np.arange(5000, dtype='i8'))
SCALARS = [np.float32(2.5), np.str_('abc'), np.str_(''), np.bool_(True), np.int64(-3), np.bytes_(b'ab'), np.float16(1)]


def round_trip(value, path):
    torch.save(value, path)
    return torch.load(path)


@pytest.mark.parametrize('name', list(VALUES))
def test_what_numpy_writes_comes_back(tmp_path, name):
    value = VALUES[name]
    found = round_trip(value, tmp_path / 'a.pth')
    assert isinstance(found, np.ndarray) and found.dtype == value.dtype and found.shape == value.shape
    assert found.tolist() == value.tolist() and found.flags.f_contiguous == value.flags.f_contiguous
    for again in (round_trip(found, tmp_path / 'b.pth'), pickle.loads(pickle.dumps(found)), copy.deepcopy(found)):
        assert again.tolist() == value.tolist() and again.dtype == value.dtype
    assert type(pickle.loads(pickle.dumps(found))) is np.ndarray  # a process without mmafan can read it
    if found.ndim == 1:
        assert type(np.append(found, found[:1])) is np.ndarray


def test_numbers_come_back(tmp_path):
    found = round_trip(SCALARS, tmp_path / 'a.pth')
    assert found == SCALARS and [type(value) for value in found] == [type(value) for value in SCALARS]


def state(shape=(2, ), code='f8', content=bytes(16), version=1, order='<'):
    stored = StoredType(code)
    stored.__setstate__((3, order, None, None, None, -1, -1, 0))
    return version, shape, stored, False, content


@pytest.mark.parametrize('wrong', [
    state(content=bytes(15)), state(content=bytes(17)), state(shape=(2**40, )), state(shape=(-2, )),
    state(shape=(2.0, )), state(shape=[2]),
    state(code='O8', content=bytes(16)), state(code='O8', content=[1]), state(version=2),
    state(content=[1.0, 2.0]), state(content=bytearray(16)), (1, (2, ), np.dtype('f8'), False, bytes(16)),
    (1, (2, ), np.dtype('O'), False, bytes(16)), (), None, state()[:4]])
def test_states_that_numpy_does_not_write_are_refused(wrong):
    with pytest.raises(pickle.UnpicklingError):
        rebuild_array(StoredArray).__setstate__(wrong)


@pytest.mark.parametrize('arguments', [((1, ), np.dtype('O'), bytes(8)), ((1, ), 'O', bytes(8)), ()])
def test_an_array_cannot_be_called(arguments):
    with pytest.raises(pickle.UnpicklingError, match='not calls of numpy.ndarray'):
        StoredArray(*arguments)


def test_a_whole_array_is_not_filled_again():
    array = rebuild_array(StoredArray, (0, ), b'b')
    array.__setstate__(state())
    with pytest.raises(pickle.UnpicklingError, match='must hold 2 items'):
        array.__setstate__(state())


@pytest.mark.parametrize('code', ['V8', 'f8,O', '', 'f', 'M8', 'U9999999', 'f-8', 'f８', None, 8, [('a', 'O')]])
def test_other_types_are_refused(code):
    with pytest.raises(pickle.UnpicklingError, match='numbers, text and objects'):
        StoredType(code)


@pytest.mark.parametrize('wrong', [
    (3, '<', None, ('a', ), {'a': (np.dtype('O'), 0)}, 8, 1, 63), (3, '<', (np.dtype('O'), (2, )), None, None, 8, 1, 0),
    (3, 'x', None, None, None, -1, -1, 0), (3, '<', None), None])
def test_other_states_of_types_are_refused(wrong):
    with pytest.raises(pickle.UnpicklingError):
        StoredType('f8').__setstate__(wrong)


@pytest.mark.parametrize('call', [
    lambda: rebuild_array(list), lambda: rebuild_array(np.ndarray), lambda: rebuild_scalar(np.dtype('f8'), bytes(8)),
    lambda: rebuild_scalar(StoredType('f8'), bytes(7)), lambda: rebuild_scalar(StoredType('O8'), bytes(8)),
    lambda: rebuild_scalar(StoredType('O8'), [1]), lambda: StoredType('f3').dtype, lambda: no_bytes(1 << 40)])
def test_other_calls_are_refused(call):
    with pytest.raises(pickle.UnpicklingError):
        call()
