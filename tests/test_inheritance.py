"""What a child of ``mmafan::...`` means: the order of the registries, names without a scope, mmengine's hub."""
from __future__ import annotations

import contextlib
import importlib

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config, get_model
from mmengine.registry import MODELS, TRANSFORMS, DefaultScope, Registry
from mmengine.runner import Runner

import mmafan
from mmafan.inheritance import apply
from mmafan.utils import collect_env, register_all_modules

AFAN = dict(taps=dict(s=dict(module='backbone.layer1', step_size=0.1)))


@pytest.fixture(autouse=True)
def no_scope(reproducible):
    """Begin without a surrounding codebase, which a fixture of another module may have left."""
    DefaultScope._instance_dict.clear()


@contextlib.contextmanager
def scope(name):
    """The default scope a Runner sets."""
    with DefaultScope.overwrite_default_scope(name):
        yield


def codebase(name):
    pytest.importorskip(f'{name}.models', reason=f'{name} is not installed')
    return importlib.import_module(f'{name}.registry')


@contextlib.contextmanager
def projects(**classes):
    """Registries of transforms of projects that have one class each, of the same name."""
    try:
        for name, cls in classes.items():
            Registry('transform', parent=TRANSFORMS, scope=name, locations=['collections']).register_module(
                name='Turn', module=cls)
        yield
    finally:
        for name in classes:
            del TRANSFORMS._children[name]


class Mine:
    """A transform of a project."""


class Other:
    """That of another."""


def stamped(**config):
    return dict(config, _scope_='mmafan')


# ---------------------------------------------------------------- the order
@pytest.mark.parametrize('package', ['mmdet', 'mmseg'])
def test_codebase_comes_before_the_root(package):
    """mmcv registers transforms of these names at the root."""
    codebase(package)
    importlib.import_module(f'{package}.datasets')
    with scope(package):
        for name, options in (('LoadAnnotations', {}), ('Resize', dict(scale=(4, 4))), ('RandomFlip', dict(prob=0.5))):
            if name != 'RandomFlip' or package == 'mmdet':
                built = TRANSFORMS.build(stamped(type=name, **options))
                assert type(built).__module__.split('.')[0] in (package, 'mmcv')
                assert type(built) is importlib.import_module(f'{package}.registry').TRANSFORMS.get(name)


def test_codebase_comes_before_the_root_and_own_before_both():
    with projects(firstproject=Mine), _at_root('Turn', Other):
        with scope('firstproject'):
            assert type(TRANSFORMS.build(stamped(type='Turn'))) is Mine
            own = mmafan.registry.OTHERS['TRANSFORMS']
            own.register_module(name='Turn', module=AFANOwn)
            try:
                assert type(TRANSFORMS.build(stamped(type='Turn'))) is AFANOwn
            finally:
                del own._module_dict['Turn']


class AFANOwn:
    """One of mmafan's own."""


@contextlib.contextmanager
def _at_root(name, cls):
    TRANSFORMS.register_module(name=name, module=cls)
    try:
        yield
    finally:
        del TRANSFORMS._module_dict[name]


def test_without_a_surrounding_codebase_the_only_one_is_meant():
    with projects(firstproject=Mine), _at_root('Turn', Other):
        assert type(TRANSFORMS.build(stamped(type='Turn'))) is Mine
    with _at_root('Turn', Other):
        assert type(TRANSFORMS.build(stamped(type='Turn'))) is Other


def test_two_codebases_are_ambiguous():
    with projects(firstproject=Mine, secondproject=Other):
        with pytest.raises(KeyError) as error:
            TRANSFORMS.build(stamped(type='Turn'))
        text = error.value.args[0]
        for fragment in ("type 'Turn' is ambiguous", 'firstproject, secondproject', "'firstproject.Turn'"):
            assert fragment in text
        for name, cls in dict(firstproject=Mine, secondproject=Other).items():
            with scope(name):
                assert type(TRANSFORMS.build(stamped(type='Turn'))) is cls


