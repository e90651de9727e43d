"""The proof of a step on a GPU: as far as the stock step repeats itself there."""
from __future__ import annotations

import pytest
import torch

from mmafan.analysis import prove
from mmafan.analysis.exactness import TOLERANCE
from mmafan.models import losses as losses_module

pytest.importorskip('mmpretrain', reason='the tiny classifier is a model of mmpretrain')

pytestmark = pytest.mark.gpu


def assert_proven(model, batch):
    settings = torch.backends.cudnn.allow_tf32, torch.are_deterministic_algorithms_enabled()
    proof = prove(model.train(), batch)
    print(f'measured: spread of the stock step {dict(proof.spread)}, error of a gradient {proof.error:.1e}')
    assert proof.holds, proof.wrong
    assert proof.before and proof.after and max(proof.spread.values(), default=0.0) < TOLERANCE
    assert settings == (torch.backends.cudnn.allow_tf32, torch.are_deterministic_algorithms_enabled())


def test_classification(tiny_classifier, tiny_batch, device):
    assert_proven(tiny_classifier().to(device), tiny_batch(image_size=16))


def test_a_wrong_weight_is_told(tiny_classifier, tiny_batch, device, monkeypatch):
    original = losses_module.weight_losses
    monkeypatch.setattr('mmafan.models.step.weight_losses', lambda losses, weight, prefix='': original(
        losses, weight * (1.01 if prefix else 1.0), prefix))
    proof = prove(tiny_classifier().to(device).train(), tiny_batch(image_size=16))
    assert any('is 2.010 times that of the stock model' in sentence for sentence in proof.wrong), proof.wrong


def test_other_tasks(small_model, device):
    models, model, batch = small_model
    afan = dict(taps=dict(s=dict(module='backbone.layer2', step_size=0.1)))
    assert_proven(models.build(model, afan).to(device), batch)
