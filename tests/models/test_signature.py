"""The forward of a user's own model takes what it likes, in its own order, with its own default of ``mode``."""
from __future__ import annotations

import inspect

import pytest

from mmafan import afan_model
from mmafan.models.model import make_afan_class
from mmafan.replay import Batch

from ..nets import Net, rows
from ..rule import assert_rule, build, train


def weighted(net, img, target, weight=None, bias=0.0):
    error = (net.run(img) - target).square().mean(1) + bias
    return {'loss': (error if weight is None else error * weight.squeeze(1)).mean()}


class Three(Net):

    def forward(self, img, target=None, weight=None, mode='tensor'):
        return weighted(self, img, target, weight) if mode == 'loss' else mode


class ModeFirst(Net):

    def forward(self, mode, img, target):
        return weighted(self, img, target) if mode == 'loss' else mode


class ByNameAlone(Net):

    def forward(self, *, target, img, weight=None, mode='predict'):
        return weighted(self, img, target, weight) if mode == 'loss' else mode


class Anything(Net):

    def forward(self, *data, mode='loss', **more):
        return weighted(self, *data, **more) if mode == 'loss' else mode


class OnlyNames(Net):

    def forward(self, **given):
        mode = given.pop('mode', 'predict')
        return weighted(self, **given) if mode == 'loss' else mode


def three(number):
    return rows(number), rows(number + 9), rows(number + 99, columns=1).abs()


def named(number):
    return dict(zip(('weight', 'target', 'img'), reversed(three(number))))


@pytest.mark.parametrize('cls, make_data', [
    (Three, three), (Three, named), (Three, lambda number: three(number)[:2]),
    (ModeFirst, lambda number: dict(target=rows(number + 9), img=rows(number))),
    (ByNameAlone, named), (Anything, three), (Anything, named), (OnlyNames, named),
    (Three, lambda number: list(three(number)))])
def test_every_argument_comes_to_the_stock_forward(cls, make_data):
    logs = assert_rule(cls, make_data, steps=2)
    stock = train(build(cls), make_data, 2)
    assert [log['adv_s_0.loss'] for log in logs] == pytest.approx([log['loss'] for _, log in stock], rel=1e-9)


@pytest.mark.parametrize('cls, default', [(Three, 'tensor'), (ByNameAlone, 'predict'), (OnlyNames, 'predict')])
def test_the_mode_is_the_one_of_the_stock_model(cls, default):
    model = build(cls, taps=dict(s=dict(module='t', step_size=1.0)))
    given = named(0)
    assert model(**given) == default and model(**given, mode='predict') == 'predict'


def test_a_mode_given_by_position_counts():
    model = build(Three, taps=dict(s=dict(module='t', step_size=1.0)))
    assert model(*three(0), 'predict') == 'predict'
    other = build(Anything, taps=dict(s=dict(module='t', step_size=1.0)))
    for losses in (model(*three(0), 'loss'), other(*three(0))):
        assert set(losses) == {'clean_loss', 'adv_s_0.loss'}


def test_a_wrong_call_fails_as_in_the_stock_model():
    model = build(Three, taps=dict(s=dict(module='t', step_size=1.0)))
    with pytest.raises(TypeError, match="forward.. got an unexpected keyword argument 'image'"):
        model(image=rows(0))


def test_the_made_class_shows_the_stock_signature():
    assert inspect.signature(make_afan_class(Three).forward) == inspect.signature(Three.forward)


def test_a_subclass_of_a_decorated_class_may_take_less():
    decorated = afan_model(Three)

    class Shorter(decorated):

        def forward(self, img, target, mode='tensor'):
            return super().forward(img, target, weight=rows(5, columns=1).abs(), mode=mode)

    model = Shorter(afan=dict(taps=dict(s=dict(module='t', step_size=1e-12)))).double()
    log = train(model, lambda number: three(number)[:2], 1)[0][1]
    assert log['adv_s_0.loss'] == pytest.approx(log['clean_loss'], rel=1e-9)


@pytest.mark.parametrize('function, args, kwargs, inputs', [
    (lambda data_samples, inputs, mode='loss': 0, (1, 2), {}, 2),
    (lambda inputs, data_samples=None: 0, (), dict(data_samples=1, inputs=2), 2),
    (lambda weight=None, img=None, mode=None: 0, (), dict(mode='loss', img=2), 2),
    (lambda *data: 0, (2, 1), {}, 2),
    (lambda **data: 0, (), dict(mode='loss', a=2, b=1), 2),
    (lambda img, **data: 0, (), dict(a=1, img=2), 2)])
def test_the_inputs_are_found_by_name_or_as_the_first_parameter(function, args, kwargs, inputs):
    batch = Batch(args, kwargs, function)
    assert batch.inputs == inputs
    changed = batch.with_inputs(3)
    assert changed.inputs == 3 and batch.inputs == inputs
    assert [*changed.args, *changed.kwargs.values()] == [3 if v == 2 else v for v in (*args, *kwargs.values())]


def test_a_tap_at_the_inputs_perturbs_the_images_wherever_they_are():
    assert_rule(Three, named, before=(), tap='inputs', steps=2)


def test_inputs_of_a_kind_of_their_own_are_no_obstacle():
    class Scene:

        def __init__(self, points):
            self.points = points

    class OfScenes(Net):

        def forward(self, scene, mode='tensor'):
            return {'loss': self.run(scene.points).square().mean()}

    assert_rule(OfScenes, lambda number: dict(scene=Scene(rows(number))), steps=2)
