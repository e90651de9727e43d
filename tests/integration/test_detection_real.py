"""Detection on real images: a project of one's own, two processes, and mmdet's own tools on what comes out."""
from __future__ import annotations

import glob
import json
import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip('mmdet', reason='detectors of mmdet')
pytest.importorskip('mmcv.ops', reason='detectors need mmcv with its operators')

pytestmark = pytest.mark.slow

# A user's project: our config as base, three classes, one field of one tap; and small, for a test on a CPU.
PROJECT = '''
_base_ = [__import__('mmafan') and 'mmafan::mmdet/faster_rcnn_r50_fpn_afan_coco.py']
data_root = {root!r}
metainfo = dict(classes=('RBC', 'WBC', 'Platelets'))
model = dict(
    backbone=dict(init_cfg=None),
    rpn_head=dict(anchor_generator=dict(scales=[4])),
    roi_head=dict(bbox_head=dict(num_classes=3, fc_out_channels=32)),
    train_cfg=dict(rpn_proposal=dict(nms_pre=100, max_per_img=60), rcnn=dict(sampler=dict(num=32))),
    test_cfg=dict(rpn=dict(nms_pre=100, max_per_img=60)),
    afan=dict(taps=dict(backbone=dict(strengths=(0.5, 1.0), reinject=(False, True)))))
train_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(128, 96), keep_ratio=True), dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='Resize', scale=(128, 96), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
train_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(
    data_root=data_root, metainfo=metainfo, ann_file='annotations_coco/train.json',
    data_prefix=dict(img='BCCD/JPEGImages/'), pipeline=train_pipeline, indices=4))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(
    data_root=data_root, metainfo=metainfo, ann_file='annotations_coco/val.json',
    data_prefix=dict(img='BCCD/JPEGImages/'), pipeline=test_pipeline, indices=2))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations_coco/val.json')
test_evaluator = val_evaluator
tta_model = dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100))
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TestTimeAug', transforms=[
        [dict(type='Resize', scale=(128, 96), keep_ratio=True)],
        [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)],
        [dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip',
                                               'flip_direction'))]])]
train_cfg = dict(max_epochs=1)
default_hooks = dict(logger=dict(interval=1))
'''


def run(*command, cwd, timeout=900):
    result = subprocess.run([str(c) for c in command], cwd=cwd, timeout=timeout, capture_output=True, text=True,
                            env=dict(os.environ, OMP_NUM_THREADS='1', MPLBACKEND='Agg', PYTHON=sys.executable))
    assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
    return result.stdout + result.stderr


def mmdet_tool(name):
    import mmdet
    return f'{mmdet.__path__[0]}/.mim/tools/{name}.py'


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """A folder of its own with a config, trained with our tool for an epoch of four images."""
    from pathlib import Path
    repo = Path(__file__).resolve().parents[2]
    data = repo.parent / 'shared' / 'data' / 'bccd_dev'
    if not data.is_dir():
        pytest.skip(f'the sample data is not there: {data}')
    folder = tmp_path_factory.mktemp('project')
    (folder / 'cells.py').write_text(PROJECT.format(root=f'{data}/'))
    output = run(sys.executable, repo / 'tools' / 'train.py', 'cells.py', '--work-dir', 'ours', cwd=folder)
    return folder, output


def logged(folder):
    rows = []
    for path in glob.glob(f'{folder}/*/vis_data/scalars.json'):
        with open(path) as file:
            rows += [json.loads(line) for line in file]
    return rows


def test_a_downstream_project_trains_with_our_tool(project):
    folder, output = project
    assert 'Saving checkpoint at 1 epochs' in output and 'Epoch(val) [1]' in output
    keys = logged(folder / 'ours')[0]
    for name in ('loss_rpn_cls', 'loss_bbox', 'adv_backbone_0.loss_rpn_cls', 'adv_backbone_1.loss_bbox',
                 'adv_roi_0.loss_cls', 'afan_backbone_relative_size'):
        assert name in keys
    assert 'adv_backbone_2.loss_cls' not in keys and 'adv_roi_0.loss_rpn_cls' not in keys


