"""Which checkpoint a run goes on from, with damaged files of every kind beside whole ones."""
from __future__ import annotations

import os

import pytest
import torch
from mmengine.config import Config

from mmafan.storage import find_checkpoint, problem_of
from mmafan.storage.resume import find_resume, go_on

HUB = dict(log_scalars={}, runtime_info={}, resumed_keys={})


def save(path, epoch, **more):
    state = dict(meta=dict(epoch=epoch, iter=2 * epoch), state_dict=dict(weight=torch.full((200, ), float(epoch))),
                 message_hub=dict(HUB), optimizer={})
    torch.save(dict(state, **more), path)
    os.utime(path, (1000 + epoch, 1000 + epoch))
    return path


@pytest.fixture
def run(tmp_path):
    """Three whole checkpoints and the record of the last."""
    for epoch in (1, 2, 3):
        save(tmp_path / f'epoch_{epoch}.pth', epoch)
    record(tmp_path, tmp_path / 'epoch_3.pth')
    return tmp_path


def record(folder, text):
    (folder / 'last_checkpoint').write_text(str(text))


def rewrite(path, change):
    """Change the bytes of a file, and leave it the newest."""
    path.write_bytes(change(path.read_bytes()))
    os.utime(path, (2000, 2000))


def flip(data):
    at = max(data.find(torch.full((200, ), value).numpy().tobytes()) for value in (1.0, 2.0, 3.0)) + 100
    return data[:at] + bytes([data[at] ^ 255]) + data[at + 1:]


LOADS = pytest.mark.skipif(
    tuple(int(n) for n in torch.__version__.split('.')[:2]) < (2, 6),
    reason=f'with torch {torch.__version__} nothing is unpickled to see whether a checkpoint is whole (SECURITY.md)')
