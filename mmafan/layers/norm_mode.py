"""What a batch norm that trains does in each kind of pass, under each policy."""
from __future__ import annotations

from typing import Callable, Dict, NamedTuple, Tuple

import torch
from torch import Tensor

from ..replay.state import PassKind, PassState, Unjoinable, running_pass


class NormMode(NamedTuple):
    """How a batch norm normalises, and whether it keeps what it sees.

    Attributes:
        frozen: With the clean running statistics, and not with those of the batch.
        auxiliary: With the auxiliary norm, where there is one.
        stores: Whether the statistics of the batch go into running statistics.
        alike: Whether the pass saves for its backward what a clean one does: it may be a clean one, recomputed.
    """
    frozen: bool = False
    auxiliary: bool = False
    stores: bool = False
    alike: bool = False


_ADVERSARIAL = dict(shared=NormMode(stores=True), batch=NormMode(), frozen=NormMode(frozen=True),
                    separate=NormMode(auxiliary=True, stores=True))
# Clean passes, and layers in ``eval()`` mode, are those of the stock layer.
MODES: Dict[Tuple[PassKind, str], NormMode] = {}
for _policy, _mode in _ADVERSARIAL.items():
    MODES[PassKind.ADVERSARIAL, _policy] = _mode
    MODES[PassKind.ATTACK, _policy] = _mode._replace(stores=False)
    MODES[PassKind.CHECK, _policy] = NormMode(alike=True)


def by_groups(norm: Callable[[Tensor], Tensor], input: Tensor, state: PassState) -> Tensor:
    """Normalise the rows of each pass of a joined one by themselves, as if it ran alone.

    Args:
        norm: The layer.
        input: ``(R, C, ...)``; its rows are in the order of the passes.
        state: The joined pass.

    Raises:
        Unjoinable: If the rows do not tell which pass they belong to.
    """
    total = sum(rows for rows, _ in state.groups)
    if not total or len(input) % total:
        raise Unjoinable(f'a norm gets {len(input)} rows of {total} samples')
    sizes = [rows * (len(input) // total) for rows, _ in state.groups]
    made = []
    for part, (rows, kind) in zip(input.split(sizes), state.groups):
        if rows:
            with running_pass(kind, state.batch_norm):
                made.append(norm(part))
    return torch.cat(made)
