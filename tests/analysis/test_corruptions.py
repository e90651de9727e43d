"""Corruptions change images as asked for, the same for every model, at the right place of the pipeline."""
from __future__ import annotations

import sys

import numpy as np
import pytest
from mmengine.config import Config

pytest.importorskip('imagecorruptions', reason='the corruptions are those of imagecorruptions-imaug')

from mmafan.analysis import corruptions  # noqa: E402
from mmafan.analysis.corruptions import CorruptImage  # noqa: E402


@pytest.fixture
def image():
    """A smooth coloured picture with an edge, the same in every test."""
    x, y = np.meshgrid(np.arange(40), np.arange(36))
    picture = np.stack([100 + 2 * x, 200 - 3 * y, 60 + x + y], axis=-1)
    picture[10:20, 10:25] = (230, 40, 90)
    return picture.astype(np.uint8)


def distance(corruption, severity, image):
    return np.abs(CorruptImage(corruption, severity)(dict(img=image))['img'].astype(float) - image).mean()


@pytest.mark.parametrize('name', ['gaussian_noise', 'shot_noise', 'impulse_noise', 'defocus_blur', 'contrast',
                                  'pixelate', 'jpeg_compression'])
def test_severity_grows(name, image):
    assert 0 < distance(name, 1, image) < distance(name, 5, image)


@pytest.mark.slow
@pytest.mark.parametrize('severity', [1, 2, 3, 4, 5])
def test_all_corruptions_work_on_small_images(severity, image):
    """Slow: glass_blur is compiled."""
    names = corruptions.corruption_names('all')
    assert len(names) == 19
    for name in names:
        found = CorruptImage(name, severity)(dict(img=image[:32, :32]))['img']
        assert found.shape == (32, 32, 3) and found.dtype == np.uint8 and (found != image[:32, :32]).any(), name


@pytest.mark.parametrize('name', ['gaussian_noise', 'impulse_noise', 'motion_blur'])
def test_same_sample_gets_the_same_corruption_and_others_do_not(name, image):
    make = CorruptImage(name, 3)
    first, again, other = (make(dict(img=image.copy(), sample_idx=k))['img'] for k in (4, 4, 5))
    assert (first == again).all() and (first != other).any()


def test_global_generator_is_left_as_it_was(image):
    np.random.seed(3)
    state = np.random.get_state()[1].copy()
    CorruptImage('gaussian_noise', 1)(dict(img=image))
    assert (np.random.get_state()[1] == state).all()


def test_channels_of_opencv_and_float_images(image):
    """Frost is bluish: the library takes RGB."""
    rgb = CorruptImage('frost', 3)(dict(img=image))['img']
    bgr = CorruptImage('frost', 3, bgr=True)(dict(img=image[..., ::-1].astype(np.float32)))['img']
    assert bgr.dtype == np.float32 and (bgr[..., ::-1] == rgb).all()
    assert (CorruptImage('frost', 3)(dict(img=image[..., ::-1]))['img'][..., ::-1] != rgb).any()


@pytest.mark.parametrize('arguments, sentence', [
    (('rain', 1), "corruption must be one of gaussian_noise, .* got 'rain'"),
    (('fog', 6), 'severity must be one of 1, 2, 3, 4, 5, got 6'),
])
def test_wrong_arguments_are_named(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        CorruptImage(*arguments)


def test_images_below_32_pixels_are_refused_with_a_reason(image):
    reasons = corruptions.find_unusable([dict(img=image[:31])], ['fog', 'contrast'])
    assert set(reasons) == {'fog', 'contrast'}
    assert 'at least 32 pixels' in reasons['fog'] and '31 x 40' in reasons['fog']
    assert corruptions.find_unusable([dict(img=image[:32])], ['fog', 'contrast']) == {}


def test_missing_library_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, 'imagecorruptions', None)
    with pytest.raises(ValueError, match='install it: pip install .*--no-deps imagecorruptions-imaug==1.1.5'):
        CorruptImage('fog', 1)


@pytest.mark.parametrize('path, place, bgr', [
    ('configs/mmpretrain/resnet_afan_digits.py', 0, False),
    ('configs/mmpretrain/resnet50_afan_in1k.py', 1, True),
    ('configs/mmdet/faster_rcnn_afan_digits.py', 1, True),
    ('configs/mmseg/deeplabv3plus_afan_digits.py', 1, True),
])
def test_corruption_comes_right_after_the_image(repo, path, place, bgr):
    pytest.importorskip(path.split('/')[1], reason='the config inherits one of that codebase')
    loader = Config.fromfile(str(repo / path)).test_dataloader
    before = [step['type'] for step in loader['dataset']['pipeline']]
    steps = corruptions.insert_corruption(loader, 'fog', 4)['dataset']['pipeline']
    assert steps[place] == dict(type='mmengine.CorruptImage', corruption='fog', severity=4, bgr=bgr)
    assert [step['type'] for step in steps[:place] + steps[place + 1:]] == before
    assert [step['type'] for step in loader['dataset']['pipeline']] == before
    assert len(corruptions.insert_corruption(loader, None)['dataset']['pipeline']) == place


def test_wrapped_data_sets_are_all_corrupted():
    leaf = dict(type='A', pipeline=[dict(type='LoadImageFromFile'), dict(type='Pack')])
    loader = dict(dataset=dict(type='Concat', datasets=[leaf, dict(type='Repeat', dataset=leaf)]))
    changed = corruptions.insert_corruption(loader, 'fog', 2)['dataset']['datasets']
    for dataset in (changed[0], changed[1]['dataset']):
        types = [step['type'] for step in dataset['pipeline']]
        assert types == ['LoadImageFromFile', 'mmengine.CorruptImage', 'Pack']
    with pytest.raises(ValueError, match='dataset.pipeline of test_dataloader must be a list of transforms'):
        corruptions.insert_corruption(dict(dataset=dict(type='A')), 'fog')


def test_summary_by_hand():
    found = corruptions.summarise_corruptions(80.0, dict(fog={1: 60.0, 5: 20.0}, snow={1: 70.0, 5: 10.0}))
    assert found == dict(corruption=dict(fog=40.0, snow=40.0), severity={1: 65.0, 5: 15.0}, mean=40.0, relative=0.5)
    assert corruptions.summarise_corruptions(0.0, dict(fog={1: 0.0}))['relative'] is None
