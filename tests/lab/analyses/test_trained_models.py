"""The commands that analyse a trained model: what they print, draw and refuse. Run in this process, to import once."""
from __future__ import annotations

import importlib
import json

import pytest
import torch

pytest.importorskip('mmpretrain', reason='the configs analysed here are for classification')
pytest.importorskip('sklearn', reason='their data are its digits')
pytest.importorskip('matplotlib', reason='the tools draw')

AFAN, STOCK = 'configs/mmpretrain/resnet_afan_digits.py', 'configs/mmpretrain/resnet_digits.py'
SMALL = ['--batch-size', '6', '--num-batches', '2', '--device', 'cpu', '--json']


@pytest.fixture
def tool(repo, monkeypatch, tmp_path, capsys):
    """Return a function that runs a tool and returns its output, parsed where it is JSON."""
    monkeypatch.chdir(repo)

    def run(name, *arguments):
        capsys.readouterr()
        tool = importlib.import_module(f'mmafan.lab.analyses.{name}')
        tool.main([*arguments, '--out', str(tmp_path / 'picture.png')])
        assert (tmp_path / 'picture.png').read_bytes()[:4] == b'\x89PNG'
        out = capsys.readouterr().out
        return json.loads(out) if '--json' in arguments else out

    return run


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
    """Checkpoints of the stock model and the A-FAN model, with untrained weights of two seeds."""
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    import mmafan  # noqa: F401
    init_default_scope('mmpretrain')
    from pathlib import Path
    root = Path(__file__).resolve().parents[3]
    paths = []
    for seed, config in enumerate((STOCK, AFAN)):
        torch.manual_seed(seed)
        model = MODELS.build(Config.fromfile(str(root / config)).model)
        paths.append(str(tmp_path_factory.mktemp('weights') / f'{seed}.pth'))
        torch.save(dict(state_dict=model.state_dict()), paths[-1])
    return paths


def refused(capsys, run, *arguments):
    with pytest.raises(SystemExit) as error:
        run(*arguments)
    assert error.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize('index', [0, 1])
def test_statistics_shift_of_either_checkpoint(tool, checkpoints, index):
    result = tool('statistics_shift', AFAN, checkpoints[index], *SMALL)
    assert (result['tap'], result['num_samples'], result['split']) == ('stage1', 12, 'val')
    layers = result['layers']['additive']
    assert list(layers) == ['backbone.layer1', 'backbone.layer2', 'backbone.layer3', 'backbone.layer4', 'neck', 'head']
    # One step of 0.2 deviations of each sample; elements without gradient stay.
    assert 0.15 < result['relative_size'] <= 0.2 + 1e-6
    assert result['losses']['additive'] > result['losses']['clean']


def test_statistics_shift_prints_a_table(tool, checkpoints):
    lines = tool('statistics_shift', AFAN, checkpoints[1], *SMALL[:-1], '--modules', 'backbone.layer3',
                 '--strength', '0.5').splitlines()
    rows = [line.split() for line in lines if line.startswith('backbone.')]
    assert [row[0] for row in rows] == ['backbone.layer1', 'backbone.layer3'] * 2
    assert all(len(row) == 6 and float(row[1]) > 0 for row in rows)
    assert lines[-1].startswith('picture: ')


def test_margins_side_by_side(tool, checkpoints):
    result = tool('margins', STOCK, f'baseline={checkpoints[0]}', f'A-FAN={checkpoints[1]}', *SMALL)
    assert list(result['checkpoints']) == ['baseline', 'A-FAN']
    one, other = (c['layers'] for c in result['checkpoints'].values())
    assert list(one) == list(other) and list(one)[0] == 'inputs' and list(one)[-2:] == ['neck', 'head']
    assert one != other and all(low <= middle <= high for low, middle, high in one.values())
    [same] = tool('margins', AFAN, checkpoints[1], *SMALL, '--layers', 'neck')['checkpoints'].values()
    assert same['layers'] == {name: other[name] for name in ('inputs', 'neck')}  # whichever model has the weights


