"""A recipe as the text of a config, with a comment for every field."""
from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional

# What a field says, by its value where that matters.
ABOUT: Dict[str, Any] = {
    'module': 'The module whose output is perturbed; `mmafan taps` lists what else can be one.',
    'at': {'input': "Perturb the module's input: no module returns the concatenation."},
    'step_size': 'Length of the step along the sign of the gradient, in `step_unit`.',
    'step_unit': {'std': "In standard deviations of each sample's feature.",
                  'absolute': "In the feature's own values."},
    'num_steps': 'Steps of the attack; each beyond the first costs a pass.',
    'radius': 'The perturbation stays in a ball of this radius.',
    'norm': 'Norm of the step and of the ball.',
    'random_start': 'Whether the attack starts at a random point of the ball.',
    'strengths': 'Fractions of the full perturbation.',
    'strength_sampling': {'random': 'One adversarial pass, in which every sample draws one of the strengths.',
                          'all': 'One adversarial pass per strength.'},
    'reinject': 'Per strength: the clean feature with the statistics of the perturbed one, in place of the latter.',
    'moments': {'channel': 'Those statistics are over the channels, at each position (as published).'},
    'weight': 'Factor of each adversarial loss.',
    'losses': 'The losses that are attacked and counted.',
    'attack_losses': 'The losses that are attacked.',
    'fraction': 'Share of the samples that take part, on the mean over the steps.',
    'every': 'The tap takes part in every so manieth step alone, and weighs so much more there.',
    'clean_weight': 'Factor of the clean loss, and so of the gradient of what comes before the taps.',
    'batch_norm': {'batch': 'Adversarial passes use batch statistics, and store none of them.',
                   'frozen': 'Adversarial passes use the running statistics.',
                   'shared': 'Adversarial passes use and store batch statistics (as published).',
                   'separate': 'Adversarial passes have norms of their own.'},
}

# What the fields of AdvFeatureHook say.
HOOK = {
    'type': 'Schedules A-FAN (begin, end, ramp), logs it, and checks the taps before the first weight changes.',
    'fit_threshold': 'Nothing is attacked before the mean clean loss is below this share of its highest; then the '
                     'strengths rise.',
}


def about(field: str, value: Any) -> Optional[str]:
    """Return what a field says, or None where there is nothing to say.

    Example:
        >>> about('at', 'output'), about('fraction', 0.5)
        (None, 'Share of the samples that take part, on the mean over the steps.')
    """
    text = ABOUT.get(field, 'See the fields of afan in the README.')
    return text.get(value) if isinstance(text, dict) else text


def explain_recipe(recipe: Dict[str, Any], taus: Mapping[str, Optional[float]], frozen: bool = False) -> str:
    """Write a recipe as the end of ``model = dict(...``.

    Args:
        recipe: With ``taps``.
        taus: For the module of each tap its share of a step, where it is known.
        frozen: Whether a part of the backbone is not trained.
    """
    lines: List[str] = ['    # A-FAN itself; each field of it that is not here has its default.', '    afan=dict(',
                        '        # The places where features are perturbed, by names that you choose.',
                        '        taps=dict(']
    for name, tap in recipe['taps'].items():
        tau = taus.get(tap['module'])
        if frozen and tap['module'].startswith('backbone'):
            lines.append('            # Parts of the backbone are frozen: no gradient comes to a tap there.')
        lines.append('            # A tap.' if tau is None else
                     f'            # A tap; about {tau:.0%} of a step comes after it: what a pass on all samples adds.')
        lines.append(f'            {name}=dict(')
        lines += _fields(tap, 16)
        lines[-1] = lines[-1].rstrip(',') + '),'
    lines[-1] = lines[-1].rstrip(',') + '),'
    lines += _fields({key: value for key, value in recipe.items() if key != 'taps'}, 8)
    lines[-1] = lines[-1].rstrip(',') + '))'
    return '\n'.join(lines)


def _fields(fields: Mapping[str, Any], indent: int) -> List[str]:
    lines = []
    for key, value in fields.items():
        text = about(key, value)
        if text is not None:
            lines.append(f'{" " * indent}# {text}')
        lines.append(f'{" " * indent}{key}={_value(value)},')
    return lines


def _value(value: Any) -> str:
    """Write a value; what is a multiple of 1/255 as one, as pixels are."""
    if isinstance(value, float) and 0 < value < 0.1 and abs(value * 255 - round(value * 255, 2)) < 1e-9:
        return f'{round(value * 255, 2):g} / 255' if round(value, 4) != value else repr(value)
    if isinstance(value, list):
        return repr(tuple(value))
    return repr(value)
