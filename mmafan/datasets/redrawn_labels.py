"""Wrong labels: any classification data set, with the labels of some of its samples redrawn."""
from __future__ import annotations

from typing import Any, Dict, Union

import numpy as np
from mmengine.dataset import BaseDataset

from mmafan.registry import DATASETS


@DATASETS.register_module()
class RedrawnLabels:
    """A data set in which a share of the labels is drawn anew, each class as likely as any other.

    A redrawn label may be the right one by chance, as in Zhang et al. (arXiv 1611.03530): of ``share = 0.4`` and ten
    classes, 36 % of the labels are wrong. Which samples these are, and their labels, depends on ``seed`` alone.

    Args:
        dataset: A classification data set or its config, whose samples are packed with one label each.
        share: Share of the samples, in [0, 1]; they are rounded to a whole number.
        num_classes: Number of classes.
        seed: Of the draw.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, dataset: Union[dict, BaseDataset], share: float, num_classes: int, seed: int = 0) -> None:
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
            raise ValueError(f'RedrawnLabels.share must be a number in [0, 1], got {share!r}')
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 2:
            raise ValueError(f'RedrawnLabels.num_classes must be an integer of at least 2, got {num_classes!r}')
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        random = np.random.RandomState(seed)
        chosen = random.permutation(len(self.dataset))[:round(share * len(self.dataset))]
        self.labels: Dict[int, int] = {
            int(index): int(label) for index, label in zip(chosen, random.randint(num_classes, size=len(chosen)))}

    @property
    def metainfo(self) -> dict:
        """That of the data set."""
        return self.dataset.metainfo

    def full_init(self) -> None:
        """Load the data set, where it is lazy."""
        self.dataset.full_init()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        """Return a packed sample; its label is the redrawn one where it has one."""
        item = self.dataset[index]
        label = self.labels.get(index)
        if label is not None:
            item['data_samples'].set_gt_label(label)
        return item
