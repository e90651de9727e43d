"""What the command line tools share: reading a config, and errors of one sentence instead of a traceback."""
from __future__ import annotations

import argparse
import difflib
import os
import os.path as osp
import sys
from typing import Any, List, NoReturn, Optional

from mmengine.config import Config, DictAction

CFG_OPTIONS_HELP = ('fields of the config to override, as key=value pairs: optim_wrapper.optimizer.lr=0.01 '
                    'key="[a,b]" key=a,b; quotation marks are needed around nested lists, and no white space')


class Mistake(Exception):
    """What a user has to change; in one process of several, whoever launched them says it last (``_launch.py``)."""


def stop(sentence: str) -> NoReturn:
    """End the program with status 2 and one sentence on stderr."""
    print(f'error: {sentence}', file=sys.stderr, flush=True)
    if 'TORCHELASTIC_ERROR_FILE' in os.environ:
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler
        get_error_handler().record_exception(Mistake(sentence))
    raise SystemExit(2)


def close_names(path: str, suffixes: tuple) -> List[str]:
    """Find files whose names resemble that of a missing one.

    Args:
        path: The path that does not exist.
        suffixes: File endings that count, such as ``('.py', )``.

    Returns:
        Up to three paths, the most similar first: from the same folder where it exists, otherwise from the
        nearest existing folder above it and the folders below that one.
    """
    folder = osp.dirname(path) or '.'
    same_folder = osp.isdir(folder)
    while not osp.isdir(folder):
        folder = osp.dirname(folder) or '.'
    found = {}
    for root, folders, files in os.walk(folder):
        depth = osp.relpath(root, folder).count(os.sep) + 1 if root != folder else 0
        folders[:] = [] if same_folder or depth >= 3 else [f for f in folders if not f.startswith('.')]
        for name in files:
            if name.endswith(suffixes):
                found.setdefault(name, osp.normpath(osp.join(root, name)))
    return [found[name] for name in difflib.get_close_matches(osp.basename(path), found, n=3, cutoff=0.5)]


def require_file(path: str, what: str, suffixes: tuple) -> str:
    """Return ``path``, or stop with a sentence that offers close names where there is no such file."""
    if '://' in path or osp.isfile(path):  # a URL is checked by whoever loads it
        return path
    near = close_names(path, suffixes)
    hint = f'; did you mean {" or ".join(near)}?' if near else ''
    stop(f'there is no {what} {path!r} (seen from {os.getcwd()}){hint}')


def import_mmafan() -> None:
    """Register everything; from a clone that is not installed, too."""
    try:
        import mmafan  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != 'mmafan':
            raise
        sys.path.insert(0, osp.dirname(osp.dirname(osp.abspath(__file__))))
        import mmafan  # noqa: F401


def read_config(path: str, cfg_options: Optional[dict] = None) -> Config:
    """Read a config file and override fields; mmafan is imported first, as bases may need it.

    Raises:
        ValueError: With one sentence, whatever the Python of the file raises and whatever does not fit.
    """
    import_mmafan()
    try:
        cfg = Config.fromfile(path)
    except Exception as error:
        raise ValueError(f'{path} cannot be read: {type(error).__name__}: {" ".join(str(error).split())}') from error
    try:
        cfg.merge_from_dict(cfg_options or {})
    except Exception as error:
        raise ValueError(f'the options {cfg_options} do not fit {path}: {" ".join(str(error).split())}') from error
    return cfg


def load_config(path: str, cfg_options: Optional[dict] = None) -> Config:
    """Read a config file and apply ``--cfg-options``, or stop with one sentence."""
    require_file(path, 'config file', ('.py', ))
    try:
        return read_config(path, cfg_options)
    except ValueError as error:
        stop(str(error))


def load_whole_config(path: str, cfg_options: Optional[dict] = None) -> Config:
    """Do what :func:`load_config` does, and stop where the config describes no model."""
    cfg = load_config(path, cfg_options)
    if not isinstance(cfg.get('model'), dict):
        stop(f'{path} must be a whole config, whose field model is a dict, got {cfg.get("model")!r}')
    return cfg


def choose_device(name: Optional[str]) -> str:
    """Return the device to use: the one named, else CUDA where there is one; or stop with one sentence."""
    import torch
    name = name or ('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError):
        stop(f"--device must be one that this machine has, such as 'cpu' or 'cuda:0', got {name!r}")
    return name


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


def set_work_dir(cfg: Config, args: argparse.Namespace) -> None:
    """Choose the work folder: the command line first, then the config, then the config's name."""
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('./work_dirs', osp.splitext(osp.basename(args.config))[0])


def complete_dataloaders(cfg: Config) -> None:
    """Fill in the data loader fields that mmpretrain's configs leave to its tools, in place.

    mmpretrain's base configs rely on the tool for ``collate_fn``, ``pin_memory`` and ``persistent_workers``. In any
    codebase, ``persistent_workers=True`` with ``num_workers=0`` (what ``--cfg-options`` easily leaves behind) is
    switched off, as torch refuses it.
    """
    for field in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loaders = cfg.get(field)
        for loader in loaders if isinstance(loaders, list) else [loaders]:
            if loader is None:
                continue
            if cfg.get('default_scope') == 'mmpretrain':
                loader.setdefault('pin_memory', True)
                loader.setdefault('persistent_workers', True)
                loader.setdefault('collate_fn', dict(type='default_collate'))
            if not loader.get('num_workers'):
                loader['persistent_workers'] = False


def build_runner(cfg: Config) -> Any:
    """Build mmengine's ``Runner``, or the one that ``cfg.runner_type`` names."""
    from mmengine.registry import RUNNERS
    from mmengine.runner import Runner
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
