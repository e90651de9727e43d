"""Files are whole or not there."""
from __future__ import annotations

import errno
import os
import stat

import pytest

from mmafan.storage import is_disk_full, remove_parts, write_whole


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / 'a.json'
    write_whole(str(path), 'ä')
    assert path.read_bytes() == 'ä'.encode()
    write_whole(path, b'two')
    assert path.read_bytes() == b'two' and os.listdir(tmp_path) == ['a.json']


@pytest.mark.parametrize('call', ['fsync', 'replace'])
def test_what_cannot_be_written_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, call):
    path = tmp_path / 'a'
    path.write_text('old')

    def fail(*_):
        assert path.read_text() == 'old'
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError) as caught:
        write_whole(path, 'new')
    assert is_disk_full(caught.value)
    assert path.read_text() == 'old' and os.listdir(tmp_path) == ['a']


def test_data_is_flushed_before_the_file_has_its_name(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(os, 'fsync', lambda descriptor: flushed.append(os.fstat(descriptor)))
    stock = os.replace
    monkeypatch.setattr(os, 'replace', lambda *names: (flushed.append('named'), stock(*names)))
    write_whole(tmp_path / 'a', b'12345')
    assert flushed[0].st_size == 5 and flushed[1] == 'named'
    assert stat.S_ISDIR(flushed[2].st_mode)  # the name is flushed, too


def test_links_are_followed_and_devices_kept(tmp_path):
    (tmp_path / 'link').symlink_to(tmp_path / 'target')
    write_whole(tmp_path / 'link', 'text')
    assert (tmp_path / 'link').is_symlink() and (tmp_path / 'target').read_text() == 'text'
    write_whole('/dev/null', b'gone')
    assert stat.S_ISCHR(os.stat('/dev/null').st_mode)


def test_what_a_killed_process_has_begun_is_removed(tmp_path):
    for name in ('epoch_1.pth.part', 'best_epoch_1.pth.part', 'result.json.part', 'epoch_1.pth', 'mine.part'):
        (tmp_path / name).write_text('')
    remove_parts(str(tmp_path), '.pth')
    assert sorted(os.listdir(tmp_path)) == ['epoch_1.pth', 'mine.part', 'result.json.part']
    remove_parts(str(tmp_path / 'missing'), '.pth')


def test_a_full_disk_is_known_through_other_errors():
    try:
        try:
            raise OSError(errno.EDQUOT, 'Disk quota exceeded')
        except OSError as error:
            raise RuntimeError('while saving') from error
    except RuntimeError as error:
        assert is_disk_full(error)
    assert not is_disk_full(OSError(errno.ENOENT, 'No such file')) and not is_disk_full(None)
