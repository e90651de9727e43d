"""A given batch attacked at a given tap: as a training step attacks it."""
from __future__ import annotations

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn

from mmafan.functional import draw_random_start
from mmafan.models.tap_attack import attack_tap, stock_losses
from mmafan.replay import Batch, PassKind, current_pass
from mmafan.tap_config import TapConfig

from ..nets import Net, rows
from ..rule import build


def afan_of(**tap):
    return dict(taps=dict(s=dict(dict(module='backbone.layer1', step_size=0.1, step_unit='std'), **tap)))


OUTPUT, INPUTS = ''.join(['out', 'put']), ''.join(['in', 'puts'])  # words made at run time, as those of a config


@pytest.mark.parametrize('fields, prefix_alone', [
    *[(fields, alone) for fields in (dict(at=OUTPUT), dict(num_steps=3, radius=0.15), dict(at='input'),
                                     dict(radius=0.3, random_start=True),
                                     dict(strengths=(0.2, 1.0), strength_sampling='random'))
      for alone in (False, True)],
    (dict(module=INPUTS), False),  # which has no prefix
], ids=str)
def test_it_is_the_attack_of_a_training_step(fields, prefix_alone, tiny_classifier, tiny_batch):
    model, seen, batch = tiny_classifier(afan=afan_of(**fields)).train(), [], tiny_batch()
    tap = model.afan.config.taps['s']
    with torch.no_grad():  # as whoever only looks at it may say
        found = attack_tap(model, Batch.of(batch), 's', prefix_alone=prefix_alone)
    (_, (perturbed, )), = found.attack.passes()
    if tap.module == 'inputs' or tap.at == 'input':  # seen by the first module that gets it
        first = model.backbone if tap.module == 'inputs' else model.backbone.layer1[0]
        handle = first.register_forward_pre_hook(lambda _, args: seen.append((current_pass().kind, args[0].detach())))
    else:
        handle = model.backbone.layer1.register_forward_hook(
            lambda _, __, out: seen.append((current_pass().kind, out.detach())))
    inputs = batch['inputs']
    model.data_preprocessor.forward = lambda *_: dict(inputs=inputs, data_samples=batch['data_samples'])
    model.train_step({}, OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.0)))
    handle.remove()
    expected = [feature for kind, feature in seen if kind is PassKind.ADVERSARIAL]
    assert torch.allclose(perturbed, expected[-1], rtol=0, atol=1e-6)
    assert not torch.allclose(found.attack.clean[0], expected[-1], rtol=0, atol=1e-3)


def test_nothing_stays_behind(tiny_classifier, tiny_batch):
    model = tiny_classifier(afan=afan_of(num_steps=2)).train()
    before = {name: value.clone() for name, value in model.state_dict().items() if 'running' not in name}
    attack_tap(model, Batch.of(tiny_batch()), 's')
    assert all(p.grad is None for p in model.parameters()) and not model.afan.inside and model.afan.facts is None
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items() if 'num_' not in name)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize('at', ['output', 'input'])
def test_the_prefix_alone_does_not_run_the_suffix(at, tiny_classifier, tiny_batch):
    model, runs = tiny_classifier(afan=afan_of(at=at)).train(), []
    for name, module in dict(before=model.backbone.norm1, tapped=model.backbone.layer1[0],
                             behind=model.backbone.layer3).items():
        module.register_forward_hook(lambda *_, name=name: runs.append((name, current_pass().kind)))
    found = attack_tap(model, Batch.of(tiny_batch()), 's', prefix_alone=True)
    clean = ['before', 'tapped'] if at == 'output' else ['before']
    assert [name for name, kind in runs if kind is PassKind.CLEAN] == clean and not found.losses
    assert [name for name, kind in runs if kind is PassKind.ATTACK and name != 'before'] == (
        ['behind'] if at == 'output' else ['tapped', 'behind'])  # what lies before is replayed


def test_what_is_given_takes_the_place_of_what_the_model_has(tiny_classifier, tiny_batch):
    """Another tap of that name, losses, and a generator, whose draws are as they always are."""
    model, batches = tiny_classifier(afan=afan_of()).train(), []
    tap = TapConfig('backbone.layer2', 0.0, step_unit='absolute', radius=0.5, random_start=True)

    def run(batch):
        batches.append(batch)
        return {name: 3 * value for name, value in stock_losses(model, batch).items()}

    found = attack_tap(model, Batch.of(tiny_batch()), 's', run, tap, torch.Generator().manual_seed(5))
    clean, = found.attack.clean
    noise = draw_random_start(clean, 0.5, 'linf', torch.Generator().manual_seed(5))
    torch.testing.assert_close(found.attack.adversarial[0], clean + noise)
    assert found.suffix.tap is tap and clean.shape[1] == 8 and len(batches) == 2
    stock = stock_losses(model, Batch.of(tiny_batch()))
    torch.testing.assert_close(found.losses['loss'], 3 * stock['loss'])
    with pytest.raises(ValueError, match=r"^tap must be one of \('s',\), got 'r'$"):
        attack_tap(model, Batch.of(tiny_batch()), 'r')


