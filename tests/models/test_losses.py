"""No loss is lost or counted twice, whatever a model calls its losses and however it sums them up."""
from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from mmafan.models.losses import (Term, clean_name, depending_losses, depends, detach_losses, is_loss, keep_losses,
                                  loss_tensors, named, parse_parts, select_losses, weight_losses)

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


# ---------------------------------------------------------------- one dict of losses
def number(value, requires_grad=False):
    return torch.tensor(float(value), requires_grad=requires_grad)


def sum_of(losses):
    """Sum up losses as mmengine does; the log has the sum as well."""
    total = sum(value for name, value in losses.items() if 'loss' in name)
    return total, dict(losses, loss=total)


@pytest.mark.parametrize('name, clean', [
    ('loss', 'clean_loss'), ('clean_loss', 'clean_clean_loss'), ('clean_clean_loss', 'clean_clean_clean_loss'),
    ('adv_t_0.loss', 'clean_adv_t_0.loss'), ('clean_adv_t_0.loss', 'clean_clean_adv_t_0.loss'),
    *((same, same) for same in ('loss_cls', 'adv_loss', 'adv_t_0', 'adv_t.loss', 'aux.loss', 'clean_acc'))])
def test_a_clean_name_is_never_that_of_an_adversarial_term_or_of_the_total(name, clean):
    assert clean_name(name) == clean


def test_a_name_is_a_loss_by_what_it_says_or_by_its_gradient_where_the_model_sums_up():
    losses = dict(loss=number(1), focal=number(1, True), acc=number(1), levels=[number(1), number(1, True)], note='x')
    terms = named(losses)
    assert [(name, term.own, term.part, term.kept) for name, term in zip(losses, terms)] == [
        (name, name, None, True) for name in losses]
    assert list(filter(is_loss, terms)) == ['loss', 'focal', 'levels'] and terms == losses
    assert list(filter(is_loss, losses)) == ['loss']
    assert not is_loss(Term('loss', 'loss', counts=False)) and is_loss(Term('acc', 'acc'))


