"""What a study measures beside the validation of its config: on the training images, on corrupted ones."""
from __future__ import annotations

import copy
import statistics
from dataclasses import dataclass, field
from typing import Any, Dict, List, Sequence


@dataclass(frozen=True)
class Measure:
    """One more validation of a trained model, whose metrics are called ``<name of the measure> <metric>``.

    Attributes:
        data: ``'val'``: the images of ``val_dataloader``; ``'train'``: those of ``train_dataloader``, with the pipeline
            of the validation, and so without augmentation.
        corruptions: Names of corruptions; the metrics are means over all of them and all severities.
        severities: 1 to 5, each.
        options: Fields to override for this measure, by dotted name, such as the ``ann_file`` of ``val_evaluator``.
    """
    data: str = 'val'
    corruptions: Sequence[str] = ()
    severities: Sequence[int] = (3, )
    options: Dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.data not in ('val', 'train'):
            raise ValueError(f"data must be 'val' or 'train', got {self.data!r}")
        if (not isinstance(self.corruptions, (list, tuple))
                or not all(isinstance(name, str) for name in self.corruptions)):
            raise ValueError(f"corruptions must be names, such as ('gaussian_noise', ), got {self.corruptions!r}")
        if (not isinstance(self.severities, (list, tuple)) or not self.severities
                or not all(one in (1, 2, 3, 4, 5) for one in self.severities)):
            raise ValueError(f'severities must be numbers from 1 to 5, such as (3, ), got {self.severities!r}')
        if not isinstance(self.options, dict) or not all(isinstance(name, str) for name in self.options):
            raise ValueError("options must be a dict by dotted names, such as {'val_dataloader.batch_size': 1}, got "
                             f'{self.options!r}')


def first_pipeline(dataset: Any) -> Any:
    """Return the first pipeline in the config of a data set, whatever wraps it; None where there is none."""
    inner = [dataset['dataset']] if 'dataset' in dataset else dataset.get('datasets')
    return first_pipeline(inner[0]) if inner else dataset.get('pipeline')


def set_pipeline(dataset: Any, pipeline: Any) -> None:
    """Give a data set a pipeline, and all that it wraps; what wraps has none then, such as one that mixes images."""
    inner = [dataset['dataset']] if 'dataset' in dataset else dataset.get('datasets')
    for one in inner or ():
        set_pipeline(one, pipeline)
    if not inner and pipeline is not None:
        dataset['pipeline'] = copy.deepcopy(pipeline)
    elif inner and 'pipeline' in dataset:
        dataset['pipeline'] = []


def with_options(measure: Measure, cfg: Any) -> Any:
    """Return the config that a measure is taken with."""
    cfg = copy.deepcopy(cfg)
    cfg.merge_from_dict(copy.deepcopy(measure.options))
    return cfg


def dataloaders(measure: Measure, cfg: Any) -> List[Any]:
    """Return the data loaders of a measure, from :func:`with_options`: one, or one for each corruption and severity."""
    from ...analysis.corruptions import insert_corruption
    loader = copy.deepcopy(cfg.val_dataloader)
    if measure.data == 'train':
        loader['dataset'] = copy.deepcopy(cfg.train_dataloader.dataset)
        set_pipeline(loader['dataset'], first_pipeline(cfg.val_dataloader.dataset))
    if not measure.corruptions:
        return [loader]
    return [insert_corruption(loader, name, severity)
            for name in measure.corruptions for severity in measure.severities]


def run_measures(runner: Any, measures: Dict[str, Measure]) -> Dict[str, float]:
    """Validate the model of a finished run once more for every measure.

    The runner's hooks take part, so that what is measured are the weights that its validation saw (averaged ones, for
    example), but not those that would take the results for its validation's: in its log, or to keep the best epoch.

    Returns:
        Means over the data loaders of a measure, by ``<measure> <metric>``; what is not one number is left out.
    """
    from mmengine.hooks import CheckpointHook, LoggerHook
    found: Dict[str, float] = {}
    runner.hooks[:] = [hook for hook in runner.hooks if not isinstance(hook, (CheckpointHook, LoggerHook))]
    for label, measure in measures.items():
        results: List[Dict[str, float]] = []
        cfg = with_options(measure, runner.cfg)
        for loader in dataloaders(measure, cfg):
            loop = runner.build_val_loop(dict(
                cfg.val_cfg, type=cfg.val_cfg.get('type') or 'ValLoop', dataloader=loader,
                evaluator=copy.deepcopy(cfg.val_evaluator)))
            results.append(numbers(loop.run()))
        for name in results[0]:
            found[f'{label} {name}'] = statistics.fmean(result[name] for result in results)
    return found


def numbers(metrics: Dict[str, Any]) -> Dict[str, float]:
    """Keep what is one number."""
    kept = {}
    for name, value in metrics.items():
        try:
            kept[name] = float(value)
        except (TypeError, ValueError, RuntimeError):  # lists, tensors of several values
            continue
    return kept
