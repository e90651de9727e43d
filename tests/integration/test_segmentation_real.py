"""Segmentation on real images: a project of one's own, two processes, and mmseg's own tools on what comes out."""
from __future__ import annotations

import glob
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmseg', reason='segmentors of mmseg')
pytest.importorskip('mmcv.ops', reason='segmentors need mmcv with its operators')

pytestmark = pytest.mark.slow

REPO = Path(__file__).resolve().parents[2]

# A user's project: our config as base, two classes, one field of one tap; and small, for a test on a CPU.
PROJECT = '''
_base_ = [__import__('mmafan') and 'mmafan::mmseg/deeplabv3plus_r50-d8_afan_voc12aug-512x512.py']
data_root = {root!r}
metainfo = dict(classes=('background', 'nucleus'), palette=[[0, 0, 0], [220, 60, 60]])
image_size = (64, 64)
model = dict(
    pretrained=None,
    data_preprocessor=dict(size=image_size),
    backbone=dict(depth=18, base_channels=8, stem_channels=8),
    decode_head=dict(
        in_channels=64, channels=16, c1_in_channels=8, c1_channels=4, num_classes=2, dilations=(1, 2, 3, 4),
        init_cfg=dict(type='Normal', std=1.0, override=dict(name='conv_seg'))),  # labels of both kinds, soon
    auxiliary_head=dict(in_channels=32, channels=8, num_classes=2),
    afan=dict(taps=dict(backbone=dict(strength_sampling='all'))))
train_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
    dict(type='Resize', scale=(80, 80), keep_ratio=True),
    dict(type='RandomCrop', crop_size=image_size), dict(type='RandomFlip', prob=0.5), dict(type='PackSegInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='Resize', scale=image_size, keep_ratio=True),
    dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TestTimeAug', transforms=[
        [dict(type='Resize', scale=image_size, keep_ratio=True)],
        [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
        [dict(type='LoadAnnotations')], [dict(type='PackSegInputs')]])]
train_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(
    _delete_=True, type='BaseSegDataset', data_root=data_root, metainfo=metainfo, img_suffix='.png',
    data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'), pipeline=train_pipeline, indices=8))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(
    _delete_=True, type='BaseSegDataset', data_root=data_root, metainfo=metainfo, img_suffix='.png',
    data_prefix=dict(img_path='img_dir/val', seg_map_path='ann_dir/val'), pipeline=test_pipeline, indices=4))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=0.003))
param_scheduler = [dict(type='PolyLR', eta_min=1e-4, power=0.9, begin=0, end=12, by_epoch=False)]
train_cfg = dict(max_iters=6, val_interval=3)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=3))
'''

# benchmark.py takes 200 images and has no option for another number.
BENCHMARK = '''
_base_ = './nuclei.py'
test_dataloader = dict(dataset=dict(
    data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'), indices=200))
'''

# Runs scripts in one process, each as its own __main__, which spares importing the codebase for every one.
IN_TURN = '''
import json, runpy, sys
for name, path, *arguments in json.loads(sys.argv[1]):
    sys.argv = [path, *arguments]
    print('\\n=== ' + name, flush=True)
    try:
        runpy.run_path(path, run_name='__main__')
    except Exception as caught:
        print(f'\\nFAILED {type(caught).__name__}: {caught}')
'''

ADVERSARIAL = [f'adv_{tap}.{head}.{what}' for tap in ('backbone_0', 'backbone_1', 'aspp_0') for head, what in
               (('decode', 'loss_ce'), ('decode', 'acc_seg'), ('aux', 'loss_ce')) if (tap, head) != ('aspp_0', 'aux')]


def run(*command, cwd, timeout=600):
    result = subprocess.run([str(c) for c in command], cwd=cwd, timeout=timeout, capture_output=True, text=True,
                            env=dict(os.environ, OMP_NUM_THREADS='1', MPLBACKEND='Agg', PYTHON=sys.executable))
    assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
    return result.stdout + result.stderr


def mmseg_tool(name):
    import mmseg
    return f'{mmseg.__path__[0]}/.mim/tools/{name}.py'


def logged(folder, where='*/vis_data/scalars.json'):
    rows = []
    for path in sorted(glob.glob(f'{folder}/{where}')):
        with open(path) as file:
            rows += [json.loads(line) for line in file]
    return rows


