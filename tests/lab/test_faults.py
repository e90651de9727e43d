"""What the tools say of damaged checkpoints, full disks and folders in use, and how they go on."""
from __future__ import annotations

import errno
import importlib
import os

import pytest
import torch
from mmengine.config import Config

from mmafan.storage import FolderLock


@pytest.fixture
def faults(repo, monkeypatch):
    for name in ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK', 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'):
        monkeypatch.delenv(name, raising=False)
    return importlib.import_module('mmafan.lab.faults')


def save(path, epoch):
    hub = dict(log_scalars={}, runtime_info={}, resumed_keys={})
    torch.save(dict(meta=dict(epoch=epoch, iter=epoch), state_dict={}, message_hub=hub), path)
    os.utime(path, (epoch, epoch))


def config(folder, **fields):
    return Config(dict(dict(work_dir=str(folder), resume=True, load_from='pretrained.pth'), **fields))


def test_a_training_goes_on_and_says_from_where(faults, tmp_path, capsys):
    save(tmp_path / 'epoch_1.pth', 1)
    (tmp_path / 'epoch_2.pth').write_bytes(b'')
    (tmp_path / 'best_accuracy_epoch_2.pth.part').write_bytes(b'half')
    cfg = config(tmp_path)
    faults.go_on_where_it_was(cfg)
    assert cfg.resume is True and cfg.load_from == str(tmp_path / 'epoch_1.pth')
    assert capsys.readouterr().err == (
        f'going on from {tmp_path}/epoch_1.pth, the newest whole checkpoint: there is no last_checkpoint; epoch_2.pth '
        'is empty\n')
    assert sorted(os.listdir(tmp_path)) == ['epoch_1.pth', 'epoch_2.pth']


def test_checkpoints_elsewhere_are_mmengines_to_find(faults, capsys):
    hooks = dict(checkpoint=dict(type='CheckpointHook', out_dir='s3://bucket'))
    cfg = config('work', default_hooks=hooks)
    faults.go_on_where_it_was(cfg)
    assert (cfg.resume, cfg.load_from, capsys.readouterr().err) == (True, None, '')


def test_a_training_without_a_checkpoint_begins_as_it_would_have(faults, tmp_path, capsys):
    cfg = config(tmp_path)
    faults.go_on_where_it_was(cfg)
    assert cfg.resume is False and cfg.load_from == 'pretrained.pth'
    assert capsys.readouterr().err == f'there is no checkpoint in {tmp_path}, so training starts from the beginning\n'
    faults.go_on_where_it_was(config(tmp_path), start_over=True)  # the first time of a run of a study
    assert capsys.readouterr().err == ''


def test_damaged_checkpoints_alone_end_a_training_and_restart_a_run_of_a_study(faults, tmp_path, capsys):
    (tmp_path / 'epoch_1.pth').write_bytes(b'PK\3\4')
    with pytest.raises(SystemExit) as error:
        faults.go_on_where_it_was(config(tmp_path))
    assert error.value.code == 2
    sentence = f'no checkpoint in {tmp_path} is whole: epoch_1.pth is cut short; '
    assert capsys.readouterr().err == f'error: {sentence}without --resume, training starts from the beginning\n'
    cfg = config(tmp_path)
    faults.go_on_where_it_was(cfg, start_over=True)
    assert capsys.readouterr().err == f'{sentence}training starts from the beginning\n' and cfg.resume is False


def test_other_processes_of_a_training_keep_silent(faults, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('RANK', '1')
    save(tmp_path / 'epoch_1.pth', 1)
    cfg = config(tmp_path)
    faults.go_on_where_it_was(cfg)
    assert cfg.load_from == str(tmp_path / 'epoch_1.pth') and capsys.readouterr().err == ''


def test_a_named_checkpoint_must_be_whole(faults, tmp_path, capsys):
    save(tmp_path / 'epoch_1.pth', 1)
    assert faults.require_whole(str(tmp_path / 'epoch_1.pth')) == str(tmp_path / 'epoch_1.pth')
    assert faults.require_whole('https://example.com/a.pth') == 'https://example.com/a.pth'
    (tmp_path / 'half.pth').write_bytes((tmp_path / 'epoch_1.pth').read_bytes()[:99])
    with pytest.raises(SystemExit):
        faults.require_whole(str(tmp_path / 'half.pth'))
    assert capsys.readouterr().err == f'error: {tmp_path}/half.pth is cut short\n'


def test_trust_is_the_users_word(faults, tmp_path, capsys, monkeypatch):
    from collections import deque
    path = tmp_path / 'mine.pth'
    torch.save(dict(mine=deque([1])), path)
    if tuple(int(n) for n in torch.__version__.split('.')[:2]) >= (2, 6):
        with pytest.raises(SystemExit):
            faults.require_whole(str(path))
        assert capsys.readouterr().err == (
            f'error: {path} is refused (it names collections.deque, which a checkpoint has no use for); if you trust '
            'where it comes from, say so by --trust-checkpoint\n')
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '0')  # so that it is put back
    faults.trust_checkpoints()
    faults.require_whole(str(path))
    from mmengine.runner.checkpoint import _load_checkpoint
    assert _load_checkpoint(str(path))['mine'] == deque([1])


