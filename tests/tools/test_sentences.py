"""A mistake in what a user writes ends every tool with one sentence, the last line of what it says, and status 2."""
from __future__ import annotations

import importlib
import re
import warnings
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmpretrain', reason='the config is one of mmpretrain')

REPO = Path(__file__).resolve().parents[2]
CONFIG = 'configs/mmpretrain/resnet_afan_digits.py'
STUDY = f"metric = 'accuracy/top1'\nconfig = {str(REPO / CONFIG)!r}\n"
ARMS = 'arms = dict(baseline=dict(), a=dict({}))\n'
SEES = r"\(seen from .*\)"
TAP = 'model.afan.taps.stage1.'

# Fields of a config: what --cfg-options says, and the sentence.
FIELDS = [
    (TAP + 'module=backbone.layer9', r"afan.taps.stage1.module must name a module of AFANImageClassifier, got "
                                     r"'backbone.layer9': did you mean 'backbone.layer4' or .*\?"),
    (TAP + 'step_size=-1', 'afan.taps.stage1.step_size must be a finite number of at least 0, got -1'),
    (TAP + 'step_size=abc', "afan.taps.stage1.step_size must be a finite number of at least 0, got 'abc'"),
    (TAP + 'step_unit=sd', r"afan.taps.stage1.step_unit must be one of .* \(did you mean 'std'\?\), got 'sd'"),
    (TAP + 'direction=up', "afan.taps.stage1.direction must be one of .*, got 'up'"),
    (TAP + 'norm=l3', "afan.taps.stage1.norm must be one of .*, got 'l3'"),
    (TAP + 'strengths=[2]', r'afan.taps.stage1.strengths must be fractions in \(0, 1\], .*, got \[2\]'),
    (TAP + 'strengths=[]', r'afan.taps.stage1.strengths must be fractions in \(0, 1\], .*, got \[\]'),
    (TAP + 'num_steps=0', 'afan.taps.stage1.num_steps must be an integer of at least 1, got 0'),
    (TAP + 'weight=-1', 'afan.taps.stage1.weight must be a number of at least 0, .*, got -1'),
    (TAP + 'weight=nan', 'afan.taps.stage1.weight must be a number of at least 0, .*, got nan'),
    (TAP + 'fraction=0', r'afan.taps.stage1.fraction must be a number in \(0, 1\], got 0'),
    (TAP + 'fraction=2', r'afan.taps.stage1.fraction must be a number in \(0, 1\], got 2'),
    (TAP + 'step=1', r"afan.taps.stage1 has no field 'step': did you mean 'step_unit' or .*\?"),
    (TAP + 'reinject=median', "afan.taps.stage1.reinject must be True, False or .*, got 'median'"),
    ('model.afan.taps.other.step_size=0.1', "afan.taps.other needs the field 'module'"),
    ('model.afan.taps.stage1=5', 'afan.taps.stage1 must be a dict, got 5'),
    ('model.afan.taps=[]', r'afan.taps must be a dict of at least one tap, such as .*, got \[\]'),
    ('model.afan.taps=abc', "afan.taps must be a dict of at least one tap, such as .*, got 'abc'"),
    ('model.afan.batch_norm=own', "afan.batch_norm must be one of .*, got 'own'"),
    ('model.afan.clean_weight=-1', 'afan.clean_weight must be a number above 0, got -1'),
    ('model.afan.schedule=none', "afan.schedule must be one of .*, got 'none'"),
    ('model.afan.replay=3', 'afan.replay must be True or False, got 3'),
    ('model.afan.unknown=1', "afan has no field 'unknown': valid names are 'taps', .*"),
    ('model.afan=5', 'afan must be a dict such as .*, got 5'),
    ('model=5', r'the field model of the config must be a dict, such as dict\(type=...\), got 5'),
    ('model.type=AFANImageClasifier', "model type 'mmafan.AFANImageClasifier' needs a registered model named "
                                      "'ImageClasifier', and there is none; did you mean 'AFANImageClassifier' or .*"),
    ('model.type=ImageClassifier', r"ImageClassifier cannot be built from the config: ImageClassifier.__init__\(\) got "
                                   r"an unexpected keyword argument 'afan'"),
    ('model.backbone.type=ResNett', 'ResNett cannot be built from the config: ResNett is not in the mmpretrain::model '
                                    'registry'),
    ('model.backbone.depth=7', 'ResNet_CIFAR cannot be built from the config: invalid depth 7 for resnet'),
    ('model.backbone=3', '.*AFANImageClassifier cannot be built from the config: cfg should be a dict, .*'),
    ('custom_hooks.0.begin=-1', 'AdvFeatureHook.begin must be an integer of at least 0, got -1'),
    ('custom_hooks.0.fit_threshold=2', r'AdvFeatureHook.fit_threshold must be a number in \(0, 1\], or None, got 2'),
    ('custom_hooks.0.foo=2', r".*AdvFeatureHook cannot be built from the config: AdvFeatureHook.__init__\(\) got an "
                             "unexpected keyword argument 'foo'"),
    ('custom_hooks=[Nothing]', r"custom_hooks\[0\] must be a dict, such as .*, got 'Nothing'"),
    ('default_scope=mmpretrian', '.* cannot be built from the config: .* is not in the mmengine::.* registry'),
    ('randomness.seed=abc', 'Runner cannot be built from the config: Cannot cast scalar .*'),
    ('load_from=missing.pth', r'missing.pth cannot be read \(No such file or directory\)'),
]
# The same, after the training has begun to build its parts: what was printed before stays.
PARTS = [
    ('optim_wrapper.type=Nothing', 'Nothing cannot be built from the config: Nothing is not in the '
                                   'mmpretrain::optimizer_wrapper registry'),
    ('optim_wrapper.optimizer.type=SGDD', '.* cannot be built from the config: .*'),
    ('optim_wrapper.optimizer.lr=abc', "SGD cannot be built from the config: '<' not supported .*"),
    ('train_cfg.max_epochs=abc', "train_loop cannot be built from the config: invalid literal for int.*'abc'"),
    ('train_dataloader.dataset.type=Nothing', 'Nothing cannot be built from the config: Nothing is not in the '
                                              'mmpretrain::dataset registry'),
    ('train_dataloader.batch_size=0', 'dataloader cannot be built from the config: batch_size should be a positive .*'),
    ('val_evaluator.type=Nothing', 'Nothing cannot be built from the config: Nothing is not in the .* registry'),
    ('param_scheduler.type=Nothing', 'Nothing cannot be built from the config: Nothing is not in the .* registry'),
]
# Arguments of a tool; {} is a folder of the test.
ARGUMENTS = [
    ('train', ['configs/mmpretrain/resnet_afan_digit.py'],
     rf"there is no config file '.*' {SEES}; did you mean configs/mmpretrain/resnet_afan_digits.py or .*\?"),
    ('train', ['{}'], rf"there is no config file '.*' {SEES}"),
    ('train', ['{}/text.txt'], '.*text.txt cannot be read: OSError: Only py/yml/yaml/json type are supported now!'),
    ('train', ['{}/syntax.py'], r'.*syntax.py cannot be read: SyntaxError: .*line 1\)'),
    ('train', ['{}/raises.py'], '.*raises.py cannot be read: ZeroDivisionError: division by zero'),
    ('train', ['{}/base.py'], '.*base.py cannot be read: FileNotFoundError: .*missing.py.*'),
    ('train', ['{}/no_model.py'], r'the field model of the config must be a dict, such as dict\(type=...\), got None'),
    ('train', [CONFIG, '--cfg-options', 'novalue'], r'argument --cfg-options: must be key=value, .*, got .novalue.'),
    ('train', [CONFIG, '--cfg-options', '=3'], r'argument --cfg-options: must be key=value, .*, got .=3.'),
    ('train', [CONFIG, '--cfg-options', 'model.backbone.depth.x=3'],
     'the options .* do not fit .*resnet_afan_digits.py: depth=.* cannot inherit from base .*'),
    ('train', [CONFIG, '--resume', 'missing.pth'], rf"there is no checkpoint 'missing.pth' {SEES}"),
    ('train', [CONFIG, '--resume', '{}/foreign.pth'], '.*foreign.pth holds weights, not the state of a training'),
    ('train', [CONFIG, '--resume', '{}/text.pth'], '.*text.pth is no checkpoint'),
    ('train', [CONFIG, '--cfg-options', 'load_from={}/foreign.pth'],
     ".*foreign.pth has no weight of the model: it has 'a', the model has 'backbone.bn1.bias'"),
    ('train', [CONFIG, '--launcher', 'pytorch'], '--launcher pytorch is for processes .*; RANK is not set .*'),
    ('train', [CONFIG, '--launcher', 'slurm'], '--launcher slurm is for processes .*; SLURM_PROCID is not set .*'),
    ('train', [CONFIG, '--launcher', 'mpi'], '--launcher mpi is for processes .*; OMPI_COMM_WORLD_RANK is not set .*'),
    ('train', [CONFIG, '--auto-scale-lr'], r'--auto-scale-lr needs auto_scale_lr=dict\(base_batch_size=...\) .*'),
    ('train', [CONFIG, '--amp', '--cfg-options', 'optim_wrapper.type=Mine'],
     "--amp needs optim_wrapper.type='OptimWrapper', this config has 'Mine'"),
    ('train', [CONFIG, '--work-dir', '{}/text.txt'], '--work-dir .* must be a folder that can be written to, got .*'),
    ('train', [CONFIG, '--work-dir', '{}/text.txt/x'], '--work-dir .* must be a folder that can be written to, got .*'),
    ('train', [CONFIG, '--unknown'], 'unrecognized arguments: --unknown'),
    ('train', [], 'the following arguments are required: config'),
    ('test', [CONFIG], 'the following arguments are required: checkpoint'),
    ('test', [CONFIG, 'missing.pth'], rf"there is no checkpoint 'missing.pth' {SEES}"),
    ('test', [CONFIG, '{}/foreign.pth'],
     ".*foreign.pth has no weight of the model: it has 'a', the model has 'backbone.bn1.bias'"),
    ('test', [CONFIG, '{}/list.pth'], '.*list.pth must hold a state_dict, got list'),
    ('test', [CONFIG, '{}/text.pth'], '.*text.pth is no checkpoint'),
    ('test', [CONFIG, '{}/empty.pth'], '.*empty.pth is empty'),
    ('test', [CONFIG, '{}/foreign.pth', '--out', 'a.txt'], r'--out must end in .pkl .* or .json .*, got .a.txt.'),
    ('test', [CONFIG, '{}/foreign.pth', '--launcher', 'pytorch'], '--launcher pytorch is for processes .*'),
    ('study', ['missing.py'], rf"there is no study file 'missing.py' {SEES}"),
    ('study', [CONFIG], "arms of .* must be a dict with 'baseline' and at least one other arm, got None"),
    ('study', ['{}/study.py', '--jobs', '0'], '--jobs must be at least 1, got 0'),
    ('study', ['{}/study.py', '--threads', 'x'], "argument --threads: invalid int value: 'x'"),
    ('compare', ['missing.py'], rf"there is no config file 'missing.py' {SEES}"),
    ('compare', ['{}/no_model.py'], '.*no_model.py must be a whole config, whose field model is a dict, got None'),
    ('compare', ['configs/mmpretrain/resnet_digits.py'], "model.type must be 'mmafan.AFAN<Stock>' with afan=.*"),
    ('compare', [CONFIG, '--seeds', '0'], '--seeds must be at least 1, got 0'),
    ('compare', [CONFIG, '--cost-repeats', '-1'], '--cost-repeats must be at least 0, got -1'),
    ('compare', [CONFIG, '--threads', '0'], '--threads must be at least 1, got 0'),
    ('step_cost', ['{}/no_model.py'], '.*no_model.py must be a whole config, whose field model is a dict, got None'),
    ('step_cost', [CONFIG, '--device', 'tpu'], "--device must be one that this machine has, .*, got 'tpu'"),
    ('step_cost', [CONFIG, '--repeats', 'x'], "argument --repeats: invalid positive value: 'x'"),
    ('step_cost', [CONFIG, '--processes', '0'], 'argument --processes: must be at least 1, got 0'),
    ('tricks', ['{}/no_model.py'], '.*no_model.py must be a whole config, whose field model is a dict, got None'),
    ('tricks', [CONFIG, '--device', 'tpu'], "--device must be one that this machine has, .*, got 'tpu'"),
    ('tricks', [CONFIG, '--compile', 'x'], "--compile must be one of .*, got 'x'"),
    ('sweep', [CONFIG, '--taps', 'backbone.layer9', '--step-sizes', '0.1', '--metric', 'accuracy/top1'],
     r"--taps must name modules of the model, got 'backbone.layer9'; did you mean 'backbone.layer4' or .*\?"),
    ('sweep', [CONFIG, '--taps', 'backbone.layer1', '--step-sizes', '0.1', '--metric', 'a', '--tap', 'x'],
     "--tap must be one of the taps in the config, stage1, got 'x'"),
    *[(tool, [CONFIG, 'missing.pth'], rf"there is no checkpoint 'missing.pth' {SEES}")
      for tool in ('robustness', 'margins', 'feature_pictures', 'statistics_shift', 'loss_landscape')],
    *[(tool, [CONFIG, '{}/foreign.pth'], r"the weights of '.*' must be those of the model of .*: \d+ missing, .*")
      for tool in ('margins', 'feature_pictures', 'statistics_shift', 'loss_landscape')],
    ('margins', [CONFIG, '{}/foreign.pth', '--device', 'tpu'], "--device must be one that this machine has, .*"),
    ('get_flops', ['missing.py'], rf"there is no config file 'missing.py' {SEES}"),
    ('get_flops', [], 'the first argument must be a config file'),
    ('gpu_check', ['--parts', 'x'], "--parts must be names out of tests,cost,study, .*, got 'x'"),
    ('quickstart', ['x'], "there is no demo 'x': the demos are classification, detection and segmentation"),
]
STUDIES = [
    ('', "arms of .* must be a dict with 'baseline' and at least one other arm, got None"),
    ('arms = 3', 'arms of .* must be a dict .*, got 3'),
    (STUDY + 'arms = dict(a=dict())', r"arms of .* must be a dict .*, got \['a'\]"),
    (STUDY + 'arms = dict(baseline=dict(), a=3)', 'arms.a of .* must be a dict, .*, got 3'),
    (STUDY + ARMS.format('foo=1'), "arms.a of .* has no field 'foo'; its fields are config, options, stock, control"),
    (STUDY + ARMS.format("stock='no'"), "arms.a.stock of .* must be True or False, got 'no'"),
    (STUDY + ARMS.format('control=1'), 'arms.a.control of .* must be True or False, got 1'),
    (STUDY + ARMS.format('options=3'), 'arms.a.options of .* must be a dict, got 3'),
    (STUDY + ARMS.format('config=3'), 'arms.a.config of .* must be a config file, got 3'),
    (STUDY + ARMS.format("config='no.py'"), 'arms.a of .*: .*no.py cannot be read: FileNotFoundError: .*'),
    (STUDY + ARMS.format("options={'model.afan.taps.stage1.step_size': -1}"),
     'arms.a of .*: afan.taps.stage1.step_size must be a finite number of at least 0, got -1'),
    (STUDY + ARMS.format("options={'model.backbone.depth.x': 3}"), 'arms.a of .*: the options .* do not fit .*'),
    (STUDY + ARMS.format('') + 'seeds = 0', 'seeds of .* must be a number of at least 1 or .*, got 0'),
    (STUDY + ARMS.format('') + "seeds = 'a'", "seeds of .* must be a number of at least 1 or .*, got 'a'"),
    (STUDY + ARMS.format('') + 'also = 3', 'also of .* must be a list of names of metrics, .*, got 3'),
    (STUDY + ARMS.format('') + 'foo = 1', ".* has no field 'foo'; its fields are .*"),
    (ARMS.format(''), 'metric of .* must be the name of a metric in the logs, .*, got None'),
    ("metric = 'm'\nconfig = 3\n" + ARMS.format(''), 'config of .* must be a config file, got 3'),
    ("metric = 'm'\n" + ARMS.format(''), 'arms.baseline.config of .* must be a config file, .*'),
]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('mistakes')
    for name, text in {
            'text.txt': 'x', 'syntax.py': 'a = (', 'raises.py': 'a = 1 / 0', 'base.py': "_base_ = './missing.py'",
            'no_model.py': 'a = 1', 'text.pth': 'hello', 'empty.pth': '', 'study.py': STUDY + ARMS.format('')}.items():
        (path / name).write_text(text)
    torch.save(dict(state_dict=dict(a=torch.ones(1))), path / 'foreign.pth')
    torch.save([1, 2], path / 'list.pth')
    return path


