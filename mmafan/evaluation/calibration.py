"""Expected calibration error: how far the confidence of a classifier is from its accuracy."""
from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence

import torch
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from torch import Tensor


def expected_calibration_error(confidence: Tensor, correct: Tensor, num_bins: int = 15) -> Tensor:
    """Average the gap between confidence and accuracy over bins of equal width (Guo et al., arXiv 1706.04599, eq. 3).

    Args:
        confidence: ``(N,)``, probability of the predicted class, in [0, 1]; not modified.
        correct: ``(N,)``, whether the prediction is right, bool or 0 and 1.
        num_bins: Number of bins of ``(0, 1]``, each closed on the right.

    Returns:
        A tensor of no dimension in [0, 1].

    Raises:
        ValueError: If there is no sample, the shapes differ, or there is no bin.

    Example:
        >>> expected_calibration_error(torch.tensor([0.9, 0.9]), torch.tensor([True, False]))  # |0.9 - 0.5|
        tensor(0.4000)
    """
    if confidence.dim() != 1 or confidence.shape != correct.shape or not confidence.numel():
        raise ValueError(f'confidence and correct must have one shape (N,) with N of at least 1, got '
                         f'{tuple(confidence.shape)} and {tuple(correct.shape)}')
    if isinstance(num_bins, bool) or not isinstance(num_bins, int) or num_bins < 1:
        raise ValueError(f'num_bins must be an integer of at least 1, got {num_bins!r}')
    bins = (confidence * num_bins).ceil().long().sub(1).clamp(0, num_bins - 1)
    gaps = confidence.new_zeros(num_bins).index_add(0, bins, correct.to(confidence) - confidence)
    return gaps.abs().sum() / confidence.numel()


@METRICS.register_module()
class CalibrationError(BaseMetric):
    """Expected calibration error of a classifier with one label for each image, in percent: lower is better.

    It stands beside ``Accuracy`` in ``val_evaluator`` and logs ``calibration/ece``.

    Args:
        num_bins: Number of bins, see :func:`expected_calibration_error`.
        collect_device: ``'cpu'`` or ``'gpu'``, where several processes gather.
        prefix: In front of the name in the log.
    """
    default_prefix: Optional[str] = 'calibration'

    def __init__(self, num_bins: int = 15, collect_device: str = 'cpu', prefix: Optional[str] = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.num_bins = num_bins

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep confidence and correctness of a batch; see :meth:`mmengine.evaluator.BaseMetric.process`."""
        for sample in data_samples:
            if 'pred_score' not in sample:
                raise ValueError('CalibrationError needs data samples with pred_score, the probabilities of the '
                                 f'classes, got {sorted(sample)}')
            confidence, label = sample['pred_score'].detach().cpu().max(0)
            self.results.append((float(confidence), bool(label == sample['gt_label'].cpu())))

    def compute_metrics(self, results: List[Any]) -> Dict[str, float]:
        """Return ``{'ece': percent}``; see :meth:`mmengine.evaluator.BaseMetric.compute_metrics`."""
        confidence, correct = torch.tensor(results, dtype=torch.float64).T
        return {'ece': 100 * float(expected_calibration_error(confidence, correct, self.num_bins))}
