"""The line on the screen is short, what the backends get is whole, and all keys are in the documentation."""
from __future__ import annotations

import copy
import json
import re

import pytest

from mmafan.config import AFANConfig
from mmafan.hooks import AdvFeatureHook
from mmafan.hooks.log_line import ShortLine, shorten_line, summarize_losses

from .test_adv_feature_hook import make_runner

LINE = ('Epoch(train)  [1][4/4]  lr: 5.0000e-02  eta: 0:00:03  loss: 2.0000  clean_loss: 0.5000  '
        'adv_s_0.loss: 0.7000  adv_s_1.loss_bbox: 0.8000  adv_s_1.acc: 50.0000  afan_s_adversarial: 1.5000  '
        'afan_s_relative_size: 0.1000  afan_s_skipped_share: {skipped}  advice: 1.0000')


def test_details_are_left_out_and_skipped_samples_are_told():
    kept = ('Epoch(train)  [1][4/4]  lr: 5.0000e-02  eta: 0:00:03  loss: 2.0000  clean_loss: 0.5000  '
            'afan_s_adversarial: 1.5000{more}  advice: 1.0000')
    assert shorten_line(LINE.format(skipped='0.0000')) == kept.format(more='')
    assert shorten_line(LINE.format(skipped='0.2500')) == kept.format(more='  afan_s_skipped_share: 0.2500')


def test_sum_counts_the_losses_of_one_tap_as_they_are_weighted():
    config = AFANConfig.from_dict(dict(
        taps={name: dict(module=name, step_size=1.0, strengths=(0.5, 1.0), weight=0.5) for name in ('a', 'a_b')}))
    outputs = {'loss': 9.0, 'clean_loss': 2.0, 'adv_a_0.loss': 1.5, 'adv_a_1.loss': 2.5, 'adv_a_1.acc': 50.0,
               'adv_a_b_0.loss': 4.0}
    assert summarize_losses(outputs, config) == dict(
        a_adversarial=4.0, a_adversarial_to_clean=2.0, a_b_adversarial=4.0, a_b_adversarial_to_clean=4.0)


def lines_of(tmp_path, hook):
    runner, _ = make_runner(tmp_path, hook, epochs=1)
    said, info = [], runner.logger.info
    runner.logger.info = lambda text, *more: (said.append(str(text)), info(text, *more))
    runner.train()
    [scalars] = tmp_path.glob('*/vis_data/scalars.json')
    keys = {key for line in scalars.read_text().splitlines() for key in json.loads(line)}
    return [text for text in said if text.startswith('Epoch(train)')], keys, runner


@pytest.mark.parametrize('terms', [False, True])
def test_screen_is_short_unless_terms_are_wanted_and_files_are_whole(tmp_path, terms):
    lines, keys, _ = lines_of(tmp_path, AdvFeatureHook(interval=1, log_terms=terms))
    assert lines and all(('adv_s_0.loss' in line) == terms for line in lines)
    assert all('afan_s_adversarial: ' in line and 'afan_s_adversarial_to_clean: ' in line for line in lines)
    assert {'loss', 'adv_s_0.loss', 'adv_s_1.loss', 'afan_s_relative_size', 'afan_s_skipped_share',
            'afan_s_adversarial', 'afan_s_adversarial_to_clean', 'afan_strength_scale'} <= keys


def test_every_key_is_explained(tmp_path, repo):
    _, keys, _ = lines_of(tmp_path, AdvFeatureHook(interval=1))
    named = set(re.findall(r'^\| `([^`]+)`', (repo / 'docs' / 'reading_the_log.md').read_text(), re.M))
    own = {key for key in keys if key.startswith(('afan_', 'adv_', 'clean_'))}
    general = {re.sub(r'(adv|afan)_s_\d?', lambda found: f'{found[1]}_<tap>_' + '<i>' * found[0].endswith('0'), key)
               for key in own if '_1.' not in key}
    general = {re.sub(r'\.loss$', '.<name>', key) for key in general}
    assert 'adv_<tap>_<i>.<name>' in general and general <= named, general - named


def test_processor_is_wrapped_once_and_can_be_copied(tmp_path):
    runner, _ = make_runner(tmp_path, AdvFeatureHook(), epochs=1)
    stock = runner.log_processor
    for hook in runner.hooks:
        if isinstance(hook, AdvFeatureHook):
            runner.train()
            hook.before_train(runner)
    assert isinstance(runner.log_processor, ShortLine) and runner.log_processor.processor is stock
    assert copy.deepcopy(runner.log_processor).window_size == stock.window_size
