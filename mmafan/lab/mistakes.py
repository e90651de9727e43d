"""A user's mistakes: each ends a tool with one sentence, which names what is wrong, and exit status 2."""
from __future__ import annotations

import contextlib
import dis
import io
import os
import sys
from typing import Any, Iterator, Optional, Union

from .errors import stop

# Code that is not the user's: what fails in it while something is built was given wrong fields.
LIBRARIES = ('mmengine', 'mmcv', 'mmpretrain', 'mmdet', 'mmseg', 'torch', 'torchvision', 'numpy', 'inspect')
STARTED_BY = dict(pytorch=('RANK', 'torchrun, as tools/dist_train.sh and tools/dist_test.sh do'),
                  slurm=('SLURM_PROCID', 'srun, as tools/slurm_train.sh and tools/slurm_test.sh do'),
                  mpi=('OMPI_COMM_WORLD_RANK', 'mpirun'))
NO_SAMPLE = ('it has found no sample: look at data_root, data_prefix, ann_file, the names of the classes, and the '
             'endings of the files (img_suffix)')


@contextlib.contextmanager
def mistakes_end() -> Iterator[None]:
    """End the program with the sentence of a mistake, in place of a traceback."""
    try:
        yield
    except Exception as error:
        sentence = mistake_of(error)
        if sentence is None:
            raise
        stop(sentence)


def mistake_of(error: Optional[BaseException]) -> Optional[str]:
    """Return the sentence about a user's mistake that mmafan raised, or else one about what could not be built.

    The first of a chain of errors counts. Bugs keep their traceback, those of mmafan and those of a user's own code:
    mmafan raises its sentences by ``raise``, and what cannot be built fails in a library that was given wrong fields.
    """
    said = built = None
    while error is not None:
        said = _said_by_mmafan(error) or said
        built = _not_built(error) or built
        error = error.__cause__ or error.__context__
    return said or built


def _frames(error: BaseException) -> Iterator[Any]:
    trace = error.__traceback__
    while trace is not None:
        yield trace
        trace = trace.tb_next


def _module(trace: Any) -> str:
    return str(trace.tb_frame.f_globals.get('__name__'))


def _said_by_mmafan(error: BaseException) -> Optional[str]:
    *_, last = [None, *_frames(error)]
    if last is None or not isinstance(error, (KeyError, ValueError, TypeError)):
        return None
    raised = last.tb_frame.f_code.co_code[last.tb_lasti] == dis.opmap['RAISE_VARARGS']
    return text_of(error) if raised and _module(last).partition('.')[0] == 'mmafan' else None


def _not_built(error: BaseException) -> Optional[str]:
    """Say what a config describes and a library could not build; None where another code failed."""
    frames = list(_frames(error))
    building = [trace for trace in frames if trace.tb_frame.f_code.co_name.startswith(('build_', 'from_cfg'))
                and _module(trace).partition('.')[0] == 'mmengine']
    if not building or _module(frames[-1]).partition('.')[0] not in LIBRARIES:
        return None
    names = filter(None, (_name_of(trace.tb_frame) for trace in reversed(building)))
    empty = any(trace.tb_frame.f_code.co_name == '_serialize_data' for trace in frames)  # of mmengine's data sets
    text = NO_SAMPLE if empty and 'at least one array' in str(error) else text_of(error)
    return f'{next(names, "Runner")} cannot be built from the config: {text}'


def _name_of(frame: Any) -> str:
    """Name what a function of mmengine builds: its type, or else the part of the config; empty where it knows none."""
    part = frame.f_code.co_name[len('build_'):] if frame.f_code.co_name.startswith('build_') else ''
    for given in (frame.f_locals.get('cfg'), frame.f_locals.get(f'{part}_cfg')):
        if isinstance(given, dict) and 'type' in given:
            kind = given['type']
            return kind if isinstance(kind, str) else getattr(kind, '__name__', repr(kind))
    return '' if part.endswith('from_cfg') else part


def text_of(error: BaseException) -> str:
    """Return what an error says, in one line, with its kind where that is no sentence of its own."""
    text = ' '.join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
    text = text.partition('. Please check whether')[0]  # of a registry
    return text if isinstance(error, ValueError) or ' ' in text else f'{type(error).__name__}: {text}'


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Hold what is printed back until this ends well; after a mistake it is in mmengine's log file alone."""
    from mmengine.logging import MMLogger
    out, errors = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            yield
    except SystemExit:  # of stop(), whose sentence is the last line
        sys.stderr.write(errors.getvalue().splitlines(keepends=True)[-1])
        raise
    screens = {id(out): sys.stdout, id(errors): sys.stderr}
    for logger in MMLogger._instance_dict.values():
        for handler in logger.handlers:
            if id(getattr(handler, 'stream', None)) in screens:
                handler.stream = screens[id(handler.stream)]
    for held, screen in ((out, sys.stdout), (errors, sys.stderr)):
        screen.write(held.getvalue())
        screen.flush()


def check_fields(cfg: Any) -> None:
    """Stop where the model, its ``afan`` or a hook is wrong, before mmengine prints the environment and the config."""
    model = cfg.get('model')
    if not isinstance(model, dict):
        stop(f'the field model of the config must be a dict, such as dict(type=...), got {model!r}')
    for number, hook in enumerate(cfg.get('custom_hooks') or []):
        if not isinstance(hook, dict) and not hasattr(hook, 'before_run'):
            stop(f"custom_hooks[{number}] must be a dict, such as dict(type='mmafan.AdvFeatureHook'), got {hook!r}")
    from ..config import AFANConfig
    with mistakes_end():
        if 'afan' in model and model['afan'] is not None:
            AFANConfig.from_dict(model['afan'])


def check_launcher(launcher: str) -> None:
    """Stop where no launcher has started this process, although the argument says so."""
    name, how = STARTED_BY.get(launcher, (None, None))
    if name is not None and name not in os.environ:
        stop(f'--launcher {launcher} is for processes that are started by {how}; {name} is not set in this one')


def check_folder(path: str) -> None:
    """Make a work folder, or stop with a sentence that says why it cannot be one."""
    from ..storage import is_disk_full
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        if is_disk_full(error):
            raise
        stop(f'--work-dir {path} must be a folder that can be written to, got {type(error).__name__}: {error.strerror}')


def require_weights_of(model: Any, path: Union[str, Any]) -> None:
    """Stop where not one weight of a checkpoint belongs to the model: mmengine would go on with those it has."""
    import torch
    from mmengine.runner import CheckpointLoader
    try:
        loaded = torch.load(path, map_location='meta', mmap=True)
    except Exception:  # of an old format, at a URL, trusted by the user: as mmengine does
        loaded = CheckpointLoader.load_checkpoint(str(path), map_location='cpu')
    state = loaded.get('state_dict', loaded) if isinstance(loaded, dict) else None
    if not isinstance(state, dict):
        stop(f'{path} must hold a state_dict, got {type(loaded).__name__}')
    own, names = ({name[len('module.'):] if name.startswith('module.') else name for name in found}
                  for found in (model.state_dict(), state))  # of wrappers, such as that of test-time augmentation
    if own and not own & names:
        stop(f'{path} has no weight of the model: it has {min(names, default="none")!r}, the model has {min(own)!r}')
