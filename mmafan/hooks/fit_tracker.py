"""How well a training set is fitted, from the loss that every step computes anyway."""
from __future__ import annotations

import math
from typing import Any, Dict

from mmengine.runner import Runner

from ..validation import fail, is_number
from .clean_loss import clean_loss

WINDOW = 100  # iterations that the mean of the loss looks back on where a loop has no epochs


class FitTracker:
    """The clean loss of the last epoch, as a share of the highest that it has been.

    Args:
        threshold: Share of the highest loss below which the training set counts as being fitted, in (0, 1].

    Raises:
        ValueError: If the threshold is out of range.

    Example:
        >>> tracker = FitTracker(threshold=0.5)
        >>> [tracker.update(loss, window=1) for loss in (2.0, 1.0, 0.5, 0.0)]
        [0.0, 0.0, 0.5, 1.0]
    """

    def __init__(self, threshold: float) -> None:
        if not is_number(threshold) or not 0 < threshold <= 1:
            fail('AdvFeatureHook.fit_threshold', threshold, 'a number in (0, 1], or None')
        self.threshold = float(threshold)
        self.mean = self.highest = 0.0
        self.count = 0

    def update(self, loss: float, window: int) -> float:
        """Take one step's clean loss into the mean.

        Args:
            loss: Mean over the batches of all processes; one that is not finite is left out.
            window: Number of steps that the mean looks back on, such as those of one epoch.

        Returns:
            :attr:`factor`.
        """
        if loss == loss and abs(loss) != float('inf'):
            self.count += 1
            self.mean += (loss - self.mean) / min(self.count, max(window, 1))
            self.highest = max(self.highest, self.mean)
        return self.factor

    @property
    def factor(self) -> float:
        """Factor on the strengths: 0 where the loss is above the threshold, rising linearly to 1 at a loss of 0."""
        if self.highest <= 0:
            return 0.0
        return min(1.0, max(0.0, 1 - self.mean / (self.threshold * self.highest)))

    def follow(self, outputs: Dict[str, Any], runtime: Any, epoch_length: int) -> None:
        """Take what a step has logged into the mean.

        Args:
            outputs: Log variables of ``train_step``.
            runtime: Of the model.
            epoch_length: Number of steps in an epoch; 0 where there are none.

        Raises:
            ValueError: If the first step logs no loss.
        """
        loss = clean_loss(outputs, runtime)
        if loss is None and not self.count:
            raise ValueError(f'AdvFeatureHook.fit_threshold must be None where train_step logs no loss, got '
                             f'{self.threshold}: the model logs {sorted(outputs)}')
        self.update(math.nan if loss is None else loss, epoch_length or WINDOW)

    def resume(self, runner: Runner, restored: Dict[str, Any]) -> None:
        """Go on from what a checkpoint holds; warn where it holds nothing."""
        if 'fit' in restored:
            self.load_state_dict(restored['fit'])
        else:
            runner.logger.warning(
                f'the checkpoint does not hold how well the training set was fitted: with AdvFeatureHook.fit_threshold='
                f'{self.threshold} A-FAN is off until the clean loss is below that share of what it is now')

    def state_dict(self) -> Dict[str, Any]:
        """What a resumed run needs."""
        return dict(mean=self.mean, highest=self.highest, count=self.count)

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.mean, self.highest, self.count = state['mean'], state['highest'], state['count']
