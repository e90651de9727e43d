"""What tells one demo of the quickstart from another."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Dict, Tuple

TITLES = dict(baseline='baseline', afan='A-FAN')


@dataclass(frozen=True)
class Metric:
    """A value that validation gives.

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
class Task:
    """One demo.

    Attributes:
        name: What it is called on the command line.
        title: What the demo is about, for the report's heading.
        setting: First sentence of the report: model and data, without the length of training.
        arms: ``baseline`` and ``afan``, each with its config file, seen from the repository.
        metrics: What the report tells; the verdict is about the first.
        work_dir: Default folder of the report.
        epochs: Default length of a run.
        epoch_cost: Relative time of an epoch of each arm, only for the time left that the progress bar shows.
        draw: Draws the pictures beside the training curves, given the task, the demo's folder and the length of the
            runs, and returns the report's sections about them.
        prepare: Makes the data where it is not there, and returns the settings it was made with.
        seeds: Default number of runs of each arm.
        cost_repeats: Rounds of the measurement of a step's cost.
    """
    name: str
    title: str
    setting: str
    arms: Dict[str, str]
    metrics: Tuple[Metric, ...]
    work_dir: str
    epochs: int
    epoch_cost: Dict[str, float]
    draw: Callable[['Task', str, int], str]
    prepare: Callable[[], dict] = dict
    seeds: int = 3
    cost_repeats: int = 15

    @property
    def cost_command(self) -> str:
        """The command that measures what the report says of a step's cost."""
        return (f'python tools/analysis_tools/step_cost.py {self.arms["afan"]} --no-published --no-memory '
                f'--repeats {self.cost_repeats} --threads 1')
