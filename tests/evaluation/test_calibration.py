"""The expected calibration error, against NumPy, and as a metric of a real evaluator."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine.registry import METRICS

from mmafan.evaluation import CalibrationError, expected_calibration_error


def by_hand(confidence, correct, num_bins):
    """Equation 3 of Guo et al., with half-open bins ((b - 1) / n, b / n]; a confidence of 0 joins the first."""
    error = 0.0
    for low in range(num_bins):
        inside = (confidence > low / num_bins) & (confidence <= (low + 1) / num_bins)
        if low == 0:
            inside |= confidence == 0
        if inside.any():
            error += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    return error


@pytest.mark.parametrize('num_bins', [1, 4, 15])
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
def test_against_numpy(num_bins, dtype):
    random = np.random.RandomState(num_bins)
    confidence, correct = random.rand(500), random.rand(500) < 0.7
    confidence[:3] = 0.0, 0.25, 1.0
    found = expected_calibration_error(torch.tensor(confidence, dtype=dtype), torch.tensor(correct), num_bins)
    assert float(found) == pytest.approx(by_hand(confidence, correct, num_bins), abs=1e-6)


def test_a_calibrated_classifier_has_no_error():
    confidence = torch.tensor([0.75] * 4)
    assert float(expected_calibration_error(confidence, torch.tensor([1, 1, 1, 0]))) == 0


@pytest.mark.parametrize('confidence, correct, num_bins, sentence', [
    ([], [], 15, r'N of at least 1, got \(0,\) and \(0,\)'),
    ([0.5], [1, 0], 15, r'one shape \(N,\)'),
    ([0.5], [1], 0, 'num_bins must be an integer of at least 1, got 0'),
])
def test_wrong_input_is_one_sentence(confidence, correct, num_bins, sentence):
    with pytest.raises(ValueError, match=sentence):
        expected_calibration_error(torch.tensor(confidence), torch.tensor(correct), num_bins)


def test_the_metric_reads_data_samples():
    """Confidence 0.9 right, 0.6 wrong: bins of width 0.5 hold both, gap |0.5 - 0.75|."""
    metric = METRICS.build(dict(type='CalibrationError', num_bins=2))
    assert isinstance(metric, CalibrationError)
    samples = [dict(pred_score=torch.tensor([0.1, 0.9]), gt_label=torch.tensor([1])),
               dict(pred_score=torch.tensor([0.6, 0.4]), gt_label=torch.tensor([1]))]
    metric.process(None, samples)
    assert metric.evaluate(2) == {'calibration/ece': pytest.approx(25.0)}


def test_samples_without_scores_are_told():
    with pytest.raises(ValueError, match=r"needs data samples with pred_score, .* got \['pred_label'\]"):
        CalibrationError().process(None, [dict(pred_label=torch.tensor([1]))])