@pytest.fixture
def said(repo, monkeypatch, capsys, tmp_path):
    """Return a function that runs a tool in this process and returns what it prints before the sentence, and it."""
    monkeypatch.chdir(repo)
    monkeypatch.setenv('LOCAL_RANK', '0')
    for tools in ('tools', 'tools/analysis_tools'):
        monkeypatch.syspath_prepend(str(repo / tools))

    def run(tool, arguments):
        monkeypatch.setattr('sys.argv', [f'tools/{tool}.py', *arguments])
        with pytest.raises(SystemExit) as end, warnings.catch_warnings():
            warnings.simplefilter('ignore')
            importlib.import_module(tool).main(arguments)
        assert end.value.code == 2
        out, errors = capsys.readouterr()
        lines = errors.splitlines()
        before = [line for line in lines[:-1] if not line.startswith(('usage:', ' '))]
        return out + '\n'.join(before), lines[-1]

    return run


def check(line, sentence):
    assert re.fullmatch(rf'(\w+\.py: )?error: {sentence}', line), line


@pytest.mark.parametrize('option, sentence', FIELDS)
def test_a_wrong_field(said, tmp_path, option, sentence):
    before, line = said('train', [CONFIG, '--work-dir', str(tmp_path), '--cfg-options', option])
    assert before == ''
    check(line, sentence)


