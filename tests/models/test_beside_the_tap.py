"""Modules that run more than once, and what of the prefix runs beside the tap: the rule holds all the same."""
from __future__ import annotations

import pytest
import torch
from torch import nn

from ..rule import Plain, batch_of, build, by_part, gradients, ratios, tapped


class Views(Plain):
    """Two views of the images; the stem runs again for a shortcut, and the tap once for each view."""

    def encode(self, x):
        return self.mid(self.stem(x)) + self.stem(x)

    def losses(self, inputs, data_samples):
        return dict(loss_a=self.classify(self.encode(inputs) - 0.5 * self.encode(inputs.flip(3)), data_samples))


class SharedStem(Views):
    """The same with the stem called once for a view."""

    def encode(self, x):
        x = self.stem(x)
        return self.mid(x) + x


class OtherStem(Views):
    """The second view has a stem of its own, first called after the tap."""

    def build(self):
        super().build()
        self.other = nn.Conv2d(3, 4, 3, padding=1)

    def losses(self, inputs, data_samples):
        first, second = self.stem(inputs), self.other(inputs.flip(3))
        one = self.mid(first) + first
        second = self.other(inputs.flip(3))
        return dict(loss_a=self.classify(one - 0.5 * (self.mid(second) + second), data_samples))


class Outside(Views):
    """The prefix computes outside of modules, with a parameter."""

    def build(self):
        super().build()
        self.scale = nn.Parameter(torch.rand(1, 3, 1, 1))
        self.more = nn.Parameter(torch.rand(1, 4, 6, 6))

    def encode(self, x):
        x = self.stem(x * self.scale) + self.more
        return self.mid(x) * x


class Unseen(Views):
    """The prefix is called past the hooks."""

    def encode(self, x):
        x = self.stem.forward(x)
        return self.mid(x) + x


class Inner(Views):
    """The stem runs inside of another module, whose rest is not before the tap."""

    class Branch(nn.Module):

        def __init__(self, stem):
            super().__init__()
            self.stem, self.rest = stem, nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return self.rest(self.stem(x))

    def build(self):
        super().build()
        self.branch = self.Branch(self.stem)

    def losses(self, inputs, data_samples):
        return dict(loss_a=self.classify(self.mid(self.stem(inputs)) + self.branch(inputs), data_samples))


class Dropped(Views):
    """Random draws on both sides of the tap."""

    def encode(self, x):
        drop = nn.functional.dropout
        return drop(self.mid(drop(self.stem(x))), 0.3) + self.stem(x)


class Labelled(Views):
    """Two batches in turn, as in semi-supervised training: what comes after the tap runs between its calls."""

    def losses(self, inputs, data_samples):
        with torch.no_grad():
            pseudo = self.head(self.mid(self.stem(inputs)).tanh().mean((2, 3))).argmax(1)
        supervised = self.classify(self.mid(self.stem(inputs)), data_samples)
        return dict(loss_a=supervised, loss_b=self.classify(self.mid(self.stem(inputs + 1)), pseudo))


NETS = [Views, SharedStem, OtherStem, Outside, Unseen, Inner, Dropped, Labelled]


@pytest.mark.parametrize('afan', [{}, dict(schedule='single_graph'), dict(replay=False)], ids=lambda v: '-'.join(v))
@pytest.mark.parametrize('net', NETS)
def test_the_rule_holds(net, afan):
    model = tapped(net, afan=afan)
    for seed in range(3):
        found = by_part(ratios(net, model, batch_of(seed=seed)))
        after = {name for name in found if name in ('head', 'branch', 'rest')}
        assert found == {name: 2 if name in after else 1 for name in found}


class Identity(Views):
    """The tap hands its input on, which a shortcut also takes."""

    def build(self):
        super().build()
        self.here = nn.Identity()

    def losses(self, inputs, data_samples):
        x = self.stem(inputs)
        return dict(loss_a=self.classify(self.mid(self.here(x)) + 5 * x, data_samples), loss_b=x.square().mean())


