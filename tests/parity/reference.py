"""A naive A-FAN step, written from the method's equations for any model, without a line of mmafan.

The whole network runs again for every pass; the tap's output is replaced through a plain forward hook; every graph is
kept until one backward. Slow, and obviously right.
"""
from __future__ import annotations

import torch


def _with_output(module, replacement, run, at='output'):
    """Run with the module's output replaced; the replacement is a constant, so nothing before it gets a gradient."""
    if at == 'input':
        handle = module.register_forward_pre_hook(lambda *_: (replacement, ))
    else:
        handle = module.register_forward_hook(lambda *_: replacement)
    try:
        return run()
    finally:
        handle.remove()


def _capture(module, run, at='output'):
    kept = []

    def hook(_, __, output):
        kept.append(output)
        return output.clone()  # an in-place operation after the tap must not change what was kept

    def pre_hook(_, args):
        kept.append(args[0])
        return (args[0].clone(), )

    handle = module.register_forward_hook(hook) if at == 'output' else module.register_forward_pre_hook(pre_hook)
    try:
        return run(), kept[0]
    finally:
        handle.remove()


def _sum(losses, names=None):
    total = 0
    for key, value in losses.items():
        if 'loss' in key and (names is None or key in names):
            total = total + (sum(v.mean() for v in value) if isinstance(value, (list, tuple)) else value.mean())
    return total


def _moments(feature, moments):
    """Mean and standard deviation: of the channels at a position, unbiased, or of a channel in the whole batch."""
    dims, unbiased = ((1, ), True) if moments == 'channel' else ((0, 2, 3), False)
    return feature.mean(dims, keepdim=True), (feature.var(dims, unbiased=unbiased, keepdim=True) + 1e-5).sqrt()


def naive_step(model, data, module_name, *, step_size, strengths, reinject, weights, clean_weight=1.0, num_steps=1,
               radius=None, norm='linf', seed=0, head=(), losses=None, at='output',
               moments='channel'):
    """Return ``(total loss, adversarial losses)`` and leave the gradients of one step in the parameters.

    Every pass starts from the same seed, so that dropout and stochastic depth are paired. ``head`` lists the modules
    that finish before the tap: where a shortcut leads around it, their outputs are constants of an adversarial pass.
    ``losses`` names the losses that are attacked and kept; None: all. A strength of each sample's own is a tensor
    ``(N, 1, 1, 1)``, as is whether its statistics are re-injected.
    """
    module = model.get_submodule(module_name)

    def run_all():
        torch.manual_seed(seed)
        return model.stock_loss(**data)

    def run():
        return _sum(run_all(), losses)

    clean_losses, feature = _capture(module, run_all, at)
    clean_loss = _sum(clean_losses)
    clean = feature.detach()
    adversarial = clean.clone()
    for _ in range(num_steps):
        point = adversarial.detach().requires_grad_()
        gradient, = torch.autograd.grad(_with_output(module, point.clone(), run, at), point)
        if norm == 'linf':
            adversarial = point.detach() + step_size * torch.sign(gradient)
            if radius is not None:
                adversarial = clean + torch.clamp(adversarial - clean, -radius, radius)
        else:
            length = gradient.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
            adversarial = point.detach() + step_size * gradient / length
            if radius is not None:
                delta = adversarial - clean
                length = delta.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
                adversarial = clean + delta * torch.clamp(radius / length, max=1.0)
    total = clean_weight * clean_loss
    terms = []
    frozen = [p for name in head for p in model.get_submodule(name).parameters() if p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    for strength, mixed, weight in zip(strengths, reinject, weights):
        perturbed = clean + strength * (adversarial - clean)
        (mu, sigma), (mu_i, sigma_i) = _moments(clean, moments), _moments(perturbed, moments)
        perturbed = torch.where(torch.as_tensor(mixed), sigma_i * (clean - mu) / sigma + mu_i, perturbed)
        terms.append(_with_output(module, perturbed, run, at))
        total = total + weight * terms[-1]
    for parameter in frozen:
        parameter.requires_grad_(True)
    total.backward()
    return float(total.detach()), [float(t.detach()) for t in terms]
