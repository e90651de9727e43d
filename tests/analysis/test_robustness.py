"""Pixel attacks: what is handed to the library, what comes back, and the accuracy that is left."""
from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

pytest.importorskip('art', reason='the attack is that of the adversarial-robustness-toolbox')
if sys.version_info < (3, 10):
    pytest.skip('adversarial-robustness-toolbox 1.20 is for Python 3.10 and later', allow_module_level=True)
pytest.importorskip('mmpretrain', reason='the attacked model is a classifier of mmpretrain')

from mmafan.analysis import robustness  # noqa: E402

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 50.0, 40.0)


@pytest.fixture
def model(tiny_classifier):
    preprocessor = dict(type='ClsDataPreprocessor', mean=list(MEAN), std=list(STD), to_rgb=True)
    return tiny_classifier(data_preprocessor=preprocessor).eval()


def batch_of(images, labels):
    from mmpretrain.structures import DataSample
    return dict(inputs=images, data_samples=[DataSample().set_gt_label(int(label)) for label in labels])


@pytest.fixture
def images():
    return torch.randint(0, 256, (8, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


@pytest.fixture
def predictions(model, images):
    """By a normalisation of its own, in the channel order that ``to_rgb`` asks for."""
    shape = (1, 3, 1, 1)
    normalised = (images.numpy()[:, ::-1].astype(np.float32) - np.reshape(MEAN, shape)) / np.reshape(STD, shape)
    with torch.no_grad():
        return model(torch.from_numpy(normalised).float(), mode='tensor').argmax(1)


def test_radius_0_is_clean_accuracy_and_a_large_radius_is_far_lower(model, images, predictions):
    labels = predictions.clone()
    labels[:2] = (labels[:2] + 1) % 3  # 6 of 8 are right
    found = robustness.measure_pgd(model, [batch_of(images, labels)], [0, 64], num_steps=5)
    assert found['images'] == 8 and found['clean'] == 75.0
    assert found['accuracy'][0] == 75.0
    assert found['accuracy'][64] <= 25.0


def test_attack_is_in_range_within_the_radius_and_uses_it(model, images, predictions):
    """What the backbone is given in the end, un-normalised by hand, against the raw images."""
    seen = []
    handle = model.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().double().numpy()))
    robustness.measure_pgd(model, [batch_of(images, predictions)], [4], num_steps=3)
    handle.remove()
    shape = (1, 3, 1, 1)
    pixels = seen[-1] * np.reshape(STD, shape) + np.reshape(MEAN, shape)
    raw = images.numpy()[:, ::-1].astype(float)
    assert pixels.min() > -1e-3 and pixels.max() < 255 + 1e-3
    moved = np.abs(pixels - raw)
    assert moved.max() < 4 + 1e-3 and moved.mean() > 2
    clean = seen[0] * np.reshape(STD, shape) + np.reshape(MEAN, shape)
    np.testing.assert_allclose(clean, raw, atol=1e-3)


def test_attack_raises_the_loss_more_than_noise_of_equal_size(model, images, predictions):
    classifier = robustness.PixelClassifier(model)
    pixels, labels = robustness.read_pixels(model, batch_of(images, predictions))
    attacked = robustness.attack_images(classifier, pixels, labels, 2, num_steps=5)
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0)).sign() * 2
    clean, noisy, attacked = [float(torch.nn.functional.cross_entropy(classifier(x), labels).detach())
                              for x in (pixels, (pixels + noise).clamp(0, 255), attacked)]
    assert attacked - clean > 5 * abs(noisy - clean) and noisy != clean


def test_attack_leaves_no_trace(model, images, predictions):
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    batch, before = batch_of(images, predictions), images.clone()
    np.random.seed(7)
    state = np.random.get_state()[1].copy()
    robustness.measure_pgd(model, [batch], [3], num_steps=2)
    assert torch.equal(batch['inputs'], before) and (np.random.get_state()[1] == state).all()
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert model.data_preprocessor._enable_normalize


@pytest.mark.parametrize('change, sentence', [
    (lambda x: x / 255.0, r'pixels from 0 to 255.*got values from 0 to 1'),
    (lambda x: x - 128.0, 'got values from -128 to 127'),
])
def test_images_that_are_no_pixels_are_refused(model, images, predictions, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        robustness.read_pixels(model, batch_of(change(images), predictions))


def test_two_labels_are_refused(model, images):
    from mmpretrain.structures import DataSample
    samples = [DataSample().set_gt_label([0, 1]) for _ in range(8)]
    with pytest.raises(ValueError, match='every sample must have one label'):
        robustness.read_pixels(model, dict(inputs=images, data_samples=samples))


@pytest.mark.parametrize('radius, steps, name', [(-1, 5, 'radius'), (256, 5, 'radius'), (1, 0, 'num_steps')])
def test_wrong_numbers_are_named(model, images, radius, steps, name):
    classifier = robustness.PixelClassifier(model)
    with pytest.raises(ValueError, match=f'{name} must'):
        robustness.attack_images(classifier, images.float(), torch.zeros(8).long(), radius, steps)


def test_missing_library_is_one_sentence(monkeypatch, model, images):
    monkeypatch.setitem(sys.modules, 'art', None)
    with pytest.raises(ValueError, match='install it: pip install adversarial-robustness-toolbox==1.20.1'):
        robustness.attack_images(robustness.PixelClassifier(model), images.float(), torch.zeros(8).long(), 1)
