"""Random batches for classifiers, for models that take views, and for grey images."""
from __future__ import annotations

import pytest
import torch
from mmengine.config import Config

from mmafan.conformance.batches import make_batch

pytest.importorskip('mmpretrain.models', reason='the batches are for models of mmpretrain')

VIEW = [dict(type='RandomResizedCrop', scale=224, backend='pillow'),
        dict(type='RandomApply', transforms=[dict(type='ColorJitter', brightness=0.8, hue=0.2)], prob=0.8),
        dict(type='RandomFlip', prob=0.5)]


def config(**fields):
    model = dict(type='X', head=dict(num_classes=3))
    return Config(dict(dict(default_scope='mmpretrain', model=model), **fields))


def test_images_with_labels():
    batch = make_batch(config(), 2, 16)
    assert batch['inputs'].shape == (2, 3, 16, 16) and len(batch['data_samples']) == 2
    grey = make_batch(config(data_preprocessor=dict(mean=[0.0], std=[1.0])), 2, 16)
    assert grey['inputs'].shape == (2, 1, 16, 16)


def test_views_come_from_the_pipeline():
    pipeline = [dict(type='LoadImageFromFile'), dict(type='MultiView', num_views=[2, 1], transforms=[VIEW, VIEW[:1]]),
                dict(type='PackInputs')]
    cfg = config(data_preprocessor=dict(type='SelfSupDataPreprocessor'),
                 train_dataloader=dict(dataset=dict(pipeline=pipeline)))
    batch = make_batch(cfg, 2, 32)
    assert [view.shape for view in batch['inputs']] == [torch.Size([2, 3, 32, 32])] * 3
    assert cfg.train_dataloader.dataset.pipeline[1]['transforms'][0][0]['scale'] == 224  # the config stays as it is
    assert make_batch(cfg, 2, None)['inputs'][0].shape == (2, 3, 224, 224)


def detection(kind, **fields):
    return Config(dict(default_scope='mmdet', model=dict(type='X', data_preprocessor=dict(type=kind), **fields)))


def test_videos_have_two_frames_and_objects_with_numbers():
    pytest.importorskip('mmdet.models', reason='the batch is for models of mmdet')
    batch = make_batch(detection('TrackDataPreprocessor'), 2, 32)
    assert [video.shape for video in batch['inputs']] == [torch.Size([2, 3, 32, 32])] * 2
    first = batch['data_samples'][0]
    assert first.key_frames_inds == [0] and first.ref_frames_inds == [1] and len(first) == 2
    frame = first.get_ref_frames()[0]
    assert isinstance(frame.gt_instances.bboxes, torch.Tensor)
    assert frame.gt_instances.instances_ids.tolist() == [*range(7)]
    assert first.get_key_frames()[0].frame_id == 0 and frame.frame_id == 1


def test_persons_have_one_label_each_and_their_own_size():
    pytest.importorskip('mmdet.models', reason='the batch is for models of mmdet')
    batch = make_batch(detection('ReIDDataPreprocessor'), 2, 32)
    assert batch['inputs'].shape == (2, 3, 256, 128)
    assert [int(sample.gt_label.label) for sample in batch['data_samples']] == [0, 1]


def test_a_teacher_and_its_student_have_a_batch_each():
    pytest.importorskip('mmdet.models', reason='the batch is for models of mmdet')
    batch = make_batch(detection('MultiBranchDataPreprocessor'), 2, 32)
    assert list(batch['inputs']) == list(batch['data_samples']) == ['sup', 'unsup_teacher', 'unsup_student']
    left, right = batch['data_samples']['sup'][0], batch['data_samples']['unsup_student'][0]
    assert left is not right and left.homography_matrix.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_detectors_without_a_network_for_proposals_get_some():
    pytest.importorskip('mmdet.models', reason='the batch is for models of mmdet')
    given = make_batch(detection('DetDataPreprocessor', roi_head=dict(type='X')), 2, 32)['data_samples'][0]
    assert given.proposals.bboxes.shape == (14, 4)
    both = detection('DetDataPreprocessor', roi_head=dict(type='X'), rpn_head=dict(type='X'))
    assert 'proposals' not in make_batch(both, 2, 32)['data_samples'][0]


@pytest.mark.parametrize('pipeline, has', [([dict(type='GenerateEdge')], True), ([], False)])
def test_edges_and_six_channels(pipeline, has):
    pytest.importorskip('mmseg.models', reason='the batch is for models of mmseg')
    cfg = Config(dict(default_scope='mmseg', train_pipeline=pipeline, model=dict(
        type='X', data_preprocessor=dict(type='SegDataPreProcessor', mean=[0.0] * 6, std=[1.0] * 6))))
    batch = make_batch(cfg, 2, 32)
    assert [image.shape for image in batch['inputs']] == [torch.Size([6, 32, 32])] * 2
    sample = batch['data_samples'][0]
    assert ('gt_edge_map' in sample) == has and (not has or sample.gt_edge_map.data.shape == (1, 32, 32))
