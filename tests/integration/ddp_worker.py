"""One process of ``test_distributed.py``: train a tiny classifier on this rank's share of a fixed batch.

    python -m torch.distributed.run --nproc_per_node 2 ddp_worker.py OUT '{"policy": "batch"}'
"""
from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

import torch
import torch.distributed.nn.functional as functional
from mmengine.optim import OptimWrapper
from mmengine.registry import MODEL_WRAPPERS, MODELS, init_default_scope
from mmpretrain.structures import DataSample

import mmafan  # noqa: F401  (registers)
from mmafan.compat import end_process

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this file runs as a script
from tests.half import Float16OptimWrapper  # noqa: E402

TAP = dict(module='backbone.layer1', step_size=0.1, step_unit='std', strengths=(0.5, 1.0), reinject=(False, True))


@MODELS.register_module()
class ProcessNorm(torch.nn.BatchNorm2d):
    """Batch norm with the statistics of all processes, each with equally many samples; torch's works on GPUs alone."""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        moments = torch.stack([x.mean((0, 2, 3)), x.square().mean((0, 2, 3))])
        mean, square = functional.all_reduce(moments) / torch.distributed.get_world_size()
        var = square - mean.square()
        count = torch.distributed.get_world_size() * x.numel() / x.shape[1]
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1), self.momentum)
        shape = (1, -1, 1, 1)
        x = (x - mean.view(shape)) / (var.view(shape) + self.eps).sqrt()
        return x * self.weight.view(shape) + self.bias.view(shape)


def build(policy='batch', norm_eval=True, learned=False, fraction=1.0, num_steps=1, tap='backbone.layer1', unused=False,
          checkpointed=None, norm='BN', dtype='float64', schedule='auto', device='cpu',
          **_):
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    tap = dict(TAP, module=tap, fraction=fraction, num_steps=num_steps)
    afan = dict(taps=dict(s=tap), clean_weight=0.5, batch_norm=policy, schedule=schedule)
    if learned:
        afan['taps']['t'] = dict(TAP, module='backbone.layer3')
        afan['learn_strengths'] = dict(lr=0.1)
    model = MODELS.build(dict(
        type='mmafan.AFANImageClassifier',
        backbone=dict(type='ResNet_CIFAR', depth=18, base_channels=4, stem_channels=4, norm_eval=norm_eval,
                      norm_cfg=dict(type=norm), with_cp=checkpointed == 'with_cp'),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=3, in_channels=32, loss=dict(type='CrossEntropyLoss')), afan=afan))
    if unused:
        model.spare = torch.nn.Parameter(torch.ones(2))
    dtype = getattr(torch, dtype)
    model.data_preprocessor.register_forward_hook(lambda _, __, d: {**d, 'inputs': d['inputs'].to(dtype)})
    return model.to(device, dtype).train()


def batches(rank, world_size, steps=3, size=8):
    """This rank's share of each fixed batch."""
    generator = torch.Generator().manual_seed(7)
    for _ in range(steps):
        inputs = torch.randn(size, 3, 8, 8, generator=generator)
        labels = torch.randint(3, (size, ), generator=generator).tolist()
        part = slice(rank * size // world_size, (rank + 1) * size // world_size)
        yield dict(inputs=list(inputs[part]), data_samples=[DataSample().set_gt_label(n) for n in labels[part]])


def train(model, inner, rank, world_size, accumulation=1, clip=None, off=1, loss_scale=None, overflow=None,
          skip=0, **_):
    """Three steps; A-FAN is off in the second one, as the hook's schedule may have it, or in another.

    With a loss scale they are steps in float16; the images of one step of rank 1 may be such that they overflow. The
    first steps may be left out.
    """
    kind = OptimWrapper if loss_scale is None else functools.partial(Float16OptimWrapper, loss_scale)
    wrapper = kind(optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
                   accumulative_counts=accumulation, clip_grad=clip)
    inner.afan.controls.hooked = True
    parts = [batch for batch in batches(rank, world_size) for _ in range(accumulation)]
    wrapper.initialize_count_status(model, 0, len(parts))
    for number, batch in enumerate(parts):
        step = number // accumulation
        if step < skip:
            continue
        inner.afan.controls.strength_scale = float(step != off)
        if loss_scale is not None:
            inner.afan.controls.loss_scaler = wrapper.loss_scaler  # as the hook does
        scale = 1.0 if loss_scale is None else wrapper.loss_scaler.get_scale()
        if step == overflow and rank == 1:
            batch['inputs'] = [image * float('inf') for image in batch['inputs']]
        model.train_step(batch, wrapper)
        if inner.afan.learned is not None and step != off:
            inner.afan.learned.step(scale)
    state = dict(model.state_dict())
    state = {name[7:] if name.startswith('module.') else name: value for name, value in state.items()}
    if inner.afan.learned is not None:
        state.update({f'learned.{k}': v.detach() for k, v in inner.afan.learned.factors.items()})
    if loss_scale is not None:
        state['scale'] = torch.tensor(wrapper.loss_scaler.get_scale())
    return state


def count_runs(model):
    """Count in a list how often a block of the last stage runs."""
    runs = []
    model.get_submodule('backbone.layer4.1.conv1').register_forward_hook(lambda *_: runs.append(None))
    return runs


def count_reductions(model):
    """Count how often each bucket of gradients is reduced."""
    counts = {}

    def hook(_, bucket):
        counts[bucket.index()] = counts.get(bucket.index(), 0) + 1
        future = torch.distributed.all_reduce(bucket.buffer(), async_op=True).get_future()
        return future.then(lambda f: f.value()[0] / torch.distributed.get_world_size())

    model.register_comm_hook(None, hook)
    return counts


def main():
    out, options = sys.argv[1], json.loads(sys.argv[2])
    torch.set_num_threads(1)
    torch.distributed.init_process_group(options.get('backend', 'gloo'))
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    inner = build(**options)
    kind = options.get('wrapper', 'MMDistributedDataParallel')
    sharded = kind == 'MMFullyShardedDataParallel'
    device = dict(device_id=torch.device('cpu')) if sharded else dict(device_ids=None)
    model = MODEL_WRAPPERS.build(dict(type=kind, module=inner, **device, **options.get('fields', {})))
    if options.get('checkpointed') == 'wrapper':  # as mmengine's FSDPStrategy does
        from mmpretrain.models.backbones.resnet import BasicBlock
        from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
        apply_activation_checkpointing(model, check_fn=lambda module: isinstance(module, BasicBlock))
    counts = count_reductions(model) if options.get('counted', not sharded) else {}
    runs = count_runs(inner)
    state = train(model, inner, rank, world_size, **options)
    torch.save(dict(state=state, counts=counts, runs=len(runs)), f'{out}/rank{rank}.pth')
    end_process()


if __name__ == '__main__':
    main()