@pytest.mark.parametrize('weight', [0.0, 0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize('prefix', ['', 'adv_t_0.'])
def test_losses_alone_are_weighted_and_every_name_has_the_prefix(weight, prefix):
    losses = dict(loss=number(2), loss_a=[number(3), number(5)], acc=number(7))
    found = weight_losses(losses, weight, prefix) if prefix else weight_losses(losses, weight)
    assert found == {f'{prefix}loss' if prefix else 'clean_loss': 2 * weight,
                     f'{prefix}loss_a': [3 * weight, 5 * weight], f'{prefix}acc': 7}
    assert not any(isinstance(name, Term) for name in found)
    assert [new is old for new, old in zip(found.values(), losses.values())] == [weight == 1, weight == 1, True]
    kept = Term('dice', 'dice', counts=True, kept=False)
    (term, value), = weight_losses({kept: number(2)}, weight, prefix).items()
    assert value == 2 * weight and term == f'{prefix}dice'
    assert (term.own, term.part, term.counts, term.kept) == ('dice', (prefix, weight), True, False)


def test_losses_that_are_left_out_stay_as_constants_where_the_model_sums_up():
    """Others are gone; what is no loss stays as it is."""
    losses = dict(loss_a=number(1, True), loss_b=number(2, True), acc=number(3, True))
    assert keep_losses(losses, lambda key: key == 'loss_b') == dict(loss_b=2, acc=3)
    part = ('adv_t_0.', 0.5)
    terms = {Term(f'adv_t_0.{name}', name, part, counts=name != 'acc'): value for name, value in losses.items()}
    found = keep_losses(terms, lambda key: key.own == 'loss_b')
    assert found == terms and all(isinstance(term, Term) for term in found)
    assert [(term.own, term.part, term.counts, term.kept) for term in found] == [
        ('loss_a', part, False, False), ('loss_b', part, True, True), ('acc', part, False, True)]
    assert [value.requires_grad for value in found.values()] == [False, True, True]


def test_losses_are_chosen_by_patterns_and_what_is_no_loss_stays():
    losses = {'loss_cls': 1, 'd0.loss_cls': 2, 'd0.loss_iou': 3, 'acc': 4}
    assert select_losses(losses, None) is losses
    assert select_losses(losses, ('*loss_cls', )) == {'loss_cls': 1, 'd0.loss_cls': 2, 'acc': 4}
    assert select_losses(losses, ('loss_cls', '*iou', 'loss_none')) == {'loss_cls': 1, 'd0.loss_iou': 3, 'acc': 4}
    assert select_losses(losses, ('LOSS_CLS', 'acc'), None) == {'acc': 4}
    assert select_losses(losses, ('loss_cls', ), 'the field') == {'loss_cls': 1, 'acc': 4}
    for names in (('acc', ), ('loss_cls', 'acc')):
        with pytest.raises(ValueError, match=r"^the field names 'acc', but the losses of the model are "
                                             r"\['loss_cls', 'd0.loss_cls', 'd0.loss_iou'\]$"):
            select_losses(losses, names, 'the field')


def test_what_depends_on_the_tap_is_told_by_its_gradient():
    losses = dict(loss_a=number(1), loss_b=[number(2), number(3, True)], acc=number(4, True))
    assert loss_tensors(losses) == [1, 2, 3]
    assert depends(losses) and not depends(dict(losses, loss_b=number(2)))
    assert depending_losses(losses) == dict(loss_b=[2, 3], acc=4)
    detached = detach_losses(losses)
    assert detached == losses and not any(tensor.requires_grad for tensor in (*detached['loss_b'], detached['acc']))


# ---------------------------------------------------------------- the sum of several parts
def test_without_parts_the_model_sums_up_its_losses_as_they_are():
    losses = dict(loss_a=number(1), acc=number(2))
    assert parse_parts(lambda given: (given, {}), losses)[0] is losses
    seen = parse_parts(lambda given: (given, {}), {Term('shown', 'own'): number(1)})[0]
    assert seen == dict(own=1) and not isinstance(next(iter(seen)), Term)
    assert parse_parts(sum_of, {}) == (0, dict(loss=0))


def test_each_part_is_summed_up_with_its_own_values_and_its_sum_is_weighted():
    """The sum is no linear one; what has been left out is a constant of it, and is not logged."""
    seen = []

    def parse(losses):
        seen.append({name: float(value.detach()) for name, value in losses.items()})
        total = losses['a'] * losses['b'] + 1
        return total, dict(losses, loss=total, product=losses['a'] * losses['b'])

    terms = {}
    for prefix, weight, a, b in (('', 0.5, 2.0, 3.0), ('adv_t_0.', 0.25, 4.0, 5.0)):
        own = named(dict(a=number(a, True), b=number(b, True), acc=number(7)))
        terms.update(weight_losses(keep_losses(own, lambda key, p=prefix: key != 'b' or not p), weight, prefix))
    total, log = parse_parts(parse, terms)
    assert seen == [dict(a=2, b=3, acc=7), dict(a=4, b=5, acc=7)]
    assert total == 0.5 * 7 + 0.25 * 21 and log['loss'] is total
    assert log == {
        'loss': 8.75, 'a': 1, 'b': 1.5, 'acc': 7, 'product': 6,
        'adv_t_0.a': 1, 'adv_t_0.acc': 7, 'adv_t_0.product': 20}
    assert not any(isinstance(name, Term) for name in log)


def test_what_a_model_logs_beside_its_losses_has_a_name_of_its_own():
    terms = weight_losses(named(dict(dice=number(2))), 0.5)
    log = parse_parts(lambda losses: (losses['dice'], {'clean_loss': number(9), 'loss': number(8)}), terms)[1]
    assert log == {'loss': 1, 'clean_clean_loss': 9}
