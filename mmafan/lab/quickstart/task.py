"""What tells one demo of the quickstart from another."""
from __future__ import annotations

import os.path as osp
from dataclasses import dataclass, field, replace
from typing import Callable, Dict, Tuple

from ...configs import CONFIGS
from ..study import recipe
from ..study.measures import Measure
from ..study.recipe import Study

ROOT = osp.dirname(CONFIGS)


@dataclass(frozen=True)
class Metric:
    """A value of a trained model.

    Attributes:
        key: Its name in the logs.
        name: Its name in the report.
        factor: What turns it into percent.
    """
    key: str
    name: str
    factor: float = 1.0

    @property
    def axis(self) -> str:
        """Label of its training curve, in the unit of the logs."""
        return f'{self.name} ({"%" if self.factor == 1 else "0 to 1"})'


@dataclass(frozen=True)
class Arm(recipe.Arm):
    """One way to train; its config is seen from the repository.

    Attributes:
        title: What the report calls it.
        length: Its epochs, as a multiple of those of the demo.
        epoch_cost: Relative time of one of its epochs, only for the time left that the progress bar shows.
    """
    title: str = ''
    length: float = 1.0
    epoch_cost: float = 1.0

    def num_epochs(self, epochs: int) -> int:
        """Return the length of a run.

        Example:
            >>> Arm('config.py', length=1.96).num_epochs(60)
            118
        """
        return max(1, round(self.length * epochs))


@dataclass(frozen=True)
class Task:
    """One demo.

    Attributes:
        name: What it is called on the command line.
        title: What the demo is about, for the report's heading.
        setting: First sentence of the report: model and data, without the length of training.
        arms: Ways to train by the name of their folder, in the order of the report: ``baseline``, controls if any, and
            ``afan``.
        metrics: What the report tells; comparisons are of the first, which a validation gives.
        work_dir: Default folder of the report.
        epochs: Default length of a run.
        draw: Draws the pictures beside the training curves, given the task, its study and the demo's folder, and
            returns the report's sections about them.
        limits: Last sentence of the results: what they do not show.
        prepare: Makes the data where it is not there, and returns the settings it was made with.
        measures: What is measured beside the validation of the config, after a run.
        seeds: Default number of runs of each arm.
        cost_repeats: Rounds of the measurement of a step's cost.
    """
    name: str
    title: str
    setting: str
    arms: Dict[str, Arm]
    metrics: Tuple[Metric, ...]
    work_dir: str
    epochs: int
    draw: Callable[['Task', Study, str], str]
    limits: str = ('Few small images, few seeds and no controls: this demo shows that training runs and what it costs, '
                   'and is no evidence for or against the method.')
    prepare: Callable[[], dict] = dict
    measures: Dict[str, Measure] = field(default_factory=dict)
    seeds: int = 3
    cost_repeats: int = 15

    def study(self, seeds: int, epochs: int) -> Study:
        """Return the study of its arms, with its data made."""
        arms = {name: replace(arm, options={
            'train_cfg.max_epochs': arm.num_epochs(epochs), 'default_hooks.checkpoint.interval': max(1, epochs // 12),
            **arm.options}) for name, arm in self.arms.items()}
        first, *others = (metric.key for metric in self.metrics)
        return Study(osp.join(ROOT, self.name), None, dict(arms), first, range(seeds), measures=self.measures,
                     also=others, data=self.prepare())

    @property
    def cost_command(self) -> str:
        """The command that measures what the report says of a step's cost."""
        return (f'python tools/analysis_tools/step_cost.py {self.arms["afan"].config} --no-published --no-memory '
                f'--repeats {self.cost_repeats} --threads 1')
