"""Measuring steps in turn, and a suffix's share of a step."""
from __future__ import annotations

import functools
import random
import time
from typing import Any, Callable, Dict, List, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from ..replay import INPUTS
from ..replay.batch import is_feature
from ..replay.tree import tensors_of


def time_in_turn(steps: Mapping[str, Callable[[Any], Any]], batches: Sequence[Any], repeats: int,
                 warmup: int, clock: 'Clock') -> Dict[str, List[float]]:
    """Run every step once in each round; return the seconds of each after the warm-up.

    Each round begins with another step, so that none always follows the same one. All steps of a round draw the same
    random numbers: which RoIs a detector samples has its share in the time. The global generators stay seeded.
    """
    names = list(steps)
    seconds: Dict[str, List[float]] = {name: [] for name in names}
    for number in range(warmup + repeats):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            data = batches[number % len(batches)]
            random.seed(number)
            np.random.seed(number)
            torch.manual_seed(number)
            clock.synchronize()
            begin = clock.mark()
            steps[name](data)
            elapsed = clock.seconds(begin, clock.mark())
            if number >= warmup:
                seconds[name].append(elapsed)
    return seconds


class Clock:
    """Marks in time on the CPU, or in the stream of a CUDA device.

    Args:
        device: Where the work is done.
        process_time: On the CPU, count the processor time of this process (of all its threads)
            in place of the time that passes: other work on the machine then hardly disturbs.
    """

    def __init__(self, device: Any, process_time: bool = False) -> None:
        self.device = torch.device(device)
        self.cuda = self.device.type == 'cuda'
        self._now = time.process_time if process_time else time.perf_counter

    def mark(self) -> Any:
        """Note the time."""
        if not self.cuda:
            return self._now()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))  # of this device, which need not be the current one
        return event

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def seconds(self, begin: Any, end: Any) -> float:
        """Return the time between two marks; waits for the second one."""
        if not self.cuda:
            return end - begin
        end.synchronize()
        return begin.elapsed_time(end) / 1000


class SuffixProbe:
    """Measure each suffix's share of a training step of the stock model.

    It begins when the tap's module has returned (or is entered) for the first time and ends when the gradient
    has come back to all of its outputs. For the tap at the inputs everything is suffix.

    Args:
        model: The stock model.
        taps: Tap name to dotted module name.
        clock: Of the model's device.
        at_input: Names of the taps at the input of their module.

    Attributes:
        shares: For each tap the shares of the steps so far, each in (0, 1].
    """

    def __init__(self, model: nn.Module, taps: Mapping[str, str], clock: Clock,
                 at_input: Sequence[str] = ()) -> None:
        self._at_input = tuple(at_input)
        self.model, self.taps, self.clock = model, dict(taps), clock
        self.shares: Dict[str, List[float]] = {name: [] for name in taps}
        self._left: Dict[str, Any] = {}
        self._back: Dict[str, Any] = {}

    def run(self, step: Callable[[], Any]) -> None:
        """Run one training step under the probe.

        Raises:
            ValueError: If no gradient comes to a tap.
        """
        self._left, self._back = {}, {}
        handles = []
        for name, path in self.taps.items():
            if path == INPUTS:
                continue
            module = self.model.get_submodule(path)
            if name in self._at_input:
                handles.append(module.register_forward_pre_hook(functools.partial(self._enter, name)))
            else:
                handles.append(module.register_forward_hook(functools.partial(self._leave, name)))
        begin = self.clock.mark()
        try:
            step()
        finally:
            for handle in handles:
                handle.remove()
        whole = self.clock.seconds(begin, self.clock.mark())
        for name, path in self.taps.items():
            if path != INPUTS and name not in self._back:
                raise ValueError(f'afan.taps.{name}.module must name a module whose output gets a '
                                 f'gradient, got {path!r}')
            share = 1.0 if path == INPUTS else self.clock.seconds(self._left[name],
                                                                  self._back[name]) / whole
            self.shares[name].append(share)

    def _enter(self, name: str, module: nn.Module, args: Any) -> None:
        self._leave(name, module, None, args)

    def _leave(self, name: str, _: nn.Module, __: Any, output: Any) -> None:
        self._left.setdefault(name, self.clock.mark())
        for tensor in filter(is_feature, tensors_of(output)):
            if tensor.requires_grad:
                tensor.register_hook(functools.partial(self._come_back, name))

    def _come_back(self, name: str, _: Any) -> None:
        self._back[name] = self.clock.mark()
