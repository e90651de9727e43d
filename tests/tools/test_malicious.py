"""No tool runs what a checkpoint holds: a set of malicious files against every tool that loads one.

All of them are loaded in one process of their own, so that a crash is seen as one.
"""
from __future__ import annotations

import contextlib
import json
import pickle
import subprocess
import sys
import textwrap
import zipfile

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.skipif(
    tuple(int(n) for n in torch.__version__.split('.')[:2]) < (2, 6),
    reason=f'torch {torch.__version__} unpickles whatever mmengine asks it to load (SECURITY.md)')


class Call:
    """Pickled as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def with_pickle(path, content):
    """Write a file of torch's format with this pickle in it."""
    torch.save(dict(a=1), path)
    with zipfile.ZipFile(path) as archive:
        parts = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_STORED) as archive:
        for name, data in parts.items():
            archive.writestr(name, content if name.endswith('data.pkl') else data)


def hand_written(name, arguments, build=b''):
    """A pickle that makes an object by ``cls.__new__(cls, *arguments)``, which no honest class would be pickled by."""
    body = pickle.dumps(arguments, 2)[2:-1]
    return b'\x80\x02c' + name.replace('.ndarray', '\nndarray').encode() + b'\n' + body + b'\x81' + build + b'.'


HUB = dict(log_scalars={}, runtime_info={}, resumed_keys={})


def write_set(folder):
    """Write the malicious files; each would leave a file ``marker`` or kill the process, were it believed."""
    import os
    marker = str(folder / 'marker')
    source = f'open({marker!r}, "w").close()'
    own = np.dtype('O'), b'A' * 8 * 64  # objects whose addresses are the bytes of the file
    reduced = dict(
        system=Call(os.system, f'touch {marker}'), execute=Call(exec, source), evaluate=Call(eval, source),
        opened=Call(open, marker, 'w'), attribute=Call(getattr, getattr, '__self__'), imported=Call(__import__, 'os'),
        objects=Call(np.ndarray, (64, ), *own), objects_by_name=Call(np.ndarray, (64, ), 'O', own[1]),
        number=Call(np.float64(1).__reduce__()[0], np.dtype([('a', 'O')]), b'A' * 8),
        structured=np.array([(1, 2)], dtype=[('a', 'f8'), ('b', 'i4')]), large=Call(bytes, 1 << 44))
    for name, value in reduced.items():
        torch.save(dict(state_dict={}, meta=dict(epoch=1, iter=1), message_hub=HUB, value=value),
                   folder / f'{name}.pth')
    with_pickle(folder / 'new.pth', hand_written('numpy.ndarray', ((64, ), 'O', b'A' * 512)))
    # The state of an array whose type is said to hold no objects, and does.
    name, arguments, state = (pickle.dumps(value, 2)[2:-1] for value in (
        np.dtype, ('f8', False, True), (3, '<', None, ('a', ), {'a': (1, 0)}, 8, 1, 63)))
    with_pickle(folder / 'state.pth', b'\x80\x02' + name + arguments + b'R' + state + b'b.')
    (folder / 'bare.pth').write_bytes(pickle.dumps(Call(os.system, f'touch {marker}'), 2))
    (folder / 'bare_new.pth').write_bytes(pickle.dumps(Call(os.system, f'touch {marker}')))
    return marker


SCRIPT = textwrap.dedent('''
    import contextlib, importlib, io, json, os, shutil, sys, types
    repo, folder, config = sys.argv[1:]
    sys.path[:0] = [os.path.join(repo, 'tools'), os.path.join(repo, 'tools', 'analysis_tools')]
    os.environ['LOCAL_RANK'] = '0'
    import torch
    from mmengine.config import Config
    from mmengine.runner import load_checkpoint
    from mmafan.lab.study import runs
    from mmafan.lab.trained import load_weights
    work = os.path.join(folder, 'work')

    def main(tool, *arguments):
        return lambda path: importlib.import_module(tool).main([a.replace('FILE', path) for a in arguments])

    def planted(call):
        """Call with the file as the only checkpoint of a run."""
        def run(path):
            shutil.rmtree(work, ignore_errors=True)
            os.makedirs(work)
            shutil.copy(path, os.path.join(work, 'epoch_9.pth'))
            call(path)
        return run

    def train_once(path):
        cfg = Config.fromfile(config)
        cfg.work_dir, cfg.resume = work, True
        runs.train_once(cfg, {})

    loaders = {
        'train --resume': planted(main('train', config, '--work-dir', work, '--resume')),
        'train --resume FILE': main('train', config, '--work-dir', work, '--resume', 'FILE'),
        'train load_from': main('train', config, '--work-dir', work, '--cfg-options', 'load_from=FILE'),
        'test': main('test', config, 'FILE', '--work-dir', work),
        'a run of a study': planted(train_once),
        'quickstart': lambda path: load_checkpoint(torch.nn.Linear(1, 1), path, map_location='cpu'),
        'weights': lambda path: load_weights(torch.nn.Linear(1, 1), path, config),
    }
    for tool in ('margins', 'loss_landscape', 'statistics_shift', 'feature_pictures', 'robustness'):
        loaders[tool] = main(tool, config, 'FILE')
    found = {}
    for name in sorted(os.listdir(folder)):
        if name.endswith('.pth'):
            for label, load in loaders.items():
                errors = io.StringIO()
                with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
                    try:
                        load(os.path.join(folder, name))
                        end = 'loaded'
                    except SystemExit as error:
                        end = f'status {error.code}'
                    except BaseException as error:
                        end = type(error).__name__
                found[f'{label}: {name}'] = [end, errors.getvalue()]
    print(json.dumps(found))
    ''')


def test_no_tool_runs_what_a_checkpoint_holds(repo, tmp_path):
    sys.path.insert(0, str(repo / 'tests' / 'integration'))
    from toy_task import environment, toy_config
    files = tmp_path / 'files'
    files.mkdir()
    marker = write_set(files)
    config = tmp_path / 'toy.py'
    config.write_text(toy_config())
    done = subprocess.run([sys.executable, '-c', SCRIPT, str(repo), str(files), str(config)], cwd=str(repo),
                          env=environment(repo), stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=600)
    assert done.returncode == 0, (done.returncode, done.stderr[-3000:].decode())
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 12 * 15
    for case, (end, errors) in found.items():
        if case.startswith('quickstart'):
            assert end == 'UnpicklingError', (case, end, errors)
        else:
            assert end == 'status 2', (case, end, errors)
            lines = errors.strip().splitlines()
            assert lines[-1].startswith('error: ') and len(lines) == 1, (case, errors)
            assert 'refused' in errors or 'no checkpoint' in errors, (case, errors)
    assert not (files / 'marker').exists() and marker == str(files / 'marker')


def test_the_set_is_malicious(tmp_path):
    marker = write_set(tmp_path)
    import os
    for name in ('system', 'execute', 'bare'):
        with contextlib.suppress(RuntimeError):  # the last of them is told to be corrupt, after it has run
            torch.load(tmp_path / f'{name}.pth', weights_only=False)
        os.remove(marker)
