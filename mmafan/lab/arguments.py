"""Arguments that the command line tools share."""
from __future__ import annotations

import argparse
from typing import Any, Optional

from mmengine.config import DictAction

from .errors import stop

CFG_OPTIONS_HELP = ('fields of the config to override, as key=value pairs: optim_wrapper.optimizer.lr=0.01 '
                    'key="[a,b]" key=a,b; quotation marks are needed around nested lists, and no white space')


class CfgOptions(DictAction):
    """The ``key=value`` pairs of ``--cfg-options``."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        for pair in values:
            if not pair.partition('=')[0] or '=' not in pair:
                parser.error(f'argument --cfg-options: must be key=value, such as train_cfg.max_epochs=3, got {pair!r}')
        try:
            super().__call__(parser, namespace, values, option_string)
        except Exception as error:  # of a value that is no list, for example
            parser.error(f'argument --cfg-options: {values} cannot be read: {error}')


def positive(text: str) -> int:
    """Read an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'must be at least 1, got {value}')
    return value


def require_positive(args: argparse.Namespace, *names: str) -> None:
    """Stop where a number that was given is less than 1."""
    for name in names:
        value = getattr(args, name)
        if value is not None and value < 1:
            stop(f'--{name.replace("_", "-")} must be at least 1, got {value}')


def choose_device(name: Optional[str]) -> str:
    """Return the device to use: the one named, else CUDA where there is one; or stop with one sentence."""
    import torch
    name = name or ('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError):
        stop(f"--device must be one that this machine has, such as 'cpu' or 'cuda:0', got {name!r}")
    return name


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``train.py`` and ``test.py`` have in common."""
    parser.add_argument('--work-dir', help='folder for logs and results (default: ./work_dirs/<config name>)')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, help=CFG_OPTIONS_HELP)
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how the processes of a distributed run were started')
    add_trust_argument(parser)
    # torch.distributed.launch passes --local_rank before torch 2.0 and --local-rank from then on.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    """Add the one way to load a checkpoint that may run code."""
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='load checkpoints that name classes or functions beyond arrays, tensors and histories: only files of your '
        'own, as they can run any code (SECURITY.md)')