@pytest.mark.parametrize('option, sentence', PARTS)
def test_a_wrong_part(said, tmp_path, option, sentence):
    check(said('train', [CONFIG, '--work-dir', str(tmp_path), '--cfg-options', option])[1], sentence)


@pytest.mark.parametrize('tool, arguments, sentence', ARGUMENTS)
def test_a_wrong_argument(said, folder, tmp_path, tool, arguments, sentence):
    arguments = [argument.replace('{}', str(folder)) for argument in arguments]
    if tool in ('train', 'test', 'study', 'compare') and '--work-dir' not in arguments and arguments:
        arguments += ['--work-dir', str(tmp_path / 'work')]
    before, line = said(tool, arguments)
    assert before == ''
    check(line, sentence)


@pytest.mark.parametrize('text, sentence', STUDIES)
def test_a_wrong_study(said, tmp_path, text, sentence):
    (tmp_path / 'mine.py').write_text(text)
    before, line = said('study', [str(tmp_path / 'mine.py'), '--work-dir', str(tmp_path / 'work')])
    assert before == ''
    check(line, sentence)


def test_a_bug_keeps_its_traceback(said):
    """One in a class of the user's own, and one of whatever runs after all is built."""
    from mmengine.registry import MODELS

    from mmafan.lab.mistakes import mistake_of
    own: dict = {'__name__': 'mine'}
    exec('class Broken:\n    def __init__(self):\n        self.a = None + 1\n', own)
    with pytest.raises(TypeError) as bug:
        MODELS.build(dict(type=own['Broken']))
    assert mistake_of(bug.value) is None
    with pytest.raises(RuntimeError) as bug:
        torch.zeros(2).reshape(3)
    assert mistake_of(bug.value) is None


def test_a_launch_ends_with_the_sentence(said):
    from types import SimpleNamespace

    from mmafan.lab import launch as launch

    def sentence(data):
        return launch.sentence_of(SimpleNamespace(get_first_failure=lambda: (0, SimpleNamespace(error_file_data=data))))

    assert sentence(dict(message=dict(message='Mistake: a must be 1, got 2', extraInfo={}))) == 'a must be 1, got 2'
    assert sentence(dict(message=dict(message='ValueError: anything'))) == ''
    assert sentence(dict(message='killed')) == sentence(None) == sentence({}) == ''
