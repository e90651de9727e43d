"""scikit-learn's handwritten digits as a data set: real images that need no download."""
from __future__ import annotations

from typing import Any, List, Optional, Tuple

import numpy as np
from mmengine.dataset import BaseDataset

from mmafan.registry import DATASETS

SPLITS = ('train', 'test')
SPLIT_SEED = 0  # the split is part of the data set, whatever seed a run uses


def load_digit_images() -> Tuple[np.ndarray, np.ndarray]:
    """Read the digits.

    Returns:
        uint8 images of shape (1797, 8, 8) with ink up to 255, and labels of shape (1797,).

    Raises:
        ImportError: If scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError('the handwritten digits are images of scikit-learn: pip install scikit-learn') from error
    images, labels = load_digits(return_X_y=True)
    return (images.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8), labels


def split_digits(labels: np.ndarray,
                 split: str,
                 test_fraction: float = 0.5,
                 num_train_samples: Optional[int] = None) -> np.ndarray:
    """Return the indices of a split, in the order of the source; arguments as of :class:`DigitsDataset`.

    The images of every class are shuffled; the first ``test_fraction`` of them are for testing. The rest is laid
    out class after class in turn (0 1 2 ... 9 0 1 ...), so that any first part of it is balanced.

    Raises:
        ValueError: If ``num_train_samples`` is larger than the train split.
    """
    random = np.random.RandomState(SPLIT_SEED)
    test, train = [], []
    for label in range(10):
        own = random.permutation(np.flatnonzero(labels == label))
        count = int(round(len(own) * test_fraction))
        test.append(own[:count])
        train.append(own[count:])
    if split == 'test':
        return np.sort(np.concatenate(test))
    turns = np.concatenate([np.arange(len(own)) for own in train])
    pool = np.concatenate(train)[np.argsort(turns, kind='stable')]
    wanted = len(pool) if num_train_samples is None else num_train_samples
    if isinstance(wanted, bool) or not isinstance(wanted, int) or not 0 < wanted <= len(pool):
        raise ValueError(f'num_train_samples must be None or an integer from 1 to {len(pool)}, got {wanted!r}')
    return np.sort(pool[:wanted])


@DATASETS.register_module()
class DigitsDataset(BaseDataset):
    """The 1797 handwritten digits of the UCI "Optical Recognition of Handwritten Digits" test set.

    The images lie in scikit-learn's own package (8 x 8 pixels, values 0 to 16; see ``sklearn.datasets.load_digits``).
    Each item has ``img``, a uint8 array of shape (image_size, image_size, 3) with three equal channels, and
    ``gt_label``, an int from 0 to 9, before the pipeline runs.

    Args:
        split: ``'train'`` or ``'test'``; a fixed, stratified split, so that the two never share an image.
        image_size: Side of the images in pixels; they are enlarged bilinearly.
        test_fraction: Share of each class that is in the test split.
        num_train_samples: Size of the train split; None: all that are not in the test split. A smaller one is a
            stratified part of a larger one, and the test split stays the same.
        pipeline: Transforms, as for every mmengine data set.
        **kwargs: Further arguments of :class:`mmengine.dataset.BaseDataset`.

    Raises:
        ValueError: If an argument has a wrong value.
        ImportError: If scikit-learn is not installed.

    Example:
        >>> train = DigitsDataset(split='train', image_size=16)
        >>> len(train), train[0]['img'].shape
        (899, (16, 16, 3))
    """
    METAINFO = dict(classes=tuple('0123456789'))

    def __init__(self,
                 split: str = 'train',
                 image_size: int = 32,
                 test_fraction: float = 0.5,
                 num_train_samples: Optional[int] = None,
                 pipeline: Any = (),
                 **kwargs: Any) -> None:
        if split not in SPLITS:
            raise ValueError(f'split must be one of {SPLITS}, got {split!r}')
        if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 8:
            raise ValueError(f'image_size must be an integer of at least 8 pixels, got {image_size!r}')
        if not 0 < test_fraction < 1:
            raise ValueError(f'test_fraction must lie between 0 and 1, got {test_fraction!r}')
        self.split = split
        self.image_size = image_size
        self.test_fraction = test_fraction
        self.num_train_samples = num_train_samples
        super().__init__(pipeline=list(pipeline), **kwargs)

    @property
    def CLASSES(self) -> Any:
        """Names of the classes, as mmpretrain's own data sets and its ``analyze_results.py`` call them."""
        return self.metainfo.get('classes')

    def load_data_list(self) -> List[dict]:
        """Read, split and enlarge the images."""
        import cv2
        images, labels = load_digit_images()
        size = (self.image_size, self.image_size)
        data = []
        for index in split_digits(labels, self.split, self.test_fraction, self.num_train_samples):
            img = cv2.resize(images[index], size, interpolation=cv2.INTER_LINEAR)
            data.append(
                dict(
                    img=np.repeat(img[:, :, None], 3, axis=2),
                    gt_label=int(labels[index]),
                    img_path=f'sklearn/digits/{index}',
                    img_shape=size,
                    ori_shape=(8, 8)))
        return data
