"""The workarounds for stock OpenMMLab: each does its work, and a test here fails once it is no longer needed."""
from __future__ import annotations

import json
import pickle
import subprocess
import sys
import textwrap
import zipfile

import numpy as np
import pytest
import torch
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner.checkpoint import _load_checkpoint

from mmafan.compat import apply

CHECKS_CLASSES = pytest.mark.skipif(
    tuple(int(n) for n in torch.__version__.split('.')[:2]) < (2, 6),
    reason=f'torch {torch.__version__} loads any class by default; 2.6 was the first that does not')
PYTHON_SCALARS = dict(int=3, float=0.5, bool=True, text='abc', none=None, list=[1, 2.5])
NUMPY_SCALARS = dict(
    float64=np.float64(1.5), float32=np.float32(2.5), float16=np.float16(0.5), int64=np.int64(-3), int32=np.int32(4),
    uint8=np.uint8(7), bool_=np.bool_(True), str_=np.str_('abc'))
ARRAYS = dict(
    floats=np.arange(3.0), single=np.arange(3, dtype=np.float32), integers=np.arange(3), flags=np.array([True, False]),
    words=np.array(['abc', 'defg']))


@pytest.fixture
def message_hub():
    """A hub as a run leaves it: histories, and whatever hooks and evaluators put beside them."""
    hub = MessageHub('test_compat')
    for value in (3.0, 2.0, 1.0):
        hub.update_scalar('train/loss', value)
        hub.update_scalar('train/afan_s_relative_size', np.float32(value))
        hub.update_scalar('val/accuracy', torch.tensor(value))
    for group in (PYTHON_SCALARS, NUMPY_SCALARS, ARRAYS):
        for name, value in group.items():
            hub.update_info(name, value)
    return hub


def save(path, hub):
    torch.save(dict(state_dict=dict(weight=torch.ones(2)), message_hub=hub.state_dict(), meta=dict(epoch=3)), path)
    return str(path)


def renamed(path, old, new):
    """Replace the name of numpy's module in a checkpoint."""
    with zipfile.ZipFile(path) as archive:
        content = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_STORED) as archive:
        for name, data in content.items():
            archive.writestr(name, data.replace(b'%s.multiarray\n' % old, b'%s.multiarray\n' % new))
    return path


WRITERS = {
    'this numpy': lambda path: path,
    'numpy 1': lambda path: renamed(path, b'numpy._core', b'numpy.core'),
    'numpy 2': lambda path: renamed(path, b'numpy.core', b'numpy._core'),
}


# ---------------------------------------------------------------- what the workarounds make possible
@CHECKS_CLASSES
@pytest.mark.parametrize('written_by', list(WRITERS.values()), ids=list(WRITERS))
def test_checkpoint_with_histories_arrays_and_numpy_scalars_loads(written_by, tmp_path, message_hub):
    checkpoint = _load_checkpoint(written_by(save(tmp_path / 'checkpoint.pth', message_hub)))
    assert checkpoint['meta'] == dict(epoch=3) and checkpoint['state_dict']['weight'].tolist() == [1, 1]
    hub = MessageHub('test_compat_restored')
    hub.load_state_dict(checkpoint['message_hub'])
    for name in ('train/loss', 'train/afan_s_relative_size', 'val/accuracy'):
        history = hub.get_scalar(name)
        assert isinstance(history, HistoryBuffer)
        assert (history.current(), history.min(), history.max(), history.mean()) == (1.0, 1.0, 3.0, 2.0)
        assert history.statistics('mean', window_size=2) == 1.5
    for group in (PYTHON_SCALARS, NUMPY_SCALARS):
        for name, value in group.items():
            assert hub.get_info(name) == value and type(hub.get_info(name)) is type(value), name
    for name, value in ARRAYS.items():
        assert hub.get_info(name).dtype == value.dtype and (hub.get_info(name) == value).all(), name


class ExchangedMean(HistoryBuffer):
    """Pickled as a history that brings a mean of its own, and arrays of its own."""

    def __init__(self, state):
        self.state = state

    def __reduce__(self):
        return HistoryBuffer, (), self.state


def test_a_checkpoint_cannot_exchange_the_statistics_of_the_log(tmp_path):
    """Nor under another name: logs are compared, and a file that is passed over has been read, too."""
    known = dict(HistoryBuffer._statistics_methods)
    state = dict(HistoryBuffer([1.0, 3.0], [1, 1]).__dict__, max_length=5, _statistics_methods={},
                 statistics_methods=dict(mean=HistoryBuffer.min, median=HistoryBuffer.max))
    torch.save(dict(history=ExchangedMean(state)), tmp_path / 'checkpoint.pth')
    HistoryBuffer._statistics_methods.clear()  # as in a process that has logged nothing yet
    history = _load_checkpoint(str(tmp_path / 'checkpoint.pth'))['history']
    assert HistoryBuffer._statistics_methods == known
    assert type(history) is HistoryBuffer and history.mean() == history.statistics('mean') == 2.0


