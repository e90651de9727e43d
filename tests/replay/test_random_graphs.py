"""On random small networks a replayed prefix is one that runs again, and the rule of gradients holds."""
from __future__ import annotations

import contextlib

import pytest
import torch
from hypothesis import assume, example, given
from mmengine.optim import OptimWrapper

from ..rule import build
from .random_graphs import (Call, Graph, apart, copied, gradients_of, graphs, loss_with, make_class, stock_step,
                            suffix_gradients)

SEEDS = (0, 1)
# What changes the loss where something is changed in place that something else reads, and what is said of it.
PLACES = (('at_tap', copied, 'no other tensor shares its memory'), ('at_tap', apart, 'nothing but its output'),
          ('before', apart, 'afan.replay must be False'))


def rows(seed):
    return torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def step(model, seed):
    """Train one step without moving a weight; return losses, gradients and the random stream after it."""
    optimizer, kept = torch.optim.SGD(model.parameters(), lr=0.0), {}
    optimizer.step = lambda: kept.update(gradients_of(model))
    torch.manual_seed(seed)
    log = model.train_step((rows(seed), ), OptimWrapper(optimizer))
    return {name: float(value) for name, value in log.items()}, kept, torch.get_rng_state()


def expected_steps(cls, graph):
    """Return the stock loss, what gradients must be, and the random stream, for each seed.

    In place of that a sentence, where the tap cannot be replaced without a change of what the model computes.
    """
    stock, made = build(cls), []
    for seed in SEEDS:
        try:
            loss, clean, stream, has_gradient = stock_step(stock, rows(seed), seed)
        except RuntimeError as error:
            assert 'modified by an inplace operation' in str(error) or 'in-place' in str(error), error
            assume(False)  # autograd refuses the network itself
        assume(has_gradient)
        for place, instead, sentence in PLACES:
            if abs(loss_with(stock, rows(seed), seed, **{place: instead}) - loss) > 1e-4 * max(abs(loss), 1e-2):
                assume(seed == SEEDS[0])  # nothing tells in the first step
                return sentence
        again = suffix_gradients(stock, graph, rows(seed), seed)
        zero = torch.zeros(())
        made.append((loss, {name: clean[name] + again.get(name, zero) for name in clean}, stream))
    return made


# The tap hands its input on, or changes it in place, and something else reads one of the two after it has changed.
@example(Graph(('linear', 'identity', 'scale'),
               (Call(0, (0, )), Call(1, (1, )), Call(2, (2, )), Call('add', (1, 3))), 1))
@example(Graph(('linear', 'scale'), (Call(0, (0, )), Call(1, (1, )), Call('tanh', (1, ))), 1))
# A module runs before the tap, and again beside it.
@example(Graph(('linear', 'linear'), (Call(0, (0, )), Call(1, (0, )), Call(0, (0, ))), 1))
# The same with something in front of it that runs for the first time.
@example(Graph(('linear', 'dropout', 'linear'), (Call(0, (0, )), Call(1, (1, )), Call(2, (1, )), Call(0, (3, ))), 1))
# A linear layer, whose weight is used through a view, between two runs of the tap.
@example(Graph(('linear', 'linear', 'linear'), (Call(0, (0, )), Call(1, (1, )), Call(0, (2, )), Call(2, (2, ))), 0))
@given(graphs())
def test_replay_is_rerun_and_the_rule_holds(graph):
    cls = make_class(graph)
    expected = expected_steps(cls, graph)
    for replay in (True, False):
        model = build(cls, taps=dict(s=dict(module=f'm{graph.tap}', step_size=1e-13)), replay=replay)
        if expected == PLACES[-1][-1]:
            with contextlib.suppress(ValueError) if replay else contextlib.nullcontext():
                step(model, SEEDS[0])
        elif isinstance(expected, str):
            with pytest.raises(ValueError, match=expected):
                step(model, SEEDS[0])
        for seed, (loss, gradients, stream) in zip(SEEDS, () if isinstance(expected, str) else expected):
            log, found, its_stream = step(model, seed)
            torch.testing.assert_close(log['clean_loss'], loss)
            torch.testing.assert_close(log['adv_s_0.loss'], loss, rtol=1e-7, atol=1e-9)
            torch.testing.assert_close(found, gradients, rtol=1e-7, atol=1e-9)
            assert torch.equal(its_stream, stream)
