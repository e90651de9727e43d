"""The line of the log on the screen: one adversarial sum and one ratio for each tap, in place of every single term."""
from __future__ import annotations

import re
from typing import Any, Dict, Mapping, Tuple

from ..config import AFANConfig
from .loss_ratio import loss_ratios

GAP = '  '  # what mmengine's log processor puts between two items of a line


def summarize_losses(outputs: Mapping[str, Any], config: AFANConfig) -> Dict[str, float]:
    """Return, for each tap, ``<tap>_adversarial`` and ``<tap>_adversarial_to_clean``.

    The former is the sum of the tap's adversarial losses as they count in ``loss``; the latter is without any weight,
    see :func:`mmafan.hooks.loss_ratio.loss_ratios`.

    Args:
        outputs: Log variables of a step.
        config: The taps and their weights.

    Example:
        >>> config = AFANConfig.from_dict(dict(taps=dict(a=dict(module='m', step_size=1.0, weight=0.5))))
        >>> summarize_losses({'loss': 3.0, 'clean_loss': 2.0, 'adv_a_0.loss': 1.5}, config)
        {'a_adversarial': 1.5, 'a_adversarial_to_clean': 1.5}
    """
    summary: Dict[str, float] = {}
    for name, ratio in loss_ratios(outputs, config).items():
        terms = [float(value) for key, value in outputs.items() if re.match(rf'adv_{name}_\d+\..*loss', key)]
        summary.update({f'{name}_adversarial': sum(terms), f'{name}_adversarial_to_clean': ratio})
    return summary


def shorten_line(line: str) -> str:
    """Leave out of a line of the log what its sums and ratios tell as well.

    That is every single term, the sizes of the perturbations, and the shares of skipped samples where they are 0.

    Example:
        >>> shorten_line('loss: 3.0  adv_a_0.loss: 1.5  afan_a_skipped_share: 0.0000  afan_a_adversarial: 1.5')
        'loss: 3.0  afan_a_adversarial: 1.5'
    """
    return GAP.join(item for item in line.split(GAP) if not _is_detail(*item.partition(': ')[::2]))


def _is_detail(name: str, value: str) -> bool:
    return bool(re.match(r'adv_\w+_\d+\.', name) or re.fullmatch(r'afan_\w+_relative_size', name)
                or re.fullmatch(r'afan_\w+_skipped_share', name) and float(value) == 0)


class ShortLine:
    """A log processor whose line of a training iteration is short; what it hands to the backends stays whole.

    Args:
        processor: The runner's.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __getattr__(self, name: str) -> Any:
        if name == 'processor':  # not there yet where a copy is made
            raise AttributeError(name)
        return getattr(self.processor, name)

    def get_log_after_iter(self, runner: Any, batch_idx: int, mode: str) -> Tuple[dict, str]:
        """Return what the backends get, and the line."""
        tag, line = self.processor.get_log_after_iter(runner, batch_idx, mode)
        return tag, shorten_line(line) if mode == 'train' else line


def prepare_log(runner: Any, terms: bool) -> None:
    """Shorten the lines of a run unless ``terms`` are wanted."""
    if isinstance(runner.log_processor, ShortLine):
        runner.log_processor = runner.log_processor.processor
    if not terms:
        runner.log_processor = ShortLine(runner.log_processor)
