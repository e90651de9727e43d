"""``AFAN<Stock>`` from every scope, a user's own models, and configs reached through ``mmafan::``."""
from __future__ import annotations

import contextlib
import copy
import importlib
import subprocess
import sys
import textwrap

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS, TRANSFORMS, DefaultScope, Registry, init_default_scope
from torch import nn

import mmafan
from mmafan.models import AFANModelMixin, afan_model

AFAN = dict(taps=dict(s=dict(module='backbone.layer1', step_size=0.1)))
CONFIG = 'mmpretrain/resnet18_afan_cifar10.py'


@contextlib.contextmanager
def scope(name):
    """The default scope a Runner sets."""
    with DefaultScope.overwrite_default_scope(name):
        yield


def codebase(name):
    """Import a codebase's models, or skip."""
    pytest.importorskip(name, reason=f'{name} is not installed')
    return importlib.import_module(f'{name}.models')


# ---------------------------------------------------------------- the rule
STOCK = [('mmpretrain', 'ImageClassifier'), ('mmdet', 'FasterRCNN'), ('mmdet', 'RetinaNet'),
         ('mmseg', 'EncoderDecoder')]


@pytest.mark.parametrize('package, name', STOCK, ids=lambda v: v)
def test_afan_model_is_its_stock_model(package, name):
    stock = getattr(codebase(package), name)
    with scope(package):
        made = MODELS.get(f'mmafan.AFAN{name}')
    assert issubclass(made, stock) and issubclass(made, AFANModelMixin)
    assert made.__name__ == f'AFAN{name}' and made is not stock
    registry = importlib.import_module(f'{package}.registry').MODELS
    places = [lambda: mmafan.MODELS.get(f'AFAN{name}'), lambda: registry.get(f'mmafan.AFAN{name}'),
              lambda: MODELS.get(f'mmafan.AFAN{name}'), lambda: getattr(mmafan.models, f'AFAN{name}')]
    for place in places:
        for surrounding in (package, 'mmengine', 'mmafan'):
            with scope(surrounding):
                assert place() is made


def test_what_stands_for_a_model_whose_package_is_missing_says_so():
    """mmpretrain registers functions in the place of models that need further packages."""
    registry = importlib.import_module('mmpretrain.registry').MODELS if codebase('mmpretrain') else None
    name = 'NeedsAnotherPackage'

    def ask_install(*args, **kwargs):
        raise ImportError('please install another_package')

    registry.register_module(name=name, module=ask_install)
    try:
        for kind in (f'mmafan.AFAN{name}', f'mmafan.AFANmmpretrain.{name}'):
            with scope('mmpretrain'), pytest.raises(ImportError, match='please install another_package'):
                MODELS.build(dict(type=kind, afan=AFAN))
    finally:
        del registry._module_dict[name]


def test_builds_from_the_scope_of_the_codebase_and_from_the_root(tiny_config):
    config = tiny_config()
    from mmpretrain.models import ImageClassifier
    from mmpretrain.registry import MODELS as PRETRAIN
    with scope('mmpretrain'):
        inner = PRETRAIN.build(copy.deepcopy(config))
    outer = MODELS.build(config)
    assert type(inner) is type(outer) and isinstance(outer, ImageClassifier)
    assert outer.afan.config.taps['s'].module == 'backbone.layer1'
    assert set(inner.state_dict()) == set(MODELS.build(tiny_config('ImageClassifier', afan=None)).state_dict())


def test_importable_by_name():
    codebase('mmpretrain')
    from mmafan.models import AFANImageClassifier
    assert AFANImageClassifier is mmafan.MODELS.get('AFANImageClassifier')
    with pytest.raises(ImportError, match='AFANNothing'):
        from mmafan.models import AFANNothing  # noqa: F401
    assert not hasattr(importlib.import_module('mmafan.models'), 'Nothing')


@pytest.mark.parametrize('name, close', [('AFANImageClasifier', 'AFANImageClassifier'),
                                         ('AFANImgClassifier', 'AFANImageClassifier')])
