"""Taps that change what the model computes are told apart from models that are never the same twice."""
from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmafan.models.shared_memory import check_copies, check_rerun
from mmafan.replay import Batch, Facts, PassKind, Recording, current_pass


class Line(nn.Module):
    """A stem, and a tap after it; ``after`` is what the forward does with the stem's output and the tap's."""

    def __init__(self, tap, after):
        super().__init__()
        self.stem, self.tap, self.after = nn.Linear(2, 2, bias=False), tap, after
        with torch.no_grad():
            self.stem.weight.copy_(torch.eye(2))
        self.afan = SimpleNamespace(config=SimpleNamespace(taps=dict(t=SimpleNamespace(module='tap', at='output'))))

    def forward(self, inputs):
        x = self.stem(inputs)
        return dict(loss=self.after(x, self.tap(x)))

    @staticmethod
    def parse_losses(losses):
        return losses['loss'], losses


class InPlace(nn.Module):
    """Adds one to its input in place, and returns a new tensor."""

    def forward(self, x):
        with torch.no_grad():
            x.add_(1)
        return x * 3


def check(function, tap, after, **given):
    """Record a clean pass of ``Line`` and check it; return how many passes the check runs."""
    passes = []

    def counted(x, y):
        passes.append((current_pass().kind, torch.is_grad_enabled()))
        return after(x, y, len(passes))

    model, batch = Line(tap, counted), Batch((torch.ones(4, 2), ), {})
    recording = Recording(model, model.afan.config.taps, 4, Facts())

    def run(batch):
        return model(*batch.args)

    with recording:
        losses = run(batch)
    if function is check_copies:
        losses = dict(loss=losses['loss'] + given.get('change', 0.0))
        check_copies(model, recording, batch, run, losses, 't')
    else:
        kept = list(recording.captures['t'].prefix)
        try:
            check_rerun(model, recording, batch, run, 't', float(losses['loss'].detach()))
        finally:
            assert kept and recording.captures['t'].prefix == kept
    assert passes[0] == (PassKind.CLEAN, True) and set(passes[1:]) == {(PassKind.CHECK, False)}
    return len(passes) - 1


def add_in_place(x, y, _):
    """Change what the identity shares its memory with."""
    x.add_(1)
    return y.sum()


def read_input(x, y, _):
    return x.sum() + y.sum()


def read_output(_, y, __):
    return y.sum()


def count(_, y, number):
    """Never the same twice."""
    return y.sum() * number


def test_a_copy_that_changes_nothing_is_no_problem():
    assert check(check_copies, nn.Identity(), read_input) == 2


def test_a_tap_whose_memory_is_changed_elsewhere_is_refused():
    sentence = (r"^afan\.taps\.t\.module must name a module whose output no other tensor shares its memory with, but "
                r"that of 'tap' is also held elsewhere and changed in place: with a copy at the tap the loss is 8, "
                r"without it 16$")
    with pytest.raises(ValueError, match=sentence):
        check(check_copies, nn.Identity(), add_in_place)


@pytest.mark.parametrize('change, is_refused', [(8 * 0.9e-4, False), (8 * 1.1e-4, True)])
def test_losses_may_differ_by_rounding(change, is_refused):
    if is_refused:
        with pytest.raises(ValueError, match='shares its memory'):
            check(check_copies, nn.Identity(), read_output, change=change)
    else:
        check(check_copies, nn.Identity(), read_output, change=change)


def test_a_loss_that_is_never_the_same_proves_nothing_of_memory_and_is_refused_in_a_pass():
    check(check_copies, nn.Identity(), count)
    sentence = '^Line must give the same loss when a batch comes again .*, but gives 8, 16 and 24: what its '
    with pytest.raises(ValueError, match=sentence):
        check(check_rerun, nn.Identity(), count)


def test_a_tap_that_changes_its_input_for_others_is_refused():
    """In a pass the tap's module does not run."""
    sentence = (r"^afan\.taps\.t\.module must name a module that changes nothing but its output, but 'tap' changes "
                r"what is read elsewhere, such as its input in place: without that the loss is 56, with it 64$")
    with pytest.raises(ValueError, match=sentence):
        check(check_rerun, InPlace(), read_input)


def test_a_tap_whose_change_nobody_reads_is_no_problem():
    assert check(check_rerun, InPlace(), read_output) == 3
