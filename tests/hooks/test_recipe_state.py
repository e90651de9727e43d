"""A recipe that has changed between a checkpoint and the training that resumes from it is told in one sentence."""
from __future__ import annotations

import re

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from mmafan import afan_model
from mmafan.hooks.recipe_state import KEEPS, changes, recipe_of

TAP = dict(module='conv1', step_size=0.1)


class Images(Dataset):

    def __len__(self):
        return 4

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return dict(inputs=torch.randn(3, 6, 6, generator=generator), data_samples=index % 2)


class Stock(BaseModel):

    def __init__(self):
        super().__init__()
        self.conv1, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.conv2, self.fc = nn.Conv2d(4, 4, 3), nn.Linear(4, 2)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        logits = self.fc(self.conv2(self.bn(self.conv1(inputs)).relu()).mean((2, 3)))
        return {'loss': nn.functional.cross_entropy(logits, data_samples)} if mode == 'loss' else logits


@afan_model
class Net(Stock):
    pass


def train(work_dir, afan, epochs, resume):
    stock = afan is None
    messages = []
    runner = Runner(
        Stock() if stock else Net(afan=afan), str(work_dir), train_cfg=dict(by_epoch=True, max_epochs=epochs),
        train_dataloader=dict(batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
                              dataset=Images(), collate_fn=dict(type='default_collate')),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)), resume=resume,
        custom_hooks=[] if stock else [dict(type='mmafan.AdvFeatureHook')], default_scope='mmengine',
        experiment_name=f'recipe_{work_dir.name}_{epochs}_{id(messages)}', log_level='ERROR')
    runner.logger.warning = lambda message, *_: messages.append(message)
    runner.train()
    return [message for message in messages if 'recipe' in str(message)]


@pytest.mark.parametrize('before, after, what', [
    (dict(taps=dict(s=TAP)), dict(taps=dict(s=TAP, t=dict(TAP, module='conv2'))), 'afan.taps.t is new'),
    (dict(taps=dict(s=TAP, t=dict(TAP, module='conv2'))), dict(taps=dict(s=TAP)), 'afan.taps.t is gone'),
    (dict(taps=dict(s=TAP)), dict(taps=dict(s=dict(TAP, strengths=(0.5, 1.0)))),
     r'afan.taps.s.strengths was \[1.0\] and is \[0.5, 1.0\](; .*)?'),
    (dict(taps=dict(s=TAP)), dict(taps=dict(s=TAP), batch_norm='frozen'),
     "afan.batch_norm was 'batch' and is 'frozen'"),
    (dict(taps=dict(s=TAP, t=dict(TAP, module='conv2'))),
     dict(taps=dict(s=TAP, t=dict(TAP, module='conv2')), learn_strengths=dict(lr=0.1)),
     'afan.learn_strengths was None and is .*'),
], ids=['new tap', 'tap gone', 'strengths', 'norms', 'learned'])
def test_what_has_changed_is_told_and_training_goes_on(tmp_path, before, after, what):
    assert train(tmp_path, before, 1, False) == []
    assert train(tmp_path, before, 2, True) == []  # nothing has changed
    [told] = train(tmp_path, after, 3, True)
    assert re.fullmatch(f'the recipe has changed since the checkpoint: {what}; {KEEPS}', told)
    assert '\n' not in told and (tmp_path / 'epoch_3.pth').exists()


@pytest.mark.parametrize('before, after, what', [
    (dict(taps=dict(s=TAP)), dict(taps=dict(s=TAP), batch_norm='separate'),
     "8 parameters in 1 groups where this config gives 10 in 1: afan.batch_norm was 'batch' and is 'separate'"),
    (None, dict(taps=dict(s=TAP), batch_norm='separate'), 'it was made without A-FAN or with another model'),
])
def test_what_cannot_be_resumed_is_told_instead_of_torchs_parameter_groups(tmp_path, before, after, what):
    train(tmp_path, before, 1, False)
    with pytest.raises(ValueError, match=f'cannot be resumed from its checkpoint, .*{what}; resume with the config'):
        train(tmp_path, after, 2, True)


def test_a_field_that_one_side_does_not_know_is_no_change():
    assert changes(dict(old=1, taps=dict(a=dict(weight=1, gone=2))), dict(new=2, taps=dict(a=dict(weight=1)))) == []
    long = changes(dict(a='x' * 100), dict(a=1))[0]
    assert len(long) < 100 and '...' in long


def test_a_recipe_is_plain_and_loads_without_classes(tmp_path):
    recipe = recipe_of(Net(afan=dict(taps=dict(s=dict(TAP, losses=('loss*', ))))))
    torch.save(recipe, tmp_path / 'recipe.pth')
    assert torch.load(tmp_path / 'recipe.pth', weights_only=True) == recipe
    assert recipe['taps']['s']['losses'] == ['loss*'] and 'where' not in recipe['taps']['s']