def test_unknown_model_suggests_the_closest(name, close):
    codebase('mmpretrain')
    for surrounding in ('mmpretrain', 'mmengine'):
        with scope(surrounding), pytest.raises(KeyError) as error:
            MODELS.build(dict(type=f'mmafan.{name}', afan=AFAN))
        text = error.value.args[0]
        assert name in text and close in text and '\n' not in text


@pytest.mark.parametrize('surrounding', ['mmpretrain', 'mmengine'])
def test_backbone_is_no_model(surrounding):
    codebase('mmpretrain')
    with scope(surrounding), pytest.raises(TypeError, match='A-FAN wraps whole models .* got .ResNet_CIFAR.'):
        MODELS.build(dict(type='mmafan.AFANResNet_CIFAR', depth=18, afan=AFAN))


def test_hooks_are_found_from_every_scope():
    for surrounding in ('mmengine', 'mmpretrain', 'mmafan'):
        with scope(surrounding):
            for name in ('AdvFeatureHook', 'mmafan.AdvFeatureHook'):
                assert HOOKS.get(name) is mmafan.hooks.AdvFeatureHook
            assert HOOKS.get('CheckpointHook').__module__.startswith('mmengine')


# ---------------------------------------------------------------- a user's own models
class Plain(BaseModel):
    """A model that computes its losses in forward and has no method loss."""

    def __init__(self, width=5):
        super().__init__()
        self.first = nn.Linear(4, width)
        self.second = nn.Linear(width, 2)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        out = self.second(torch.tanh(self.first(inputs)))
        if mode == 'loss':
            return dict(loss_plain=nn.functional.cross_entropy(out, data_samples))
        return out


PLAIN_AFAN = dict(taps=dict(t=dict(module='first', step_size=0.3, strengths=(0.5, 1.0))))


def plain_data():
    return dict(inputs=torch.randn(6, 4), data_samples=torch.tensor([0, 1, 1, 0, 1, 0]))


@contextlib.contextmanager
def registered(registry, **classes):
    """Register classes for a while."""
    for name, cls in classes.items():
        registry.register_module(name=name, module=cls)
    try:
        yield
    finally:
        for name in classes:
            del registry._module_dict[name]


def test_registered_model_of_a_user():
    with registered(MODELS, PlainForRegistry=Plain):
        model = MODELS.build(dict(type='mmafan.AFANPlainForRegistry', width=7, afan=PLAIN_AFAN))
        again = mmafan.MODELS.get('AFANPlainForRegistry')
    assert isinstance(model, Plain) and type(model) is again and model.first.out_features == 7


def test_registered_model_in_the_scope_of_a_user():
    own = Registry('model', parent=MODELS, scope='userproject', locations=['collections'])
    try:
        own.register_module(name='OwnScopePlain', module=Plain)
        for surrounding in ('userproject', 'mmengine'):
            with scope(surrounding):
                assert issubclass(MODELS.get('mmafan.AFANOwnScopePlain'), Plain)
    finally:
        del MODELS._children['userproject']


@pytest.mark.parametrize('schedule', ['two_phase', 'single_graph'])
def test_decorated_model_trains(schedule):

    @afan_model
    class Decorated(Plain):
        """Doc of the user."""

    torch.manual_seed(1)
    model, stock = Decorated(afan=dict(PLAIN_AFAN, schedule=schedule)), Plain()
    stock.load_state_dict(model.state_dict(), strict=True)
    assert (Decorated.__name__, Decorated.__doc__, Decorated.__module__) == ('Decorated', 'Doc of the user.', __name__)
    data = plain_data()
    log = model.train_step(data, OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)))
    plain_log = stock.train_step(data, OptimWrapper(torch.optim.SGD(stock.parameters(), lr=0.1)))
    assert {'loss', 'loss_plain', 'adv_t_0.loss_plain', 'adv_t_1.loss_plain'} == set(log)
    torch.testing.assert_close(log['loss_plain'], plain_log['loss_plain'])
    # Losses grow with the strength of an attack that raises the loss.
    assert log['loss_plain'] < log['adv_t_0.loss_plain'] < log['adv_t_1.loss_plain']
    torch.testing.assert_close(log['loss'], log['loss_plain'] + log['adv_t_0.loss_plain'] + log['adv_t_1.loss_plain'])
    # The head learns from the clean loss alone, the tail from all.
    for name, value in model.named_parameters():
        close = torch.allclose(value, stock.get_parameter(name), rtol=0, atol=1e-6)
        assert close == name.startswith('first'), name
    assert torch.equal(model(data['inputs']), model.second(torch.tanh(model.first(data['inputs']))))


