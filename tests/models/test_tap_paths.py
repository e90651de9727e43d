"""The stages of a network by any name, and what is offered for a tap's module that does not exist."""
from __future__ import annotations

import functools

import pytest
from torch import nn

from mmafan.config import AFANConfig
from mmafan.models import tap_paths
from mmafan.models.tap_paths import check_model, find_series, may_return, may_run


class ConvNeXtLike(nn.Module):
    """Stages in a list, beside norms whose names are nearer to 'layer2'."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.stages = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        for k in range(4):
            self.backbone.add_module(f'norm{k}', nn.LayerNorm(8))


@pytest.mark.parametrize('module, hint', [
    ('backbone.layer2', "the stages of its backbone are 'backbone.stages.0', 'backbone.stages.1'"),
    ('backbone.norn2', "did you mean 'backbone.norm2'"),
    ('backbon.norm2', "did you mean 'backbone.norm2'"),
    ('backbon', "did you mean 'backbone'?"),
])
def test_error_offers_modules_that_can_be_a_tap(module, hint):
    config = AFANConfig.from_dict(dict(taps=dict(s=dict(module=module, step_size=0.1))))
    with pytest.raises(ValueError) as error:
        check_model(ConvNeXtLike(), config)
    assert hint in str(error.value) and '\n' not in str(error.value)
    assert 'norm3' not in str(error.value) or module.endswith('norm2') or module.endswith('norn2')


def test_series_is_the_largest():
    assert find_series(ConvNeXtLike().backbone) == [f'stages.{k}' for k in range(4)]


def test_series_are_in_the_order_of_their_numbers_and_parts_of_parts_are_none():
    net = nn.Module()
    for number in (10, 2, 0):
        net.add_module(f'block_{number}', nn.Linear(4, 4))
    net.add_module('large1', nn.Linear(40, 40))  # alone
    net.add_module('head1', nn.Linear(2, 2))
    net.add_module('head2', nn.Linear(2, 2))
    net.add_module('deep', nn.Sequential(nn.Sequential(nn.Linear(9, 9), nn.Linear(9, 9))))
    assert find_series(net) == ['block_0', 'block_2', 'block_10']
    assert find_series(nn.Sequential(nn.Linear(2, 2))) == find_series(nn.Linear(2, 2)) == []
    assert find_series(nn.Sequential(nn.ReLU(), nn.ReLU())) == ['0', '1']


# ---------------------------------------------------------------- the module of a tap
def checked(model, **taps):
    taps = {name: dict(dict(step_size=0.1), **(dict(module=tap) if isinstance(tap, str) else tap))
            for name, tap in taps.items()}
    return {name: tap.module for name, tap in
            check_model(model, AFANConfig.from_dict(dict(taps=taps, clean_weight=0.5))).taps.items()}


def refused(model, **taps):
    with pytest.raises(ValueError) as error:
        checked(model, **taps)
    return str(error.value)


class Parts(nn.Module):
    """Containers of every kind, an alias and a branch."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.alias = self.stem
        self.stages = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.heads = nn.ModuleDict(dict(one=nn.Linear(4, 2), two=nn.Linear(4, 2)))
        self.empty, self.none = nn.ModuleList(), nn.ModuleDict()


def test_a_tap_at_a_list_is_at_its_last_module_and_all_else_stays(monkeypatch):
    said = []
    monkeypatch.setattr(tap_paths, 'print_log', lambda text, logger: said.append((text, logger)))
    assert checked(Parts(), a='stages', b='stem', c='inputs', d='stages.0', e='heads.one') == dict(
        a='stages.2', b='stem', c='inputs', d='stages.0', e='heads.one')
    assert said == [("afan.taps.a.module='stages' is a list of modules: the tap is its last one, 'stages.2'",
                     'current')]
    config = AFANConfig.from_dict(dict(taps=dict(a=dict(module='stages', step_size=0.3)), clean_weight=0.5))
    found = check_model(Parts(), config)
    assert (found.clean_weight, found.taps['a'].step_size, config.taps['a'].module) == (0.5, 0.3, 'stages')


