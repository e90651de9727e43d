"""The batch norms of an A-FAN model, which conversions of its layers must not lose."""
from __future__ import annotations

from typing import List

from torch import nn

from ..layers import PassAwareNorm, adopt_norms


class ModelNorms:
    """Make every batch norm of a model pass-aware, and remember them.

    Args:
        model: A freshly built model.
        policy: ``afan.batch_norm``.
    """

    def __init__(self, model: nn.Module, policy: str) -> None:
        self._policy = policy
        self._norms: List[PassAwareNorm] = adopt_norms(model, policy)
        self._own_policies = {name: module.policy for name, module in model.named_modules()
                              if isinstance(module, PassAwareNorm) and module.policy is not None}

    def restore(self, model: nn.Module) -> None:
        """Repair what a conversion to or from SyncBN did to the norms.

        Raises:
            ValueError: If some have been replaced by layers that are no batch norm.
        """
        for name, module in model.named_modules():
            if name in self._own_policies:
                module.policy = self._own_policies[name]
        before = len(self._norms)
        self._norms = adopt_norms(model, self._policy)
        lost = before - len(self._norms)
        if lost > 0:
            raise ValueError(f'afan.batch_norm={self._policy!r} needs the {before} batch norms the model was built '
                             f'with, but {lost} of them have been replaced by layers that are none; '
                             f"remove that conversion, or use afan.batch_norm='shared'")

    @property
    def least_samples(self) -> int:
        """Fewest samples that a pass makes sense for: batch statistics of one may not exist."""
        return 2 if self._policy != 'frozen' and any(norm.training for norm in self._norms) else 1
