"""The rule that tells whether A-FAN trains what is configured, for any model.

With a step near 0 and both weights 1, an adversarial pass is the clean one again, in which what comes before the tap
is a constant: every parameter before the tap has the gradient that the stock model gives it, every one after it twice
that, and each adversarial loss is the clean one.
"""
from __future__ import annotations

import torch
from mmengine.optim import OptimWrapper

from mmafan.models.model import make_afan_class

SCHEDULES = ('two_phase', 'single_graph')


def train(model, make_data, steps):
    """Train without moving a weight; return the gradients and the log of every step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    wrapper, found = OptimWrapper(optimizer), []
    for number in range(steps):
        torch.manual_seed(number)
        gradients = {}
        optimizer.step = lambda: gradients.update(
            {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        log = model.train_step(make_data(number), wrapper)
        found.append((gradients, {name: float(torch.as_tensor(value).detach()) for name, value in log.items()}))
    return found


def build(cls, **afan):
    """Build a model in float64, always with the same weights; ``afan`` empty: the stock one."""
    torch.manual_seed(1)
    model = make_afan_class(cls)(afan=afan) if afan else cls()
    return model.double().train()


def assert_rule(cls, make_data, before=('a.', 't.'), tap='t', steps=3, schedules=SCHEDULES, weight=1.0, fields=None,
                **afan):
    """Assert the rule for a model class.

    Args:
        cls: A stock class whose ``__init__`` takes nothing.
        make_data: Gives what the data loader gives, anew for each number of a step.
        before: Beginnings of the names of the parameters before the tap.
        tap: The tap's module.
        steps: Number of steps, in each of which the rule must hold.
        schedules: Of ``afan.schedule``.
        weight: Of the adversarial terms.
        fields: Further fields of the tap.
        afan: Further fields of ``afan``.

    Returns:
        The logs of the last schedule's steps.
    """
    expected = train(build(cls), make_data, steps)
    logs = []
    for schedule in schedules:
        taps = dict(s=dict(module=tap, step_size=1e-13, weight=weight, **(fields or {})))
        found = train(build(cls, taps=taps, schedule=schedule, **afan), make_data, steps)
        logs = [log for _, log in found]
        for number, ((gradients, log), (stock, stock_log)) in enumerate(zip(found, expected)):
            assert gradients.keys() == stock.keys() and stock, (schedule, number)
            for name, gradient in stock.items():
                share = 1.0 if name.startswith(tuple(before)) else 1.0 + weight
                torch.testing.assert_close(gradients[name], share * gradient, rtol=1e-7, atol=1e-9,
                                           msg=lambda text: f'{schedule}, step {number}, {name}: {text}')
    return logs
