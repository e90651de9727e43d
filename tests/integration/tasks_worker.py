"""One process of ``test_distributed_tasks.py``: train tiny detectors and segmentors on this rank's share of the images.

    python -m torch.distributed.run --nproc_per_node 2 tasks_worker.py OUT WRAPPER '[["detector", 1]]'
"""
from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import MODEL_WRAPPERS

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

import mmafan  # noqa: E402, F401  (registers)
from mmafan.compat import end_process  # noqa: E402
from tests import detectors, segmentors  # noqa: E402

TAP = dict(step_size=0.1, step_unit='std', strengths=(0.5, 1.0), reinject=(False, True), weight=0.5)
MODULES = dict(detector='backbone.layer2', segmentor='backbone.layer3')
NUM_STEPS = 3
NUM_IMAGES = 4  # in each batch, of all processes
BUCKET_BYTES = 2**17


def detector(afan):
    """Build a small ATSS: all its losses are divided by averages over the processes."""
    head = dict(num_classes=5, in_channels=16, feat_channels=16, stacked_convs=1,
                norm_cfg=dict(type='GN', num_groups=4), anchor_generator=dict(octave_base_scale=2))
    detectors.DETECTORS['atss'] = ('atss/atss_r50_fpn_1x_coco.py', dict(
        backbone=detectors.BACKBONE, neck=detectors.NECK, bbox_head=head))
    try:
        return detectors.build('atss', afan)
    finally:
        del detectors.DETECTORS['atss']


def segmentor(afan):
    """Build a small DeepLabV3+ without dropout."""
    return segmentors.build('deeplabv3plus', afan, decode_head=dict(dropout_ratio=0),
                            auxiliary_head=dict(dropout_ratio=0))


def build(task):
    """Build a model whose norms are frozen, in the clean passes and in the others."""
    tap = dict(TAP, module=MODULES[task])
    model = dict(detector=detector, segmentor=segmentor)[task](
        dict(taps=dict(s=tap), clean_weight=0.5, batch_norm='frozen'))
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    return model


def batches(task, rank, world_size, number):
    """This rank's share of each fixed batch; the images have different numbers of boxes."""
    part = slice(rank * NUM_IMAGES // world_size, (rank + 1) * NUM_IMAGES // world_size)
    for index in range(number):
        if task == 'detector':
            batch = detectors.make_batch(NUM_IMAGES, (64, 64), (1, 3, 2, 4), masks=False, seed=index)
            batch['inputs'] = 60 * batch['inputs'] + 120
        else:
            batch = segmentors.make_batch(NUM_IMAGES, (64, 64), margin=0, seed=index)
        yield {key: value[part] for key, value in batch.items()}


def train(model, task, rank, world_size, accumulation, reduced=()):
    """Train a few steps; return for each batch what was reduced."""
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9),
                           accumulative_counts=accumulation)
    number = NUM_STEPS * accumulation
    wrapper.initialize_count_status(model, 0, number)
    log = []
    for batch in batches(task, rank, world_size, number):
        before = len(reduced)
        model.train_step(batch, wrapper)
        log.append(list(reduced[before:]))
    return log


def note_reductions(model):
    """Note the number and the size of each bucket of gradients that is reduced."""
    reduced = []

    def hook(_, bucket):
        reduced.append((bucket.index(), bucket.buffer().numel()))
        future = torch.distributed.all_reduce(bucket.buffer(), async_op=True).get_future()
        return future.then(lambda f: f.value()[0] / torch.distributed.get_world_size())

    model.register_comm_hook(None, hook)
    return reduced


def main():
    out, kind, cases = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    torch.set_num_threads(1)
    # The first buckets are reduced while the backward still runs; by default all these gradients are one bucket.
    torch.distributed._DEFAULT_FIRST_BUCKET_BYTES = BUCKET_BYTES
    torch.distributed.init_process_group('gloo')
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    found = []
    for task, accumulation in cases:
        inner = build(task)
        model = MODEL_WRAPPERS.build(dict(type=kind, module=inner, device_ids=None, broadcast_buffers=False,
                                          bucket_cap_mb=BUCKET_BYTES / 2**20))
        log = train(model, task, rank, world_size, accumulation, note_reductions(model))
        found.append(dict(state=inner.state_dict(), log=log))
    torch.save(found, f'{out}/rank{rank}.pth')
    end_process()


if __name__ == '__main__':
    main()
