"""A task of mmengine alone for tests that kill trainings: a small A-FAN classifier of random images.

Configs import this file by name (``custom_imports``), its folder being on PYTHONPATH. The environment variable
``TOY_KILL=<event>:<part of a path>`` kills the process, as SIGKILL would, right before it does that for the first time
(events are those of ``sys.addaudithook``); ``TOY_EPOCH_SECONDS`` makes epochs longer.
"""
from __future__ import annotations

import os
import signal
import sys
import time

import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS
from torch import nn
from torch.utils.data import Dataset

from mmafan import afan_model

CONFIG = '''
custom_imports = dict(imports=['mmafan', 'toy_task'], allow_failed_imports=False)
default_scope = 'mmengine'
model = dict(type='ToyNet', width={width}, afan=dict(batch_norm={norm!r}, taps=dict(
    s=dict(module='conv1', step_size=0.1, strengths=(0.5, 1.0)))))
data = dict(batch_size=4, num_workers=0, collate_fn=dict(type='default_collate'), dataset=dict(type='ToyImages'))
train_dataloader = dict(data, sampler=dict(type='DefaultSampler', shuffle=True))
val_dataloader = dict(data, sampler=dict(type='DefaultSampler', shuffle=False))
train_cfg = dict(by_epoch=True, max_epochs={epochs}, val_interval=1)
val_cfg = dict()
val_evaluator = dict(type='ToyAccuracy')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.05, momentum=0.9))
param_scheduler = dict(type='LinearLR', start_factor=0.1, end=3)
default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts={keep}, save_best={best!r}),
                     logger=dict(type='LoggerHook', interval=2))
custom_hooks = [dict(type='mmafan.AdvFeatureHook'), dict(type='EMAHook', momentum=0.1), dict(type='ToyWait')]
randomness = dict(seed=3)
{more}
'''


def toy_config(epochs: int = 4, keep: int = -1, norm: str = 'separate', width: int = 4, best=None,
               more: str = '') -> str:
    """Return the text of a config."""
    return CONFIG.format(epochs=epochs, keep=keep, norm=norm, width=width, best=best, more=more)


def environment(repo, **more: str) -> dict:
    """Return the environment of a process that trains it."""
    paths = [str(repo), str(repo / 'tests' / 'integration')]
    return dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=os.pathsep.join(paths), **more)


@DATASETS.register_module(force=True)
class ToyImages(Dataset):
    """Eight images of two classes."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict:
        generator = torch.Generator().manual_seed(index)
        noise = 0.1 * torch.randn(3, 6, 6)  # transforms draw, too
        return dict(inputs=torch.randn(3, 6, 6, generator=generator) + noise, data_samples=index % 2)


@MODELS.register_module(force=True)
@afan_model
class ToyNet(BaseModel):
    """Two convolutions, dropout, and a buffer whose length gives the size of the checkpoint."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv1, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.conv2, self.drop, self.fc = nn.Conv2d(4, 4, 3), nn.Dropout(0.2), nn.Linear(4, 2)
        self.register_buffer('ballast', torch.zeros(width))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        features = self.conv2(self.bn(self.conv1(inputs)).relu()).mean((2, 3))
        logits = self.fc(self.drop(features))
        if mode == 'loss':
            return {'loss': nn.functional.cross_entropy(logits, data_samples)}
        return [dict(right=bool(n)) for n in logits.argmax(1) == data_samples] if mode == 'predict' else logits


@METRICS.register_module(force=True)
class ToyAccuracy(BaseMetric):
    """Share of right answers."""

    def process(self, data_batch, data_samples) -> None:
        self.results += [sample['right'] for sample in data_samples]

    def compute_metrics(self, results) -> dict:
        return dict(accuracy=sum(results) / len(results))


@HOOKS.register_module(force=True)
class ToyWait(Hook):
    """Let every iteration take its share of the time that an epoch is to take."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        time.sleep(float(os.environ.get('TOY_EPOCH_SECONDS', 0)) / 2)


def _kill_at(event: str, part: str) -> None:

    def watch(name: str, args: tuple) -> None:
        if name == event and any(part in os.fspath(a) for a in args if isinstance(a, (str, os.PathLike))):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


if 'TOY_KILL' in os.environ:
    _kill_at(*os.environ['TOY_KILL'].split(':'))