def test_it_trains_with_the_tool_of_mmdet(project):
    folder, _ = project
    output = run(sys.executable, mmdet_tool('train'), 'cells.py', '--work-dir', 'theirs', cwd=folder)
    assert 'Saving checkpoint at 1 epochs' in output
    assert 'adv_roi_0.loss_cls' in logged(folder / 'theirs')[0]


def test_the_checkpoint_is_one_of_the_stock_model(project):
    from mmdet.utils import register_all_modules
    from mmengine.config import Config
    from mmengine.registry import MODELS
    from mmengine.runner import load_checkpoint

    from mmafan.analysis.arm import baseline_model
    register_all_modules()
    folder, _ = project
    cfg = Config.fromfile(folder / 'cells.py')
    stock = MODELS.build(baseline_model(cfg)[0])
    assert type(stock).__name__ == 'FasterRCNN'
    load_checkpoint(stock, str(folder / 'ours' / 'epoch_1.pth'), strict=True)


def test_tools_of_mmdet_run_unmodified(project):
    folder, _ = project
    assert 'mmafan.AFANFasterRCNN' in run(sys.executable, mmdet_tool('misc/print_config'), 'cells.py', cwd=folder)
    flops = run(sys.executable, mmdet_tool('analysis_tools/get_flops'), 'cells.py', '--num-images', 1, cwd=folder)
    assert 'Flops:' in flops and 'Params:' in flops
    run(sys.executable, mmdet_tool('analysis_tools/browse_dataset'), 'cells.py', '--not-show', '--output-dir', 'seen',
        cwd=folder)
    assert len(glob.glob(f'{folder}/seen/**/*.jpg', recursive=True)) == 4
    tested = run(sys.executable, mmdet_tool('test'), 'cells.py', 'ours/epoch_1.pth', '--tta', cwd=folder)
    assert 'Epoch(test) [2/2]' in tested


def test_apis_of_mmdet_run_unmodified(project, monkeypatch):
    from mmdet.apis import DetInferencer, inference_detector, init_detector
    folder, _ = project
    checkpoint = str(folder / 'ours' / 'epoch_1.pth')

    from mmengine.config import Config
    cfg = Config.fromfile(folder / 'cells.py')
    image = sorted(glob.glob(f'{cfg.data_root}BCCD/JPEGImages/*.jpg'))[0]
    model = init_detector(str(folder / 'cells.py'), checkpoint, device='cpu')
    result = inference_detector(model, image)
    assert type(model).__name__ == 'AFANFasterRCNN' and result.pred_instances.bboxes.shape[1] == 4
    found = DetInferencer(str(folder / 'cells.py'), checkpoint, device='cpu')(image, no_save_vis=True, pred_score_thr=0)
    assert torch.allclose(torch.tensor(found['predictions'][0]['scores']), result.pred_instances.scores, atol=1e-4)


def test_two_processes_train_save_and_resume(project, repo):
    """The launcher of this repository, gloo on a CPU; what the log shows of every tap."""
    folder, _ = project
    command = ['bash', repo / 'tools' / 'dist_train.sh', folder / 'cells.py', 2, '--work-dir', folder / 'two']
    first = run(*command, cwd=repo)
    assert 'Saving checkpoint at 1 epochs' in first and 'Epoch(val) [1]' in first
    assert 'single-graph' not in first
    assert 'afan_backbone_adversarial: ' in first and 'afan_roi_adversarial_to_clean: ' in first
    again = run(*command, '--resume', '--cfg-options', 'train_cfg.max_epochs=2', cwd=repo)
    assert 'resumed epoch: 1' in again and 'Epoch(train) [2]' in again and 'Saving checkpoint at 2 epochs' in again


def test_compare_prints_both_side_by_side(project, repo):
    folder, _ = project
    command = [sys.executable, repo / 'tools' / 'analysis_tools' / 'compare.py', 'cells.py', '--work-dir', 'compared',
               '--cost-repeats', 1, '--threads', 1]
    output = run(*command, cwd=folder)
    with open(folder / 'compared' / 'comparison.json') as file:
        found = json.load(file)
    seconds = found['cost']['seconds']
    assert f'| step, relative | | 1 | {seconds["afan"] / seconds["baseline"]:.3f} (theory' in output
    again = run(*command, cwd=folder)
    assert again.count('was finished') == 2 and again.splitlines()[-1] == output.splitlines()[-1]