@pytest.mark.parametrize('schedule', ['two_phase', 'single_graph'])
def test_a_tap_that_hands_its_input_on_is_attacked_at_its_output_alone(schedule):
    """The gradient of the shortcut is not the tap's, nor is a loss that takes its input."""
    model, seen = tapped(Identity, 'here', dict(schedule=schedule), step_size=0.1), []
    model.mid.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    batch = batch_of()
    x = model.stem(batch['inputs']).detach()
    point = x.clone().requires_grad_()
    loss = model.classify(model.mid(point) + 5 * x, batch['data_samples'])
    expected = x + 0.1 * torch.autograd.grad(loss, point)[0].sign()
    seen.clear()
    torch.manual_seed(3)
    losses = model(**batch, mode='loss') if schedule == 'single_graph' else None
    if losses is None:
        losses = gradients(model, batch)[1]
    assert torch.allclose(seen[-1], expected, rtol=0, atol=1e-12)
    assert 'adv_t_0.loss_a' in losses and 'adv_t_0.loss_b' not in losses


class Switched(Views):
    """A context that sets the gradient mode is open when the tap is reached."""

    def losses(self, inputs, data_samples):
        with torch.set_grad_enabled(True):
            x = self.mid(self.stem(inputs))
        return dict(loss_a=self.classify(x, data_samples))


class Sideways(Views):
    """What runs before the tap and does not come to it is before it, in modules or outside of them."""

    def build(self):
        super().build()
        self.side, self.raw = nn.Conv2d(3, 4, 1), nn.Parameter(torch.rand(4, 1, 1))

    def losses(self, inputs, data_samples):
        side = self.side(inputs) + self.raw * inputs.mean(1, keepdim=True)
        return dict(loss_a=self.classify(self.mid(self.stem(inputs)) + side, data_samples))


class Tied(Views):
    """A parameter that is used before the tap and after it."""

    def losses(self, inputs, data_samples):
        return dict(loss_a=self.classify(self.mid(self.mid(self.stem(inputs)).tanh()), data_samples))


NETS += [Switched, Sideways]


def test_a_parameter_on_both_sides_of_the_tap_has_the_gradient_of_either_side():
    from ..rule import gradients

    class Split(Tied):

        def build(self):
            super().build()
            self.here = nn.Identity()
            self.split = False

        def losses(self, inputs, data_samples):
            x = self.here(self.mid(self.stem(inputs)).tanh())
            return dict(loss_a=self.classify(self.mid(x.detach() if self.split else x), data_samples))

    stock, after = Split(), Split()
    after.split = True
    whole, suffix = gradients(stock, batch_of())[0], gradients(after, batch_of())[0]
    found = gradients(tapped(Split, 'here'), batch_of())[0]
    for name, value in whole.items():
        assert torch.allclose(found[name], value + suffix.get(name, 0), rtol=0, atol=1e-7)


class Derived(Views):
    """After the tap something is made of a weight of the prefix, outside of modules."""

    def heads(self, x, data_samples):
        mean = self.stem.weight.mean((1, 2, 3))
        return dict(loss_a=self.classify(x, data_samples), loss_b=1e4 * (x.mean((2, 3)) @ mean).square().mean())

    def losses(self, inputs, data_samples):
        return self.heads(self.mid(self.stem(inputs)), data_samples)


@pytest.mark.parametrize('afan', [{}, dict(schedule='single_graph'), dict(replay=False)], ids=lambda v: '-'.join(v))
def test_what_is_made_of_a_weight_after_the_tap_is_after_it(afan):
    model, batch = tapped(Derived, afan=afan), batch_of()
    stock, weight = build(Derived), 'stem.weight'
    clean = torch.autograd.grad(sum(stock.losses(**batch).values()), stock.stem.weight)[0]
    feature = stock.mid(stock.stem(batch['inputs'])).detach()
    again = torch.autograd.grad(sum(stock.heads(feature, batch['data_samples']).values()), stock.stem.weight)[0]
    assert again.abs().max() > 1e-3 * clean.abs().max()
    for _ in range(2):  # the first step checks, the second one knows
        found = gradients(model, batch)[0][weight]
        assert torch.allclose(found, clean + again, rtol=1e-6, atol=0)


