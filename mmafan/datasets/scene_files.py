"""Writes digit scenes as files that stock data sets read: png images, COCO boxes and masks, maps of classes.

    python -m mmafan.datasets.scene_files [FOLDER] [--num-train N] [--num-test N] [--seed N]
        [--size PIXELS] [--max-digits N] [--sides LOW HIGH]

::

    FOLDER/settings.json              what the files were made with
    FOLDER/{train,test}/000000.png    images
    FOLDER/annotations/{train,test}.json    boxes and masks, for mmdet's CocoDataset
    FOLDER/semantic/{train,test}/000000.png class of every pixel, 0 for the background, for mmseg's BaseSegDataset
"""
from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import Any, Dict, List, Sequence, Union

import numpy as np

from .digit_scenes import DigitScene, make_scenes

FOLDER = 'data/digit_scenes'  # where the configs look, seen from the working folder
SETTINGS = 'settings.json'
GENERATOR = 1  # to be raised when other scenes come out of the same settings


def encode_rle(mask: np.ndarray) -> Dict[str, Any]:
    """Encode a mask as COCO's uncompressed run lengths: column after column, beginning with zeros.

    Args:
        mask: bool, shape (H, W).

    Example:
        >>> encode_rle(np.array([[0, 1], [1, 1]], bool))
        {'size': [2, 2], 'counts': [1, 3]}
    """
    flat = np.concatenate([[False], mask.flatten(order='F')])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    ends = np.concatenate([[0], changes, [mask.size]])
    return dict(size=list(mask.shape), counts=np.diff(ends).tolist())


def coco_annotations(scenes: Sequence[DigitScene]) -> Dict[str, List[dict]]:
    """Describe scenes in COCO's instance format; the area is that of the mask, in pixels."""
    images: List[dict] = []
    annotations: List[dict] = []
    for number, scene in enumerate(scenes):
        height, width = scene.image.shape[:2]
        images.append(dict(id=number, file_name=f'{number:06d}.png', height=height, width=width))
        for box, label, mask in zip(scene.boxes.tolist(), scene.labels.tolist(), scene.masks):
            annotations.append(
                dict(
                    id=len(annotations) + 1,  # pycocotools takes 0 for no match
                    image_id=number,
                    category_id=label,
                    bbox=[box[0], box[1], box[2] - box[0], box[3] - box[1]],
                    area=int(mask.sum()),
                    iscrowd=0,
                    segmentation=encode_rle(mask)))
    return dict(images=images, annotations=annotations, categories=[dict(id=i, name=str(i)) for i in range(10)])


def write_scenes(folder: Union[str, Path] = FOLDER,
                 num_train: int = 320,
                 num_test: int = 200,
                 seed: int = 0,
                 size: int = 96,
                 max_digits: int = 4,
                 sides: Sequence[int] = (16, 36)) -> Dict[str, Any]:
    """Write scenes of both splits, unless the folder holds the same ones.

    The folder gets its name when it is whole, so that this may be interrupted and repeated. Scenes made with other
    settings are replaced. The same settings give the same bytes.

    Args:
        folder: Where to; its parents are made.
        num_train: Scenes of digit images of the train split.
        num_test: Scenes of digit images of the test split.
        seed: See :func:`mmafan.datasets.digit_scenes.make_scenes`.
        size: See :func:`mmafan.datasets.digit_scenes.compose_scene`, as for the two that follow.
        max_digits: Most digits of one scene.
        sides: Smallest and largest side of a digit in pixels.

    Returns:
        The settings that ``settings.json`` holds.

    Raises:
        ValueError: If a number is wrong, or the folder holds something else.
    """
    for name, value, low in (('num_train', num_train, 1), ('num_test', num_test, 1), ('seed', seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ValueError(f'{name} must be an integer of at least {low}, got {value!r}')
    folder = Path(folder)
    look: Dict[str, Any] = dict(size=size, max_digits=max_digits, sides=list(sides))
    settings = dict(generator=GENERATOR, num_train=num_train, num_test=num_test, seed=seed, **look)
    if (folder / SETTINGS).is_file():
        if json.loads((folder / SETTINGS).read_text()) == settings:
            return settings
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f'folder must be new, empty or hold scenes of digits, got {str(folder)!r}, which holds '
                         f'something else')
    part = folder.with_name(folder.name + '.part')
    shutil.rmtree(part, ignore_errors=True)
    for split, count in (('train', num_train), ('test', num_test)):
        _write_split(part, split, make_scenes(split, count, seed, **look))
    _write_json(part / SETTINGS, settings)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)
    return settings


def _write_split(folder: Path, split: str, scenes: Sequence[DigitScene]) -> None:
    import cv2
    for kind in (split, f'semantic/{split}', 'annotations'):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for number, scene in enumerate(scenes):
        for kind, picture in ((split, scene.image), (f'semantic/{split}', scene.semantic)):
            (folder / kind / f'{number:06d}.png').write_bytes(cv2.imencode('.png', picture)[1].tobytes())
    _write_json(folder / 'annotations' / f'{split}.json', coco_annotations(scenes))


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, separators=(',', ':')))


def main(argv: Any = None) -> None:
    """Write scenes from the command line."""
    parser = argparse.ArgumentParser(description='Write scenes of handwritten digits for detection and segmentation.')
    parser.add_argument('folder', nargs='?', default=FOLDER, help=f'where to (default: {FOLDER}, as in the configs)')
    parser.add_argument('--num-train', type=int, default=320, help='scenes to train on (default: 320)')
    parser.add_argument('--num-test', type=int, default=200, help='scenes to test on (default: 200)')
    parser.add_argument('--seed', type=int, default=0, help='of the scenes (default: 0)')
    parser.add_argument('--size', type=int, default=96, help='height and width of a scene (default: 96 pixels)')
    parser.add_argument('--max-digits', type=int, default=4, help='most digits of one scene (default: 4)')
    parser.add_argument(
        '--sides', type=int, nargs=2, default=(16, 36), help='smallest and largest side of a digit (default: 16 36)')
    args = parser.parse_args(argv)
    try:
        settings = write_scenes(**vars(args))
    except ValueError as error:
        parser.error(str(error))
    print(f'{args.folder}: {settings}')


if __name__ == '__main__':
    main()
