"""The joined schedule on a GPU: what two steps descend together, and the steps of ``every``, are those of the CPU."""
from __future__ import annotations

import pytest

pytest.importorskip('mmpretrain', reason='the tiny classifier is a model of mmpretrain')
pytest.importorskip('mmseg', reason='the small segmentor is a model of mmseg')
pytest.importorskip('mmdet', reason='the small detector is a model of mmdet')
pytest.importorskip('mmcv.ops', reason='detectors and segmentors need mmcv with its operators')

from ..parity.test_detector_gradients import float64, stock_code_without_float64  # noqa: E402, F401
from ..parity.test_gradients import assert_same  # noqa: E402
from ..parity.test_joined import batch_of, gradients_of_steps, make  # noqa: E402

pytestmark = pytest.mark.gpu

# A step along the gradient itself: its sign, where it is near zero, is chance.
SMOOTH = dict(strengths=(0.5, 1.0), reinject=(False, True), weight=(0.3, 0.2), step_size=0.5, step_unit='std',
              norm='l2')


@pytest.fixture
def assert_same_steps(device, moved):
    """Return a function that trains a step with each batch on the CPU and on the device, and compares them."""

    def check(build, batches, tolerance):
        on_cpu = gradients_of_steps(build(), *(moved(batch, 'cpu') for batch in batches))
        found = gradients_of_steps(build().to(device), *(moved(batch, device) for batch in batches))
        for (gradients, log), (right, its_log) in zip(found, on_cpu):
            assert {g.device.type for g in gradients.values()} == {device.type}
            assert_same({name: g.cpu() for name, g in gradients.items()}, right, tolerance)
            assert log == pytest.approx(its_log, rel=max(tolerance, 1e-6), abs=1e-9)
        return [log for _, log in found]

    return check


@pytest.mark.parametrize('task, tolerance', [('classifier', 1e-8), ('segmentor', 1e-6), ('detector', 1e-5)])
@pytest.mark.parametrize('fields', [{}, dict(fraction=0.5)], ids=str)
def test_joined_steps(assert_same_steps, task, tolerance, fields):
    """A batch of another size follows, so that samples that wait are told from those of the step."""
    first, second = assert_same_steps(lambda: make(task, 'joined', recipe=dict(SMOOTH, **fields)),
                                      (batch_of(task, 1), batch_of(task, 2, 3)), tolerance)
    assert not any(name.startswith('adv_') for name in first)
    assert any(name.startswith('adv_t_1') for name in second)


@pytest.mark.parametrize('policy', ['frozen', 'separate', 'shared'])
def test_policies_of_norms(assert_same_steps, policy):
    assert_same_steps(lambda: make('classifier', 'joined', policy, recipe=SMOOTH),
                      (batch_of('classifier', 1), batch_of('classifier', 2)), 1e-8)


@pytest.mark.parametrize('schedule', ['auto', 'single_graph'])
def test_every_third_step(assert_same_steps, schedule):
    logs = assert_same_steps(lambda: make('classifier', schedule, recipe=dict(SMOOTH, every=3)),
                             [batch_of('classifier', seed) for seed in range(4)], 1e-8)
    assert ['adv_t_0.loss' in log for log in logs] == [True, False, False, True]
