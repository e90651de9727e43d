"""Training curves of several runs, as mean and band over seeds."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

PathLike = Union[str, Path]
Curve = Dict[float, float]


def read_scalars(work_dir: PathLike, name: str) -> Curve:
    """Read one curve from the logs of a run.

    A run that was resumed has one log for each time it was started; where two hold the same step, the later one
    counts.

    Args:
        work_dir: Work folder of the run: logs lie in ``<work_dir>/<time>/vis_data/scalars.json``, one JSON object per
            line, as mmengine's ``LocalVisBackend`` writes them.
        name: Key of the value, such as ``'loss'`` or ``'accuracy/top1'``.

    Returns:
        Step to value; a step is what mmengine calls so (the iteration while training, the epoch of a validation in an
        epoch-based run).

    Raises:
        FileNotFoundError: If there is no log.
        ValueError: If no log has the key, with the keys there are.
    """
    logs = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    if not logs:
        raise FileNotFoundError(f'there is no */vis_data/scalars.json in {work_dir}')
    curve: Curve = {}
    names = set()
    for log in logs:
        for line in log.read_text().splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:  # a run that was killed leaves half a line
                continue
            names.update(entry)
            if name in entry:
                curve[entry['step']] = entry[name]
    if not curve:
        raise ValueError(f'name must be a key of the logs in {work_dir}, got {name!r}; there are '
                         f'{", ".join(sorted(names - {"step"}))}')
    return dict(sorted(curve.items()))


def summarize_curves(curves: Sequence[Curve]) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute mean and standard deviation over runs at the steps that all of them have.

    Returns:
        Steps, means and unbiased standard deviations (0 for a single run), each of shape ``(S,)``.

    Raises:
        ValueError: If there is no curve, or no step that all have.
    """
    if not curves:
        raise ValueError('curves must hold at least one run')
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    if not steps:
        raise ValueError('the runs have no step in common')
    values = np.array([[curve[s] for s in steps] for curve in curves], dtype=float)
    deviation = values.std(axis=0, ddof=1) if len(curves) > 1 else np.zeros(len(steps))
    return np.array(steps, dtype=float), values.mean(axis=0), deviation


def draw_curves(runs: Mapping[str, Sequence[PathLike]],
                names: Sequence[str] = ('loss', ),
                labels: Optional[Mapping[str, str]] = None,
                units: Optional[Mapping[str, str]] = None,
                path: Optional[PathLike] = None) -> Any:
    """Draw one panel per value: for every arm its mean over runs and a band of one standard deviation.

    Args:
        runs: Arm to the work folders of its runs (one per seed).
        names: Keys of the values to draw.
        labels: Nicer names for the keys.
        units: What a step of a key counts, such as ``'iteration'`` or ``'epoch'``.
        path: File to save to; its ending gives the format.

    Returns:
        The ``matplotlib.figure.Figure``. No window and no global state of matplotlib is touched.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(figsize=(5 * len(names), 3.4), dpi=120)
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for panel, name in zip(panels, names):
        for arm, folders in runs.items():
            steps, mean, deviation = summarize_curves([read_scalars(folder, name) for folder in folders])
            line, = panel.plot(steps, mean, label=f'{arm} (n={len(folders)})', linewidth=1.5,
                               marker='o' if len(steps) < 3 else None)
            panel.fill_between(steps, mean - deviation, mean + deviation, alpha=0.2, color=line.get_color())
        panel.set_xlabel((units or {}).get(name, 'step'))
        panel.set_ylabel((labels or {}).get(name, name))
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    figure.tight_layout()
    if path is not None:
        figure.savefig(str(path))
    return figure
