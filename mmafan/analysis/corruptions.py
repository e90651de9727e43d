"""Common corruptions of images, put into the test pipeline of any config."""
from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import zlib
from typing import Any, Dict, Iterator, List, Optional, Sequence

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS

ATTACK_LIBRARY = 'adversarial-robustness-toolbox==1.20.1'
# imagecorruptions 1.1.2 itself runs neither with numpy 2 nor with scikit-image from 0.23 on; this fork of it does.
CORRUPTION_LIBRARY = 'imagecorruptions-imaug==1.1.5'
PIP_COMMANDS = {
    'art': f'pip install {ATTACK_LIBRARY}',
    # Its metadata names opencv-python, which must not stand beside the headless build.
    'imagecorruptions': f'pip install numba==0.61.2 scikit-image==0.24.0 && pip install --no-deps {CORRUPTION_LIBRARY}',
}


def require_library(name: str) -> Any:
    """Import an optional library.

    Raises:
        ValueError: If it is not installed, with the command that installs it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f'the package {name!r} is needed for this and cannot be imported ({error}); '
                         f'install it: {PIP_COMMANDS[name]}') from None


@contextlib.contextmanager
def numpy_seed(seed: int) -> Iterator[None]:
    """Seed numpy's global generator, and give it back as it was."""
    state = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        np.random.set_state(state)


@TRANSFORMS.register_module()
class CorruptImage(BaseTransform):
    """Corrupt an image as ImageNet-C does (Hendrycks and Dietterich, arXiv 1903.12261).

    The random part depends on the sample, the corruption and the severity alone, so that all models see the same
    images.

    Required and modified key: ``img``, ``(H, W, 3)`` of at least 32 x 32, values 0 to 255; the dtype is kept.

    Args:
        corruption: Name, see :func:`corruption_names`.
        severity: 1 to 5.
        bgr: Whether the channels are in OpenCV's order, as mmcv loads images.

    Raises:
        ValueError: If the library is missing, or an argument or the image is none that it takes.
    """

    def __init__(self, corruption: str, severity: int, bgr: bool = False) -> None:
        library = require_library('imagecorruptions')
        if corruption not in corruption_names('all'):
            raise ValueError(f'corruption must be one of {", ".join(corruption_names("all"))}, got {corruption!r}')
        if severity not in (1, 2, 3, 4, 5):
            raise ValueError(f'severity must be one of 1, 2, 3, 4, 5, got {severity!r}')
        self.corruption, self.severity, self.bgr = corruption, severity, bgr
        self._corrupt = library.corrupt
        self._seeded = 'seed' in inspect.signature(library.corruption_dict[corruption]).parameters

    def transform(self, results: dict) -> dict:
        """Corrupt ``results['img']``."""
        image = results['img']
        sample = results.get('sample_idx', results.get('img_path', ''))
        seed = zlib.crc32(f'{sample} {self.corruption} {self.severity}'.encode())
        options = dict(seed=seed) if self._seeded else {}  # those have generators of their own
        pixels = np.ascontiguousarray(image.astype(np.uint8)[..., ::-1 if self.bgr else 1])
        with numpy_seed(seed):
            try:
                pixels = self._corrupt(pixels, self.severity, self.corruption, **options)
            except AttributeError as error:  # what the library raises for an image that it does not take
                raise ValueError(f'{self.corruption}: {error}; the image is {" x ".join(map(str, image.shape[:2]))} '
                                 f'pixels') from None
        results['img'] = np.ascontiguousarray(pixels[..., ::-1 if self.bgr else 1]).astype(image.dtype)
        return results


def corruption_names(group: str) -> List[str]:
    """Return the corruptions of a group: common (15), validation (4), all, noise, blur, weather or digital."""
    return list(require_library('imagecorruptions').get_corruption_names(group))


def insert_corruption(dataloader: Any, corruption: Optional[str], severity: int = 1) -> Any:
    """Return the data loader's config with a corruption right after the image is loaded.

    Args:
        dataloader: Config of a data loader, whose data set may be wrapped; not modified.
        corruption: Its name; None: the pipeline ends there, for a look at the images.
        severity: 1 to 5.

    Raises:
        ValueError: If no data set has a pipeline.
    """
    changed = copy.deepcopy(dataloader)
    done = set()
    waiting = [changed['dataset']]
    while waiting:
        dataset = waiting.pop()
        if id(dataset) in done:  # a config may name one object twice
            continue
        inner = [dataset['dataset']] if isinstance(dataset.get('dataset'), dict) else dataset.get('datasets')
        if inner:
            waiting += inner
        elif 'pipeline' in dataset:
            done.add(id(dataset))
            steps = list(dataset['pipeline'])
            loaders = [k for k, step in enumerate(steps) if 'LoadImage' in str(step['type'])]
            place = loaders[-1] + 1 if loaders else 0  # a data set without a loader gives arrays, in the order RGB
            added = dict(type='mmengine.CorruptImage', corruption=corruption, severity=severity, bgr=bool(loaders))
            dataset['pipeline'] = steps[:place] + ([added] + steps[place:] if corruption else [])
    if not done:
        raise ValueError(f'dataset.pipeline of test_dataloader must be a list of transforms, got {changed["dataset"]}')
    return changed


def find_unusable(dataset: Any, corruptions: Sequence[str]) -> Dict[str, str]:
    """Try every corruption on the first image of a data set.

    Args:
        dataset: Whose pipeline ends where the image is loaded.
        corruptions: Names.

    Returns:
        Reasons by name, of those that cannot be used.
    """
    reasons = {}
    for name in corruptions:
        try:
            CorruptImage(name, 1)(dict(img=dataset[0]['img']))
        except Exception as error:  # whatever a library of another version raises
            reasons[name] = str(error)
    return reasons


def summarise_corruptions(clean: float, values: Dict[str, Dict[int, float]]) -> Dict[str, Any]:
    """Average a metric over corruptions and severities (Michaelis et al., arXiv 1907.07484).

    Args:
        clean: The metric without a corruption.
        values: By corruption and severity.

    Returns:
        ``corruption``: mean over severities by name; ``severity``: mean over corruptions by severity; ``mean`` of all
        ("mPC"); ``relative``: ``mean / clean`` ("rPC"; None where ``clean`` is 0).

    Example:
        >>> summarise_corruptions(80.0, dict(fog={1: 60.0, 5: 20.0}, snow={1: 70.0, 5: 10.0}))['mean']
        40.0
    """
    severities = list(next(iter(values.values())))
    by_name = {name: float(np.mean(list(row.values()))) for name, row in values.items()}
    mean = float(np.mean(list(by_name.values())))
    by_severity = {s: float(np.mean([row[s] for row in values.values()])) for s in severities}
    return dict(corruption=by_name, severity=by_severity, mean=mean, relative=mean / clean if clean else None)