class Scaled(Plain):
    """A weight of the prefix is used after the tap, too, as something that numbers and vectors make of it."""

    def losses(self, inputs, data_samples):
        return dict(loss_a=self.classify(self.after(self.mid(self.stem(inputs).tanh())), data_samples))

    def build(self):
        super().build()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1))

    def after(self, x):
        weight = self.stem[1].weight
        vector = torch.ones(4, dtype=weight.dtype)
        norm = torch.vdot(vector, torch.mv(weight.mean((2, 3)), vector))
        return nn.functional.conv2d(x, (weight - weight.mean()) / (weight.std() + 1e-5) * 0.5 / norm, padding=1)


@pytest.mark.parametrize('afan', [{}, dict(schedule='single_graph'), dict(replay=False)], ids=lambda v: '-'.join(v))
def test_a_standardized_weight_after_the_tap_is_after_it(afan):
    stock, model, batch = build(Scaled), tapped(Scaled, afan=afan), batch_of()
    whole = gradients(stock, batch)[0]
    feature = stock.mid(stock.stem(batch['inputs']).tanh()).detach()
    stock.zero_grad()
    stock.classify(stock.after(feature), batch['data_samples']).backward()
    for _ in range(2):
        found = gradients(model, batch)[0]
        assert stock.stem[1].weight.grad.abs().max() > 1e-3
        assert torch.allclose(found['stem.1.weight'], whole['stem.1.weight'] + stock.stem[1].weight.grad, rtol=1e-6)
        assert torch.allclose(found['stem.0.weight'], whole['stem.0.weight'], rtol=1e-6)


class Hooked(Plain):
    """Hooks of a user's own change what modules return, at the tap and before it."""

    def build(self):
        super().build()
        self.stem.register_forward_hook(lambda *given: 3 * given[-1])
        self.mid.register_forward_hook(lambda *given: 2 * given[-1])

    def losses(self, inputs, data_samples):
        x = self.stem(inputs)
        return dict(loss_a=self.classify(self.mid(x) * x, data_samples))


class Recorded(Plain):
    """Hooks keep what modules inside of others return, as for a distillation of features."""

    def build(self):
        super().build()
        self.kept = {}
        self.teacher = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1)).requires_grad_(False)
        self.teacher[0].register_forward_hook(lambda *given: self.kept.update(teacher=given[-1]))
        self.stem.register_forward_hook(lambda *given: self.kept.update(stem=given[-1]))

    def losses(self, inputs, data_samples):
        self.kept.clear()
        self.teacher(inputs)
        x = self.mid(self.stem(inputs))
        return dict(loss_a=self.classify(x, data_samples),
                    loss_b=(x - self.kept['teacher'] + self.kept['stem']).square().mean())


@pytest.mark.parametrize('afan', [{}, dict(schedule='single_graph'), dict(replay=False), dict(schedule='joined')],
                         ids=lambda v: '-'.join(map(str, v.values())))
@pytest.mark.parametrize('net', [Hooked, Recorded, Views, Inner])
def test_hooks_of_others_run_in_every_pass_and_the_stem_is_a_constant_there(net, afan):
    stock, model, batch = build(net), tapped(net, afan=afan), batch_of()
    gradients(model, batch)
    for _ in range(2):  # the joined schedule is behind by a step
        found = by_part(ratios(stock, model, batch))
        assert found == {name: 2 if name in ('head', 'branch', 'rest') else 1 for name in found}
