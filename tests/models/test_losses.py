"""No loss is lost or counted twice, whatever a model calls its losses and however it sums them up."""
from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from mmafan.models.losses import Term, named, weight_losses

from ..nets import Net, rows
from ..rule import assert_rule, build, train


def data(number):
    return (rows(number), )


class Several(Net):
    """Its losses have the names of ``names``."""
    names = ('loss_a', 'loss_b')

    def forward(self, inputs, mode='tensor'):
        output = self.run(inputs)
        values = [output.square().mean(), output.abs().mean(), (output + 1).square().mean(), output.exp().mean()]
        return {'acc': output.detach().sum(), **dict(zip(self.names, values))}


@pytest.mark.parametrize('names', [
    ('loss', 'clean_loss'), ('loss', 'clean_loss', 'clean_clean_loss'), ('adv_s_0.loss', 'loss'),
    ('adv_s_0.clean_loss', 'clean_loss', 'loss', 'adv_s_0.loss'), ('adv_loss', 'adv_s_loss'),
    ('clean_adv_s_0.loss', 'adv_s_0.loss', 'loss'), ('afan_loss', 'loss')])
def test_no_name_loses_a_term(names):

    class Names(Several):
        pass

    Names.names = names
    logs = assert_rule(Names, data, steps=2, weight=0.5)
    model = build(Names)
    for number, log in enumerate(logs):
        values = [float(v.detach()) for k, v in model(*data(number)).items() if 'loss' in k]
        assert log['loss'] == pytest.approx(1.5 * sum(values), rel=1e-9)
        terms = [value for name, value in log.items() if 'loss' in name and name != 'loss']
        assert sorted(terms) == pytest.approx(sorted([*values, *(0.5 * value for value in values)]), rel=1e-9)
        assert {f'adv_s_0.{name}' for name in names} <= set(log)


# ---------------------------------------------------------------- a parse_losses of a model's own
class Strict(Several):
    """Weights by name; a name that has none is an error."""

    def parse_losses(self, losses):
        weights = dict(loss_a=1.0, loss_b=3.0, acc=0.0)
        terms = {name: weights[name] * value for name, value in losses.items()}
        return sum(terms.values()), dict(losses, loss=sum(terms.values()))


class Demanding(Several):
    """Asks for each of its losses, whose names do not say that they are losses."""
    names = ('cross_entropy', 'dice')

    def forward(self, inputs, mode='tensor'):
        return dict(super().forward(inputs), auxiliary=self.a(inputs).square().mean())

    def parse_losses(self, losses):
        total = losses['cross_entropy'] + 2 * losses['dice'] + 0.5 * losses['auxiliary']
        return total, dict(total_loss=total.detach(), **losses)


class Defaults(Several):
    names = ('loss', 'loss_b')

    def parse_losses(self, losses):
        total = sum({'loss_b': 5.0}.get(name, 1.0) * value for name, value in losses.items() if 'loss' in name)
        return total, {'loss': total, **{f'log/{name}': value for name, value in losses.items()}}


class Uncertain(Several):
    """Learns the weights (Kendall et al.); the sum is not linear in the losses."""

    def __init__(self):
        super().__init__()
        self.logs = nn.Parameter(torch.tensor([0.3, -0.2]))

    def parse_losses(self, losses):
        terms = [losses[name] * (-s).exp() + s for name, s in zip(self.names, self.logs)]
        return sum(terms), dict(losses, loss=sum(terms))


class Numbers(Several):

    def forward(self, inputs, mode='tensor'):
        return dict(loss_a=self.run(inputs).square().mean(), loss_b=0.5, note='text')

    def parse_losses(self, losses):
        total = 2 * losses['loss_a'] + losses['loss_b']
        return total, dict(loss=total, loss_a=losses['loss_a'], loss_b=torch.tensor(losses['loss_b']))


class Lists(Several):

    def forward(self, inputs, mode='tensor'):
        output = self.run(inputs)
        return dict(loss_levels=[output.square().mean(), output.abs().mean()])

    def parse_losses(self, losses):
        total = sum(sum(values) for values in losses.values())
        return total, dict(loss=total, **{name: sum(values) for name, values in losses.items()})


@pytest.mark.parametrize('weight', [1.0, 0.3])
@pytest.mark.parametrize('cls', [Strict, Demanding, Defaults, Uncertain, Numbers, Lists])
def test_a_parse_losses_of_the_model_sees_its_own_names(cls, weight):
    assert_rule(cls, data, steps=2, weight=weight)


def test_its_log_has_both_passes_under_names_of_their_own():
    log = assert_rule(Strict, data, steps=1, weight=0.5)[0]
    values = {k: float(v.detach()) for k, v in build(Strict)(*data(0)).items()}
    stock = values['loss_a'] + 3 * values['loss_b']
    assert log == pytest.approx({
        'loss': 1.5 * stock, 'loss_a': values['loss_a'], 'loss_b': values['loss_b'], 'acc': values['acc'],
        'adv_s_0.loss_a': 0.5 * values['loss_a'], 'adv_s_0.loss_b': 0.5 * values['loss_b'],
        'adv_s_0.acc': values['acc']}, rel=1e-9)


def test_losses_before_the_tap_and_those_left_out_are_constants_of_its_sum():
    """The auxiliary loss of ``Demanding`` comes before the tap; of the others one is chosen."""
    found = train(build(Demanding, taps=dict(s=dict(module='t', step_size=1e-13, losses=('dice', )))), data, 1)[0]
    model = build(Demanding)
    losses = model(*data(0))
    (losses['cross_entropy'] + 4 * losses['dice'] + 0.5 * losses['auxiliary']).backward()
    torch.testing.assert_close(found[0]['c.weight'], model.c.weight.grad, rtol=1e-7, atol=1e-9)
    assert 'adv_s_0.dice' in found[1] and not {'adv_s_0.cross_entropy', 'adv_s_0.auxiliary'} & set(found[1])


def test_a_clean_weight_scales_the_whole_sum():
    taps = dict(s=dict(module='t', step_size=1e-13))
    for schedule in ('two_phase', 'single_graph'):
        found = train(build(Uncertain, taps=taps, clean_weight=0.7, schedule=schedule), data, 1)[0][0]
        stock = train(build(Uncertain), data, 1)[0][0]
        torch.testing.assert_close(found['logs'], 1.7 * stock['logs'])
        torch.testing.assert_close(found['a.weight'], 0.7 * stock['a.weight'])


def test_a_name_keeps_what_it_knows():
    term = next(iter(weight_losses(named({'loss': torch.ones(())}), 0.5, 'adv_t_0.')))
    for made in (copy.deepcopy(term), pickle.loads(pickle.dumps(term))):
        assert isinstance(made, Term) and vars(made) == vars(term) and made == 'adv_t_0.loss'
    assert (term.own, term.part, term.counts, term.kept) == ('loss', ('adv_t_0.', 0.5), True, True)
