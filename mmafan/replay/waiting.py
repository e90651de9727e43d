"""What is kept of a step's recording while its samples wait for the next step."""
from __future__ import annotations

from dataclasses import replace
from typing import Any, Optional

from torch import Tensor

from .batch import Chosen, select_samples
from .recording import Recording
from .tree import map_tensors


def keep_rows(recording: Recording, name: str, chosen: Optional[Chosen]) -> None:
    """Let go of the features of a tap, which others replace, and of the rows before it that belong to other samples.

    Args:
        recording: Of a clean pass that has had its backward; it belongs to one tap.
        name: Name of the tap.
        chosen: The samples whose rows are kept; None: all.

    What an adversarial pass replays afterwards is the same, with memory for the chosen samples alone.
    """
    capture = recording.captures[name]
    perturbed = iter(capture.perturbed)

    def without_features(tensor: Tensor) -> Any:
        return tensor.new_empty(0) if next(perturbed) else select_samples(tensor, chosen)

    capture.outputs = [map_tensors(without_features, output) for output in capture.outputs]
    capture.gradients = []
    capture.prefix = [record if record.name != 'forward' else
                      record._replace(output=select_samples(record.output, chosen), watched=[]) for record in
                      capture.prefix]
    recording.state = {}  # the pass runs beside another one, which must not find it
    recording.facts = replace(recording.facts, until={})  # nor parameters without a gradient
