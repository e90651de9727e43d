"""Segmentors: what must always hold, labels that are hard, and what a tap in the decoder does not compute again."""
from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

pytest.importorskip('mmseg', reason='mmseg is not installed')
pytest.importorskip('mmdet', reason='the query-based segmentor is made of parts of mmdet')
pytest.importorskip('mmcv.ops', reason='its pixel decoder needs mmcv with its operators')

from mmafan.models.segmentation import CODEBASE  # noqa: E402

from ..segmentors import BACKBONE_TAPS, SEGMENTORS, build, make_batch  # noqa: E402
from ..training import step  # noqa: E402

FIELDS = dict(step_size=0.1, step_unit='std', strengths=(0.5, 1.0), reinject=(False, True), weight=0.2)
ASPP = 'decode_head.bottleneck'
CONCATENATION = dict(module='decode_head.sep_bottleneck', at='input')


def tap(module, **fields):
    return dict(dict(FIELDS, module=module), **fields)


def taps_of(name, batch_norm='batch', **fields):
    taps = dict(backbone=tap(BACKBONE_TAPS[name], **fields))
    if name == 'deeplabv3plus':
        taps['aspp'] = tap(ASPP, **fields)
    return dict(taps=taps, clean_weight=0.5, batch_norm=batch_norm)


def buffers_of(model):
    return {n: b.clone() for n, b in model.named_buffers() if 'auxiliary' not in n.split('.')}


def finite(log, gradients):
    return (all(torch.isfinite(torch.tensor(v)) for v in log.values()) and gradients
            and all(torch.isfinite(g).all() for g in gradients.values()))


# ---------------------------------------------------------------- what must always hold
@pytest.mark.parametrize('name', SEGMENTORS)
def test_off_is_the_stock_segmentor_bit_for_bit(name):
    off, stock = build(name, taps_of(name, weight=0)), build(name)
    for _ in range(2):
        results = [(*step(model, make_batch(), lr=0.01), torch.get_rng_state()) for model in (stock, off)]
        assert results[0][0] == results[1][0] and results[0][1].keys() == results[1][1].keys()
        assert all(torch.equal(results[0][1][n], results[1][1][n]) for n in results[0][1])
        assert torch.equal(results[0][2], results[1][2])


@pytest.mark.parametrize('name', SEGMENTORS)
def test_checkpoints_are_exchanged_and_predictions_stay(name):
    afan, stock = build(name, taps_of(name), seed=2), build(name, seed=4)
    step(afan, make_batch(), lr=0.01)
    assert afan.state_dict().keys() == stock.state_dict().keys()
    stock.load_state_dict(afan.state_dict(), strict=True)
    again = build(name, taps_of(name), seed=6)
    again.load_state_dict(stock.state_dict(), strict=True)
    outputs = []
    for model in (afan, stock, again):
        model.eval()
        with torch.no_grad():
            batch = make_batch()
            result = model(batch['inputs'], copy.deepcopy(batch['data_samples']), mode='predict')
        outputs.append([r.seg_logits.data for r in result])
    for other in outputs[1:]:
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(outputs[0], other))


@pytest.mark.parametrize('name', SEGMENTORS)
def test_the_clean_pass_is_that_of_the_stock_segmentor(name):
    """Losses, the random stream after a step, and buffers; also in the second step, which checks nothing."""
    stock, afan = build(name), build(name, taps_of(name))
    for _ in range(2):
        (expected, _), state = step(stock, make_batch()), torch.get_rng_state()
        log, _ = step(afan, make_batch())
        assert torch.equal(torch.get_rng_state(), state)
        for key in expected:
            if 'loss_' in key:
                assert log[key] == pytest.approx(0.5 * expected[key], rel=1e-6), key
        found = buffers_of(afan)
        assert all(torch.equal(found[n], b) for n, b in buffers_of(stock).items())
        assert any(k.startswith('adv_backbone_1.decode.') for k in log)


