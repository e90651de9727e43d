"""The class made of a stock model: what it is made of, what it refuses, and where its losses begin."""
from __future__ import annotations

import inspect

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from torch import nn

from mmafan import afan_model
from mmafan.models import AFANModelMixin
from mmafan.models.model import _codebase_of, _loss_is_entry, _mode_of, make_afan_class, unwrap
from mmafan.registry import MODELS

from ..training import record_warnings

AFAN = dict(taps=dict(s=dict(module='conv', step_size=0.1)))


class Stock(BaseModel):
    """Has its own documentation."""

    def __init__(self, width=4):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Linear(width, 2)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return dict(loss=self.fc(self.norm(self.conv(inputs)).mean((2, 3))).square().mean())


class OwnSum(Stock):

    def parse_losses(self, losses):
        return losses['loss'], dict(losses)


class Around(Stock):
    """A training step that calls the loss where its data say so."""

    def train_step(self, data, optim_wrapper):
        loss = self(**data, mode='loss') if data['inputs'].shape[1] == 3 else dict(loss=self.fc.weight.sum())
        optim_wrapper.update_params(self.parse_losses(loss)[0])
        return loss


def images():
    return dict(inputs=torch.randn(2, 3, 6, 6))


def wrapper_of(model):
    return OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.0))


# ---------------------------------------------------------------- the class
def test_a_made_class_is_made_once_and_is_its_stock_class():
    made = make_afan_class(Stock)
    assert MODELS.make_class is make_afan_class  # by which a name is made a class
    assert make_afan_class(Stock) is made is make_afan_class(made) and afan_model(made) is made
    assert issubclass(made, AFANModelMixin) and issubclass(made, Stock)
    assert (made.__name__, made.__doc__, made.__module__) == ('AFANStock', Stock.__doc__, 'mmafan.models')
    decorated = afan_model(Stock)
    assert decorated is not made and issubclass(decorated, made)
    for name in ('__name__', '__qualname__', '__doc__', '__module__'):
        assert getattr(decorated, name) == getattr(Stock, name), name
    assert inspect.signature(made.forward) == inspect.signature(Stock.forward)


@pytest.mark.parametrize('stock, name', [(nn.Linear, "'Linear'"), (3, '3')])
def test_only_whole_models_are_wrapped(stock, name):
    for make in (make_afan_class, afan_model):
        with pytest.raises(TypeError) as error:
            make(stock)
        assert str(error.value) == ('A-FAN wraps whole models (subclasses of mmengine.model.BaseModel such as '
                                    f'ImageClassifier), got {name}')


@pytest.mark.parametrize('cls, name, stock', [(make_afan_class(Stock), 'AFANStock', 'Stock'),
                                              (afan_model(Stock), 'Stock', 'Stock')])
def test_without_its_field_a_model_says_what_is_missing(cls, name, stock):
    with pytest.raises(ValueError) as error:
        cls()
    assert str(error.value) == (f'model.afan is missing: {name} needs afan=dict(taps=dict(...)); for the stock model '
                                f"write type='{stock}'")


def test_a_decorated_class_that_names_itself_is_refused():

    @afan_model
    class Named(Stock):

        def __init__(self):
            super(Named, self).__init__()

    with pytest.raises(TypeError) as error:
        Named(afan=AFAN)
    assert str(error.value) == ('Named must call super().__init__() without arguments of super: after @afan_model its '
                                'own name means the decorated class')


@pytest.mark.parametrize('policy', ['frozen', 'separate'])
def test_a_built_model_has_its_arguments_its_checked_taps_and_its_norms(policy):
    model = make_afan_class(Stock)(5, afan=dict(AFAN, batch_norm=policy))
    assert make_afan_class(Stock)(width=6, afan=AFAN).conv.out_channels == 6 and model.conv.out_channels == 5
    assert '_afan_building' not in vars(model)
    assert len(model.norm._modules) == (policy == 'separate') and model.afan.norms._policy == policy
    assert model.afan.codebase is type(model)._afan_codebase and not model.afan.has_own_sum
    assert make_afan_class(OwnSum)(afan=AFAN).afan.has_own_sum
    with pytest.raises(ValueError, match="afan.taps.s.module must name a module of AFANStock, got 'convv'"):
        make_afan_class(Stock)(afan=dict(taps=dict(s=dict(module='convv', step_size=0.1))))
    with pytest.raises(ValueError, match='afan has no field'):
        make_afan_class(Stock)(afan=dict(AFAN, unknown=1))


def test_auxiliary_norms_begin_as_the_initialised_ones_and_are_left_alone_later():
    model = make_afan_class(Stock)(afan=dict(AFAN, batch_norm='separate'))
    auxiliary, = model.norm._modules.values()
    for value, kept in ((2.0, 2.0), (3.0, 2.0)):
        model.norm.weight.data.fill_(value)
        model.init_weights()
        assert model.is_init and auxiliary.weight.tolist() == [kept] * 4


@pytest.mark.parametrize('module, kind', [('mmdet.models', 'Detection'), ('mmdetection', 'Codebase'),
                                          ('mmpretrain.models', 'Codebase')])
def test_what_is_particular_to_a_codebase_holds_for_models_derived_from_its_own(module, kind):
    stock = type('FromCodebase', (Stock, ), dict(__module__=module))
    for cls in (stock, type('Derived', (stock, ), {})):
        for codebase in (_codebase_of(cls), make_afan_class(cls)._afan_codebase):
            assert codebase.__class__.__name__ == kind


def test_wrappers_are_taken_off():
    model = Stock()
    assert unwrap(model) is model is unwrap(nn.DataParallel(model)) is unwrap(nn.DataParallel(nn.DataParallel(model)))


