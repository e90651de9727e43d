"""How well the training set is fitted: the running mean, the factor, and what a resumed run continues with."""
from __future__ import annotations

import math

import pytest

from mmafan.hooks.fit_tracker import FitTracker


def test_the_factor_by_hand():
    """Highest loss 2, threshold 0.5: 0 from a loss of 1 upwards, 1 - 0.25 / 1 at a loss of 0.25."""
    tracker = FitTracker(0.5)
    assert [tracker.update(loss, 1) for loss in (2.0, 1.0, 0.25, 1.5, 0.0)] == [0.0, 0.0, 0.75, 0.0, 1.0]


def test_the_mean_looks_back_on_a_window():
    """The first losses weigh alike, 4 and 2; from then on one half is new: 3, then 0.5 * 3 + 0.5 * 1."""
    tracker = FitTracker(1.0)
    for loss, mean in ((4.0, 4.0), (2.0, 3.0), (1.0, 2.0)):
        tracker.update(loss, 2)
        assert tracker.mean == mean
    assert tracker.highest == 4.0 and tracker.factor == 0.5


def test_a_loss_that_is_not_finite_is_left_out():
    tracker = FitTracker(1.0)
    tracker.update(2.0, 1)
    tracker.update(1.0, 1)
    assert tracker.update(math.nan, 1) == tracker.update(math.inf, 1) == 0.5


def test_before_the_first_loss_there_is_no_attack():
    assert FitTracker(1.0).factor == 0.0


def test_it_goes_on_where_it_was():
    whole, first = FitTracker(0.7), FitTracker(0.7)
    losses = [3.0, 2.0, 1.7, 0.9, 0.4, 0.6]
    for loss in losses:
        whole.update(loss, 3)
    for loss in losses[:3]:
        first.update(loss, 3)
    second = FitTracker(0.7)
    second.load_state_dict(first.state_dict())
    for loss in losses[3:]:
        second.update(loss, 3)
    assert second.state_dict() == whole.state_dict()


@pytest.mark.parametrize('threshold', [0, -1, 1.1, True, 'half'])
def test_a_wrong_threshold_is_one_sentence(threshold):
    with pytest.raises(ValueError, match=r'AdvFeatureHook.fit_threshold must be a number in \(0, 1\], or None, got '):
        FitTracker(threshold)