@pytest.mark.parametrize('alone', [False, True])
def test_the_losses_stay_whole_and_the_tap_stays_usable(alone, tiny_classifier, tiny_batch):
    """The losses have their graph; the feature of the suffix can be run again, which gives them again."""
    model = tiny_classifier(afan=afan_of()).eval()
    found = attack_tap(model, Batch.of(tiny_batch()), 's', prefix_alone=alone)
    assert not any(feature.requires_grad for feature in (*found.attack.clean, *found.attack.adversarial))
    features = [feature.clone().requires_grad_() for feature in found.attack.clean]
    again = found.suffix.losses(features)
    with torch.no_grad():
        gradients = found.suffix.gradients(features)
    torch.testing.assert_close(gradients, list(torch.autograd.grad(again['loss'], features)))
    stock = stock_losses(model, Batch.of(tiny_batch()))
    torch.testing.assert_close(again['loss'], stock['loss'])
    if not alone:
        torch.testing.assert_close(found.losses['loss'], stock['loss'])
        assert found.losses['loss'].requires_grad


def test_a_tap_without_gradient_is_named(tiny_classifier, tiny_batch):
    model = tiny_classifier(afan=afan_of(module='backbone.conv1'), backbone=dict(frozen_stages=0))
    with pytest.raises(ValueError, match="afan.taps.s.module must name a module .* 'backbone.conv1' returns a feature "
                                         'without gradient'):
        attack_tap(model, Batch.of(tiny_batch()), 's')


def test_a_detector_is_attacked_with_one_set_of_rois_and_its_own_data_samples(monkeypatch):
    pytest.importorskip('mmdet', reason='the detector is a model of mmdet')
    pytest.importorskip('mmcv.ops', reason='detectors need mmcv with its operators')
    from mmdet.models.roi_heads.bbox_heads import BBoxHead

    from ..detectors import build, make_batch
    stock, passes = BBoxHead.loss_and_target, []

    def spy(self, *args, **kwargs):
        passes.append([result.priors.clone() for result in kwargs['sampling_results']])
        return stock(self, *args, **kwargs)

    monkeypatch.setattr(BBoxHead, 'loss_and_target', spy)
    taps = dict(a=dict(module='backbone.layer2', step_size=0.5, num_steps=3))
    model, batch = build('faster_rcnn', dict(taps=taps)), make_batch(masks=False)
    keys = [list(sample.gt_instances.keys()) for sample in batch['data_samples']]
    attack_tap(model, Batch.of(batch), 'a')
    assert len(passes) == 3  # the clean one, whose gradient is free, and two further steps
    assert all(torch.equal(*pair) for other in passes[1:] for pair in zip(other, passes[0]))
    assert keys == [list(sample.gt_instances.keys()) for sample in batch['data_samples']]


def test_stock_losses_are_those_of_the_stock_model(tiny_classifier, tiny_batch):
    model, stock = tiny_classifier(afan=afan_of()), tiny_classifier('ImageClassifier', None)
    expected = stock.train().loss(**tiny_batch())
    found = stock_losses(model.train(), Batch.of(tiny_batch()))
    assert found.keys() == expected.keys() and torch.equal(found['loss'], expected['loss'])


class Twice(nn.Linear):
    """Gives its output, and something that no loss asks for."""

    def forward(self, x):
        return super().forward(x), 2 * x


class Losses(Net):
    """One loss before the tap, two after it, and one that depends on nothing."""

    def __init__(self):
        super().__init__()
        self.t = Twice(6, 6)

    def after(self, feature):
        one, two = 8 * self.c(feature).square().mean(), 3 * (feature[:, ::2] * feature[:, 1::2]).mean()
        return dict(loss_one=one, loss_two=two, accuracy=feature.mean())

    def forward(self, inputs, mode='tensor'):
        hidden = torch.tanh(self.a(inputs))
        return dict(self.after(self.t(hidden)[0]), loss_early=hidden.mean(), loss_none=torch.tensor(1.0))


@pytest.mark.parametrize('norm', ['linf', 'l2'])
@pytest.mark.parametrize('fields, groups', [
    (dict(), None), (dict(losses=['loss_one']), [['loss_one']]), (dict(attack_losses=['*two']), [['loss_two']]),
    (dict(losses=['loss_two'], attack_losses=['loss_one']), [['loss_one']]),
    (dict(attack_losses=[['loss_one'], ['loss_two']]), [['loss_one'], ['loss_two']]),
    (dict(attack_losses=[['loss_two'], ['loss_none'], ['loss_one']]), [['loss_one'], ['loss_two']]),
    (dict(attack_losses=['loss_none']), [])], ids=str)
def test_the_losses_that_are_ascended(fields, groups, norm):
    """Those named; of several lists each sample follows the one whose step raises its whole loss the most."""
    model = build(Losses, taps=dict(s=dict(module='t', step_size=0.1, norm=norm, num_steps=2, **fields)))
    found = attack_tap(model, Batch((rows(0, 8), ), {}), 's').attack
    feature = found.clean[0].clone()

    def direction(gradient):
        return gradient.sign() if norm == 'linf' else gradient / gradient.norm(dim=1, keepdim=True)

    for _ in range(2):
        leaf = feature.clone().requires_grad_()
        losses = {name: value for name, value in model.after(leaf).items() if 'loss' in name}
        total, = torch.autograd.grad(sum(losses.values()), leaf, retain_graph=True)
        options = [total] if groups is None else [
            torch.autograd.grad(losses[name], leaf, retain_graph=True)[0] for name, in groups]
        if options:
            rises = torch.stack([(total * direction(option)).sum(1) for option in options])
            assert len(set(rises.argmax(0).tolist())) == len(options)  # each is chosen by some sample
            feature = feature + 0.1 * torch.stack(list(map(direction, options)))[rises.argmax(0), range(8)]
    torch.testing.assert_close(found.adversarial[0], feature)
    assert torch.equal(found.adversarial[1], found.clean[1])  # which comes to no loss
