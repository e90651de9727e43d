"""A valid ``afan`` field is the same after it has been written and read, copied or merged."""
from __future__ import annotations

import copy
import dataclasses
import pickle

from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import Config

from mmafan.config import BATCH_NORM_POLICIES, AFANConfig
from mmafan.tap_config import CHOICES

POSITIVE = st.floats(1e-6, 1e6)
PATTERNS = st.lists(st.sampled_from(['loss_cls', '*bbox', 'd0.*']), min_size=1, max_size=2)


@st.composite
def taps(draw):
    """Draw the fields of a valid tap; each is there or not."""
    count = draw(st.integers(1, 4))
    sampling = draw(st.sampled_from(CHOICES['strength_sampling']))
    weights = st.floats(0, 10)
    many = [weights] if sampling == 'random' else [weights, st.lists(weights, min_size=count, max_size=count)]
    fields = dict(
        step_unit=st.sampled_from(CHOICES['step_unit']), norm=st.sampled_from(CHOICES['norm']),
        moments=st.sampled_from(CHOICES['moments']), at=st.sampled_from(CHOICES['at']), num_groups=st.integers(1, 64),
        channel_dim=st.sampled_from([None, 1, -1]), clamp=st.sampled_from([None, (0.0, 1.0), [-1, 2]]),
        reinject=st.one_of(st.booleans(), st.lists(st.booleans(), min_size=count, max_size=count)),
        weight=st.one_of(many), losses=st.one_of(st.none(), PATTERNS),
        attack_losses=st.one_of(st.none(), PATTERNS, st.lists(PATTERNS, min_size=1, max_size=2)),
        fraction=st.floats(0.01, 1))
    made = dict(step_size=draw(st.floats(0, 10)), strength_sampling=sampling,
                strengths=draw(st.lists(st.floats(0.01, 1), min_size=count, max_size=count)))
    made.update({name: draw(values) for name, values in fields.items() if draw(st.booleans())})
    if draw(st.booleans()):
        made.update(num_steps=draw(st.integers(1, 4)), radius=draw(POSITIVE), random_start=draw(st.booleans()),
                    every=draw(st.integers(1, 3)))
    return made


@st.composite
def afans(draw):
    """Draw a valid ``afan`` field."""
    names = draw(st.lists(st.sampled_from(['a', 'b2', 'backbone', 'roi']), min_size=1, max_size=3, unique=True))
    made = dict(taps={name: dict(draw(taps()), module=f'backbone.layer{k}') for k, name in enumerate(names)})
    options = dict(clean_weight=POSITIVE, batch_norm=st.sampled_from(BATCH_NORM_POLICIES), replay=st.booleans(),
                   schedule=st.sampled_from(['auto', 'two_phase', 'single_graph']),
                   learn_strengths=st.one_of(st.none(), st.fixed_dictionaries({'lr': POSITIVE})))
    made.update({name: draw(values) for name, values in options.items() if draw(st.booleans())})
    return made


def fields_of(config):
    """Return a config as a user would write it."""
    made = dataclasses.asdict(config)
    for fields in (*made['taps'].values(), made['learn_strengths'] or {}):
        fields.pop('where', None)
    return made


@given(afans())
def test_a_config_is_equal_after_it_was_written_and_read(afan):
    before = copy.deepcopy(afan)
    config = AFANConfig.from_dict(afan)
    assert afan == before and config == AFANConfig.from_dict(afan)
    assert AFANConfig.from_dict(Config.fromstring(f'afan = {afan!r}', '.py').afan) == config
    assert AFANConfig.from_dict(fields_of(config)) == config
    assert pickle.loads(pickle.dumps(config)) == config == copy.deepcopy(config)


@settings(max_examples=settings.default.max_examples // 10)  # mmengine lays the text out, which takes long
@given(afans())
def test_a_config_is_equal_after_mmengine_has_written_it(afan):
    text = Config(dict(model=dict(type='mmafan.AFANImageClassifier', afan=afan))).pretty_text
    assert AFANConfig.from_dict(Config.fromstring(text, '.py').model.afan) == AFANConfig.from_dict(afan)


@given(afans(), st.floats(0.5, 0.9))
def test_a_field_that_is_overridden_changes_alone(afan, step_size):
    config = Config(dict(model=dict(afan=afan)))
    name = next(iter(afan['taps']))
    config.merge_from_dict({f'model.afan.taps.{name}.step_size': step_size})
    found, expected = AFANConfig.from_dict(config.model.afan), AFANConfig.from_dict(afan)
    assert found.taps[name].step_size == step_size
    taps = {**expected.taps, name: dataclasses.replace(expected.taps[name], step_size=step_size)}
    assert found == dataclasses.replace(expected, taps=taps)


@given(afans())
def test_the_passes_of_a_tap_are_its_strengths_of_some_weight(afan):
    for tap in AFANConfig.from_dict(afan).taps.values():
        given_weights = [weight for weight in tap.weight if weight > 0]
        assert [wanted.weight for wanted in tap.passes] == given_weights and tap.active == bool(given_weights)
        if tap.strength_sampling == 'all':
            rows = list(zip(tap.weight, tap.strengths, tap.reinject))
            assert [wanted[1:] for wanted in tap.passes] == [row for row in rows if row[0] > 0]
            assert all(rows[wanted.number] == wanted[1:] for wanted in tap.passes)
