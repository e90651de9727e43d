"""Accuracy under attacks and corruptions, of several checkpoints side by side."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping, Optional, Union


def draw_robustness(result: Mapping[str, Any], path: Optional[Union[str, Path]] = None) -> Any:
    """Draw accuracy by radius, the metric by severity, and the metric by corruption, whichever were measured.

    Args:
        result: Of ``tools/analysis_tools/robustness.py``: ``pgd`` and ``corruptions``, each with ``checkpoints``, a
            dict from label to numbers.
        path: File to save to; its ending gives the format.

    Returns:
        The ``matplotlib.figure.Figure``. No window and no global state of matplotlib is touched.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    pgd = (result.get('pgd') or {}).get('checkpoints') or {}
    corruptions = result.get('corruptions') or {}
    tested = corruptions.get('checkpoints') or {}
    names = list(next(iter(tested.values()))['corruption']) if tested else []
    widths = [4.0] * bool(pgd)
    if tested:
        widths += [4.0, max(4.0, 1.6 + 0.16 * len(names) * (len(tested) + 1))]
    figure = Figure(figsize=(sum(widths) or 4.0, 4.2), dpi=120)
    FigureCanvasAgg(figure)
    if not widths:
        figure.text(0.5, 0.5, 'no corruption could be used', ha='center')
    panels = iter(figure.subplots(1, len(widths) or 1, squeeze=False, width_ratios=widths)[0] if widths else ())
    if pgd:
        panel = next(panels)
        for label, run in pgd.items():
            radii = [radius for radius in run['accuracy'] if radius]
            panel.plot([0.0, *radii], [run['clean'], *(run['accuracy'][radius] for radius in radii)], marker='o',
                       label=label)
        _name(panel, f'PGD, {result["pgd"]["steps"]} steps', 'radius in 1/255', 'accuracy in %')
    if tested:
        panel = next(panels)
        for label, run in tested.items():
            panel.plot([0, *run['severity']], [run['clean'], *run['severity'].values()], marker='o', label=label)
        panel.set_xticks([0, *run['severity']])
        _name(panel, f'mean of {len(names)} corruption{"s" * (len(names) > 1)}', 'severity', corruptions['metric'])
        panel, width = next(panels), 0.8 / len(tested)
        for k, (label, run) in enumerate(tested.items()):
            places = [n + (k - (len(tested) - 1) / 2) * width for n in range(len(names))]
            bars = panel.bar(places, list(run['corruption'].values()), width, label=label)
            panel.axhline(run['clean'], color=bars.patches[0].get_facecolor(), linestyle='--', linewidth=1)
        panel.set_xticks(range(len(names)))
        panel.set_xticklabels([name.replace('_', ' ') for name in names], rotation=45, ha='right', fontsize=8)
        _name(panel, 'mean over severities (dashed: clean)', '', corruptions['metric'])
        panel.get_legend().remove()  # the colours are those of the panel beside it
    figure.tight_layout()
    if path is not None:
        figure.savefig(str(path))
    return figure


def _name(panel: Any, title: str, x: str, y: str) -> None:
    panel.set_title(title, fontsize=10)
    panel.set_xlabel(x)
    panel.set_ylabel(y)
    panel.set_ylim(bottom=0)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
