"""A hook that makes a run which was killed and resumed end with the weights of an uninterrupted one."""
from __future__ import annotations

import random
import zlib
from typing import Any, Iterator, List, Optional, Tuple

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from torch.utils.data import DataLoader

from mmafan.registry import HOOKS


def derive_seed(base: int, *path: Any) -> int:
    """Derive a 32-bit seed from a run's seed and the place where it is used.

    Args:
        base: The run's seed.
        *path: Non-negative integers and strings that name the place, such as ``'data', epoch, batch, rank``.

    Example:
        >>> derive_seed(0, 'model', 3) == derive_seed(0, 'model', 3) != derive_seed(0, 'model', 4)
        True
    """
    words = [zlib.crc32(p.encode()) if isinstance(p, str) else int(p) for p in (base, *path)]
    return int(np.random.SeedSequence(words).generate_state(1)[0])


def seed_everything(seed: int) -> None:
    """Seed the generators of Python, NumPy and torch (all devices) in this process."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class _SeededIndices(list):
    """The indices of one batch; going through them seeds the process that does so.

    That process is the worker that loads the batch, or the main one without workers: ``fetch`` of torch's
    ``_MapDatasetFetcher`` iterates over the indices right before it reads the items. So the random transforms of a
    batch depend on its number alone, whatever the number of workers, their persistence and the prefetching.
    """

    def __init__(self, indices: List[int], seed: int) -> None:
        super().__init__(indices)
        self.seed = seed

    def __iter__(self) -> Iterator[int]:
        seed_everything(self.seed)
        return super().__iter__()

    def __reduce__(self) -> Tuple:
        # list.copy does not call __iter__: pickling for a worker must not seed the main process.
        return type(self), (list.copy(self), self.seed)


class _SeededBatchSampler:
    """A batch sampler whose batches carry the seed that their number gives; all else is passed through."""

    def __init__(self, batch_sampler: Any, base: int, rank: int) -> None:
        self.batch_sampler = batch_sampler
        self.base = base
        self.rank = rank
        self.round = -1  # number of times the data set was begun; the epoch in an epoch-based loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__['batch_sampler'], name)

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[List[int]]:
        # A generator, so that a round counts when its first batch is asked for: a loader with workers calls iter()
        # twice for its first round.
        self.round += 1
        round_ = self.round
        for number, batch in enumerate(self.batch_sampler):
            yield _SeededIndices(batch, derive_seed(self.base, 'data', round_, number, self.rank))


@HOOKS.register_module()
class ResumableSeedHook(Hook):
    """Make every random number of training a function of (seed, epoch or iteration, rank).

    mmengine restores weights, optimizer, schedule and epoch when it resumes, but not the state of the random
    generators, and it reads the seed of a checkpoint only after data loader and sampler were built with another one.
    With this hook, which needs no options:

    - the sampler's order follows the run's seed, which is the checkpoint's where ``randomness.seed`` is None;
    - the transforms of a batch follow its epoch and number, with and without workers;
    - all that is random in a training step (dropout, batch augments, sampling of boxes, random starts) follows the
      iteration.

    Ranks draw different numbers. In an iteration-based loop mmengine reads the data of past iterations again when it
    resumes, which gives the same batches as before.

    Limits: an epoch-based run resumes at the start of an epoch, so checkpoints must be saved by epoch; transforms that
    remember earlier samples (a cached mosaic) start anew; kernels that are not deterministic stay so
    (``randomness=dict(deterministic=True)``).
    """
    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._base = 0
        self._batches: Optional[_SeededBatchSampler] = None

    def before_train(self, runner: Any) -> None:
        """Give sampler and data loader the run's seed, now that a checkpoint's is known."""
        rank = get_rank()
        # mmengine adds the rank to the seed it was given; all ranks must shuffle alike.
        self._base = runner.seed - (rank if runner._randomness_cfg.get('diff_rank_seed', False) else 0)
        loader = runner.train_dataloader
        if loader.batch_sampler is None:
            raise ValueError('ResumableSeedHook needs a train_dataloader with batches (batch_size must not be None)')
        if isinstance(loader.batch_sampler, _SeededBatchSampler):  # a second call of train()
            batches = loader.batch_sampler.batch_sampler
        else:
            batches = loader.batch_sampler
        samplers: List[Any] = [loader.sampler, getattr(batches, 'sampler', None)]
        for sampler in samplers:
            if hasattr(sampler, 'seed'):
                sampler.seed = self._base
            if hasattr(sampler, '_indices_of_rank') and hasattr(sampler, 'indices'):
                sampler.indices = sampler._indices_of_rank()  # InfiniteSampler began with the old seed
        self._batches = _SeededBatchSampler(batches, self._base, rank)
        # torch locks the attribute after construction; it is read only when an iterator is made.
        object.__setattr__(loader, 'batch_sampler', self._batches)
        loader._iterator = None  # workers that persist hold the old one
        self._restart_iterator(runner, loader)

    @staticmethod
    def _restart_iterator(runner: Any, loader: DataLoader) -> None:
        """Make the iterator of an iteration-based loop anew: it was made before the checkpoint was read."""
        iterator = getattr(runner.train_loop, 'dataloader_iterator', None)
        if iterator is not None:
            runner.train_loop.dataloader_iterator = type(iterator)(loader)

    def before_train_epoch(self, runner: Any) -> None:
        """Number the coming round of the data set, and seed for hooks that draw at the start of an epoch."""
        if self._batches is not None and not hasattr(runner.train_loop, 'dataloader_iterator'):
            self._batches.round = runner.epoch - 1
        seed_everything(derive_seed(self._base, 'epoch', runner.epoch, get_rank()))

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Seed for the training step."""
        seed_everything(derive_seed(self._base, 'model', runner.iter, get_rank()))