# ---------------------------------------------------------------- a training step
def test_a_step_without_an_adversarial_pass_is_told_once_while_a_fan_is_on():
    model = make_afan_class(Around)(afan=AFAN).train()
    wrapper, other = wrapper_of(model), dict(inputs=torch.randn(2, 1, 6, 6))
    with record_warnings() as warnings:
        model.afan.controls.strength_scale = 0.0
        model.train_step(other, wrapper)
        model.afan.controls.strength_scale = 1.0
        assert set(model.train_step(images(), wrapper)) == {'clean_loss', 'adv_s_0.loss'}
        assert warnings == [] and model.afan.meters.stepped
        for _ in range(2):
            assert set(model.train_step(other, wrapper)) == {'loss'}
            assert not model.afan.meters.stepped
    assert warnings == ['A-FAN was on, but no adversarial pass ran: the training step of AFANAround does not call the '
                        "model in mode='loss'"]


def test_the_stock_step_runs_where_a_fan_is_off_and_two_phases_where_it_is_on():
    model = make_afan_class(Stock)(afan=AFAN).train()
    assert set(model.train_step(images(), wrapper_of(model))) == {'loss', 'clean_loss', 'adv_s_0.loss'}
    model.afan.controls.strength_scale = 0.0
    assert set(model.train_step(images(), wrapper_of(model))) == {'loss'}


def test_a_compiled_step_is_refused():
    model = make_afan_class(Stock)(afan=AFAN).train()

    def compiled(*args):
        return AFANModelMixin.train_step(model, *args)

    compiled._torchdynamo_orig_callable = model.train_step
    model.train_step = compiled
    with pytest.raises(ValueError, match='compile must be False with A-FAN, got True'):
        model.train_step(images(), wrapper_of(model))


# ---------------------------------------------------------------- where losses begin
@pytest.mark.parametrize('loss, is_entry', [
    (None, False), ('cross_entropy', False), (lambda self, inputs, data_samples: {}, True),
    (lambda self, x, batch_data_samples, **kwargs: {}, True), (lambda self, logits, labels: {}, False),
    (staticmethod(lambda inputs, data_samples: {}), False), (lambda self, *, data_samples: {}, True)])
def test_the_entry_of_the_codebases_is_told_from_a_helper_of_its_name(loss, is_entry):
    stock = type('OfLoss', (Stock, ), {} if loss is None else dict(loss=loss))
    assert _loss_is_entry(stock) is is_entry
    for cls in (stock, type('Derived', (stock, ), {})):
        assert hasattr(make_afan_class(cls), 'loss') is (loss is not None)
        assert ('_LossEntry' in [base.__name__ for base in make_afan_class(cls).__mro__]) is is_entry


@pytest.mark.parametrize('function, args, kwargs, mode', [
    (lambda inputs, mode='tensor': 0, (1, ), {}, 'tensor'), (lambda inputs, mode='tensor': 0, (1, 'loss'), {}, 'loss'),
    (lambda inputs, mode='tensor': 0, (1, ), dict(mode='loss'), 'loss'),
    (lambda inputs, mode='tensor': 0, (), dict(inputs=1), 'tensor'), (lambda inputs: 0, (1, ), {}, None),
    (lambda *args, mode='loss': 0, (1, 'predict'), {}, 'loss'), (lambda inputs, mode='loss': 0, (), {}, None),
    (lambda inputs, **kwargs: 0, (1, ), dict(mode='loss'), 'loss'), (lambda mode, inputs: 0, ('loss', 1), {}, 'loss')])
def test_the_mode_of_a_call_is_the_given_one_or_the_default(function, args, kwargs, mode):
    assert _mode_of(function, args, kwargs) == mode


class Entry(Stock):
    """As the models of the codebases: ``forward`` calls ``loss`` with what it is given."""

    def loss(self, inputs, data_samples=None):
        return dict(loss=super().forward(inputs)['loss'])

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return self.loss(inputs, data_samples) if mode == 'loss' else mode


class AddsOne(Entry):

    def forward(self, inputs, data_samples=None, mode='tensor'):
        losses = super().forward(inputs, data_samples, mode)
        return dict(losses, loss_b=self.fc.weight.sum()) if mode == 'loss' else losses


def test_losses_begin_at_the_forward_of_a_users_own_and_at_the_entry_of_a_codebase():
    for cls, names in ((Entry, {'clean_loss', 'adv_s_0.loss'}),
                       (AddsOne, {'clean_loss', 'loss_b', 'adv_s_0.loss'})):
        model = make_afan_class(cls)(afan=AFAN).train()
        assert set(model(**images(), mode='loss')) == names
        assert model(**images()) == model(images()['inputs']) == 'tensor'
        assert set(model.loss(**images())) == {'clean_loss', 'adv_s_0.loss'}
    of_codebase = type('OfCodebase', (Entry, ), dict(__module__='mmdet.models', forward=Entry.forward))
    assert make_afan_class(of_codebase).forward is Entry.forward is not make_afan_class(Entry).forward
    assert '_run_forward' not in vars(make_afan_class(Entry))
    with pytest.raises(TypeError, match='inputs'):
        make_afan_class(Entry)(afan=AFAN)(mode='loss')


class OwnRun(Entry):

    def _run_forward(self, data, mode):
        return dict(loss=self.fc(self.conv(data['inputs']).mean((2, 3))).square().mean()) if mode == 'loss' else mode


def test_losses_begin_at_a_way_of_its_own_to_the_forward():
    model = make_afan_class(OwnRun)(afan=AFAN).train()
    assert set(model._run_forward(images(), 'loss')) == {'clean_loss', 'adv_s_0.loss'}
    assert model._run_forward(images(), mode='predict') == 'predict'
    model.eval()
    assert set(model._run_forward(images(), 'loss')) == {'loss'}
