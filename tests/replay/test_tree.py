"""Containers of every kind, and objects with tensors in them, are walked; what cannot be walked is told."""
from __future__ import annotations

import dataclasses
from collections import OrderedDict, defaultdict, deque, namedtuple
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from torch import nn

from mmafan.replay import PassKind, current_pass
from mmafan.replay.tree import (DESCEND, WINDOW, Contents, attributes_of, children_of, copy_values, holds_same,
                                map_tensors, map_tree, refill, snapshot, tensors_of)

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
    assert map_tree(lambda node: 0 if isinstance(node, torch.Tensor) else DESCEND, [layer, function, number]) == [
        layer, function, number]
    assert tensors_of([layer, Plain]) == []


def test_two_maps_of_a_value_meet_its_tensors_in_the_order_of_their_list():
    value = dict(b=[torch.tensor(1.), Plain(torch.tensor(2.))], a=Pair(torch.tensor(3.), deque([torch.tensor(4.)])))
    seen = []
    map_tensors(lambda t: seen.append(float(t)), value)
    assert seen == [float(t) for t in tensors_of(value)] == [1., 2., 3., 4.]


class Wide(Slots):
    """With slots of its own, one of which is empty, and those of its base."""
    __slots__ = ('first', 'Second', '_third', 'empty', '__weakref__')


class Both(Slots):
    """With a slot of its base and attributes."""


class OneSlot:
    __slots__ = 'only'


class Text(str):
    """With attributes."""


def having(made, **attributes):
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize('value, expected', [
    (Wide(1), {'x': 1}), (having(Wide(1), first=2, Second=3, _third=4), dict(first=2, Second=3, _third=4, x=1)),
    (having(Both(1), y=2), {'x': 1, 'y': 2}),
    (having(OneSlot(), only=3), {'only': 3}), (OneSlot(), {}), (SimpleNamespace(a=1), {'a': 1}),
    (SimpleNamespace(), {}), (object(), None), (Callable(1), None), (Plain, None), (torch.zeros(1), None),
    (len, None), (nn.Identity(), None)])
def test_the_attributes_of_an_object_are_those_in_its_slots_too(value, expected):
    assert attributes_of(value) == expected
    children = children_of(value)
    assert (children if children is None else dict(children)) == expected


@pytest.mark.parametrize('value, expected', [
    ([1, 2], [(0, 1), (1, 2)]), ((1, ), [(0, 1)]), (deque([1]), [(0, 1)]), (Pair(1, 2), [(0, 1), (1, 2)]),
    (OrderedDict(b=1, a=2), [('b', 1), ('a', 2)]), ({1}, None), (frozenset([1]), None), (3, None), (None, None),
    ('text', None), (having(Text('text'), x=1), None), (np.zeros(2), None), (torch.Size([1]), None)])
def test_a_container_holds_what_it_holds_by_key_or_number(value, expected):
    children = children_of(value)
    assert (children if children is None else list(children)) == expected


def test_sets_are_copied_unless_they_may_stay():
    value = [{1}, frozenset([1])]
    made = map_tensors(torch.clone, value)
    assert made == value and made[0] is not value[0] and made[1] is value[1]
    assert map_tensors(torch.clone, value, keeps=True) is value
    made = snapshot(value)
    made[0].add(2)
    assert value[0] == {1}


def test_each_object_is_asked_for_once_and_the_outermost_first():
    inner, asked = [1], []
    value = dict(a=inner, b=(inner, 'x'))

    def ask(node):
        asked.append(node)
        return 7 if node == 'x' else DESCEND

    made = map_tree(ask, value)
    assert asked[:2] == [value, inner] and [node for node in asked if node is inner] == [inner]
    assert made == dict(a=[1], b=([1], 7)) and made['a'] is made['b'][0] is not inner


