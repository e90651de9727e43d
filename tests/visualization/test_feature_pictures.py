"""The feature picture shows the algebra's own results, and draws every row and column."""
from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip('matplotlib', reason='pictures are drawn by matplotlib')

from mmafan.visualization import collect_pictures, draw_features, make_rows  # noqa: E402
from mmafan.visualization.feature_pictures import _most_moved_channel  # noqa: E402


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(3)
    clean = torch.randn(3, 4, 5, 6, generator=generator)
    return clean, clean + 0.3 * torch.randn(3, 4, 5, 6, generator=generator).sign()


def test_rows_follow_the_equations(features):
    clean, adversarial = (f.numpy().astype(np.float64) for f in features)
    names, tensors = zip(*make_rows(*features, strengths=(0.25, 1.0)))
    assert names == ('clean', 'perturbed 0.25', 'perturbed 1', 're-injected 0.25', 're-injected 1')
    np.testing.assert_array_equal(tensors[0], features[0])
    for k, strength in enumerate((0.25, 1.0)):
        perturbed = clean + strength * (adversarial - clean)
        np.testing.assert_allclose(tensors[1 + k], perturbed, rtol=1e-5, atol=1e-6)
        mean, std = clean.mean(1, keepdims=True), np.sqrt(clean.var(1, ddof=1, keepdims=True) + 1e-5)
        new_mean = perturbed.mean(1, keepdims=True)
        new_std = np.sqrt(perturbed.var(1, ddof=1, keepdims=True) + 1e-5)
        np.testing.assert_allclose(
            tensors[3 + k], new_std * (clean - mean) / std + new_mean, rtol=1e-4, atol=1e-5)


def test_moments_are_passed_on(features):
    channel = dict(make_rows(*features, strengths=(1.0, )))['re-injected 1']
    batch = dict(make_rows(*features, strengths=(1.0, ), moments='batch'))['re-injected 1']
    assert not torch.allclose(channel, batch)


@pytest.mark.parametrize('with_images', [False, True])
def test_figure_has_a_row_for_every_feature_and_two_columns_for_every_sample(features, with_images):
    images = torch.full((3, 3, 8, 8), 200.0) if with_images else None
    figure = draw_features(*features, strengths=(0.5, 1.0), images=images, num_samples=2)
    panels = [axis for axis in figure.axes if axis.get_label() != '<colorbar>']
    assert len(panels) == (5 + with_images) * 4
    assert sum(len(axis.images) for axis in panels) == 5 * 4 + (2 if with_images else 0)


def test_first_difference_is_zero_and_the_last_strength_is_the_whole_perturbation(features):
    clean, adversarial = features
    figure = draw_features(clean, adversarial, strengths=(1.0, ), num_samples=1)
    channel = _most_moved_channel(clean[0], adversarial[0])
    grid = np.array([axis for axis in figure.axes if axis.get_label() != '<colorbar>']).reshape(3, 2)
    shown = [np.asarray(axis.images[0].get_array()) for axis in grid[:, 1]]
    assert np.abs(shown[0]).max() == 0
    np.testing.assert_allclose(shown[1], (adversarial - clean)[0, channel], atol=1e-6)


def test_channel_is_the_one_moved_most_for_its_spread():
    clean = torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(0))
    clean[0] *= 10
    adversarial = clean + 0.1
    adversarial[1] += 0.3  # moved 0.4 of a spread of 1; channel 0: 0.1 of 10
    clean[2] = 0  # flat: dead channels must not win
    assert _most_moved_channel(clean, adversarial) == 1


def test_saves_a_picture(features, tmp_path):
    path = tmp_path / 'features.png'
    draw_features(*features, path=str(path))
    assert path.read_bytes()[:8] == b'\x89PNG\r\n\x1a\n'
    import cv2
    assert cv2.imread(str(path)).std() > 1


def test_input_is_not_modified(features):
    before = [f.clone() for f in features]
    draw_features(*features, num_samples=1)
    assert all(torch.equal(a, b) for a, b in zip(before, features))


def test_identical_features_can_be_drawn(features):
    draw_features(features[0], features[0], num_samples=1)


@pytest.mark.parametrize('clean, adversarial', [((2, 3), (2, 3)), ((1, 2, 4, 4), (1, 2, 4, 5))])
def test_wrong_shapes_are_named(clean, adversarial):
    with pytest.raises(ValueError, match=r'\(N, C, H, W\)'):
        draw_features(torch.zeros(clean), torch.zeros(adversarial))


def test_no_strengths():
    with pytest.raises(ValueError, match='strengths'):
        draw_features(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4), strengths=())


def test_attack_raises_the_loss_and_leaves_the_model_alone(tiny_classifier, tiny_batch):
    """The picture's features are those of the attack: the tail loses more on them than on the clean ones."""
    from mmafan.visualization import attack_features
    model, data = tiny_classifier(), tiny_batch()
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    clean, adversarial = attack_features(model, data, 's')
    assert (adversarial - clean).abs().max().item() == pytest.approx(0.1, rel=1e-4)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert loss_from(model, data, adversarial) > loss_from(model, data, clean)


def loss_from(model, data, feature):
    """Loss of the network, in evaluation mode, with a given output of the tap; by a plain forward hook."""
    handle = model.backbone.layer1.register_forward_hook(lambda *_: feature)
    model.eval()
    try:
        with torch.no_grad():
            prepared = model.data_preprocessor(data, False)
            return model(prepared['inputs'], prepared['data_samples'], mode='loss')['loss'].item()
    finally:
        handle.remove()
        model.train()


def test_unknown_tap_is_named(tiny_classifier, tiny_batch):
    from mmafan.visualization import attack_features
    with pytest.raises(ValueError, match=r"tap must be one of \('s',\), got 'x'"):
        attack_features(tiny_classifier(), tiny_batch(), 'x')


def test_pictures_are_rgb_and_padded():
    small, large = torch.zeros(3, 2, 3), torch.ones(3, 4, 3)
    small[0] = 9  # blue, in OpenCV's order
    found = collect_pictures([small, large], bgr=True)
    assert found.shape == (2, 3, 4, 3)
    assert (found[0, 2, :2] == 9).all() and found[0].sum() == 54 and (found[1] == 1).all()
