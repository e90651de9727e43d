"""One process of ``test_distributed.py``: train a tiny classifier on this rank's share of a fixed batch.

    python -m torch.distributed.run --nproc_per_node 2 ddp_worker.py OUT POLICY NORM_EVAL
"""
from __future__ import annotations

import sys

import torch
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.structures import DataSample

import mmafan  # noqa: F401  (registers)

TAP = dict(module='backbone.layer1', step_size=0.1, step_unit='std', strengths=(0.5, 1.0), reinject=(False, True))


def build(policy, norm_eval, learned=False):
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    afan = dict(taps=dict(s=TAP), clean_weight=0.5, batch_norm=policy)
    if learned:
        afan['taps']['t'] = dict(TAP, module='backbone.layer3')
        afan['learn_strengths'] = dict(lr=0.1)
    model = MODELS.build(dict(
        type='mmafan.AFANImageClassifier',
        backbone=dict(type='ResNet_CIFAR', depth=18, base_channels=4, stem_channels=4, norm_eval=norm_eval),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=3, in_channels=32, loss=dict(type='CrossEntropyLoss')), afan=afan))
    model.data_preprocessor.register_forward_hook(lambda _, __, d: {**d, 'inputs': d['inputs'].double()})
    return model.double().train()


def batches(rank, world_size, steps=3, size=8):
    """This rank's share of each fixed batch."""
    generator = torch.Generator().manual_seed(7)
    for _ in range(steps):
        inputs = torch.randn(size, 3, 8, 8, generator=generator)
        labels = torch.randint(3, (size, ), generator=generator).tolist()
        part = slice(rank * size // world_size, (rank + 1) * size // world_size)
        yield dict(inputs=list(inputs[part]), data_samples=[DataSample().set_gt_label(n) for n in labels[part]])


def train(model, inner, rank, world_size):
    """Three steps; A-FAN is off in the second one, as the hook's schedule may have it."""
    wrapper = OptimWrapper(torch.optim.SGD(inner.parameters(), lr=0.1, momentum=0.9))
    inner.afan.hooked = True
    for step, batch in enumerate(batches(rank, world_size)):
        inner.afan.strength_scale = float(step != 1)
        model.train_step(batch, wrapper)
        if inner.afan.learned is not None and step != 1:
            inner.afan.learned.step()
    state = dict(inner.state_dict())
    if inner.afan.learned is not None:
        state.update({f'learned.{k}': v.detach() for k, v in inner.afan.learned.factors.items()})
    return state


def main():
    out, policy, norm_eval, learned = sys.argv[1], sys.argv[2], sys.argv[3] == 'True', sys.argv[4] == 'True'
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo')
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    inner = build(policy, norm_eval, learned)
    state = train(MMDistributedDataParallel(inner, device_ids=None), inner, rank, world_size)
    torch.save(state, f'{out}/rank{rank}.pth')
    torch.distributed.destroy_process_group()


if __name__ == '__main__':
    main()
