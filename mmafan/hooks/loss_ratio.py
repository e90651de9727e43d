"""How much harder the perturbed features are than the clean ones, from what a step logs."""
from __future__ import annotations

from typing import Any, Dict, Mapping

from ..config import AFANConfig
from ..models.losses import clean_name


def loss_ratios(outputs: Mapping[str, Any], config: AFANConfig) -> Dict[str, float]:
    """Return, for each tap, the adversarial losses over the clean ones of the same names, both without their weights.

    A ratio near 1 is hardly an attack. Where ``fraction`` is below 1 the clean losses are of more samples, and a tap
    that sits some steps out weighs more in the others, which stays in its ratio.

    Args:
        outputs: Log variables of a step, ``adv_<tap>_<i>.<name>`` beside ``<name>``: numbers, or tensors of no
            dimension.
        config: The weights that the losses have.

    Returns:
        The mean over the passes of a tap, by tap; taps without a pass or whose clean losses are 0 are left out.

    Example:
        >>> config = AFANConfig.from_dict(dict(taps=dict(a=dict(module='m', step_size=1.0, weight=0.5))))
        >>> loss_ratios({'loss': 3.0, 'clean_loss': 2.0, 'adv_a_0.loss': 1.5}, config)
        {'a': 1.5}
    """
    ratios: Dict[str, float] = {}
    for name, tap in config.taps.items():
        found = []
        for number, weight in enumerate(tap.weight):
            prefix = f'adv_{name}_{number}.'
            terms = [key[len(prefix):] for key in outputs if key.startswith(prefix) and 'loss' in key]
            names = {term: clean_name(term) for term in terms}
            terms = [term for term in terms if names[term] in outputs]
            clean = sum(float(outputs[names[term]]) for term in terms)
            if weight and clean:
                adversarial = sum(float(outputs[prefix + term]) for term in terms)
                found.append(adversarial / (weight * tap.every) / (clean / config.clean_weight))
        if found:
            ratios[name] = sum(found) / len(found)
    return ratios
