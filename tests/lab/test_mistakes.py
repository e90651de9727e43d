"""What a library says of a mistake in a config is made a sentence that tells where to look."""
from __future__ import annotations

from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

from mmafan.lab.mistakes import mistake_of


class Empty(BaseDataset):
    """Its folder holds files of another ending, for example."""

    def load_data_list(self):
        return []


def test_data_set_without_a_sample_says_where_to_look():
    try:
        DATASETS.build(dict(type=Empty))
    except ValueError as error:
        found = mistake_of(error)
    assert found.startswith('Empty cannot be built from the config: it has found no sample: look at data_root, ')
    assert 'img_suffix' in found