DAMAGES = {
    'empty': (lambda data: b'', 'is empty'),
    'half': (lambda data: data[:len(data) // 2], 'is cut short'),
    'last byte': (lambda data: data[:-1], 'is cut short'),
    'one wrong byte': (flip, 'is damaged'),
    'zeros': (lambda data: bytes(len(data)), 'is no checkpoint'),
    'text': (lambda data: b'<html>not found</html>', 'is no checkpoint'),
    'half of an old format': (lambda data: b'\x80\x02}q\x00(X\x04', 'is'),
}


@pytest.mark.parametrize('change, problem', [
    pytest.param(*damage, id=name, marks=[LOADS] if 'old' in name else []) for name, damage in DAMAGES.items()])
@pytest.mark.parametrize('recorded', [True, False])
def test_the_newest_whole_one_is_found_beside_a_damaged_one(run, change, problem, recorded):
    rewrite(run / 'epoch_3.pth', change)
    if not recorded:
        (run / 'last_checkpoint').unlink()
    found = find_checkpoint(str(run))
    assert found.path == str(run / 'epoch_2.pth')
    assert list(found.passed_over) == [str(run / 'epoch_3.pth')]
    assert str(found).startswith(f'going on from {run}/epoch_2.pth, the newest whole checkpoint: ')
    assert f'epoch_3.pth {problem}' in str(found) and '\n' not in str(found)
    for name in ('epoch_1.pth', 'epoch_2.pth'):
        rewrite(run / name, change)
    left = find_checkpoint(str(run))
    assert left.path is None and len(left.passed_over) == 3
    assert str(left).startswith(f'no checkpoint in {run} is whole: ')


@pytest.mark.parametrize('text, why', [
    ('', 'last_checkpoint is empty'), ('\n', 'last_checkpoint is empty'),
    ('gone.pth', "names 'gone.pth', which is not"),
    ('a\0b', 'which is not there'), (None, 'there is no last_checkpoint')])
def test_the_record_may_be_missing_empty_or_dangling(run, text, why):
    (run / 'last_checkpoint').unlink()
    if text is not None:
        record(run, text)
    found = find_checkpoint(str(run))
    assert found.path == str(run / 'epoch_3.pth') and why in str(found)


def test_a_record_of_no_text_is_told(run):
    (run / 'last_checkpoint').write_bytes(b'\xff\xfe\xfd')
    found = find_checkpoint(str(run))
    assert found.path == str(run / 'epoch_3.pth') and 'last_checkpoint cannot be read' in str(found)


def test_a_record_that_a_later_checkpoint_has_overtaken_does_not_count(run):
    record(run, run / 'epoch_2.pth')
    os.utime(run / 'last_checkpoint', (1002, 1002))  # killed before the record of epoch 3 was written
    assert find_checkpoint(str(run)).path == str(run / 'epoch_3.pth')
    os.utime(run / 'last_checkpoint', (3000, 3000))  # a user chose it
    found = find_checkpoint(str(run))
    assert found.path == str(run / 'epoch_2.pth') and str(found) == f'going on from {run}/epoch_2.pth'


def test_a_copied_folder_goes_on_from_its_last_checkpoint(run):
    for seconds, name in ((5, 'last_checkpoint'), (6, 'epoch_3.pth'), (7, 'epoch_1.pth'), (8, 'epoch_2.pth')):
        os.utime(run / name, (seconds, seconds))  # as cp without -p leaves it
    assert find_checkpoint(str(run)).path == str(run / 'epoch_3.pth')


@LOADS
def test_best_published_unfinished_and_foreign_files_are_none_to_go_on_from(run):
    for name in ('best_accuracy_epoch_9.pth', 'epoch_9-12345678.pth', 'epoch_9.pth.part', 'weights.pth'):
        save(run / name, 9)
    (run / 'last_checkpoint').unlink()
    torch.save(dict(state_dict={}), run / 'epoch_8.pth')
    (run / 'iter_7.pth').symlink_to(run / 'nowhere.pth')
    found = find_checkpoint(str(run))
    assert found.path == str(run / 'epoch_3.pth')
    assert 'epoch_8.pth holds weights, not the state of a training' in str(found)


@LOADS
@pytest.mark.parametrize('name', HUB)
def test_a_log_of_another_form_is_told_before_anything_is_resumed(run, name):
    save(run / 'epoch_3.pth', 3, message_hub={key: 5 if key == name else {} for key in HUB})
    found = find_checkpoint(str(run))
    assert found.path == str(run / 'epoch_2.pth')
    assert 'epoch_3.pth does not hold all of the log of its training' in str(found)


def test_an_empty_or_missing_folder_holds_none(tmp_path):
    for folder in (tmp_path, tmp_path / 'missing'):
        found = find_checkpoint(str(folder))
        assert found.path is None and not found.passed_over
        assert str(found) == f'there is no checkpoint in {folder}, so training starts from the beginning'


def test_other_names_and_another_folder(tmp_path):
    work, out = tmp_path / 'work' / 'mine', tmp_path / 'out' / 'mine'
    work.mkdir(parents=True)
    out.mkdir(parents=True)
    save(out / 'state.5.pth', 5)
    hook = dict(type='CheckpointHook', out_dir=str(tmp_path / 'out'), filename_tmpl='state.{}.pth')
    cfg = Config(dict(work_dir=str(work), default_hooks=dict(checkpoint=hook), load_from='pretrained.pth', resume=True))
    found = find_resume(cfg)
    assert found.path == str(out / 'state.5.pth')
    go_on(cfg, found)
    assert cfg.resume is True and cfg.load_from == found.path
    (out / 'state.5.pth').unlink()
    cfg.load_from = 'pretrained.pth'
    go_on(cfg, find_resume(cfg))
    assert cfg.resume is False and cfg.load_from == 'pretrained.pth'  # as an uninterrupted run begins
    cfg.default_hooks.checkpoint.out_dir = 's3://bucket/out'
    assert find_resume(cfg) is None


def test_folders_of_sharding_engines_are_whole_or_not(tmp_path, monkeypatch):
    for epoch in (1, 2):
        folder = tmp_path / f'epoch_{epoch}.pth'
        folder.mkdir()
        for rank in range(2):
            save(folder / f'rank{rank}.pth', epoch)
        os.utime(folder, (epoch, epoch))
    assert find_checkpoint(str(tmp_path)).path == str(tmp_path / 'epoch_2.pth')
    part = tmp_path / 'epoch_2.pth' / 'rank1.pth'
    part.write_bytes(part.read_bytes()[:-9])
    found = find_checkpoint(str(tmp_path))
    assert found.path == str(tmp_path / 'epoch_1.pth') and 'has a part rank1.pth that is cut short' in str(found)
    monkeypatch.setenv('WORLD_SIZE', '3')
    assert 'has the parts of 2 processes, not of 3' in str(find_checkpoint(str(tmp_path)))
    (tmp_path / 'epoch_3.pth').mkdir()
    assert problem_of(str(tmp_path / 'epoch_3.pth')) == 'is an empty folder'


def test_a_checkpoint_without_check_sums_is_whole(tmp_path):
    if not hasattr(torch.serialization, 'set_crc32_options'):
        pytest.skip('this torch always writes check sums')
    torch.serialization.set_crc32_options(False)
    try:
        assert problem_of(str(save(tmp_path / 'epoch_1.pth', 1)), resumable=True) == ''
    finally:
        torch.serialization.set_crc32_options(True)


@LOADS
def test_what_names_other_classes_is_passed_over_unless_it_is_trusted(run):
    from collections import deque
    save(run / 'epoch_4.pth', 4, mine=deque([1]))
    record(run, run / 'epoch_4.pth')
    found = find_checkpoint(str(run))
    assert found.path == str(run / 'epoch_3.pth')
    assert 'epoch_4.pth is refused (it names collections.deque' in str(found)
    assert find_checkpoint(str(run), trusted=True).path == str(run / 'epoch_4.pth')