def metrics(folder, where='*/vis_data/scalars.json'):
    """Read the numbers of the last validation in a work folder; of a test, with ``where='*/*.json'``."""
    return [{k: row[k] for k in ('mIoU', 'mAcc', 'aAcc')} for row in logged(folder, where) if 'mIoU' in row][-1]


def weights(path):
    return torch.load(path, map_location='cpu', weights_only=False)['state_dict']


def assert_same_weights(one, other):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def become_killed(folder):
    """Leave a finished run of six iterations as one that was killed after the third."""
    (folder / 'iter_6.pth').unlink()
    (folder / 'last_checkpoint').write_text(str(folder / 'iter_3.pth'))


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """A folder of its own with a config, trained with our tool; beside it the same config without A-FAN."""
    from mmengine.config import Config

    from mmafan.analysis.arm import baseline_model
    data = REPO.parent / 'shared' / 'data' / 'nuclei_dev'
    if not data.is_dir():
        pytest.skip(f'the sample data is not there: {data}')
    folder = tmp_path_factory.mktemp('project')
    (folder / 'nuclei.py').write_text(PROJECT.format(root=f'{data}/'))
    (folder / 'benchmark.py').write_text(BENCHMARK)
    stock = Config.fromfile(folder / 'nuclei.py')
    stock.model = baseline_model(stock)[0]
    for field in ('custom_hooks', 'afan_recipe'):  # custom_imports stays: torch >= 2.6 needs it to load checkpoints
        stock.pop(field)
    stock.dump(folder / 'stock.py')
    output = run(sys.executable, REPO / 'tools' / 'train.py', 'nuclei.py', '--work-dir', 'ours', '--cfg-options',
                 'randomness.seed=0', cwd=folder)
    return folder, output


def run_in_turn(commands, cwd):
    """Run ``(name, path, *arguments)`` in one process; return the output of each by name."""
    output = run(sys.executable, '-c', IN_TURN, json.dumps(commands), cwd=cwd)
    return dict(part.split('\n', 1) for part in output.split('\n=== ')[1:])


@pytest.fixture(scope='module')
def tools_of_mmseg(project):
    """What mmseg's tools do with the project's config, and with the same config without A-FAN."""
    folder, _ = project
    found = {}
    for config in ('nuclei', 'stock'):
        where = folder / f'tools_{config}'
        where.mkdir()
        common = [f'{folder}/{config}.py', f'{folder}/ours/iter_6.pth']
        commands = [
            ('flops', mmseg_tool('analysis_tools/get_flops'), common[0], '--shape', '64', '64'),
            ('browse', mmseg_tool('analysis_tools/browse_dataset'), common[0], '--not-show', '--output-dir', 'seen'),
            ('test', mmseg_tool('test'), *common, '--work-dir', 'plain', '--out', 'maps'),
            ('tta', mmseg_tool('test'), *common, '--tta', '--work-dir', 'tta')]
        if config == 'nuclei':
            commands += [('print', mmseg_tool('misc/print_config'), common[0]),
                         ('benchmark', mmseg_tool('analysis_tools/benchmark'), f'{folder}/benchmark.py', common[1],
                          '--work-dir', 'speed')]
        found[config] = run_in_turn(commands, where)
    return folder, found['nuclei'], found['stock']


def test_a_downstream_project_trains_with_our_tool(project):
    folder, output = project
    assert 'Saving checkpoint at 6 iterations' in output and output.count('Iter(val) [4/4]') == 4
    rows = [row for row in logged(folder / 'ours') if 'loss' in row]
    assert len(rows) == 6 and all(name in row for row in rows for name in ADVERSARIAL)
    names = {name for name in rows[0] if name.startswith('adv_') and 'loss' in name}
    assert names == {name for name in ADVERSARIAL if 'loss' in name}  # no loss of the other head, no third strength
    for row in rows:
        losses = sum(value for name, value in row.items() if '.loss' in name)
        assert losses == pytest.approx(row['loss'], abs=1e-4)
        assert 0 < row['afan_aspp_relative_size'] and 0 < row['afan_backbone_relative_size']


