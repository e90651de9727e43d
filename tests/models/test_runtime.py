"""What steps report: exact counts and shares."""
from __future__ import annotations

import torch

from mmafan.models.runtime import Meters


def test_the_share_of_skipped_samples_is_that_of_all_attacks_since_it_was_last_taken():
    meters = Meters()
    for skipped, samples in ((1, 4), (0, 4), (2, 8)):
        meters.count_samples('a', torch.tensor(skipped), samples)
    meters.count_samples('b', torch.tensor(0), 4)
    assert meters.pop_skipped_shares() == {'a': 3 / 16, 'b': 0}
    assert meters.pop_skipped_shares() == {}
    meters.count_samples('a', torch.tensor(1), 1)
    assert meters.pop_skipped_shares() == {'a': 1}


def test_the_share_of_steps_with_nothing_to_perturb_is_that_since_it_was_last_taken():
    meters = Meters()
    for _ in range(3):
        meters.count_idle('a', 'no rows')
    meters.count_idle('b', 'not reached')
    assert meters.pop_idle_shares(6) == {'a_no_rows_share': 0.5, 'b_not_reached_share': 1 / 6}
    meters.count_idle('a', 'no rows')
    assert meters.pop_idle_shares(2) == {'a_no_rows_share': 0.5, 'b_not_reached_share': 0}
    meters.count_idle('a', 'no rows')
    assert meters.pop_idle_shares(0) == {'a_no_rows_share': 1, 'b_not_reached_share': 0}
