"""Containers of every kind, and objects with tensors in them, are walked; what cannot be walked is told."""
from __future__ import annotations

import dataclasses
from collections import OrderedDict, deque, namedtuple
from types import SimpleNamespace

import pytest
import torch
from mmengine.structures import InstanceData
from torch import nn

from mmafan.replay import PassKind, current_pass
from mmafan.replay.tree import map_tensors, map_tree, tensors_of

from ..nets import Net, rows
from ..rule import assert_rule, build, train

Pair = namedtuple('Pair', 'first second')


@dataclasses.dataclass
class Plain:
    x: torch.Tensor
    note: str = ''


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: torch.Tensor


class Slots:
    __slots__ = ('x', )

    def __init__(self, x):
        self.x = x


class Guarded:
    """Its setter refuses, as those of data elements do."""

    def __init__(self, x):
        vars(self)['x'] = x

    def __setattr__(self, name, value):
        raise AttributeError(name)


class Fields(OrderedDict):
    """As the outputs of some libraries: a dict whose items are attributes too."""

    @property
    def x(self):
        return self['x']


class Callable:

    def __init__(self, x):
        self.x = x

    def __call__(self):
        return self.x


def instances(x):
    made = InstanceData()
    made.x = x
    return made


def cyclic(x):
    made = SimpleNamespace(x=x)
    made.itself = made
    return made


def distribution(x):
    return torch.distributions.Normal(x, x.detach().abs() + 1)


KINDS = dict(
    plain=(Plain, lambda o: o.x), frozen=(Frozen, lambda o: o.x), slots=(Slots, lambda o: o.x),
    guarded=(Guarded, lambda o: o.x), instances=(instances, lambda o: o.x), cyclic=(cyclic, lambda o: o.x),
    namespace=(lambda x: SimpleNamespace(x=[x]), lambda o: o.x[0]),
    namedtuple=(lambda x: Pair(None, Frozen(x)), lambda o: o.second.x),
    queue=(lambda x: deque([x], maxlen=2), lambda o: o[0]),
    fields=(lambda x: Fields(x=x), lambda o: o.x),
    nested=(lambda x: dict(a=[Plain((x, ))]), lambda o: o['a'][0].x[0]),
    structseq=(lambda x: torch.max(x[:, :, None].expand(-1, -1, 2), 2), lambda o: o.values),
    packed=(lambda x: nn.utils.rnn.pack_padded_sequence(x[:, :, None], [6] * len(x), batch_first=True),
            lambda o: nn.utils.rnn.pad_packed_sequence(o, batch_first=True)[0][..., 0]),
    sparse=(lambda x: x.to_sparse(), lambda o: o.to_dense()),
    distribution=(distribution, lambda o: o.loc))
UNKNOWN = dict(callable=(Callable, lambda o: o()), function=(lambda x: lambda: x, lambda o: o()))


class Wrapping(nn.Module):

    def __init__(self, wrap):
        super().__init__()
        self.layer, self.wrap = nn.Linear(6, 6), wrap

    def forward(self, x):
        return self.wrap(self.layer(x))


def returning(wrap, unwrap, at):
    """Make a model in which one layer returns an object that goes around the tap too."""

    class Returning(Net):

        def __init__(self):
            super().__init__()
            setattr(self, at, Wrapping(wrap))

        def forward(self, inputs, mode='tensor'):
            held = self.a(inputs)
            first = unwrap(held) if at == 'a' else held
            output = self.t(torch.tanh(first))
            output = unwrap(output) if at == 't' else output
            return {'loss': (self.c(output) + (unwrap(held) if at == 'a' else held)).square().mean()}

    return Returning


@pytest.mark.parametrize('kind, at', [(kind, at) for kind in KINDS for at in 'at' if (kind, at) != ('sparse', 't')])
def test_the_rule_holds_for_what_a_module_returns(kind, at):
    assert_rule(returning(*KINDS[kind], at), lambda number: (rows(number), ), steps=2)


