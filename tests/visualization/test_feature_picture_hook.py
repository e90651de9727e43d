"""The hook draws in its iterations, hands pictures to the visualizer's backends, and leaves the training as it was."""
from __future__ import annotations

import cv2
import pytest
import torch

pytest.importorskip('matplotlib', reason='pictures are drawn by matplotlib')

from mmafan.hooks import AdvFeatureHook  # noqa: E402
from mmafan.registry import HOOKS  # noqa: E402
from mmafan.visualization.feature_picture_hook import FeaturePictureHook  # noqa: E402

from ..hooks.test_adv_feature_hook import TAPS, make_runner  # noqa: E402


def train(work_dir, *hooks, epochs=2, **kwargs):
    runner, _ = make_runner(work_dir, AdvFeatureHook(), epochs=epochs, **kwargs)
    for hook in hooks:
        runner.register_hook(hook)
    runner.train()
    return runner


def test_pictures_come_every_n_iterations_and_the_training_is_unchanged(tmp_path):
    taps = dict(TAPS, flat=dict(module='fc', at='input', step_size=0.1, weight=0.1))
    with_pictures = train(tmp_path / 'a', FeaturePictureHook(interval=3, num_samples=1), afan=dict(taps=taps))
    without = train(tmp_path / 'b', afan=dict(taps=taps))
    pictures = sorted(tmp_path.glob('a/*/vis_data/vis_image/*.png'))
    assert [path.name for path in pictures] == ['afan_s_3.png', 'afan_s_6.png']  # of the vector there is none
    assert cv2.imread(str(pictures[0])).std() > 10
    for (name, mine), stock in zip(with_pictures.model.state_dict().items(), without.model.state_dict().values()):
        assert torch.equal(mine, stock), name
    assert with_pictures.model.training


def test_hook_is_built_by_its_name():
    assert isinstance(HOOKS.build(dict(type='mmafan.FeaturePictureHook', interval=7)), FeaturePictureHook)


def test_tensorboard_gets_scalars_and_pictures(tmp_path, monkeypatch):
    pytest.importorskip('tensorboard', reason='the backend writes with tensorboard')
    train(tmp_path, FeaturePictureHook(interval=4, num_samples=1), epochs=1,
          visualizer=dict(type='Visualizer', vis_backends=[dict(type='TensorboardVisBackend')]))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    [events] = tmp_path.glob('*/vis_data/events*')
    found = EventAccumulator(str(events)).Reload().Tags()
    assert 'afan_s' in found['images'] and 'afan_s_adversarial_to_clean' in found['scalars']


def test_wandb_gets_scalars_and_pictures(tmp_path, monkeypatch):
    wandb = pytest.importorskip('wandb', reason='the backend writes with wandb')
    for name in ('CONFIG', 'CACHE', 'DATA'):
        monkeypatch.setenv(f'WANDB_{name}_DIR', str(tmp_path / name))
    monkeypatch.setenv('WANDB_MODE', 'offline')
    backend = dict(type='WandbVisBackend', init_kwargs=dict(project='mmafan'))
    train(tmp_path, FeaturePictureHook(interval=4, num_samples=1), epochs=1,
          visualizer=dict(type='Visualizer', vis_backends=[backend]))
    wandb.finish()
    [run] = tmp_path.glob('*/vis_data/wandb/offline-run-*')
    [picture] = run.glob('files/media/images/afan_s_*.png')
    assert cv2.imread(str(picture)).std() > 10
    [records] = run.glob('run-*.wandb')  # keys stand in it as they are
    keys = (b'\x06afan_s\x12', b'adv_s_0.loss', b'afan_s_adversarial_to_clean')
    assert all(key in records.read_bytes() for key in keys)


def test_every_backend_of_the_visualizer_gets_scalars_and_pictures(tmp_path):
    """As TensorBoard and Weights & Biases do, which are not installed everywhere."""
    from mmengine.visualization.vis_backend import LocalVisBackend
    got = dict(images=[], scalars=set())

    class Backend(LocalVisBackend):

        def add_image(self, name, image, step=0, **kwargs):
            got['images'].append((name, step, image.dtype.name, image.shape[2]))

        def add_scalars(self, scalar_dict, step=0, file_path=None, **kwargs):
            got['scalars'] |= set(scalar_dict)

    train(tmp_path, FeaturePictureHook(interval=4, num_samples=1), epochs=1,
          visualizer=dict(type='Visualizer', vis_backends=[dict(type=Backend)]))
    assert got['images'] == [('afan_s', 4, 'uint8', 3)]
    assert {'adv_s_0.loss', 'afan_s_adversarial', 'afan_s_adversarial_to_clean'} <= got['scalars']


@pytest.mark.parametrize('fields, sentence', [
    (dict(interval=0), 'FeaturePictureHook.interval must be an integer of at least 1, got 0'),
    (dict(num_samples=True), 'FeaturePictureHook.num_samples must be an integer of at least 1, got True'),
])
def test_wrong_fields(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        FeaturePictureHook(**fields)


def test_wrong_tap_and_wrong_model_are_told_before_training(tmp_path):
    runner, _ = make_runner(tmp_path, AdvFeatureHook())
    with pytest.raises(ValueError, match="taps must name taps of the model, got 'x'"):
        FeaturePictureHook(taps='x').before_train(runner)
    runner.model = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="FeaturePictureHook needs an A-FAN model, got model.type='Linear'"):
        FeaturePictureHook().before_train(runner)
