"""Which config stands for a family."""
from __future__ import annotations

import pytest

from mmafan.conformance import families
from mmafan.conformance.families import family_names, list_configs, size_of, training_configs


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A codebase with one family."""
    monkeypatch.setattr(families, 'configs_of', lambda codebase: str(tmp_path))
    for name in ('net/net_r101.py', 'net/net_r50_long_name.py', 'net/net_tiny.py', 'net/net_nano_base.py',
                 'net/benchmarks/net_nano.py', '_base_/net_nano.py', 'net/_helper.py'):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text("model = dict(type='X')\ntrain_dataloader = dict(batch_size=1)\n")
    return tmp_path


def test_small_configs_come_first(package):
    assert family_names('mmdet') == ['net']
    assert list_configs('mmdet', 'net') == ['net/net_tiny.py', 'net/net_nano_base.py', 'net/net_r50_long_name.py',
                                            'net/net_r101.py', 'net/benchmarks/net_nano.py']
    assert next(training_configs('mmdet', 'net')) == 'mmdet::net/net_tiny.py'


def test_a_config_that_trains_comes_before_one_that_does_not(package):
    (package / 'net' / 'net_tiny.py').write_text("model = dict(type='X')\n")
    (package / 'net' / 'net_nano_base.py').write_text('model = undefined\n')
    assert list(training_configs('mmdet', 'net')) == [
        f'mmdet::net/{name}.py' for name in ('net_r50_long_name', 'net_r101', 'benchmarks/net_nano')]
    for path in package.glob('net/**/*.py'):
        path.write_text("model = dict(type='X')\n")
    assert next(training_configs('mmdet', 'net')) == 'mmdet::net/net_tiny.py'


def test_sizes_are_words():
    assert [size_of(name) for name in ('swin-tiny', 'vit-l-p16', 'faster-rcnn_r50', 'lenet5')] == [1, 5, 3, 4]


def test_wrong_names():
    with pytest.raises(ValueError, match="--codebase must be one of .* got 'mmdetection'; did you mean 'mmdet'"):
        family_names('mmdetection')


def test_wrong_family(package):
    with pytest.raises(ValueError, match="--family must be a folder of .*, got 'nets'; did you mean 'net'"):
        list_configs('mmdet', 'nets')
