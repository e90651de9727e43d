"""``mmafan export CONFIG CHECKPOINT -o DIR``: the stock config and checkpoint of a trained model, without mmafan."""
from __future__ import annotations

import argparse
import copy
import os
import os.path as osp
from typing import Any

from .configs import build_model, read_config
from .stock import read_weights, stock_config, without_mmafan, write_checkpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument('config', help='config that the model was trained with')
    parser.add_argument('checkpoint', help='checkpoint file (.pth) of that training')
    parser.add_argument('-o', '--out', required=True, metavar='DIR', help='folder to write to')


def export(config: str, checkpoint: str, out: str) -> Any:
    """Write the stock config and the checkpoint; return their paths.

    Raises:
        FileNotFoundError: If there is no such config or checkpoint.
        ValueError: If the model has parts of mmafan that no stock package has, or the checkpoint is not of this model.
    """
    if not osp.isfile(checkpoint):
        raise FileNotFoundError(f'there is no checkpoint {checkpoint!r}')
    cfg, left_out = stock_config(read_config(config))
    model_cfg = copy.deepcopy(cfg.model)  # a segmentor writes `pretrained` into its backbone's
    if 'data_preprocessor' in cfg:
        model_cfg.setdefault('data_preprocessor', cfg.data_preprocessor)
    weights, meta = read_weights(checkpoint)
    model = build_model(cfg, model_cfg)
    own = {name for name, _ in model.named_parameters()} | set(model.state_dict())
    missing, unexpected = sorted(set(model.state_dict()) - set(weights)), sorted(set(weights) - own)
    if missing or unexpected:
        raise ValueError(f'{checkpoint} is no checkpoint of {type(model).__name__} in {config}: it lacks '
                         f'{missing[:3] or "nothing"} and has {unexpected[:3] or "nothing"} beside')
    model.load_state_dict(weights, strict=True)  # shapes
    os.makedirs(out, exist_ok=True)
    stem = osp.splitext(osp.basename(config))[0].replace('_afan', '')
    config_path = osp.join(out, f'{stem}.py')
    cfg.dump(config_path)
    without_mmafan(config_path)
    return config_path, write_checkpoint(weights, meta, osp.join(out, stem)), left_out


def run(args: argparse.Namespace) -> None:
    """Export, and say what was written."""
    config_path, checkpoint_path, left_out = export(args.config, args.checkpoint, args.out)
    print(f'{config_path}\n{checkpoint_path}')
    for sentence in left_out:
        print(f'note: {sentence}')
