"""A forward in a thread of its own: it stops where it meets a module, and ends with its result or its error."""
from __future__ import annotations

import pytest
import torch
from torch import nn

from mmafan.replay.tap import autocasts
from mmafan.replay.waiting_pass import WaitingPass


def test_a_waiting_pass_is_of_its_settings_and_ends_with_its_result_or_its_error():
    net = nn.Identity()

    def compute():
        found.append((autocasts(), torch.is_autocast_cache_enabled()))
        first = waiting.meet(net, (1, ), dict(a=2))
        return first, waiting.meet(net, (3, ), {})

    found = []
    with torch.autocast('cpu', torch.bfloat16, cache_enabled=False):
        waiting = WaitingPass(compute)
    assert waiting.daemon and not waiting.done and waiting.asks is None
    waiting.proceed()
    assert waiting.asks == (net, (1, ), dict(a=2)) and not waiting.done
    waiting.answer = ('first', )
    waiting.proceed()
    assert waiting.asks == (net, (3, ), {}) and waiting.answer is None
    waiting.proceed()
    assert waiting.done and waiting.result == (('first', ), None) and found == [([('cpu', torch.bfloat16)], False)]
    assert waiting.asks is None and waiting.error is None


@pytest.mark.parametrize('begun', [False, True])
def test_an_abandoned_pass_runs_no_further(begun):
    seen = []

    def compute():
        seen.append('begun')
        waiting.meet(nn.Identity(), (), {})
        seen.append('went on')

    waiting = WaitingPass(compute)
    if begun:
        waiting.proceed()
    waiting.abandoned = True
    waiting.proceed()
    assert waiting.done and seen == ['begun'] * begun and waiting.result is None


def test_an_error_comes_out_where_the_pass_is_let_go_on():
    waiting = WaitingPass(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        waiting.proceed()
    assert waiting.done and isinstance(waiting.error, ZeroDivisionError)