def test_margins_prints_a_table(tool, checkpoints):
    out = tool('margins', STOCK, f'x={checkpoints[0]}', *SMALL[:-1], '--layers', 'backbone.layer4', '--norm', 'linf')
    assert [line.split()[0] for line in out.splitlines()[2:6]] == ['layer', 'inputs', 'backbone.layer4', 'accuracy']


@pytest.mark.slow
def test_landscape_has_the_loss_of_the_checkpoint_at_its_centre(tool, checkpoints):
    arguments = [f'a={checkpoints[0]}', f'b={checkpoints[1]}', *SMALL, '--points', '3', '--range', '0.5']
    result = tool('loss_landscape', STOCK, *arguments)
    assert result['coordinates'] == [-0.5, 0, 0.5] and result['split'] == 'train'
    assert list(result['checkpoints']['a']['rings']) == ['0', '0.5']
    trained = importlib.import_module('mmafan.lab.trained')
    for (label, found), path in zip(result['checkpoints'].items(), checkpoints):
        model = trained.load_trained(STOCK, path, device='cpu')
        batches = trained.load_labelled(model.cfg, 2, 'train', 6)
        expected = [model.model(**model.prepare(batch), mode='loss')['loss'].item() for batch in batches]
        assert found['losses'][1][1] == found['rings']['0'] == pytest.approx(sum(expected) / 2, rel=1e-6)
        assert len({value for row in found['losses'] for value in row}) == 9
    again = tool('loss_landscape', AFAN, *arguments[:1], *arguments[2:])  # seeded; the loss is the clean one
    assert again['checkpoints']['a'] == result['checkpoints']['a']


@pytest.mark.parametrize('name, arguments, sentence', [
    ('loss_landscape', [STOCK, 'w.pth', '--points', '4'], '--points must be an odd number of at least 3'),
    ('loss_landscape', [STOCK, 'w.pth', '--range', '0'], '--range must be a finite number above 0, got 0.0'),
    ('margins', [STOCK, 'none.pth'], "there is no checkpoint 'none.pth'"),
    ('margins', ['configs/mmdet/faster_rcnn_digits.py', '{0}'], "such as 'mmpretrain', got 'mmdet'"),
    ('margins', [STOCK, 'a={0}', 'a={1}'], "a label of its own, got 'a'"),
    ('margins', [STOCK, '{0}', '--layers', 'neks'], "got 'neks'; did you mean 'neck'"),
    ('statistics_shift', [STOCK, '{0}'], "got 'ImageClassifier'"),
    ('statistics_shift', [AFAN, '{0}', '--tap', 'x'], "tap must be one of ('stage1',), got 'x'"),
    ('statistics_shift', [AFAN, '{0}', '--cfg-options', 'model.head.in_channels=64'], 'must be those of the model'),
    ('statistics_shift', [AFAN, '{0}', '--device', 'tpu9'], '--device must be one that this machine has, such as'),
    ('statistics_shift', [AFAN, AFAN], 'is no checkpoint'),
])
def test_wrong_arguments_are_one_sentence(tool, checkpoints, capsys, name, arguments, sentence):
    arguments = [text.replace('{0}', checkpoints[0]).replace('{1}', checkpoints[1]) for text in arguments]
    last = refused(capsys, tool, name, *arguments)
    assert last.startswith('error: ') and sentence in last


def test_checkpoint_of_another_network_is_refused(tool, checkpoints, capsys, tmp_path):
    state = torch.load(checkpoints[0])['state_dict']
    state['extra'] = state.pop('head.fc.bias')
    torch.save(dict(state_dict=state), tmp_path / 'other.pth')
    last = refused(capsys, tool, 'margins', STOCK, str(tmp_path / 'other.pth'))
    assert "1 missing, such as 'head.fc.bias' and 1 too many, such as 'extra'" in last


def test_labels_are_loaded_before_the_image_is_resized(tool):
    label_first = importlib.import_module('mmafan.lab.trained').label_first
    steps = [dict(type=name) for name in ('LoadImageFromFile', 'Resize', 'mmdet.LoadAnnotations', 'PackDetInputs')]
    assert label_first(steps) == [steps[0], steps[2], steps[1], steps[3]]
    assert label_first(steps[1:2]) == steps[1:2]
