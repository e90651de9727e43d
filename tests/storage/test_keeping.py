"""A run is never without a whole checkpoint, whatever the policy of keeping them; killed for good at each step."""
from __future__ import annotations

import os

import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.logging import MessageHub
from mmengine.runner import save_checkpoint

from mmafan.storage import find_checkpoint


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


class Saver:
    """As much of a runner as the hook asks for."""

    def __init__(self, work_dir, name):
        self.work_dir, self.message_hub = str(work_dir), MessageHub(name)
        self.epoch = self.iter = 0
        self.logger = self
        self.info = self.warning = lambda *_: None

    def save_checkpoint(self, out_dir, filename, *_, meta=None, **__):
        hub = dict(log_scalars={}, runtime_info=dict(self.message_hub.runtime_info), resumed_keys={})
        save_checkpoint(dict(meta=dict(meta), state_dict=dict(weight=torch.ones(3)), message_hub=hub),
                        os.path.join(out_dir, filename))


def start(folder, keep, name, **options):
    hook, runner = CheckpointHook(interval=1, max_keep_ckpts=keep, **options), Saver(folder, name)
    hook.before_train(runner)
    return hook, runner


def train(hook, runner, epochs):
    for runner.epoch in range(runner.epoch, epochs):
        runner.iter = 2 * runner.epoch
        hook.after_train_epoch(runner)


def names(folder):
    return sorted(name for name in os.listdir(folder) if name.endswith('.pth'))


def resume(hook, runner, folder):
    loaded = torch.load(find_checkpoint(str(folder)).path)
    runner.epoch = loaded['meta']['epoch']
    runner.message_hub._runtime_info.update(loaded['message_hub']['runtime_info'])
    hook.before_train(runner)


@pytest.mark.parametrize('keep, kept', [(1, [4]), (2, [3, 4]), (-1, [1, 2, 3, 4])])
def test_as_many_are_kept_as_asked_for(tmp_path, keep, kept):
    hook, runner = start(tmp_path, keep, f'kept_{keep}')
    hook.is_last_train_epoch = lambda _: False
    train(hook, runner, 4)
    assert names(tmp_path) == [f'epoch_{n}.pth' for n in kept]
    if keep > 0:
        assert runner.message_hub.get_info('keep_ckpt_ids') == kept


@pytest.mark.parametrize('keep', [1, 2, -1])
@pytest.mark.parametrize('call', ['fsync', 'replace', 'remove'])
def test_killed_at_any_step_of_saving_it_goes_on_from_the_newest_whole_one(tmp_path, monkeypatch, call, keep):
    hook, runner = start(tmp_path, keep, f'killed_{call}_{keep}')
    hook.is_last_train_epoch = lambda _: False
    train(hook, runner, 3)

    def kill(*_):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(os, call, kill)
        if (call, keep) == ('remove', -1):
            train(hook, runner, 4)
        else:
            with pytest.raises(Killed):
                train(hook, runner, 4)
    saved = 4 if call == 'remove' else 3
    assert find_checkpoint(str(tmp_path)).path == str(tmp_path / f'epoch_{saved}.pth')
    if call == 'remove' and keep > 0:
        assert len(names(tmp_path)) == keep + 1
    hook, runner = start(tmp_path, keep, f'again_{call}_{keep}')
    hook.is_last_train_epoch = lambda _: False
    resume(hook, runner, tmp_path)
    assert keep < 0 or len(names(tmp_path)) == keep  # what the killed run did not get to is gone
    train(hook, runner, 5)
    assert names(tmp_path)[-1] == 'epoch_5.pth' and (keep < 0 or len(names(tmp_path)) == keep)


def test_the_best_one_is_removed_after_the_next_is_whole(tmp_path, monkeypatch):
    hook, runner = start(tmp_path, 1, 'best', save_best='accuracy')
    hook.is_last_train_epoch = lambda _: False
    train(hook, runner, 1)
    runner.epoch = 1
    hook.after_val_epoch(runner, dict(accuracy=0.5))
    assert names(tmp_path) == ['best_accuracy_epoch_1.pth', 'epoch_1.pth']
    train(hook, runner, 2)
    runner.epoch = 2

    def kill(*_):
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(os, 'replace', kill)
        hook.after_val_epoch(runner, dict(accuracy=0.6))
    assert 'best_accuracy_epoch_1.pth' in names(tmp_path)
    hook.best_ckpt_path = str(tmp_path / 'best_accuracy_epoch_1.pth')
    runner.message_hub.update_info('best_score', 0.5)
    hook.after_val_epoch(runner, dict(accuracy=0.6))
    assert names(tmp_path) == ['best_accuracy_epoch_2.pth', 'epoch_2.pth']
    hook.after_val_epoch(runner, dict(accuracy=0.7))  # the same name again
    assert names(tmp_path) == ['best_accuracy_epoch_2.pth', 'epoch_2.pth']


def test_all_of_mmengine_writes_through_the_local_backend(tmp_path, monkeypatch):
    written = []
    stock = LocalBackend.put
    monkeypatch.setattr(LocalBackend, 'put', lambda self, obj, path: (written.append(path), stock(self, obj, path)))
    save_checkpoint(dict(a=1), str(tmp_path / 'a' / 'b.pth'))
    save_checkpoint(dict(a=1), str(tmp_path / 'c.pth'), file_client_args=dict(backend='disk'))
    Config(dict(a=1)).dump(str(tmp_path / 'config.py'))  # not a checkpoint, and not through it
    assert written == [str(tmp_path / 'a' / 'b.pth'), str(tmp_path / 'c.pth')]
    assert not list(tmp_path.glob('**/*.part'))
