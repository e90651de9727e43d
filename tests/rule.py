"""The rule that tells whether A-FAN trains what is configured, for any model; :func:`mmafan.analysis.prove` is another.

With a step near 0 and a weight of 1, an adversarial pass is the clean one again, in which what comes before the tap is
a constant: every parameter before the tap has the gradient that the stock model gives it, and every one after it twice
that.
"""
from __future__ import annotations

import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.optim import OptimWrapper
from torch import nn

from mmafan.models.model import make_afan_class

STEP = 1e-13
SCHEDULES = ('two_phase', 'single_graph')


# ---------------------------------------------------------------- models
class Plain(BaseModel):
    """A model of a user's own, in float64 and without norms: subclasses say how their losses come about."""

    def __init__(self, data_preprocessor=None):
        super().__init__(data_preprocessor or PlainPreprocessor())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.build()
        self.double()

    def build(self):
        self.stem, self.mid, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return self.losses(inputs, data_samples) if mode == 'loss' else inputs

    def classify(self, feature, labels):
        return nn.functional.cross_entropy(self.head(feature.tanh().mean((2, 3))), labels)


class PlainPreprocessor(BaseDataPreprocessor):
    """Passes a batch through as it is."""

    def forward(self, data, training=False):
        return data


def batch_of(size=4, seed=0):
    """Return images of 6x6 pixels in float64, and labels of two classes."""
    generator = torch.Generator().manual_seed(seed)
    return dict(inputs=torch.randn(size, 3, 6, 6, generator=generator, dtype=torch.float64),
                data_samples=torch.randint(2, (size, ), generator=generator))


def build(cls, **afan):
    """Build a model in float64, always with the same weights; ``afan`` empty: the stock one."""
    torch.manual_seed(1)
    model = make_afan_class(cls)(afan=afan) if afan else cls()
    return model.double().train()


def tapped(stock, module='mid', afan=None, **fields):
    """Build the A-FAN model of a class, with one tap of a step near 0 and norms that change nothing."""
    tap = dict(dict(module=module, step_size=STEP), **fields)
    return build(stock, **dict(dict(taps=dict(t=tap), batch_norm='frozen'), **(afan or {})))


# ---------------------------------------------------------------- steps
def train(model, make_data, steps, wrapper=OptimWrapper, seed=0):
    """Train without moving a weight; return the gradients and the log of every step.

    Args:
        model: Of any kind.
        make_data: Gives what the data loader gives, anew for each number of a step.
        steps: Their number.
        wrapper: Class of the optimizer wrapper.
        seed: Of the first step; that of each further one is one more.
    """
    optimizer, found = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0), []
    wrapped = wrapper(optimizer)
    for number in range(steps):
        gradients = {}
        optimizer.step = lambda: gradients.update(
            {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        torch.manual_seed(seed + number)
        log = model.train_step(make_data(number), wrapped)
        found.append((gradients, {name: float(torch.as_tensor(value).detach()) for name, value in log.items()}))
    optimizer.zero_grad()
    return found


def gradients(model, batch, wrapper=OptimWrapper):
    """Gradients of one training step, and its log."""
    return train(model, lambda _: batch, 1, wrapper, seed=3)[0]


# ---------------------------------------------------------------- the rule
def is_multiple(found, right, ratio):
    """Whether a gradient is a multiple of another one, up to rounding."""
    return torch.allclose(found, ratio * right, rtol=1e-7, atol=1e-9 * float(right.abs().max()) if right.numel() else 0)


def ratios(stock, model, batch, wrapper=OptimWrapper):
    """By parameter, the gradient of an A-FAN model over the stock one's; each must be a multiple.

    Returns:
        Rounded ratios; None where the gradient is no multiple.
    """
    stock = stock().train() if isinstance(stock, type) else stock
    expected, found = gradients(stock, batch, wrapper)[0], gradients(model, batch, wrapper)[0]
    assert expected.keys() == found.keys() and expected
    made = {}
    for name, right in expected.items():
        ratio = float((found[name] * right).sum() / right.square().sum().clamp_min(1e-300))
        made[name] = round(ratio, 4) if is_multiple(found[name], right, ratio) else None
    return made


def by_part(found):
    """Merge the ratios of the parameters of each part of a model (the first word of their names)."""
    parts = {}
    for name, ratio in found.items():
        parts.setdefault(name.partition('.')[0], set()).add(ratio)
    return {part: values.pop() if len(values) == 1 else sorted(values, key=str) for part, values in parts.items()}


def assert_rule(cls, make_data, before=('a.', 't.'), tap='t', steps=3, schedules=SCHEDULES, weight=1.0, fields=None,
                **afan):
    """Assert the rule for a model class, in every step.

    Args:
        cls: A stock class whose ``__init__`` takes nothing.
        make_data: As of :func:`train`.
        before: Beginnings of the names of the parameters before the tap.
        tap: The tap's module.
        steps: Number of steps.
        schedules: Of ``afan.schedule``.
        weight: Of the adversarial terms.
        fields: Further fields of the tap.
        afan: Further fields of ``afan``.

    Returns:
        The logs of the last schedule's steps.
    """
    expected, found = train(build(cls), make_data, steps), []
    for schedule in schedules:
        taps = dict(s=dict(module=tap, step_size=STEP, weight=weight, **(fields or {})))
        found = train(build(cls, taps=taps, schedule=schedule, **afan), make_data, steps)
        for number, ((own, _), (stock, _)) in enumerate(zip(found, expected)):
            assert own.keys() == stock.keys() and stock, (schedule, number)
            for name, right in stock.items():
                share = 1.0 if name.startswith(tuple(before)) else 1.0 + weight
                assert is_multiple(own[name], right, share), (schedule, number, name, own[name], share * right)
    return [log for _, log in found]