@pytest.mark.parametrize('taps, sentence', [
    (dict(b='stem', a='heads'),
     "afan.taps.a.module must name a module that is called, got 'heads', a container without a forward; name one of "
     "its entries, such as 'heads.two'"),
    (dict(a='none'), "afan.taps.a.module must name a module that is called, got 'none', a container without a forward; "
                     "name one of its entries, such as '?'"),
    (dict(a='empty'), "afan.taps.a.module must name a module that is called, got 'empty', an empty list"),
    (dict(a='inputs', b='stages', c='stages.2'),
     "afan.taps.c.module must differ from that of afan.taps.b, but 'stages.2' and 'stages.2' are one module under two "
     'names'),
    (dict(a='stem', b='alias'),
     "afan.taps.b.module must differ from that of afan.taps.a, but 'alias' and 'stem' are one module under two names"),
    (dict(a='stage'), "afan.taps.a.module must name a module of Parts, got 'stage': did you mean 'stages' or 'stem'?"),
    (dict(a='inputs', b='heads.on'), "afan.taps.b.module must name a module of Parts, got 'heads.on': did you mean "
                                     "'heads.one'?"),
])
def test_a_tap_that_cannot_be_is_named_with_what_would_be_right(taps, sentence):
    assert refused(Parts(), **taps) == sentence


def test_two_taps_may_share_a_module_at_its_input_and_its_output():
    assert checked(Parts(), a='stem', b=dict(module='alias', at='input')) == dict(a='stem', b='alias')


def test_what_is_offered_is_near_in_name_or_in_depth():
    model = Parts()
    # no sibling is near: one of the same depth, or of another one, or a list of what is there
    assert refused(model, a='hedas.on').endswith("got 'hedas.on': did you mean 'heads.one' or 'heads.two'?")
    assert refused(model, a='xstages.q9').endswith('did you mean ' + ' or '.join(
        repr(f'stages.{k}') for k in (2, 1, 0)) + '?')
    names = ['stem', 'alias', 'stages', 'stages.0', 'stages.1', 'stages.2', 'heads', 'heads.one', 'heads.two', 'empty',
             'none']
    for path in ('qqqqqqqq', 'qqqq.qqqq', 'q.q.q'):
        assert refused(model, a=path).endswith('valid names are ' + ', '.join(map(repr, names))), path
    # stages are those of a backbone alone
    model.backbone = nn.Module()
    assert 'the stages' not in refused(model, a='backbone.zzz')
    model.backbone.layer1, model.backbone.layer2 = nn.Linear(4, 4), nn.Linear(4, 4)
    assert refused(model, a='backbone.zzz').endswith(
        "the stages of its backbone are 'backbone.layer1', 'backbone.layer2'; `mmafan taps` lists every module that "
        'can be a tap')
    assert 'the stages' not in refused(model, a='zzz.zzz') and 'the stages' not in refused(model, a='backbone.zzz.zzz')
    assert refused(model, a='backbone.layer3').endswith("did you mean 'backbone.layer2' or 'backbone.layer1'?")
    model.backbone = None
    assert 'the stages' not in refused(model, a='backbone.zzz')


# ---------------------------------------------------------------- what the code of a model says
class Base(nn.Module):

    def __init__(self):
        super().__init__()
        self.read, self.stored, self.late = (nn.Linear(2, 2) for _ in range(3))
        self.stages = nn.ModuleList(nn.ModuleList([nn.Linear(2, 2)]) for _ in range(2))
        self.rows = nn.ModuleList([nn.Linear(2, 2)])

    def forward(self, x):
        return dict(loss_a=self.read(x), **{name: x for name in ('loss_t', ('loss_u', ))})


def passes_on(function):

    @functools.wraps(function)
    def passed(*args):
        return function(*args)

    return passed


class Derived(Base):
    loss_field = 'loss_field'

    @passes_on
    def forward(self, x):
        return [self.late(row) for row in (lambda: [stage(x) for stage in self.stages])()]

    @staticmethod
    def names():
        return 'loss_static', ''


class Holder(nn.Module):

    def __init__(self):
        super().__init__()
        self.part = Derived()

    def forward(self, x):
        """Loss_doc is no loss."""
        return self.part(x)


@pytest.mark.parametrize('path, reads', [
    ('read', True), ('late', True), ('stored', False), ('rows', False), ('rows.0', False), ('stages', True),
    ('stages.1', True), ('stages.1.0', True)])
def test_a_forward_may_come_to_what_the_code_of_its_owner_reads(path, reads):
    assert may_run(Derived(), path) is reads and may_run(Holder(), f'part.{path}') is reads
    assert may_run(Holder(), 'part')


@pytest.mark.parametrize('name, written', [
    ('loss_a', True), ('loss_t', True), ('loss_u', True), ('loss_static', True), ('aux.loss_a', True),
    ('*loss_a', True), ('adv*', False), ('loss_field', False), ('loss_b', False), ('loss_a.loss_b', False),
    ('*', False), ('loss_a.', False)])
def test_a_loss_may_come_where_the_code_of_a_part_writes_its_name(name, written):
    assert may_return(Holder(), name) is written
