"""Which checkpoint a run goes on from: the newest that is whole."""
from __future__ import annotations

import os
import os.path as osp
import re
import warnings
import zipfile
from dataclasses import dataclass, field
from pickle import UnpicklingError
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

RECORD = 'last_checkpoint'
TEMPLATES = ('epoch_{}.pth', 'iter_{}.pth')
RESUMABLE = ('meta', 'state_dict', 'message_hub')
LOGGED = ('log_scalars', 'runtime_info', 'resumed_keys')  # of the message hub


@dataclass(frozen=True)
class Found:
    """What a work folder has to go on from.

    Attributes:
        path: The newest whole checkpoint; None where there is none.
        folder: Where checkpoints were looked for.
        record: What is wrong with the record of the last checkpoint; empty where nothing is.
        passed_over: Newer checkpoints that cannot be used, and why.
    """
    path: Optional[str]
    folder: str
    record: str = ''
    passed_over: Dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """One sentence, for whoever called for a resume."""
        why = [f'{osp.basename(path)} {problem}' for path, problem in self.passed_over.items()]
        if self.path is not None:
            reasons = [self.record] if self.record else []
            tail = f', the newest whole checkpoint: {"; ".join(reasons + why)}' if reasons or why else ''
            return f'going on from {self.path}{tail}'
        if why:
            return f'no checkpoint in {self.folder} is whole: {"; ".join(why)}'
        return f'there is no checkpoint in {self.folder}, so training starts from the beginning'


def find_checkpoint(work_dir: str, out_dir: Optional[str] = None, template: Optional[str] = None,
                    trusted: bool = False) -> Found:
    """Find the newest whole checkpoint of a run.

    It is the one that mmengine's record (``last_checkpoint``) names, where that one is whole and none has been written
    after it: a kill leaves the record of the checkpoint before, half a record, or half a checkpoint. Best and published
    checkpoints hold no optimizer, and are none to go on from.

    Args:
        work_dir: Work folder of the run, where the record lies.
        out_dir: Where checkpoints lie; None: in the work folder.
        template: ``filename_tmpl`` of the ``CheckpointHook``; None: mmengine's own.
        trusted: Whether the files are the user's own, so that what a checkpoint holds need not be looked at.

    Returns:
        What was found; nothing is changed.
    """
    folder = out_dir or work_dir
    named, record = _read_record(osp.join(work_dir, RECORD))
    candidates = _candidates(folder, template)
    passed_over: Dict[str, str] = {}
    if named is not None and not _overtaken(named, osp.join(work_dir, RECORD), candidates, template):
        problem = problem_of(named, resumable=True, trusted=trusted)
        if not problem:
            return Found(named, folder)
        passed_over[named] = problem
    for path in candidates:
        if not any(_same(path, other) for other in passed_over):
            problem = problem_of(path, resumable=True, trusted=trusted)
            if not problem:
                return Found(path, folder, record, passed_over)
            passed_over[path] = problem
    return Found(None, folder, record if candidates else '', passed_over)


def _read_record(path: str) -> Tuple[Optional[str], str]:
    """Return what the record names, if it is there, or what is wrong with it."""
    try:
        with open(path, encoding='utf-8') as file:
            named = file.read().strip()
    except FileNotFoundError:
        return None, f'there is no {RECORD}'
    except (OSError, UnicodeDecodeError) as error:
        return None, f'{RECORD} cannot be read ({type(error).__name__})'
    if not named:
        return None, f'{RECORD} is empty'
    if '\0' in named or not osp.exists(named):
        return None, f'{RECORD} names {named!r}, which is not there'
    return named, ''


def _patterns(template: Optional[str]) -> List['re.Pattern[str]']:
    names = [template] if template and template not in TEMPLATES else []
    return [re.compile(re.escape(name).replace(r'\{\}', r'(\d+)') + '$') for name in (*names, *TEMPLATES)]


def _number(path: str, template: Optional[str]) -> int:
    """Epoch or iteration in the name of a checkpoint; -1 for another name."""
    for pattern in _patterns(template):
        match = pattern.match(osp.basename(path))
        if match:
            return int(match[1])
    return -1


def _candidates(folder: str, template: Optional[str]) -> List[str]:
    """Checkpoints of a folder, the last written first."""
    try:
        names = [name for name in os.listdir(folder) if _number(name, template) >= 0]
    except OSError:
        return []
    paths = [osp.join(folder, name) for name in names]
    paths = [path for path in paths if osp.exists(path)]  # not a link to nowhere
    return sorted(paths, key=lambda path: (os.stat(path).st_mtime_ns, _number(path, template)), reverse=True)


