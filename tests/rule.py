"""The rule of gradients: at a step near 0, each adversarial term is the clean one for what comes after the tap."""
from __future__ import annotations

import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.optim import OptimWrapper
from torch import nn

from mmafan.models.model import make_afan_class

STEP = 1e-9


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


def gradients(model, batch, wrapper=OptimWrapper, seed=3):
    """Gradients of one training step (without its update), and its log."""
    optimizer, kept = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0), {}
    optimizer.step = lambda: kept.update({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    torch.manual_seed(seed)
    log = model.train_step(batch, wrapper(optimizer))
    optimizer.zero_grad()
    return kept, {k: float(v) for k, v in log.items()}


def tapped(stock, module='mid', afan=None, **fields):
    """Build the A-FAN model of a class, with one tap of a step near 0."""
    tap = dict(dict(module=module, step_size=STEP), **fields)
    return make_afan_class(stock)(afan=dict(dict(taps=dict(t=tap), batch_norm='frozen'), **(afan or {}))).train()


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
        close = torch.allclose(found[name], ratio * right, rtol=1e-5, atol=1e-7 * float(right.abs().max()))
        made[name] = round(ratio, 4) if close else None
    return made


def by_part(found):
    """Merge the ratios of the parameters of each part of a model (the first word of their names)."""
    parts = {}
    for name, ratio in found.items():
        parts.setdefault(name.partition('.')[0], set()).add(ratio)
    return {part: values.pop() if len(values) == 1 else sorted(values, key=str) for part, values in parts.items()}
