"""One process of ``test_sync_norms.py``: a small segmentor whose config has SyncBN, on the CPU.

    python -m torch.distributed.run --nproc_per_node 2 sync_worker.py OUT {stock,adapted}
"""
from __future__ import annotations

import copy
import sys
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel

from mmafan.compat import end_process

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]


def main():
    from tests import segmentors
    from tests.segmentors import build, make_batch, stock_config
    from tests.training import step
    out, kind = sys.argv[1:]
    torch.set_num_threads(1)
    taps = dict(a=dict(module='backbone.layer3', step_size=0.1, step_unit='std', weight=0.5))
    changes = dict(sync_bn=True)
    if kind == 'adapted':  # what tools/train.py does to a config
        from mmafan.lab.cpu import adapt_to_cpu
        cfg = Config(dict(model=stock_config('deeplabv3plus', sync_bn=True), launcher='pytorch', sync_bn='torch'))
        adapt_to_cpu(cfg)
        assert 'sync_bn' not in cfg
        segmentors.stock_config = lambda *_, **__: copy.deepcopy(cfg.model)
        changes = {}
    else:
        torch.distributed.init_process_group('gloo')
    rank = torch.distributed.get_rank()
    models = [build('deeplabv3plus', afan, **changes) for afan in (None, dict(taps=taps, clean_weight=0.5))]
    stock, inner = models
    batch = make_batch(seed=rank)
    error = ''
    try:
        model = MMDistributedDataParallel(inner, device_ids=None, broadcast_buffers=False)
        model.data_preprocessor = inner.data_preprocessor
        log, _ = step(model, batch)
    except ValueError as found:
        error, log = str(found), {}
    if not error:
        step(stock, batch)
    torch.save(dict(error=error, log=log, buffers=dict(inner.named_buffers()), stock=dict(stock.named_buffers())),
               f'{out}/rank{rank}.pth')
    end_process()


if __name__ == '__main__':
    main()