def _overtaken(named: str, record: str, candidates: Sequence[str], template: Optional[str]) -> bool:
    """Whether a later checkpoint was written after the record: a copy of the folder changes times, but not names."""
    written = os.stat(record).st_mtime_ns
    return any(os.stat(path).st_mtime_ns > written and _number(path, template) > _number(named, template)
               for path in candidates)


def _same(one: str, other: str) -> bool:
    return osp.realpath(one) == osp.realpath(other)


def problem_of(path: str, resumable: bool = False, trusted: bool = False) -> str:
    """Tell what is wrong with a checkpoint, without running anything that it holds.

    Args:
        path: A file, or the folder that a sharding engine writes.
        resumable: Whether it has to hold what a resume needs, not weights alone.
        trusted: Whether what it holds need not be looked at, only whether the file is whole.

    Returns:
        The end of a sentence that begins with its name; empty where nothing is wrong.
    """
    try:
        if not osp.isdir(path):
            return _problem_of_file(path, resumable, trusted)
        parts = sorted(_parts(path))
        if not parts:
            return 'is an empty folder'
        ranks = [part for part in parts if re.match(r'rank\d+\.pth$', osp.basename(part))]
        world = int(os.environ.get('WORLD_SIZE', 0)) if ranks else 0
        if world and len(ranks) != world:
            return f'has the parts of {len(ranks)} processes, not of {world}'
        problems = ((osp.basename(part), _problem_of_file(part, False, True)) for part in parts)
        return next((f'has a part {name} that {problem}' for name, problem in problems if problem), '')
    except OSError as error:
        return f'cannot be read ({error.strerror or error})'


def _parts(folder: str) -> Iterator[str]:
    for root, _, names in os.walk(folder):
        yield from (osp.join(root, name) for name in names if name.endswith(('.pth', '.pt')))


def _problem_of_file(path: str, resumable: bool, trusted: bool) -> str:
    import torch
    if not os.stat(path).st_size:
        return 'is empty'
    zipped = zipfile.is_zipfile(path)
    if not zipped:
        with open(path, 'rb') as file:
            begin = file.read(4)
        if begin.startswith(b'PK'):
            return 'is cut short'
        if not begin.startswith(b'\x80') and not trusted:  # what torch wrote before it wrote zip files
            return 'is no checkpoint'
    elif _checks_sums():
        try:
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None:
                    return 'is damaged'
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError):
            return 'is damaged'
    if trusted or not _loads_weights_only():
        return ''
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of torch, about what is refused next
            loaded = torch.load(path, map_location='cpu', weights_only=True, **(dict(mmap=True) if zipped else {}))
    except UnpicklingError as error:
        return f'is refused ({_refusal(error)})'
    except Exception:  # whatever torch raises for a file that is none of its own
        return 'is damaged'
    return _problem_of_content(loaded) if resumable else ''


def _problem_of_content(loaded: Any) -> str:
    meta = loaded.get('meta') if isinstance(loaded, dict) else None
    if not isinstance(meta, dict) or not all(isinstance(loaded.get(name), dict) for name in RESUMABLE):
        return 'holds weights, not the state of a training'
    if not all(type(meta.get(name)) is int for name in ('epoch', 'iter')):
        return 'does not say at which epoch and iteration it was made'
    if not all(isinstance(loaded['message_hub'].get(name), dict) for name in LOGGED):
        return f'does not hold all of the log of its training ({", ".join(LOGGED)})'
    return ''


def _loads_weights_only() -> bool:
    """Whether torch lets classes through that it is told of: 2.6 was the first to do so for all that is needed."""
    import torch
    return tuple(int(part) for part in torch.__version__.split('.')[:2]) >= (2, 6)


def _checks_sums() -> bool:
    """Whether checkpoints have check sums; torch itself does not compare them, and leaves them out if told to."""
    import torch
    return bool(getattr(torch.serialization, 'get_crc32_options', lambda: True)())


def _refusal(error: Exception) -> str:
    """What torch says beyond its advice."""
    text = str(error)
    found = re.search(r'GLOBAL (\S+)', text)
    if found:
        return f'it names {found[1]}, which a checkpoint has no use for'
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    own = [line.partition('WeightsUnpickler error:')[2].strip() for line in lines if 'WeightsUnpickler error:' in line]
    return next(filter(None, own), "it is none that torch's weights_only reads").rstrip('.')