@pytest.mark.parametrize('changes', [dict(_log_history=None), dict(_log_history='x'), dict(_count_history=np.ones(3)),
                                     dict(_log_history=np.ones((2, 2))), dict(max_length=None)])
def test_a_history_of_a_checkpoint_has_two_arrays(tmp_path, changes):
    state = dict(_log_history=np.ones(2), _count_history=np.ones(2), max_length=5)
    torch.save(dict(history=ExchangedMean(dict(state, **changes))), tmp_path / 'checkpoint.pth')
    with pytest.raises(pickle.UnpicklingError, match='two arrays of one length'):
        _load_checkpoint(str(tmp_path / 'checkpoint.pth'))


class AnyAttribute:
    """Pickled as ``getattr(getattr, '__self__')``: the module builtins, and with it ``eval``."""

    def __reduce__(self):
        return getattr, (getattr, '__self__')


class AnyCall:
    """Pickled as a call of a function no checkpoint needs."""

    def __reduce__(self):
        return print, ('called', )


@CHECKS_CLASSES
@pytest.mark.parametrize('payload', [AnyAttribute, AnyCall])
def test_checkpoint_still_cannot_reach_any_object(payload, tmp_path):
    torch.save(dict(state_dict={}, payload=payload()), tmp_path / 'checkpoint.pth')
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / 'checkpoint.pth')


@CHECKS_CLASSES
def test_applying_again_changes_nothing():
    before = dict(MODULE2PACKAGE), {repr(c) for c in torch.serialization.get_safe_globals()}
    apply()
    assert (dict(MODULE2PACKAGE), {repr(c) for c in torch.serialization.get_safe_globals()}) == before
    assert MODULE2PACKAGE['mmafan'] == 'mmafan'