@pytest.mark.parametrize('keeps', [False, True])
def test_what_is_filled_anew_keeps_its_kind(keeps):
    value = dict(queue=deque([1, 2], maxlen=2), default=defaultdict(list, a=1), pair=Pair(1, 2), frozen=Frozen(1),
                 both=having(Both(1), y=1), guarded=Guarded(1), plain=(1, 2))
    made = map_tree(lambda node: DESCEND if type(node) is not int else node + 1, value, keeps=keeps)
    assert made['queue'] == deque([2, 3]) and made['queue'].maxlen == 2 and made['pair'] == Pair(2, 3)
    assert made['default'] == dict(a=2) and made['default']['new'] == [] and type(made['pair']) is Pair
    assert made['frozen'].x == made['guarded'].x == made['both'].x == made['both'].y == 2 and made['plain'] == (2, 3)
    assert value['frozen'].x == value['guarded'].x == value['both'].x == value['both'].y == 1
    assert value['queue'] == deque([1, 2]) and value['default'] == dict(a=1)


def test_nothing_is_kept_without_being_asked_for():
    value = [Plain(1), ()]
    assert map_tree(lambda node: DESCEND, value)[0] is not value[0] and snapshot(value)[0] is not value[0]
    assert map_tensors(torch.clone, torch.zeros(1)) is not None


def test_a_copy_of_values_has_a_memory_of_its_own_and_no_graph():
    tensor = torch.ones(2, requires_grad=True)
    made = copy_values(tensor)
    assert not made.requires_grad and made.data_ptr() != tensor.data_ptr() and made.tolist() == [1, 1]


ONE, OTHER = object(), object()


@pytest.mark.parametrize('container, content, expected', [
    ([ONE], [ONE], True), ([ONE], [OTHER], False), ([ONE], [ONE, OTHER], False), ([ONE, OTHER], [ONE], False),
    ([ONE, ONE], [ONE, OTHER], False), ([], [], True), (deque([ONE]), deque([ONE]), True),
    (deque([1]), deque([2]), False),
    (dict(a=ONE), dict(a=ONE), True), (dict(a=ONE), dict(a=OTHER), False), (dict(a=ONE), dict(b=ONE), False),
    (dict(a=None), dict(b=None), False), (dict(a=ONE, b=OTHER), dict(b=OTHER, a=ONE), True),
    (dict(a=ONE, b=ONE), dict(a=ONE, b=OTHER), False), ({1, 2}, {2, 1}, True), ({1, 2}, {1, 3}, False),
    ({(1, 2)}, {tuple([1, 2])}, True), ([(1, 2)], [tuple([1, 2])], False),
    (dict(a=(1, 2)), dict(a=tuple([1, 2])), False)])
def test_containers_hold_the_same_where_their_objects_are_the_same(container, content, expected):
    assert holds_same(container, content) is expected


@pytest.mark.parametrize('container, content', [
    ([1, 2], [3]), (deque([1]), deque([2, 3])), (dict(a=1), dict(b=2)), ({1}, {2, 3}),
    (OrderedDict(a=1), OrderedDict())])
def test_a_container_can_be_filled_with_what_another_holds(container, content):
    before = type(content)(content)
    refill(container, content)
    assert container == content == before and container is not content


# ---------------------------------------------------------------- what a value holds, noted
def is_noted(make, number, k, count):
    """Whether a change in place of the k-th of some tensors is seen in a step."""
    tensors = [torch.zeros(1) for _ in range(count)]
    contents = Contents(make(tensors), number)
    assert contents.put_back() is None
    tensors[k].add_(1)
    return contents.put_back() is False


@pytest.mark.parametrize('make', [list, tuple, deque])
@pytest.mark.parametrize('count', [1, WINDOW - 1, WINDOW, WINDOW + 1, 40])
@pytest.mark.parametrize('number', [0, 1, 2, 3, 1001])
def test_of_a_list_as_many_tensors_are_noted_in_a_step_as_a_window_holds(make, count, number):
    noted = {k for k in range(count) if is_noted(make, number, k, count)}
    begin = 16 * number if count > 16 else 0
    assert noted == {(begin + k) % count for k in range(min(count, 16))}


NOTED = dict(
    list=lambda t: [t], tuple=lambda t: (t, ), dict=lambda t: dict(a=t), plain=Plain, slots=Slots, both=Both,
    frozen=Frozen, namedtuple=lambda t: Pair(1, t), ordered=lambda t: OrderedDict(a=1, b=t),
    deep=lambda t: dict(a=[(1, Plain(dict(b=t)))]),
    twice=lambda t: [t, [t]], alone=lambda t: t, parameter=lambda t: [nn.Parameter(t)], cyclic=cyclic,
    wide=lambda t: having(Wide(1), first=t))


