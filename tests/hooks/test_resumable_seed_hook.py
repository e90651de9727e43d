"""A run that is killed and resumed ends with the weights of an uninterrupted one, bit for bit."""
from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from mmafan.hooks.resumable_seed_hook import ResumableSeedHook, _SeededIndices, derive_seed, seed_everything


class NoisyPoints(Dataset):
    """24 points whose items differ at each reading, by all three generators."""

    def __len__(self):
        return 24

    def __getitem__(self, index):
        noise = random.random() + np.random.rand() + torch.rand(()).item()
        return torch.full((4, ), float(index) / 24) + noise, torch.tensor(float(index % 3))


class DropoutModel(BaseModel):
    """A linear model with dropout, deterministic apart from the random generators."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 1))
        self.seen = []

    def forward(self, inputs, labels, mode='tensor'):
        self.seen.append(inputs.detach().clone())
        return dict(loss=(self.layers(inputs)[:, 0] - labels).pow(2).mean())


class Interruption(Exception):
    pass


class InterruptHook(Hook):
    """Ends training in the middle of a step."""
    priority = 'VERY_LOW'

    def __init__(self, iteration):
        self.iteration = iteration

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == self.iteration:
            raise Interruption


def stack(batch):
    inputs, labels = zip(*batch)
    return dict(inputs=torch.stack(inputs), labels=torch.stack(labels))


LOOPS = dict(epoch=dict(by_epoch=True, max_epochs=4), iter=dict(by_epoch=False, max_iters=24))
EVERY = dict(epoch=dict(interval=1, by_epoch=True), iter=dict(interval=6, by_epoch=False))
COUNT = iter(range(10**6))


def make_runner(work_dir, loop, *, num_workers=0, persistent=False, seed=7, with_hook=True, resume=False,
                interrupt_at=None, sampler=None, diff_rank_seed=False):
    """6 iterations an epoch; the model starts from the same weights in every run."""
    torch.manual_seed(0)
    model = DropoutModel()
    if sampler is None:
        sampler = 'DefaultSampler' if loop == 'epoch' else 'InfiniteSampler'
    hooks = [ResumableSeedHook()] if with_hook else []
    if interrupt_at is not None:
        hooks.append(InterruptHook(interrupt_at))
    with DefaultScope.overwrite_default_scope('mmengine'):
        return Runner(
            model=model,
            work_dir=str(work_dir),
            train_dataloader=dict(
                dataset=NoisyPoints(),
                sampler=dict(type=sampler, shuffle=True),
                batch_size=4,
                num_workers=num_workers,
                persistent_workers=persistent,
                collate_fn=dict(type=stack)),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.02, momentum=0.9)),
            train_cfg=dict(LOOPS[loop]),
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', **EVERY[loop]), logger=None),
            custom_hooks=hooks,
            randomness=dict(seed=seed, diff_rank_seed=diff_rank_seed),
            resume=resume,
            log_level='ERROR',
            experiment_name=f'resumable_seed_{next(COUNT)}')


def train(*args, **kwargs):
    runner = make_runner(*args, **kwargs)
    return run(runner)


def run(runner):
    """Train, and end the workers by hand: those of an interrupted run take 5 s each when garbage is collected."""
    try:
        runner.train()
    finally:
        runner.train_dataloader._iterator = None
        if hasattr(runner.train_loop, 'dataloader_iterator'):
            runner.train_loop.dataloader_iterator._iterator = None
    return runner


def weights(runner):
    return torch.cat([p.detach().flatten() for p in runner.model.parameters()])


def straight_and_resumed(tmp_path, loop, **kwargs):
    """Weights of an uninterrupted run, and of one killed after two thirds of an epoch too many."""
    straight = train(tmp_path / 'straight', loop, **kwargs)
    with pytest.raises(Interruption):
        train(tmp_path / 'killed', loop, interrupt_at=15, **kwargs)
    resumed = train(tmp_path / 'killed', loop, resume=True, **kwargs)
    assert resumed.iter == straight.iter == 24
    assert len(resumed.model.seen) == 12, 'the second half of the run was not resumed'
    return weights(straight), weights(resumed)


CASES = [('epoch', 0, False), ('epoch', 2, False), ('epoch', 2, True), ('iter', 0, False), ('iter', 2, True)]


@pytest.mark.parametrize('loop, num_workers, persistent', CASES)
def test_resumed_equals_uninterrupted(tmp_path, loop, num_workers, persistent):
    straight, resumed = straight_and_resumed(tmp_path, loop, num_workers=num_workers, persistent=persistent)
    assert torch.equal(straight, resumed)


@pytest.mark.parametrize('loop, num_workers, persistent', CASES)
def test_without_the_hook_the_resumed_run_differs(tmp_path, loop, num_workers, persistent):
    straight, resumed = straight_and_resumed(
        tmp_path, loop, num_workers=num_workers, persistent=persistent, with_hook=False)
    assert not torch.equal(straight, resumed)


@pytest.mark.parametrize('loop', ['epoch', 'iter'])
def test_seed_that_mmengine_drew_is_used_again(tmp_path, loop):
    """Without ``randomness.seed`` the resumed run takes the seed from the checkpoint."""
    seed_everything(123)  # the draw below is then the same in every run of this test
    killed = make_runner(tmp_path / 'killed', loop, seed=None, interrupt_at=15)
    with pytest.raises(Interruption):
        run(killed)
    np.random.seed(None)
    resumed = train(tmp_path / 'killed', loop, seed=None, resume=True)
    assert resumed.seed == killed.seed
    straight = train(tmp_path / 'straight', loop, seed=killed.seed)
    assert torch.equal(weights(straight), weights(resumed))


def test_iterations_over_a_finite_sampler(tmp_path, monkeypatch):
    """mmengine begins the data set again when it is used up; each round then has its own transforms."""
    monkeypatch.setattr('mmengine.runner.loops.time.sleep', lambda seconds: None)
    straight, resumed = straight_and_resumed(tmp_path, 'iter', sampler='DefaultSampler')
    assert torch.equal(straight, resumed)


@pytest.mark.parametrize('loop', ['epoch', 'iter'])
def test_batches_do_not_depend_on_workers(tmp_path, loop):
    runs = [
        train(tmp_path / str(i), loop, num_workers=n, persistent=p)
        for i, (n, p) in enumerate([(0, False), (1, False), (2, True)])
    ]
    first = torch.cat(runs[0].model.seen)
    assert all(torch.equal(first, torch.cat(other.model.seen)) for other in runs[1:])


def test_epochs_and_batches_have_different_transforms(tmp_path):
    seen = torch.cat(train(tmp_path, 'epoch').model.seen)
    noise = (seen * 24).frac().flatten()
    assert noise.view(-1, 4)[:, 0].unique().numel() == 96


def test_seed_changes_the_run(tmp_path):
    one, other = train(tmp_path / '1', 'epoch', seed=1), train(tmp_path / '2', 'epoch', seed=2)
    assert not torch.equal(weights(one), weights(other))


def test_rank_seed_does_not_change_the_order(tmp_path):
    """With ``diff_rank_seed`` mmengine adds the rank to the seed; all ranks must shuffle alike."""
    plain = train(tmp_path / '1', 'epoch')
    ranked = train(tmp_path / '2', 'epoch', diff_rank_seed=True)
    assert ranked.train_dataloader.sampler.seed == plain.train_dataloader.sampler.seed == 7


def test_loader_without_batches_is_refused():
    runner = make_runner_stub(batch_sampler=None)
    with pytest.raises(ValueError, match='batch_size must not be None'):
        ResumableSeedHook().before_train(runner)


def make_runner_stub(**loader):
    from types import SimpleNamespace
    return SimpleNamespace(
        seed=0, _randomness_cfg={}, train_dataloader=SimpleNamespace(sampler=None, **loader),
        train_loop=SimpleNamespace())


def test_pickling_indices_leaves_the_random_state_alone():
    import pickle
    seed_everything(5)
    expected = random.random(), np.random.rand(), torch.rand(()).item()
    seed_everything(5)
    copy = pickle.loads(pickle.dumps(_SeededIndices([3, 1, 2], 99)))
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == expected
    assert list(copy) == [3, 1, 2]
    assert copy.seed == 99


def test_seeds_of_different_places_differ():
    places = [('data', e, b, r) for e in range(5) for b in range(5) for r in range(2)]
    places += [('model', i, r) for i in range(20) for r in range(2)]
    seeds = [derive_seed(base, *place) for place in places for base in (0, 1)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= s < 2**32 for s in seeds)