# ---------------------------------------------------------------- names of models
def test_every_spelling_of_a_model_is_the_same_class():
    codebase('mmpretrain')
    from mmpretrain.models import ImageClassifier
    made = MODELS.get('mmafan.AFANImageClassifier')
    assert issubclass(made, ImageClassifier)
    for surrounding in ('mmpretrain', 'mmengine', 'mmafan'):
        with scope(surrounding):
            for name in ('AFANImageClassifier', 'mmpretrain.AFANImageClassifier',
                         'mmafan.AFANmmpretrain.ImageClassifier', 'mmafan.models.AFANImageClassifier'):
                assert MODELS.get(name) is made, (surrounding, name)
    assert codebase('mmpretrain').MODELS.get('AFANImageClassifier') is made


def test_wrong_spelling_names_the_right_one():
    codebase('mmpretrain')
    for name in ('AFANImageClasifier', 'mmpretrain.AFANImageClasifier', 'mmafan.AFANmmpretrain.ImageClasifier'):
        with pytest.raises(KeyError, match='AFANImageClassifier') as error:
            MODELS.get(name)
        assert '\n' not in error.value.args[0]


def test_own_class_of_such_a_name_comes_first():
    MODELS.register_module(name='AFANMine', module=Mine)
    try:
        assert MODELS.get('AFANMine') is Mine
    finally:
        del MODELS._module_dict['AFANMine']


@pytest.mark.parametrize('surrounding', ['mmpretrain', 'mmafan', None])
def test_class_as_type_builds(tiny_config, surrounding):
    from mmafan.models import AFANImageClassifier
    config = tiny_config(AFANImageClassifier)
    del config['_scope_']  # 'CrossEntropyLoss' and others are in every codebase
    with scope(surrounding):
        model = MODELS.build(config)
    assert type(model) is AFANImageClassifier and type(model.head).__module__.startswith('mmpretrain')


# ---------------------------------------------------------------- data loaders, hub, utils
class Ten(torch.utils.data.Dataset):
    """Ten numbers."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return torch.tensor(index)


def test_scope_does_not_reach_the_collate_function():
    config = ConfigDict(dataset=Ten(), batch_size=5, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
                        collate_fn=dict(type='default_collate', _scope_='mmafan'))
    [first, second] = Runner.build_dataloader(config)
    assert first.tolist() == [0, 1, 2, 3, 4] and second.tolist() == [5, 6, 7, 8, 9]
    assert config.collate_fn._scope_ == 'mmafan'  # what was given stays as it was


@pytest.mark.parametrize('name', ['resnet_afan_digits', 'resnet18_afan_cifar10'])
def test_hub_builds_the_model(name):
    codebase('mmpretrain')
    model = get_model(f'mmafan::mmpretrain/{name}.py')
    assert type(model).__name__ == 'AFANImageClassifier'
    assert type(model.head.loss_module).__module__.startswith('mmpretrain')
    assert get_config(f'mmafan::mmpretrain/{name}.py').default_scope == 'mmpretrain'


def test_register_all_modules_leaves_the_default_scope_alone():
    before = dict(DefaultScope._instance_dict)
    register_all_modules()
    assert DefaultScope._instance_dict == before
    register_all_modules(init_default_scope=True)
    assert DefaultScope.get_current_instance() is not None


def test_environment_names_mmafan():
    found = collect_env()
    assert found['mmafan'] == mmafan.__version__ and 'PyTorch' in found and 'mmdet' in found


def test_configs_are_those_of_the_imported_package(tmp_path):
    child = tmp_path / 'child.py'
    child.write_text("_base_ = 'mmafan::mmpretrain/resnet_afan_digits.py'\n")
    text = Config.fromfile(str(child)).text
    assert mmafan.__path__[0] in text


def test_applying_again_changes_nothing():
    before = Config._get_cfg_path, Runner.build_dataloader, Registry.get
    apply()
    assert (Config._get_cfg_path, Runner.build_dataloader, Registry.get) == before