def test_decorating_twice_and_decorating_no_model():
    once = afan_model(type('Once', (Plain, ), {}))
    assert afan_model(once) is once
    for wrong in (nn.Linear, Plain(), None):
        with pytest.raises(TypeError, match='A-FAN wraps whole models'):
            afan_model(wrong)


def test_decorated_model_without_afan_says_what_is_missing():
    with pytest.raises(ValueError, match=r'model\.afan is missing: Bare needs afan=dict\(taps'):
        afan_model(type('Bare', (Plain, ), {}))()


def test_name_in_two_scopes_is_ambiguous_until_one_is_meant():
    first = Registry('model', parent=MODELS, scope='firstproject', locations=['collections'])
    second = Registry('model', parent=MODELS, scope='secondproject', locations=['collections'])
    try:
        twins = {name: type('TwinNet', (Plain, ), {}) for name in ('firstproject', 'secondproject')}
        first.register_module(module=twins['firstproject'])
        second.register_module(module=twins['secondproject'])
        with scope('mmengine'), pytest.raises(KeyError) as error:
            MODELS.get('mmafan.AFANTwinNet')
        text = error.value.args[0]
        for fragment in ("'AFANTwinNet' is ambiguous", 'firstproject, secondproject', "'TwinNet'", 'default_scope'):
            assert fragment in text
        for name, cls in twins.items():
            with scope(name):
                assert issubclass(MODELS.get('mmafan.AFANTwinNet'), cls)
    finally:
        del MODELS._children['firstproject'], MODELS._children['secondproject']


