"""How far the statistics of the features move, layer by layer, when a tap is attacked.

For one module let ``y``, shape ``(N, C, ...)``, be its clean output and ``y'`` its output in a pass whose tap holds a
perturbed feature. ``mu_nc`` is the mean of channel c of sample n over its positions (the value itself in an output
without positions), ``sigma_c`` the biased standard deviation of channel c over samples and positions, as batch norm
takes it.
The shifts are means over all samples n and all channels c that are not flat,

    mean shift       M = mean over (n, c) of  |mu'_nc - mu_nc| / sigma_c
    deviation shift  D = mean over c of  |log(max(sigma'_c, floor) / sigma_c)|

Channel c is flat where ``sigma_c <= floor = 0.01 * sqrt(mean over c of sigma_c^2)``: a dead channel would divide by
nothing. The share of those that count is given beside the shifts.

Both are means over the batches, and over the calls and tensors of a module that has several (the levels of a pyramid).
The model is in evaluation mode: the norms use the running statistics in every pass.
"""
from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from ..functional import feature_moments, mix_strength, reinject_statistics
from ..models.tap_attack import attack_tap, stock_losses
from ..replay import Batch, PassKind
from ..tap_config import TapConfig
from .layers import LayerOutputs, check_layers, choose_layers

ARMS = ('additive', 're-injected', 'noise', 'noise, re-injected')
FLAT = 0.01


class Shift(NamedTuple):
    """How far the statistics of one tensor have moved (see the module's text).

    Attributes:
        mean: Mean shift M, no unit.
        deviation: Shift D of the standard deviation, no unit.
        kept: Share of the channels that are not flat, in [0, 1]; both shifts are 0 where all are.
    """
    mean: float
    deviation: float
    kept: float


def moment_shift(clean: Tensor, perturbed: Tensor, channel_dim: Optional[int] = None) -> Shift:
    """Compute how far mean and standard deviation of a feature have moved, on the mean over samples and channels.

    Args:
        clean: ``y``, shape ``(N, C)``, ``(N, C, ...)`` or ``(N, L, C)``.
        perturbed: ``y'``, same shape.
        channel_dim: See :func:`mmafan.functional.feature_moments`.

    Raises:
        ValueError: If the shapes differ, or have fewer than two dimensions.

    Example:
        >>> clean = torch.tensor([[[[1., 3.]], [[2., 6.]]]])  # deviations 1 and 2
        >>> shift = moment_shift(clean, 2 * clean)
        >>> round(shift.mean, 6), round(shift.deviation, 6)  # (2 / 1 + 4 / 2) / 2 and log 2
        (2.0, 0.693147)
    """
    if clean.shape != perturbed.shape or clean.dim() < 2:
        raise ValueError(f'clean and perturbed must have one shape of at least (N, C), got {tuple(clean.shape)} and '
                         f'{tuple(perturbed.shape)}')
    clean, perturbed = clean.detach().double(), perturbed.detach().double()
    _, deviation = feature_moments(clean, 'batch', 0.0, channel_dim=channel_dim)
    _, new_deviation = feature_moments(perturbed, 'batch', 0.0, channel_dim=channel_dim)
    floor = FLAT * deviation.square().mean().sqrt()
    keep = deviation > floor
    if not bool(keep.any()):
        return Shift(0.0, 0.0, 0.0)
    positions = [d for d in range(1, clean.dim()) if deviation.shape[d] == 1]
    moved = perturbed - clean
    moved = moved.mean(dim=positions, keepdim=True) if positions else moved
    mean_shift = (moved.abs() / deviation)[keep.expand_as(moved)].mean()
    deviation_shift = (torch.maximum(new_deviation, floor) / deviation)[keep].log().abs().mean()
    return Shift(float(mean_shift), float(deviation_shift), float(keep.double().mean()))


def draw_sign_noise(clean: Tensor, adversarial: Tensor, generator: torch.Generator) -> Tensor:
    """Give every element of a perturbation a random sign, and leave it its size.

    Args:
        clean: ``f``, shape ``(N, ...)``.
        adversarial: ``f_adv``, same shape.
        generator: On the CPU.

    Returns:
        ``f + |f_adv - f| * s`` with ``s`` of +1 and -1, equally likely: as large as the attack in every norm.

    Example:
        >>> noisy = draw_sign_noise(torch.ones(1, 2), torch.tensor([[1.5, 0.]]), torch.Generator().manual_seed(0))
        >>> (noisy - 1).abs().tolist()
        [[0.5, 1.0]]
    """
    signs = torch.randint(2, clean.shape, generator=generator).to(clean) * 2 - 1
    return clean + (adversarial - clean).abs() * signs


