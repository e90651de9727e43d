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
        options: Fields to override for this measure, by dotted name.
    """
    data: str = 'val'
    corruptions: Sequence[str] = ()
    severities: Sequence[int] = (3, )
    options: Dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.data not in ('val', 'train'):
            raise ValueError(f"data must be 'val' or 'train', got {self.data!r}")
        if isinstance(self.corruptions, str) or not all(isinstance(name, str) for name in self.corruptions):
            raise ValueError(f"corruptions must be names, such as ('gaussian_noise', ), got {self.corruptions!r}")
        if not self.severities or not set(self.severities) <= {1, 2, 3, 4, 5}:
            raise ValueError(f'severities must be numbers from 1 to 5, got {self.severities!r}')


def first_pipeline(dataset: Any) -> Any:
    """Return the first pipeline in the config of a data set, whatever wraps it."""
    if 'pipeline' in dataset:
        return dataset['pipeline']
    inner = dataset['datasets'] if 'datasets' in dataset else [dataset['dataset']]
    return first_pipeline(inner[0])


def set_pipeline(dataset: Any, pipeline: Any) -> None:
    """Give a data set, and all that it wraps, a pipeline."""
    inner = [dataset['dataset']] if 'dataset' in dataset else dataset.get('datasets')
    for one in inner or ():
        set_pipeline(one, pipeline)
    if not inner:
        dataset['pipeline'] = copy.deepcopy(pipeline)


def dataloaders(measure: Measure, cfg: Any) -> List[Any]:
    """Return the data loaders of a measure: one, or one for each corruption and severity."""
    from mmafan.analysis.corruptions import insert_corruption
    cfg = copy.deepcopy(cfg)
    cfg.merge_from_dict(copy.deepcopy(measure.options))
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
    example).

    Returns:
        Means over the data loaders of a measure, by ``<measure> <metric>``; what is not one number is left out.
    """
    found: Dict[str, float] = {}
    for label, measure in measures.items():
        results: List[Dict[str, float]] = []
        for loader in dataloaders(measure, runner.cfg):
            loop = runner.build_val_loop(dict(
                runner.cfg.val_cfg, type=runner.cfg.val_cfg.get('type') or 'ValLoop', dataloader=loader,
                evaluator=copy.deepcopy(runner.cfg.val_evaluator)))
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