# ---------------------------------------------------------------- import
def python(code, *arguments):
    """Run Python without this process's imports; return what it prints."""
    done = subprocess.run([sys.executable, '-c', textwrap.dedent(code), *arguments], universal_newlines=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr[-600:]
    return done.stdout.strip().splitlines()


def test_import_brings_no_codebase_and_absent_codebases_cost_nothing():
    lines = python('''
        import sys
        import mmafan
        names = ('mmpretrain', 'mmdet', 'mmseg')
        print('imported', [n for n in names if n in sys.modules])
        for name in names:
            sys.modules[name] = None  # what is not installed cannot be imported
        from mmengine.registry import MODELS
        try:
            MODELS.build(dict(type='mmafan.AFANImageClassifier'))
        except KeyError as error:
            print('error', error.args[0])
        from mmengine.model import BaseModel
        MODELS.register_module(name='Mine', module=type('Mine', (BaseModel, ), {}))
        print('made', MODELS.get('mmafan.AFANMine').__name__)
        ''')
    assert lines[0] == 'imported []'
    assert lines[1].startswith("error model type 'mmafan.AFANImageClassifier' needs a registered model named")
    assert lines[2] == 'made AFANMine'


# ---------------------------------------------------------------- configs reached through mmafan::
@pytest.fixture
def resnet_config(repo):
    path = repo / 'configs' / CONFIG
    if not path.is_file():
        pytest.skip(f'configs/{CONFIG} is not there')
    pytest.importorskip('mmpretrain', reason='the config inherits one of mmpretrain')
    return path


BASES = ["'mmafan::mmpretrain/resnet18_afan_cifar10.py'",
         "[__import__('mmafan') and 'mmafan::mmpretrain/resnet18_afan_cifar10.py']"]


@pytest.mark.parametrize('base', BASES, ids=['name', 'import'])
def test_inherited_config_equals_the_file(base, resnet_config, tmp_path):
    child = tmp_path / 'child.py'
    child.write_text(f'_base_ = {base}\nmodel = dict(afan=dict(clean_weight=0.5))\n')
    inherited, direct = Config.fromfile(str(child)), Config.fromfile(str(resnet_config))
    assert inherited.model.afan.clean_weight == 0.5
    assert inherited.model.afan.taps == direct.model.afan.taps
    assert inherited.model.backbone == direct.model.backbone and inherited.model.type == direct.model.type
    with scope(inherited.default_scope):
        model = MODELS.build(inherited.model)
    assert type(model).__name__ == 'AFANImageClassifier' and type(model.backbone).__module__.startswith('mmpretrain')


def test_import_in_the_base_needs_nothing_imported_before(resnet_config, tmp_path):
    child = tmp_path / 'child.py'
    child.write_text(f'_base_ = {BASES[1]}\n')
    lines = python('''
        import sys
        from mmengine.config import Config
        assert 'mmafan' not in sys.modules
        print(Config.fromfile(sys.argv[1]).model.type)
        ''', str(child))
    assert lines[-1].endswith('AFANImageClassifier')


def test_parts_of_an_inherited_config_build_in_the_right_codebase(resnet_config, tmp_path):
    """``mmafan::`` stamps ``_scope_='mmafan'`` on the models, data sets, hooks, ... it brings."""
    child = tmp_path / 'child.py'
    child.write_text(f'_base_ = {BASES[0]}\n')
    config = Config.fromfile(str(child))
    init_default_scope(config.default_scope)
    for transform in config.train_dataloader.dataset.pipeline:
        assert type(TRANSFORMS.build(transform)).__module__.split('.')[0] in ('mmpretrain', 'mmcv')
    evaluator = config.val_evaluator if isinstance(config.val_evaluator, list) else [config.val_evaluator]
    for metric in evaluator:
        assert type(METRICS.build(metric)).__module__.startswith('mmpretrain')


def stamped(config):
    """Stamp a dict as mmengine does: the outermost one with a type, alone."""
    return dict(config, _scope_='mmafan')


@pytest.mark.parametrize('package, options', [('mmpretrain', dict(stem_channels=4)), ('mmdet', {}), ('mmseg', {})],
                         ids=['mmpretrain', 'mmdet', 'mmseg'])
def test_stamped_types_resolve_to_the_codebase_of_the_run(package, options):
    """All three have a ResNet."""
    codebase(package)
    config = stamped(dict(type='ResNet', depth=18, base_channels=4, norm_cfg=dict(type='AFANNorm'), **options))
    with scope(package):
        assert type(MODELS.build(config)).__module__.startswith(f'{package}.')


def test_stamped_model_data_and_hooks_build(tiny_config):
    with scope('mmpretrain'):
        model = MODELS.build(stamped(tiny_config('AFANImageClassifier')))
        assert type(model.head).__module__.startswith('mmpretrain')
        packs = TRANSFORMS.build(stamped(dict(type='PackInputs')))
        assert type(packs).__module__.startswith('mmpretrain')
        assert type(METRICS.build(stamped(dict(type='Accuracy')))).__module__.startswith('mmpretrain')
        assert type(HOOKS.build(stamped(dict(type='CheckpointHook', interval=1)))).__module__.startswith('mmengine')
        assert DATASETS.get('mmafan.CIFAR10').__module__.startswith('mmpretrain')
        with pytest.raises(KeyError, match='NoSuchThing'):
            TRANSFORMS.build(stamped(dict(type='NoSuchThing')))


def test_old_style_super_in_a_decorated_model_is_one_sentence():
    from mmengine.model import BaseModel

    import mmafan

    class Net(BaseModel):

        def __init__(self):
            super(Net, self).__init__()

        def forward(self, inputs, data_samples=None, mode='tensor'):
            return inputs

    Net = mmafan.afan_model(Net)
    with pytest.raises(TypeError, match=r'Net must call super\(\)'):
        Net(afan=dict(taps=dict(s=dict(module='x', step_size=0.1))))