@pytest.mark.parametrize('name', SEGMENTORS)
def test_the_attack_raises_the_loss_more_than_noise(name):

    def mean_rise(direction):
        total = 0.0
        for seed in range(3):
            taps = dict(a=tap(BACKBONE_TAPS[name], strengths=(1.0, ), reinject=False, weight=1.0, step_size=0.03,
                              direction=direction))
            log, _ = step(build(name, dict(taps=taps), seed=seed), make_batch(seed=seed))
            adversarial = {k[len('adv_a_0.'):]: v for k, v in log.items() if k.startswith('adv_a_0.') and 'loss' in k}
            total += sum(v - log[k] for k, v in adversarial.items())
        return total

    attacked = mean_rise('gradient')
    assert attacked > 0 and attacked > 2 * abs(mean_rise('random_sign'))


@pytest.mark.parametrize('fails', [False, True])
def test_nothing_stays_behind(fails, monkeypatch):
    model = build('deeplabv3plus', taps_of('deeplabv3plus'))
    if fails:
        monkeypatch.setattr(type(model.auxiliary_head), 'loss_by_feat', lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            step(model, make_batch())
    else:
        step(model, make_batch())
    assert not [k for m in model.modules() for k in vars(m) if k in ('forward', 'loss')]
    assert not model.afan.inside and torch.is_grad_enabled()
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


# ---------------------------------------------------------------- running statistics
@pytest.mark.parametrize('sync', [False, True])
@pytest.mark.parametrize('policy', ['frozen', 'separate', 'batch', 'shared'])
def test_clean_running_statistics(policy, sync):
    """As if the adversarial passes never happened, except with shared statistics; the learning rate is 0."""
    stock, afan = (build('deeplabv3plus', fields, sync_bn=sync)
                   for fields in (None, taps_of('deeplabv3plus', batch_norm=policy)))
    assert any(isinstance(m, torch.nn.SyncBatchNorm) for m in afan.modules()) == sync
    afan.afan.controls.hooked = True
    for seed in range(3):
        for model in (stock, afan):
            step(model, make_batch(seed=seed))
    found, expected = buffers_of(afan), buffers_of(stock)
    running = [n for n in expected if 'running' in n or 'num_batches' in n]
    tail = [n for n in running if n.startswith(('backbone.layer4', 'decode_head.sep_bottleneck'))]
    head = [n for n in running if n.startswith(('backbone.stem', 'backbone.layer1', 'backbone.layer2'))]
    assert tail and head and found.keys() == expected.keys()
    same = {n for n in running if torch.equal(found[n], expected[n])}
    assert same >= set(head) and (same >= set(tail)) == (policy != 'shared')
    assert policy != 'shared' or not same & set(tail)


# ---------------------------------------------------------------- losses
def test_attacked_losses_are_a_field():
    """The auxiliary head has a loss of its own, which the attack follows or does not."""

    def terms(**fields):
        taps = dict(a=tap(BACKBONE_TAPS['deeplabv3plus'], strengths=(1.0, ), reinject=False, step_size=0.02,
                          weight=1.0, **fields))
        log, _ = step(build('deeplabv3plus', dict(taps=taps)), make_batch())
        return {k: v for k, v in log.items() if k.startswith('adv_a_0.') and 'loss' in k}

    decode, auxiliary = terms(attack_losses='decode.loss_ce'), terms(attack_losses='aux.*')
    assert decode.keys() == auxiliary.keys() == {'adv_a_0.decode.loss_ce', 'adv_a_0.aux.loss_ce'}
    assert decode['adv_a_0.decode.loss_ce'] > auxiliary['adv_a_0.decode.loss_ce']
    assert decode['adv_a_0.aux.loss_ce'] < auxiliary['adv_a_0.aux.loss_ce']
    assert sum(terms().values()) > max(sum(decode.values()), sum(auxiliary.values()))
    assert terms(losses='decode.*').keys() == {'adv_a_0.decode.loss_ce'}


@pytest.mark.parametrize('module', [dict(module=ASPP), CONCATENATION])
def test_a_tap_in_the_decoder_has_no_term_of_the_auxiliary_head(module):
    model = build('deeplabv3plus', dict(taps=dict(a=dict(FIELDS, **module))))
    log, _ = step(model, make_batch())
    assert {k for k in log if k.startswith('adv_a_1.') and 'loss' in k} == {'adv_a_1.decode.loss_ce'}


def test_a_tap_in_the_decoder_runs_the_rest_of_the_decoder_alone(monkeypatch):
    """After the first step, in which every tap is checked."""
    model = build('deeplabv3plus', dict(taps=dict(a=dict(FIELDS, num_steps=2, **CONCATENATION))))
    step(model, make_batch())
    runs = {}
    head = model.decode_head
    watched = dict(stem=model.backbone.stem, layer4=model.backbone.layer4, aspp=head.aspp_modules[0],
                   bottleneck=head.bottleneck, low_level=head.c1_bottleneck, last=head.conv_seg,
                   auxiliary=model.auxiliary_head.conv_seg)
    for name, module in watched.items():
        stock = module.forward

        def counted(*args, name=name, stock=stock, **kwargs):
            runs[name] = runs.get(name, 0) + 1
            return stock(*args, **kwargs)

        monkeypatch.setattr(module, 'forward', counted)
    step(model, make_batch())
    assert runs == dict(stem=1, layer4=1, aspp=1, bottleneck=1, low_level=1, auxiliary=1,
                        last=1 + 1 + 2)  # clean, a second attack step, two strengths


# ---------------------------------------------------------------- hard labels and losses
LOSSES = dict(
    plain={},
    mean_of_labelled=dict(decode_head=dict(loss_decode=dict(avg_non_ignore=True))),
    ohem=dict(decode_head=dict(sampler=dict(type='OHEMPixelSampler', thresh=0.7, min_kept=100))),
    ohem_of_losses=dict(decode_head=dict(sampler=dict(type='OHEMPixelSampler', min_kept=100))),
    two_losses=dict(decode_head=dict(loss_decode=[
        dict(type='CrossEntropyLoss', loss_name='loss_ce'), dict(type='DiceLoss', loss_name='loss_dice')])),
)


@pytest.mark.parametrize('ignored', [0, 1, 3])
@pytest.mark.parametrize('kind', LOSSES)
def test_losses_and_ignored_labels_are_honoured(kind, ignored):
    """Crops that are all ignore label train, also as the first batch; the clean losses are the stock ones."""
    stock, model = (build('deeplabv3plus', fields, **LOSSES[kind]) for fields in (None, taps_of('deeplabv3plus')))
    for _ in range(2):
        expected, _ = step(stock, make_batch(ignored=ignored))
        log, gradients = step(model, make_batch(ignored=ignored))
        assert finite(log, gradients)
        for key in expected:
            if 'loss_' in key:
                assert log[key] == pytest.approx(0.5 * expected[key], rel=1e-6, abs=1e-7)
    assert 'adv_backbone_1.aux.loss_ce' in log
    if ignored == 3 and kind != 'two_losses':  # Dice has no zero
        assert all(v == 0 for k, v in log.items() if 'loss_' in k)
        assert all(not g.any() for g in gradients.values())


WEIGHTS = dict(decode_head=dict(loss_decode=dict(class_weight=[1.0, 0.5, 2.0, 0.0])))


def test_class_weights_are_honoured():
    """Without ignored labels the clean loss is the stock one."""
    stock, model, plain = (build('deeplabv3plus', fields, **changes) for fields, changes in (
        (None, WEIGHTS), (taps_of('deeplabv3plus'), WEIGHTS), (taps_of('deeplabv3plus'), {})))
    expected, _ = step(stock, make_batch(margin=0))
    log, _ = step(model, make_batch(margin=0))
    unweighted, _ = step(plain, make_batch(margin=0))
    assert log['decode.loss_ce'] == pytest.approx(0.5 * expected['decode.loss_ce'], rel=1e-6)
    for name in ('aspp', 'backbone'):
        key = f'adv_{name}_0.decode.loss_ce'
        assert abs(log[key] / unweighted[key] - 1) > 1e-3


@pytest.mark.parametrize('ignored', [0, 1, 3])
def test_class_weights_beside_ignored_labels(ignored):
    """Ignored labels weigh nothing, as in torch's own cross entropy."""
    from mmseg.models.losses import CrossEntropyLoss
    weights = WEIGHTS['decode_head']['loss_decode']['class_weight']
    model = build('deeplabv3plus', taps_of('deeplabv3plus'), **WEIGHTS)
    assert finite(*step(model, make_batch(ignored=ignored)))
    labels = torch.stack([s.gt_sem_seg.data[0] for s in make_batch(ignored=ignored)['data_samples']])
    logits = torch.randn(3, 4, 64, 64)
    found = CrossEntropyLoss(class_weight=weights)(logits, labels, ignore_index=255)
    if ignored == 3:
        assert found == 0
    else:
        expected = torch.nn.functional.cross_entropy(logits, labels, torch.tensor(weights), ignore_index=255)
        assert found == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize('ignore_index', [0, 2, -1])
def test_a_class_that_is_ignored_has_the_stock_loss(ignore_index):
    """Its weight can be looked up, and the stock mean counts it."""
    from mmseg.models.losses import cross_entropy_loss
    build('deeplabv3plus', taps_of('deeplabv3plus'))
    logits, labels = torch.randn(2, 3, 4, 4), torch.randint(3, (2, 4, 4))
    labels[0, 0] = ignore_index
    found, expected = (function(logits, labels, class_weight=torch.tensor([1.0, 2.0, 3.0]), ignore_index=ignore_index)
                       for function in (cross_entropy_loss.cross_entropy, cross_entropy_loss.cross_entropy.__wrapped__))
    assert torch.equal(found, expected)


def test_leave_ignored_labels_unweighted_is_still_needed():
    from mmseg.models.losses import cross_entropy_loss
    stock = cross_entropy_loss.cross_entropy.__wrapped__
    labels = torch.tensor([[[0, 255]]])
    with pytest.raises(IndexError):  # else the workaround compat.leave_ignored_labels_unweighted can go
        stock(torch.randn(1, 2, 1, 2), labels, class_weight=torch.ones(2), ignore_index=255)


@pytest.mark.parametrize('name', SEGMENTORS)
def test_a_batch_of_ignored_labels_trains(name):
    model = build(name, taps_of(name))
    for ignored in (3, 1, 3):
        assert finite(*step(model, make_batch(ignored=ignored), lr=1e-3))


def test_ignored_pixels_do_not_move_what_only_they_see():
    """Without batch statistics a sample that is all ignore label has no gradient: the sign of zero moves nothing."""
    model = build('deeplabv3plus', dict(taps=dict(a=tap(ASPP, strengths=(1.0, ), reinject=False))))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    seen = []
    model.decode_head.sep_bottleneck.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    step(model, make_batch(ignored=1))
    clean, adversarial = seen[0], seen[-1]
    assert torch.equal(clean[0], adversarial[0]) and not torch.equal(clean[1], adversarial[1])


@pytest.mark.parametrize('direction', ['gradient', 'random_sign'])
def test_a_fraction_of_the_samples(direction):
    model = build('deeplabv3plus', taps_of('deeplabv3plus', fraction=0.5, direction=direction))
    sizes = []
    model.backbone.layer4.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    for _ in range(2):
        log, gradients = step(model, make_batch(num_images=4))
        assert finite(log, gradients)
    assert set(sizes) == {4, 2}


# ---------------------------------------------------------------- what is watched
def test_the_losses_of_every_head_are_watched():
    """Of one head as of a list of them; a segmentor may lack either."""
    class Head(nn.Module):

        def loss(self):
            pass

    def watched(**heads):
        model = nn.Module()
        for name, head in heads.items():
            setattr(model, name, head)
        calls = CODEBASE.watched_calls(model)
        assert all((call.name, call.paired, call.per_sample) == ('loss', False, False) for call in calls)
        return [call.owner for call in calls]

    one, two, three = Head(), Head(), Head()
    assert watched(decode_head=one) == [one]
    assert watched(decode_head=nn.ModuleList([one, two]), auxiliary_head=three) == [one, two, three]
    assert watched(decode_head=one, auxiliary_head=nn.ModuleList([two, nn.Identity(), three])) == [one, two, three]
    assert watched(auxiliary_head=nn.Identity()) == [] == watched()
    assert CODEBASE.lacks_targets(None) is False
