"""What a user should know before a training whose schedule leaves little or nothing of A-FAN."""
from __future__ import annotations

from typing import Any, Iterator, Optional

from ..models.participation import num_chosen


def schedule_notices(hook: Any, runtime: Any, length: Optional[int], num_iterations: Optional[int],
                     batch_size: Optional[int]) -> Iterator[str]:
    """Yield a sentence for each field that leaves A-FAN off, or far from its full strength, to the end.

    Args:
        hook: An :class:`mmafan.hooks.AdvFeatureHook`.
        runtime: Of the model.
        length: Of the training, in the unit of the hook's schedule; None: not known, as the others.
        num_iterations: Of the training.
        batch_size: Of a process.
    """
    if length is not None and hook.ramp:
        last = length if hook.end is None else min(length, hook.end)
        if hook.ramp > last - hook.begin:
            yield (f'AdvFeatureHook.ramp={hook.ramp} does not end before the training, or A-FAN, does: the strengths '
                   f'come to {(last - hook.begin) / hook.ramp:.2g} of their full value')
    for name, tap in runtime.config.taps.items():
        if tap.active and tap.fraction < 1 and num_iterations is not None and batch_size:
            least = min(runtime.norms.least_samples, batch_size)
            if num_iterations * batch_size * tap.fraction < least and not any(
                    num_chosen(batch_size, tap.fraction, least, k) for k in range(min(num_iterations, 10**4))):
                yield (f'afan.taps.{name}.fraction={tap.fraction} chooses no sample in the {num_iterations} iterations '
                       f'of this training with {batch_size} samples in a batch: A-FAN is off at this tap')