def test_a_killed_run_resumes_to_the_same_weights(project):
    folder, _ = project
    shutil.copytree(folder / 'ours', folder / 'killed')
    become_killed(folder / 'killed')
    output = run(sys.executable, REPO / 'tools' / 'train.py', 'nuclei.py', '--work-dir', 'killed', '--resume',
                 '--cfg-options', 'randomness.seed=0', cwd=folder)
    assert 'resumed epoch: 0, iter: 3' in output and 'Iter(train) [3/6]' not in output
    assert_same_weights(folder / 'ours' / 'iter_6.pth', folder / 'killed' / 'iter_6.pth')


def test_it_trains_and_resumes_with_the_tool_of_mmseg(project):
    folder, _ = project
    command = [mmseg_tool('train'), 'nuclei.py', '--work-dir', 'theirs']
    found = run_in_turn([
        ('train', *command, '--cfg-options', 'train_cfg.max_iters=3', 'experiment_name=first'),
        ('resume', *command, '--resume', '--cfg-options', 'experiment_name=second')], folder)
    assert 'FAILED' not in found['train'] + found['resume']
    with open(folder / 'theirs' / 'last_checkpoint') as file:
        assert file.read().endswith('iter_6.pth')
    rows = [row for row in logged(folder / 'theirs') if 'loss' in row]
    assert [row['iter'] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all(name in row for row in rows for name in ADVERSARIAL)


def test_the_tool_that_tests_finds_the_numbers_of_the_stock_config(tools_of_mmseg):
    folder, afan, stock = tools_of_mmseg
    found = []
    for name, work_dir in (('test', 'plain'), ('tta', 'tta')):
        assert 'FAILED' not in afan[name] + stock[name]
        found.append(metrics(folder / 'tools_nuclei' / work_dir, '*/*.json'))
        assert found[-1] == metrics(folder / 'tools_stock' / work_dir, '*/*.json')
    assert found[0] == metrics(folder / 'ours') and found[0] != found[1]
    maps = sorted(glob.glob(f'{folder}/tools_nuclei/maps/*.png'))
    assert len(maps) == 4
    for path in maps:
        assert Path(path).read_bytes() == (folder / 'tools_stock' / 'maps' / Path(path).name).read_bytes()


def test_our_tool_tests_too(project, tools_of_mmseg):
    folder, _ = project
    run(sys.executable, REPO / 'tools' / 'test.py', 'nuclei.py', 'ours/iter_6.pth', '--tta', '--work-dir', 'tested',
        cwd=folder)
    assert metrics(folder / 'tested', '*/*.json') == metrics(folder / 'tools_nuclei' / 'tta', '*/*.json')


def test_analysis_tools_do_what_they_do_with_the_stock_config(tools_of_mmseg):
    """Two of mmseg's tools stop with later versions of mmengine and OpenCV; they do so with any config."""
    folder, afan, stock = tools_of_mmseg
    for name, sign in (('flops', 'Flops:'), ('browse', '>] 8/8')):
        error, of_stock = (found[name].partition('\nFAILED ')[2] for found in (afan, stock))
        assert error == of_stock and (error or sign in afan[name]), afan[name]
    assert 'FAILED' not in afan['print'] and 'mmafan.AFANEncoderDecoder' in afan['print']
    assert 'FAILED' not in afan['benchmark'] and 'Overall fps' in afan['benchmark']


def test_get_flops_counts_what_it_counts_for_the_stock_config(project):
    """mmseg's tool, started by ours, whose workaround it needs."""
    folder, _ = project
    counts = []
    for name in ('nuclei', 'stock'):
        tool = REPO / 'tools' / 'analysis_tools' / 'get_flops.py'
        output = run(sys.executable, tool, f'{name}.py', '--shape', 64, 64, cwd=folder)
        counts.append([line for line in output.splitlines() if line.startswith(('Flops:', 'Params:'))])
    assert len(counts[0]) == 2 and counts[0] == counts[1]


def test_apis_of_mmseg_predict_what_the_stock_config_predicts(project):
    from mmseg.apis import MMSegInferencer, inference_model, init_model
    folder, _ = project
    checkpoint = str(folder / 'ours' / 'iter_6.pth')
    image = sorted(glob.glob(f'{REPO.parent}/shared/data/nuclei_dev/img_dir/val/*.png'))[0]
    models = {name: init_model(str(folder / f'{name}.py'), checkpoint, device='cpu') for name in ('nuclei', 'stock')}
    assert [type(m).__name__ for m in models.values()] == ['AFANEncoderDecoder', 'EncoderDecoder']
    results = {name: inference_model(model, image) for name, model in models.items()}
    logits = results['nuclei'].seg_logits.data
    assert torch.equal(logits, results['stock'].seg_logits.data)
    labels = results['nuclei'].pred_sem_seg.data[0]
    assert labels.unique().tolist() == [0, 1]
    for name in ('nuclei', 'stock'):
        found = MMSegInferencer(str(folder / f'{name}.py'), checkpoint, device='cpu')(image, return_datasamples=True)
        assert torch.equal(found.pred_sem_seg.data[0], labels)


def test_checkpoints_load_strictly_both_ways(project):
    from mmengine.config import Config
    from mmengine.registry import MODELS
    from mmengine.runner import load_checkpoint
    from mmseg.utils import register_all_modules
    register_all_modules()
    folder, _ = project
    checkpoint = str(folder / 'ours' / 'iter_6.pth')
    afan, stock = (MODELS.build(Config.fromfile(folder / f'{name}.py').model) for name in ('nuclei', 'stock'))
    load_checkpoint(stock, checkpoint, strict=True)
    afan.load_state_dict(stock.state_dict(), strict=True)
    assert afan.state_dict().keys() == weights(checkpoint).keys()


def test_two_processes_train_save_and_resume(project):
    """The launcher of this repository, gloo on a CPU, SyncBN in the stock base; what the log shows of every pass.

    The first half runs under the stock wrapper, the second under ours, which is what the tool chooses.
    """
    folder, _ = project
    command = ['bash', REPO / 'tools' / 'dist_train.sh', folder / 'nuclei.py', 2, '--work-dir', folder / 'two']
    first = run(*command, '--cfg-options', 'train_cfg.max_iters=3', 'model_wrapper_cfg.type=MMDistributedDataParallel',
                'model_wrapper_cfg.broadcast_buffers=False', cwd=REPO)
    assert 'SyncBN becomes BN' in first
    assert 'Saving checkpoint at 3 iterations' in first and 'Iter(val) [2/2]' in first and 'single-graph' in first
    again = run(*command, '--resume', cwd=REPO)
    assert 'resumed epoch: 0, iter: 3' in again and 'Saving checkpoint at 6 iterations' in again
    assert 'single-graph' not in again
    rows = [row for row in logged(folder / 'two') if 'loss' in row]
    assert [row['iter'] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all(name in row for row in rows for name in ADVERSARIAL)


def test_compare_prints_both_side_by_side_and_goes_on_where_it_was_killed(project):
    folder, _ = project
    command = [sys.executable, REPO / 'tools' / 'analysis_tools' / 'compare.py', 'nuclei.py', '--work-dir', 'compared',
               '--cost-repeats', 1, '--threads', 1]
    output = run(*command, cwd=folder)
    with open(folder / 'compared' / 'comparison.json') as file:
        found = json.load(file)
    seconds = found['cost']['seconds']
    assert f'| step, relative | | 1 | {seconds["afan"] / seconds["baseline"]:.3f} (theory' in output
    assert output.count('| mIoU | 0 |') == 1
    for arm in ('baseline', 'afan'):
        run_dir = folder / 'compared' / arm / 'seed_0'
        of_validation = {k: pytest.approx(v, abs=1e-4) for k, v in metrics(run_dir).items()}
        assert found['results'][arm] == [of_validation]
    arm = folder / 'compared' / 'afan' / 'seed_0'
    shutil.copy(arm / 'iter_6.pth', folder / 'before.pth')
    (arm / 'result.json').unlink()
    become_killed(arm)
    again = run(*command, cwd=folder)
    assert 'baseline, seed 0 was finished' in again and 'A-FAN, seed 0 is finished' in again
    rows, same = ([line for line in text.splitlines() if line.startswith('|')] for text in (output, again))
    assert same == rows and len(rows) > 4 and 'iter_3.pth' in again  # from where the killed run went on
    assert_same_weights(folder / 'before.pth', arm / 'iter_6.pth')