# ---------------------------------------------------------------- whether stock OpenMMLab still needs them
@pytest.fixture(scope='module')
def stock(tmp_path_factory):
    """What stock mmengine says, in a process without mmafan."""
    folder = tmp_path_factory.mktemp('stock')
    (folder / 'config.py').write_text("_base_ = 'mmafan::mmpretrain/nothing.py'\n")
    hub = MessageHub('test_compat_stock')
    hub.update_scalar('train/loss', 1.0)
    checkpoint = save(folder / 'checkpoint.pth', hub)
    script = textwrap.dedent('''
        import json, os, sys, torch
        from mmengine.config import Config
        from mmengine.runner.checkpoint import _load_checkpoint

        def error_of(function, path):
            try:
                function(path)
            except BaseException as error:
                return str(error)
            return None

        def count(path):
            from mmengine.analysis import get_model_complexity_info
            get_model_complexity_info(torch.nn.Linear(2, 2), (2, ), inputs=torch.rand(1, 2))

        def load_optimizer(_):
            from mmengine._strategy.fsdp import FSDP, FSDPStrategy
            FSDP.optim_state_dict_to_load = lambda model, optim, optim_state_dict: dict(model)
            strategy = FSDPStrategy.__new__(FSDPStrategy)
            strategy.model, strategy.optim_wrapper = {'the': 'model'}, type('O', (), dict(optimizer=None))()
            strategy.optim_wrapper.load_state_dict = lambda model: model['the']
            strategy.load_optim_state_dict({'the state': 0, 'not': 'the model'})

        def keep_one(folder):
            from mmengine.hooks import CheckpointHook
            from mmengine.logging import MessageHub
            seen = []

            class Runner:
                work_dir, message_hub, epoch, iter = folder, MessageHub('stock_runner'), 0, 0
                logger = type('Logger', (), dict(info=print))

                def save_checkpoint(self, out_dir, name, *args, **kwargs):
                    seen.append(sorted(n for n in os.listdir(folder) if n.endswith('.pth')))
                    open(os.path.join(out_dir, name), 'w').close()

            hook, runner = CheckpointHook(interval=1, max_keep_ckpts=1), Runner()
            hook.is_last_train_epoch = lambda _: False
            hook.before_train(runner)
            for runner.epoch in range(2):
                hook.after_train_epoch(runner)
            return seen

        def writes_in_place(folder):
            from mmengine.fileio import LocalBackend
            path, numbers = os.path.join(folder, 'file'), []
            for _ in range(2):
                LocalBackend().put(b'text', path)
                numbers.append(os.stat(path).st_ino)
            return numbers[0] == numbers[1]

        def runs_config(_):
            import inspect
            from mmengine.runner import Runner
            return "Config.fromstring(checkpoint['meta']['config']" in ''.join(inspect.getsource(Runner.resume).split())

        def exchanges(_):
            from mmengine.logging import HistoryBuffer
            HistoryBuffer().__setstate__(dict(statistics_methods=dict(mean=max)))
            return HistoryBuffer._statistics_methods['mean'] is max

        found = dict(exchanged=exchanges(None), checkpoint=error_of(_load_checkpoint, sys.argv[1]),
                     config=error_of(Config.fromfile, sys.argv[2]),
                     flops=error_of(count, None), fsdp=error_of(load_optimizer, None),
                     keep=keep_one(sys.argv[3]), in_place=writes_in_place(sys.argv[3]), runs=runs_config(None))
        print(json.dumps(dict(found, mmafan='mmafan' in sys.modules)))
        ''')
    (folder / 'work').mkdir()
    done = subprocess.run([sys.executable, '-c', script, checkpoint, str(folder / 'config.py'), str(folder / 'work')],
                          universal_newlines=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr[-600:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found['mmafan'] is False
    return found


@CHECKS_CLASSES
def test_allow_checkpoint_classes_is_still_needed(stock):
    assert stock['checkpoint'] is not None, (
        'stock mmengine loads its own checkpoints: the workaround compat.allow_checkpoint_classes can go')
    assert 'Weights only load failed' in stock['checkpoint'] and 'HistoryBuffer' in stock['checkpoint']


def test_keep_statistics_is_still_needed(stock):
    assert stock['exchanged'] is True, (
        'stock mmengine keeps its statistics: the workaround compat.keep_statistics can go')


def test_register_config_package_is_still_needed(stock):
    assert 'does not support to load mmafan config' in str(stock['config']), (
        'stock mmengine looks for packages it does not know: the workaround compat.register_config_package can go')


def test_accept_shape_beside_inputs_is_still_needed(stock):
    assert 'cannot be both set' in str(stock['flops']), (
        'stock mmengine counts for a shape beside inputs: the workaround compat.accept_shape_beside_inputs can go')


def test_load_fsdp_optimizers_is_still_needed(stock):
    assert stock['fsdp'] == "'the'", (
        'stock mmengine passes the model first: the workaround compat.load_fsdp_optimizers can go')


def test_write_files_whole_is_still_needed(stock):
    assert stock['in_place'] is True, (
        'stock mmengine writes files under another name first: the workaround compat.write_files_whole can go')


def test_remove_checkpoints_last_is_still_needed(stock):
    assert stock['keep'] == [[], []], (
        'stock mmengine removes the old checkpoint after the new one: compat.remove_checkpoints_last can go')


def test_run_no_config_of_checkpoints_is_still_needed(stock):
    assert stock['runs'] is True, (
        "stock mmengine does not run meta['config']: the workaround compat.run_no_config_of_checkpoints can go")


def test_the_config_of_a_checkpoint_is_not_run(tmp_path, message_hub):
    path, marker = tmp_path / 'checkpoint.pth', tmp_path / 'marker'
    torch.save(dict(state_dict={}, meta=dict(epoch=3, config=f'open({str(marker)!r}, "w").close()', cfg='a = 1')), path)
    assert torch.load(path)['meta']['config']
    assert _load_checkpoint(str(path))['meta'] == dict(epoch=3, cfg='a = 1')


@CHECKS_CLASSES
def test_what_is_downloaded_is_loaded_as_a_file_is(tmp_path, monkeypatch):
    """From a folder in place of the network: torch.hub takes what lies in its cache."""
    import inspect

    from mmengine.utils.dl_utils import load_url
    assert inspect.signature(load_url).parameters['weights_only'].default is False, (
        'torch loads weights alone from a URL: the workaround compat.download_weights_only can go')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.delenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', raising=False)
    (tmp_path / 'hub' / 'checkpoints').mkdir(parents=True)
    torch.save(dict(state_dict=dict(a=torch.ones(1))), tmp_path / 'hub' / 'checkpoints' / 'good.pth')
    torch.save(dict(payload=AnyCall()), tmp_path / 'hub' / 'checkpoints' / 'bad.pth')
    assert _load_checkpoint('https://example.com/good.pth')['state_dict']['a'] == 1
    with pytest.raises(pickle.UnpicklingError):
        _load_checkpoint('https://example.com/bad.pth')
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    assert _load_checkpoint('https://example.com/bad.pth') == dict(payload=None)


def test_a_shape_beside_inputs_is_accepted():
    from mmengine.analysis import get_model_complexity_info
    layer = torch.nn.Linear(2, 3, bias=False)
    found = [get_model_complexity_info(layer, *shape, inputs=torch.rand(5, 2), show_table=False, show_arch=False)
             for shape in ((), ((2, ), ))]
    assert [f['flops'] for f in found] == [5 * 2 * 3] * 2
    assert get_model_complexity_info(layer, (2, ), show_table=False, show_arch=False)['flops'] == 2 * 3


IN_A_GROUP = '''
import atexit, os, sys, torch
from mmafan.compat import end_process
class Last:
    def __del__(self): os.write(1, b'taken apart ')
last = Last()
atexit.register(print, 'registered')
if sys.argv[1] == 'group':
    torch.distributed.init_process_group('gloo', store=torch.distributed.HashStore(), rank=0, world_size=1)
end_process()
print('goes on')
'''


@pytest.mark.parametrize('where, expected', [
    ('alone', ['goes', 'on', 'registered', 'taken', 'apart']),
    ('group', ['registered']),
])
def test_a_process_of_several_ends_without_taking_python_apart(where, expected):
    found = subprocess.run([sys.executable, '-c', IN_A_GROUP, where], capture_output=True, text=True)
    assert (found.returncode, found.stdout.split()) == (0, expected), found.stderr
