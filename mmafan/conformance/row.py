"""What became of one family."""
from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Dict, Optional

OUTCOMES = ('passed', 'explained', 'failed')


@dataclass
class Row:
    """What became of one family.

    Attributes:
        codebase: Package of the stock model.
        family: Folder of its configs.
        config: The config that stands for the family.
        outcome: ``'passed'``, ``'explained'`` (the stock model fails alike) or ``'failed'``.
        reason: Why, where it has not passed.
        model: The stock type.
        taps: Module of each tap.
        image_size: Side of the random images.
        before: Parameters proven to have 1.0 times the stock gradient.
        after: Parameters proven to have 2.0 times the stock gradient.
        between: Parameters on both sides of a tap, or beside it.
        error: Largest relative error of a gradient.
        prediction: ``'equal'``, or why there is none.
        seconds: Time it took.
        device: Where it was tried.
        spread: Largest relative difference of two runs of the stock step there; 0 on a CPU.
        model_trains: Whether the stock model trains a step.
    """
    codebase: str
    family: str
    config: str = ''
    outcome: str = 'failed'
    reason: str = ''
    model: str = ''
    taps: Dict[str, str] = field(default_factory=dict)
    image_size: Optional[int] = None
    before: int = 0
    after: int = 0
    between: int = 0
    error: float = 0.0
    prediction: str = ''
    seconds: float = 0.0
    device: str = 'cpu'
    spread: float = 0.0
    model_trains: bool = True

    def to_dict(self) -> Dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def describe(error: BaseException) -> str:
    """Return the kind of an error and the first line of its message."""
    lines = str(error).strip().splitlines() or ['']
    return f'{type(error).__name__}: {lines[0]}'[:400]