def test_a_full_disk_ends_with_a_sentence(faults, tmp_path, capsys):
    with pytest.raises(SystemExit) as error, faults.disk_full_ends(faults.no_space('work')):
        raise OSError(errno.ENOSPC, 'No space left on device')
    assert error.value.code == 2
    assert capsys.readouterr().err == (
        'error: no space is left on the disk of work; when there is some, the same command goes on from here\n')
    with pytest.raises(SystemExit) as error, faults.disk_full_ends(74):
        raise OSError(errno.EDQUOT, 'Disk quota exceeded')
    assert error.value.code == 74
    with pytest.raises(FileNotFoundError), faults.disk_full_ends(74):
        raise FileNotFoundError


def test_a_wrong_field_ends_with_its_sentence_and_a_bug_with_its_traceback(faults, capsys):
    from mmafan.config import AFANConfig
    from mmafan.lab.mistakes import check_fields, mistakes_end
    with pytest.raises(SystemExit) as error:
        check_fields(Config(dict(model=dict(afan=dict(taps=3)))))
    assert error.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith('error: afan.taps must be a dict of at least one tap')
    check_fields(Config(dict(model=dict(type='Stock'))))

    def wrapped():  # as a registry does
        try:
            AFANConfig.from_dict(dict(tap=3))
        except ValueError as inner:
            raise TypeError(f'class Net: {inner}') from inner

    with pytest.raises(SystemExit), mistakes_end():
        wrapped()
    assert capsys.readouterr().err.startswith("error: afan has no field 'tap'")
    with pytest.raises(TypeError), mistakes_end():  # raised by Python itself in mmafan
        AFANConfig()
    with pytest.raises(TypeError), mistakes_end():
        AFANConfig.from_dict(dict(taps=dict(a=dict(module='m', step_size=0.1))), 3)
    with pytest.raises(ValueError), mistakes_end():
        raise ValueError('of somebody else')


def test_a_folder_in_use_is_refused(faults, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(faults, 'PATIENCE', 0)
    lock = faults.hold_folder(str(tmp_path / 'work'))
    with pytest.raises(SystemExit):
        faults.hold_folder(str(tmp_path / 'work'))
    errors = capsys.readouterr().err
    assert errors.startswith(f'error: {tmp_path}/work is in use by process {os.getpid()} on ')
    assert errors.endswith('); wait until it has ended, or give another --work-dir\n') and errors.count('\n') == 1
    environment = {}
    assert faults.pass_on(lock, environment) == [lock.descriptor]
    assert environment == {faults.LOCK: str(lock.descriptor)}
    lock.release()
    faults.hold_folder(str(tmp_path / 'work')).release()
    (tmp_path / 'file').write_text('')
    with pytest.raises(SystemExit):
        faults.hold_folder(str(tmp_path / 'file'))
    assert 'file must be a folder that can be written to, got FileExistsError' in capsys.readouterr().err


def test_a_study_holds_its_folder(repo, faults, tmp_path, capsys, monkeypatch):
    pytest.importorskip('mmpretrain', reason='the config of the study is for mmpretrain')
    monkeypatch.setattr(faults, 'PATIENCE', 0)
    path = tmp_path / 'mine.py'
    path.write_text(f"config = {str(repo / 'configs/mmpretrain/resnet_afan_digits.py')!r}\nmetric = 'accuracy/top1'\n"
                    'arms = dict(baseline=dict(stock=True), afan=dict())\n')
    (tmp_path / 'work').mkdir()
    with FolderLock(str(tmp_path / 'work')), pytest.raises(SystemExit) as error:
        importlib.import_module('mmafan.lab.study.command').main([str(path), '--work-dir', str(tmp_path / 'work')])
    assert error.value.code == 2 and f'{tmp_path}/work is in use by process' in capsys.readouterr().err
    assert os.listdir(tmp_path / 'work') == ['.lock']  # nothing has been touched