def measure_statistics_shift(model: Any, batches: Sequence[Any], tap: str, strength: float = 1.0,
                             modules: Optional[Sequence[str]] = None, seed: int = 0) -> Dict[str, Any]:
    """Attack a tap, and measure the shift of the statistics there and in the modules after it.

    Args:
        model: An A-FAN model in evaluation mode; left as it was.
        batches: Prepared batches: keyword arguments of the model's ``forward``.
        tap: Name of the tap.
        strength: Fraction of the full perturbation, in (0, 1].
        modules: Names of the modules; None: the blocks after the tap, see
            :func:`mmafan.analysis.layers.choose_layers`.
        seed: Of random starts and of the noise.

    Returns:
        ``losses``: mean loss of the suffix by arm and ``clean``; ``layers``: by arm, by module, a :class:`Shift`; the
        tap's own feature is the first of the layers; ``relative_size``: root mean square of the perturbation over the
        standard deviation of the clean feature.

    Raises:
        ValueError: For a tap or module that is not there, or that comes before the tap.
    """
    taps = getattr(getattr(model, 'afan', None), 'config', None)
    if taps is None or tap not in taps.taps:
        raise ValueError(f'tap must be one of {tuple(taps.taps) if taps else ()}, got {tap!r}')
    if not 0 < strength <= 1:
        raise ValueError(f'strength must be in (0, 1], got {strength!r}')
    names = _choose(model, batches[0], taps.taps[tap], modules)
    shifts: Dict[str, Dict[str, List[Tuple[Shift, int]]]] = {arm: {} for arm in ARMS}
    losses: Dict[str, List[float]] = {arm: [] for arm in ('clean', *ARMS)}
    sizes: List[float] = []
    counts: List[int] = []
    for index, data in enumerate(batches):
        generator = torch.Generator().manual_seed(seed + index)
        attacked = _Attacked(model, data, tap, names, generator)
        sizes.append(float(attacked.attack.relative_size()))
        counts.append(attacked.size)
        losses['clean'].append(attacked.clean_loss)
        for arm, features in attacked.features(strength, generator).items():
            loss, pairs = attacked.run(features)
            losses[arm].append(loss)
            for name, values in pairs.items():
                found = [moment_shift(*pair, attacked.channel_dim(name)) for pair in values]
                shifts[arm].setdefault(name, []).extend((shift, attacked.size) for shift in found)
    return dict(
        strength=strength,
        relative_size=_weighted(sizes, counts) * strength,
        losses={arm: _weighted(values, counts) for arm, values in losses.items()},
        layers={arm: {name: _merge(values) for name, values in layers.items()} for arm, layers in shifts.items()})


def _choose(model: Any, data: Any, tap: TapConfig, modules: Optional[Sequence[str]]) -> List[str]:
    """Names of the modules to look at, checked."""
    check_layers(model, modules or ())
    with torch.no_grad():
        layers = choose_layers(model, lambda: stock_losses(model, Batch((), data)), tap.module, tap.at)
    for name in modules or ():
        if name not in layers.after:
            raise ValueError(f'modules must return a feature (N, C, ...) after the tap at {tap.module!r}, but {name!r} '
                             f'does not; such as {", ".join(layers.default) or "none"} do')
    return list(modules) if modules else layers.default


class _Attacked:
    """One batch whose tap has been attacked: runs the suffix with other features and keeps what modules return."""

    def __init__(self, model: Any, data: Any, tap: str, names: Sequence[str], generator: torch.Generator) -> None:
        self.model, self.config, self.names = model, model.afan.config.taps[tap], names
        batch = Batch((), data)
        self.size = batch.size
        self._outputs = LayerOutputs(model, names)
        passes: List[Dict[str, List[Tensor]]] = []

        def run(batch: Batch) -> Dict[str, Any]:
            losses = stock_losses(model, batch)
            passes.append(self._outputs.take())
            return losses

        with self._outputs:
            self._suffix, self.attack, losses = attack_tap(model, batch, tap, run, generator=generator)
        self._clean, self._passes = passes[0], passes
        passes.clear()
        self.clean_loss = float(model.parse_losses(losses)[0].detach())

    def features(self, strength: float, generator: torch.Generator) -> Dict[str, List[Tensor]]:
        """The perturbed features of every arm."""
        config, made = self.config, {}
        noise = [draw_sign_noise(c, a, generator) for c, a in zip(self.attack.clean, self.attack.adversarial)]
        for arm, ends in (('', self.attack.adversarial), ('noise', noise)):
            mixed = [mix_strength(c, e, strength) for c, e in zip(self.attack.clean, ends)]
            made[arm or 'additive'] = mixed
            made['noise, re-injected' if arm else 're-injected'] = [
                reinject_statistics(c, m, config.moments, num_groups=config.num_groups, channel_dim=config.channel_dim)
                for c, m in zip(self.attack.clean, mixed)]
        return {arm: made[arm] for arm in ARMS}

    def run(self, features: Sequence[Tensor]) -> Tuple[float, Dict[str, List[Tuple[Tensor, Tensor]]]]:
        """Run the suffix; return its loss, and by layer the clean and the perturbed tensors, the tap's own first."""
        with self._outputs, torch.no_grad():
            losses = self._suffix.select(self._suffix.run_pass(features, PassKind.ATTACK))
        outputs = self._passes.pop()
        pairs = {self.tap: list(zip(self.attack.clean, features))}
        for name in self.names:
            both = zip(self._clean.get(name, ()), outputs.get(name, ()))
            pairs[name] = [(c, p) for c, p in both if c.shape == p.shape]
        loss = self.model.parse_losses(losses)[0].detach()
        return float(loss), {name: found for name, found in pairs.items() if found}

    @property
    def tap(self) -> str:
        """What the tap is called among the layers."""
        return self.config.module + (' (input)' if self.config.at == 'input' else '')

    def channel_dim(self, name: str) -> Optional[int]:
        """Dimension of a layer's channels, where the config says."""
        return self.config.channel_dim if name == self.tap else None


def _weighted(values: Sequence[float], weights: Sequence[int]) -> float:
    return sum(v * w for v, w in zip(values, weights)) / sum(weights)


def _merge(values: Sequence[Tuple[Shift, int]]) -> Shift:
    weights = [weight for _, weight in values]
    return Shift(*(_weighted(column, weights) for column in zip(*(shift for shift, _ in values))))
