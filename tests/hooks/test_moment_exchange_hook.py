"""Moment exchange: labels and features against NumPy, when it is on, beside A-FAN, and what is refused."""
from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip('mmpretrain', reason='moment exchange is for classifiers of mmpretrain')


def build(module='backbone.conv1', probability=1.0, weight=0.9, classes=4, afan=None):
    from mmengine.registry import DefaultScope
    from mmpretrain.registry import MODELS

    import mmafan
    DefaultScope.get_instance('moex', scope_name='mmpretrain')
    torch.manual_seed(0)
    cfg = dict(
        type='ImageClassifier',
        data_preprocessor=dict(type='ClsDataPreprocessor', num_classes=classes),
        backbone=dict(type='ResNet_CIFAR', depth=18, stem_channels=4, base_channels=4, num_stages=2, strides=(1, 2),
                      dilations=(1, 1), out_indices=(1, )),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=4, in_channels=8))
    if afan:
        cfg.update(type='mmafan.AFANImageClassifier', afan=afan)
    model = MODELS.build(cfg).train()
    hook = mmafan.hooks.MomentExchangeHook(module, probability, weight)
    return model, hook


def start(model, hook):
    hook.before_train(SimpleNamespace(model=model))
    return model


def batch(count=3):
    from mmpretrain.structures import DataSample
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 3, 8, 8), generator=generator)
    return dict(inputs=images, data_samples=[DataSample().set_gt_label(i) for i in range(count)])


def seen_at(model, name, data):
    """Output of a module of a stock and of an exchanging pass, and the mixed labels."""
    outputs = []
    handle = dict(model.named_modules())[name].register_forward_hook(lambda m, a, out: outputs.append(out.detach()))
    np.random.seed(0), torch.manual_seed(5)
    processed = model.data_preprocessor(data, True)
    losses = model(**processed, mode='loss')
    handle.remove()
    return outputs[0].numpy(), np.array([s.gt_score.tolist() for s in processed['data_samples']]), losses


def test_labels_and_moments_are_those_of_the_paper():
    stock, _ = build()
    clean = []
    stock.backbone.conv1.register_forward_hook(lambda m, a, out: clean.append(out.detach().numpy().astype(np.float64)))
    stock(**stock.data_preprocessor(batch(), True), mode='loss')
    feature, scores, _ = seen_at(start(*build()), 'backbone.conv1', batch())
    torch.manual_seed(5)
    order = torch.randperm(3).numpy()
    assert (order != np.arange(3)).any()
    np.testing.assert_allclose(scores, 0.9 * np.eye(4)[:3] + 0.1 * np.eye(4)[:3][order], atol=1e-6)
    [f] = clean
    mean, std = f.mean(1, keepdims=True), np.sqrt(f.var(1, ddof=1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(feature, (f - mean) / std * std[order] + mean[order], atol=1e-4)


def test_probability_zero_is_the_stock_model_with_one_hot_labels():
    data = batch()
    _, _, losses = seen_at(start(*build(probability=0.0)), 'backbone.conv1', data)
    stock, _ = build()
    expected = stock(**stock.data_preprocessor(batch(), True), mode='loss')
    torch.testing.assert_close(losses['loss'], expected['loss'])


def test_predictions_are_untouched():
    model = start(*build())
    np.random.seed(0)
    model.train_step(batch(), _wrapper(model))
    stock, _ = build()
    stock.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(model.eval()(images), stock.eval()(images), rtol=0, atol=0)


def test_adversarial_passes_see_the_exchanged_feature_once():
    """With a step of 0 the adversarial loss is the clean one: the same exchange, neither left out nor made twice."""
    for tap in ('backbone.layer1', 'inputs'):
        model = start(*build(afan=dict(taps=dict(a=dict(module=tap, step_size=0.0)), batch_norm='shared')))
        np.random.seed(0)
        log = model.train_step(batch(), _wrapper(model))
        torch.testing.assert_close(log['adv_a_0.loss'], log['clean_loss'], rtol=1e-5, atol=1e-6)


def _wrapper(model):
    from mmengine.optim import OptimWrapper
    return OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.0))


@pytest.mark.parametrize('fields, sentence', [
    (dict(module='backbone.conv7'), r"MomentExchangeHook.module must be .* got 'backbone.conv7'. did you mean"),
    (dict(probability=1.5), r'MomentExchangeHook.probability must be a number in \[0, 1\], got 1.5'),
    (dict(weight=-1), r'MomentExchangeHook.weight must be a number in \[0, 1\], got -1'),
    (dict(classes=None), 'mixes labels, which needs a ClsDataPreprocessor with num_classes'),
])
def test_what_cannot_work_is_one_sentence(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        start(*build(**fields))
