"""One training step of a model on a preprocessed batch, for tests."""
from __future__ import annotations

import logging
from contextlib import contextmanager

import torch
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper


@contextmanager
def record_warnings():
    """Give the warnings of mmengine's logger, as texts."""
    found = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: found.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)


def step(model, batch, lr=0.0, seed=3):
    """Train one step with SGD; return its log and its gradients.

    Args:
        model: A model of a codebase.
        batch: What its data preprocessor would give.
        lr: Learning rate.
        seed: Of torch's random numbers.
    """
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=lr))
    gradients = {}
    stock = wrapper.optimizer.step

    def keep(*args):
        gradients.update({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        return stock(*args)

    wrapper.optimizer.step = keep
    handle = model.data_preprocessor.register_forward_hook(lambda *_: batch)
    torch.manual_seed(seed)
    try:
        log = model.train_step(dict(inputs=list(batch['inputs']), data_samples=batch['data_samples']), wrapper)
    finally:
        handle.remove()
    return {k: float(v) for k, v in log.items()}, gradients
