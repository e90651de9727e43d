"""The rows of gpu_check.py's table of costs, each measured by step_cost.py in a process that they share.

    python -m mmafan.lab.gpu_check.cost EVENTS {cuda,cpu} ROW...

The file EVENTS gets a line of JSON when a row begins and one with its result. The first error ends the process, as it
may have left the GPU unusable.
"""
from __future__ import annotations

import gc
import json
import os.path as osp
import sys
import time
import traceback
from typing import Any, Dict, List

from ...configs import CONFIGS

MODELS = {  # config, images in a batch, side of the images in pixels
    'ResNet-18 (CIFAR), 128 images': ('mmpretrain/resnet18_afan_cifar10.py', 128, 32),
    'ResNet-18 (CIFAR), 16 images': ('mmpretrain/resnet18_afan_cifar10.py', 16, 32),
    'ResNet-50, 64 images': ('mmpretrain/resnet50_afan_in1k.py', 64, 224),
    'DeepLabV3+ R50, 4 images': ('mmseg/deeplabv3plus_r50-d8_afan_voc12aug-512x512.py', 4, 512),
    'Faster R-CNN R50-FPN, 2 images': ('mmdet/faster_rcnn_r50_fpn_afan_coco.py', 2, 800),
}
PRECISIONS = ('float32', 'float16')
ROWS = {f'{model}, {precision}': (model, precision) for model in MODELS for precision in PRECISIONS}
STUDY_ROW = 'ResNet-18 (CIFAR), 128 images, float16'  # what the length of the study is told from


def arguments_of(row: str, device: str) -> List[str]:
    """Return the arguments of ``step_cost.py``; on a CPU those of a small trial, where float16 is bfloat16."""
    model, precision = ROWS[row]
    config, batch_size, side = MODELS[model]
    tiny = device == 'cpu'
    if tiny:
        batch_size, side = 2, min(side, 64)
    found = [osp.join(CONFIGS, config), '--batch-size', str(batch_size), '--image-size', str(side), '--device', device,
             '--synthetic', '--warmup', '1' if tiny else '3', '--repeats', '1' if tiny else '9']
    if precision == 'float16':
        found += ['--cfg-options', 'optim_wrapper.type=AmpOptimWrapper',
                  f'optim_wrapper.dtype={"bfloat16" if tiny else precision}', 'optim_wrapper.loss_scale=dynamic']
    return found


def main(argv: List[str]) -> int:
    """Measure the rows in turn."""
    events, device, *rows = argv

    def tell(**fields: Any) -> None:
        with open(events, 'a', encoding='utf-8') as file:
            file.write(json.dumps(dict(fields, time=time.time())) + '\n')

    import torch

    from ..analyses import step_cost
    for row in rows:
        tell(row=row)
        try:
            tell(row=row, result=step_cost.measure(step_cost.parse_args(arguments_of(row, device))))
        except Exception as error:  # of any kind: the next row has its own process
            traceback.print_exc()
            tell(row=row, error=f'{type(error).__name__}: {error}'.split('\n')[0][:300])
            return 1
        gc.collect()
        if device != 'cpu':
            torch.cuda.empty_cache()
    return 0


def read_events(path: str) -> Dict[str, Dict[str, Any]]:
    """Return for each row what its last line says; ``time`` alone where it has begun and no more."""
    found: Dict[str, Dict[str, Any]] = {}
    if osp.exists(path):
        with open(path, encoding='utf-8') as file:
            for line in file:
                if line.endswith('\n'):
                    fields = json.loads(line)
                    found[fields.pop('row')] = fields
    return found


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