@pytest.mark.parametrize('kind', NOTED)
def test_a_change_of_a_tensor_is_seen_wherever_it_is(kind):
    assert is_noted(lambda tensors: NOTED[kind](tensors[0]), 0, 0, 1)


@pytest.mark.parametrize('wrap', [Callable, lambda t: {t}, lambda t: having(Text('a'), x=t), lambda t: having(
    nn.Identity(), x=t), lambda t: lambda: t, lambda t: np.array([Plain(t)], object)])
def test_what_is_no_data_is_not_looked_into(wrap):
    assert not is_noted(lambda tensors: [wrap(tensors[0])], 0, 0, 1)


def test_tensors_without_a_counter_of_versions_are_no_obstacle():
    with torch.inference_mode():
        tensor = torch.zeros(1)
    kept = torch.zeros(1)
    contents = Contents([tensor, kept], 0)
    assert contents.put_back() is None
    kept.add_(1)
    assert contents.put_back() is False


PUT_BACK = dict(
    list=([1, 2], lambda v: v.append(3)), dict=(dict(a=1), lambda v: v.update(a=2)), set=({1}, lambda v: v.add(2)),
    queue=(deque([1]), lambda v: v.clear()), attribute=(SimpleNamespace(a=1), lambda v: setattr(v, 'a', 2)),
    added=(SimpleNamespace(a=1), lambda v: setattr(v, 'b', 2)), gone=(SimpleNamespace(a=1), lambda v: delattr(v, 'a')),
    ordered=(OrderedDict(a=1, b=2), lambda v: v.popitem()), inside=([[1], [2]], lambda v: v[1].clear()),
    in_pair=(Pair([1], 2), lambda v: v.first.append(2)), in_slots=(Slots([1]), lambda v: v.x.append(2)),
    array=(np.zeros(3), lambda v: v.fill(1)), numbers=(np.array([0, 1]), lambda v: v.put(0, 5)),
    with_nan=(np.array([np.nan, 1]), lambda v: v.put(1, 5)), to_nan=(np.array([0.0]), lambda v: v.put(0, np.nan)),
    from_nan=(np.array([np.nan]), lambda v: v.put(0, 1)), words=(np.array(['a', 'b']), lambda v: v.put(0, 'c')),
    complex=(np.array([np.nan + 1j, 1]), lambda v: v.put(1, 2)), scalar=(np.array(3), lambda v: v.fill(1)),
    two=([np.zeros(1), [1]], lambda v: v[0].fill(1) or v[1].append(2)))


def shown(value):
    """What there is in a value, as a text."""
    return repr({name: getattr(value, name) for name in value.__slots__} if isinstance(value, Slots) else value)


@pytest.mark.parametrize('kind', PUT_BACK)
def test_what_has_changed_is_put_back_into_the_same_objects(kind):
    value, change = PUT_BACK[kind]
    tensor, before = torch.zeros(1), shown(value)
    contents = Contents(dict(value=value, tensor=tensor), 0)
    assert contents.put_back() is None and shown(value) == before
    for _ in range(2):
        change(value)
        assert shown(value) != before
        assert contents.put_back() is True and shown(value) == before
    assert contents.put_back() is None
    change(value)
    tensor.add_(1)
    assert contents.put_back() is False and shown(value) == before


def test_what_objects_of_a_class_may_hold_is_read_once():
    read = []

    class Kind(type):

        @property
        def __mro__(cls):
            read.append(cls)
            return type.mro(cls)

    class Held(metaclass=Kind):
        pass

    for _ in range(3):
        held = having(Held(), x=[1])
        assert attributes_of(held) == dict(x=[1]) and len(read) == 1
    for _ in range(3):
        assert Contents(held, 0).put_back() is None and len(read) == 2


def test_a_tensor_that_was_written_to_often_is_as_good_as_others():
    tensor = torch.zeros(1)
    for _ in range(300):
        tensor.add_(1)
    contents = Contents([tensor], 0)
    assert contents.put_back() is None
    tensor.add_(1)
    assert contents.put_back() is False


def test_what_was_taken_out_and_changed_is_put_back_whole():
    inner = [1]
    value = dict(inner=inner)
    contents = Contents(value, 0)
    value.pop('inner').append(2)
    assert contents.put_back() is True and value == dict(inner=[1]) and value['inner'] is inner


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