@pytest.mark.parametrize('schedule', ['two_phase', 'single_graph'])
@pytest.mark.parametrize('kind', UNKNOWN)
def test_what_cannot_be_looked_into_is_refused_before_a_weight_changes(kind, schedule):
    model = build(returning(*UNKNOWN[kind], 'a'), taps=dict(s=dict(module='t', step_size=0.1)), schedule=schedule)
    with pytest.raises(ValueError, match=r"taps\.s\.module .*'t' lies after a tensor that is handed on on a way that"):
        train(model, lambda number: (rows(number), ), 1)


def test_a_global_variable_that_leaks_is_refused():
    kept = []

    class Leaking(Net):

        def forward(self, inputs, mode='tensor'):
            return {'loss': (self.c(self.t(self.a(inputs))) + kept[0]).square().mean()}

    class Keeping(nn.Linear):

        def forward(self, x):
            kept[:] = [super().forward(x)]
            return kept[0].detach()

    class Both(Leaking):

        def __init__(self):
            super().__init__()
            self.a = nn.Sequential(nn.Linear(6, 6), Keeping(6, 6), nn.Linear(6, 6))

    with pytest.raises(ValueError, match='such as a function, a generator or a global variable: return it from'):
        train(build(Both, taps=dict(s=dict(module='t', step_size=0.1))), lambda number: (rows(number), ), 1)


def test_a_sparse_feature_is_refused():
    model = build(returning(*KINDS['sparse'], 't'), taps=dict(s=dict(module='t', step_size=0.1)))
    with pytest.raises(ValueError, match="'t' returns a sparse tensor"):
        train(model, lambda number: (rows(number), ), 1)


# ---------------------------------------------------------------- the walk itself
def test_what_is_there_twice_stays_one():
    shared = torch.zeros(2)
    first, second = map_tensors(torch.clone, [shared, dict(a=shared)])
    assert first is second['a'] and first is not shared
    assert len(tensors_of([shared, (shared, )])) == 1


def test_a_container_in_which_nothing_is_replaced_can_stay():
    untouched, touched = Plain(torch.zeros(1)), Plain(torch.ones(1))
    value = (untouched, [touched])
    made = map_tensors(lambda t: t + 1 if t.sum() else t, value, keeps=True)
    assert made[0] is untouched and made[1][0] is not touched and touched.x == 1 and made[1][0].x == 2
    assert map_tensors(lambda t: t, value, keeps=True) is value


def test_what_is_no_container_stays_the_same_object():
    layer, function, number = nn.Linear(1, 1), len, object()
    assert map_tree(lambda node: 0 if isinstance(node, torch.Tensor) else _descend(), [layer, function, number]) == [
        layer, function, number]
    assert tensors_of([layer, Plain]) == []


def _descend():
    from mmafan.replay.tree import DESCEND
    return DESCEND


def test_two_maps_of_a_value_meet_its_tensors_in_the_order_of_their_list():
    value = dict(b=[torch.tensor(1.), Plain(torch.tensor(2.))], a=Pair(torch.tensor(3.), deque([torch.tensor(4.)])))
    seen = []
    map_tensors(lambda t: seen.append(float(t)), value)
    assert seen == [float(t) for t in tensors_of(value)] == [1., 2., 3., 4.]


@pytest.mark.parametrize('place', ['a.store', 'store'])
def test_an_attribute_in_which_a_tensor_is_handed_on_is_named(place):

    class Keeping(Net):

        def __init__(self):
            super().__init__()
            self.get_submodule(place.rpartition('.')[0]).store = SimpleNamespace()

        def forward(self, inputs, mode='tensor'):
            store, x = self.get_submodule(place.rpartition('.')[0]).store, self.a(inputs)
            if current_pass().kind is PassKind.CLEAN:
                store.x = x
            return {'loss': (self.c(self.t(x)) + store.x).square().mean()}

    with pytest.raises(ValueError, match=f'in the attribute {place!r}: return it from'):
        train(build(Keeping, taps=dict(s=dict(module='t', step_size=0.1))), lambda number: (rows(number), ), 1)
