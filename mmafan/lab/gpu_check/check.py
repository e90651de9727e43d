"""Check on one GPU what no CPU can show, within a limit of time: tests, costs and a study; see tools/gpu_check.sh.

The results are a few small files in the folder --out: summary.md, state.json (everything, by part), a log of each part
and the rows of the study. A part that is finished is not run again; a part that is not says why.
"""
from __future__ import annotations

import argparse
import contextlib
import csv
import os
import os.path as osp
import re
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from typing import Any, Dict, Optional, Sequence

from ..errors import stop
from ..processes import own_command, run_limited
from ..study.runs import read_json, versions, write_json
from .cost import ROWS, STUDY_ROW, read_events
from .summary import PARTS, summary_of

ROOT = osp.dirname(osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__)))))  # the clone, which has the tests
LIMITS = dict(tests=170.0, cost=210.0)  # seconds; the study has what is left
MEASURE = [sys.executable, '-m', 'mmafan.lab.gpu_check.cost']  # the program that measures rows
ROW_LIMIT = 75.0  # seconds of a row of the table, and of starting the process that measures
STUDY = osp.join(ROOT, 'configs', 'studies', 'classification_cifar10_gpu.py')
STUDY_JOBS = 6  # seeds come one after another, so that some have all arms where time runs out
OUTCOME = re.compile(r'^(?:\[gw\d+\] \[ *\d+%\] (?P<word>[A-Z]+) (?P<test>tests/.*)|'
                     r'(?P<test_>tests/.*) (?P<word_>PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b.*)$')


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog='gpu_check.sh', description='Check A-FAN on one GPU.')
    parser.add_argument('--out', default='work_dirs/gpu_check', help='folder for the results (default: %(default)s)')
    parser.add_argument('--work-dir', help='folder for the runs of the study (default: <out>_runs)')
    parser.add_argument('--parts', default=','.join(PARTS), help='which of them (default: %(default)s)')
    parser.add_argument('--minutes', type=float, default=9.0, help='limit for everything (default: %(default)s)')
    parser.add_argument('--epochs', type=int, help="of the study's baseline (default: as many as the time allows)")
    parser.add_argument('--device', choices=['cuda', 'cpu'], default='cuda',
                        help='cpu: try the script itself, at sizes whose numbers mean nothing')
    args = parser.parse_args(argv)
    args.parts = [part for part in args.parts.split(',') if part]
    if not args.parts or not set(args.parts) <= set(PARTS):
        stop(f'--parts must be names out of {",".join(PARTS)}, separated by commas, got {",".join(args.parts)!r}')
    if not 0 < args.minutes <= 600:
        stop(f'--minutes must be above 0 and at most 600, got {args.minutes}')
    if args.epochs is not None and args.epochs < 2:
        stop(f'--epochs must be at least 2, got {args.epochs}')
    args.out = osp.abspath(args.out)
    args.work_dir = osp.abspath(args.work_dir or args.out + '_runs')
    return args


def conditions_of(device: str) -> Dict[str, str]:
    """Name what the results depend on, or stop where there is no GPU."""
    import torch
    if device == 'cuda' and not torch.cuda.is_available():
        stop(f'no CUDA device is visible to torch {torch.__version__}, and every part needs one; '
             '--device cpu tries the script itself, at sizes whose numbers mean nothing')
    found = dict(device=torch.cuda.get_device_name() if device == 'cuda' else 'CPU (a trial: the numbers mean nothing)',
                 python=sys.version.split()[0], **versions())
    found['torch'] = torch.__version__
    with contextlib.suppress(ImportError):
        from mmcv.ops import get_compiler_version
        found['mmcv operators compiled by'] = get_compiler_version()
    return found


class Check:
    """The parts, their state and their summary.

    Attributes:
        state: What ``state.json`` holds: ``conditions``, and for each part ``status``, ``seconds`` and results.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.end = args, time.monotonic() + 60 * args.minutes
        conditions = conditions_of(args.device)
        os.makedirs(args.out, exist_ok=True)
        self.state: Dict[str, Any] = read_json(self.path('state.json')) or dict(conditions=conditions)
        if self.state['conditions'] != conditions:
            stop(f'--out {args.out} has results of {self.state["conditions"]}, and here is {conditions}: name another '
                 'folder')
        os.makedirs(args.work_dir, exist_ok=True)
        self.save()

    def path(self, name: str) -> str:
        """Return the path of a result."""
        return osp.join(self.args.out, name)

    def save(self) -> None:
        """Write the state and the summary."""
        write_json(self.path('state.json'), self.state)
        with open(self.path('summary.md'), 'w', encoding='utf-8') as file:
            file.write(summary_of(self.state))

    def run(self) -> int:
        """Run what is not finished; return 0 where every part is finished and nothing has failed."""
        for part in self.args.parts:
            known = self.state.setdefault(part, {})
            if known.get('status') == 'finished':
                continue
            limit = min(LIMITS.get(part, 3600.0), self.end - time.monotonic() - 5)
            if limit < 10:
                known['status'] = 'not run: no time was left'
                self.save()
                continue
            print(f'{part}: at most {limit:.0f} s', flush=True)
            known['status'] = 'stopped from outside'  # what the summary says unless this comes to its end
            self.save()
            begin = time.monotonic()
            try:
                known['status'] = getattr(self, part)(known, limit)
            except Exception as error:  # the next part has nothing to do with it
                traceback.print_exc()
                known['status'] = f'failed: {type(error).__name__}: {error}'
            known['seconds'] = round(time.monotonic() - begin, 1)
            print(f'{part}: {known["status"]} after {known["seconds"]:.0f} s', flush=True)
            self.save()
        return int(any(self.state[part]['status'] != 'finished' or self.state[part].get('failed')
                       for part in self.args.parts))

    # ------------------------------------------------------------------ the parts
    def tests(self, known: Dict[str, Any], limit: float) -> str:
        """Run the tests marked gpu, several at a time."""
        log, tiny = self.path('tests.log'), self.args.device == 'cpu'
        with contextlib.suppress(FileNotFoundError):
            os.remove(log)
        command = [sys.executable, '-m', 'pytest', osp.join('tests', 'gpu'), '-m', 'gpu', '-v', '-rfEsP',
                   '-p', 'no:cacheprovider', '-W', 'ignore', *(['-k', 'overflow or memory'] if tiny else [])]
        with contextlib.suppress(ImportError):
            import xdist  # noqa: F401
            command += ['-n', str(max(1, min(4, (os.cpu_count() or 1) // 2)))]
        environment = dict(OMP_NUM_THREADS='1', MMAFAN_GPU_TESTS_ON=self.args.device, COLUMNS='250')
        status = run_limited(command, log, limit, environment, folder=ROOT)
        with open(log, encoding='utf-8', errors='replace') as file:
            lines = file.read().splitlines()
        outcomes: Dict[str, str] = {}
        for found in filter(None, map(OUTCOME.match, lines)):
            outcomes[(found['test'] or found['test_']).strip()] = (found['word'] or found['word_']).lower()
        known.update(outcomes=Counter(outcomes.values()),
                     failed=[test for test, word in outcomes.items() if word in ('failed', 'error')],
                     notes=[line for line in lines if line.startswith(('measured: ', 'FAILED ', 'ERROR ', 'SKIPPED '))])
        if status is None:
            return f'stopped after {limit:.0f} s'
        return 'finished' if status in (0, 1) and outcomes else f'failed: pytest ended with status {status}'

    def cost(self, known: Dict[str, Any], limit: float) -> str:
        """Measure the rows of the table; one that fails or is stuck costs a new process, and is not tried again."""
        end, events = time.monotonic() + limit, osp.join(self.args.work_dir, 'cost.jsonl')
        results = known.setdefault('rows', {})
        with contextlib.suppress(FileNotFoundError):
            os.remove(events)
        waiting = [row for row in ROWS if 'result' not in results.get(row, {})]
        while waiting and end - time.monotonic() > 15:
            begin = time.time()

            def is_stuck() -> bool:
                last = max([begin, *(fields['time'] for fields in read_events(events).values())])
                return time.time() - last > ROW_LIMIT

            status = run_limited([*MEASURE, events, self.args.device, *waiting],
                                 self.path('cost.log'), end - time.monotonic(), dict(KINETO_LOG_LEVEL='5'), is_stuck)
            found = read_events(events)
            if not set(found) & set(waiting):
                found[waiting[0]] = dict(error='its process did not begin')
            for row in [row for row in waiting if row in found]:
                if 'result' not in found[row] and 'error' not in found[row]:
                    found[row] = dict(error=f'its process ended with status {status}' if status is not None else
                                      f'stopped after {time.time() - found[row]["time"]:.0f} s')
                results[row] = found[row]
                waiting.remove(row)
            self.save()
        known['failed'] = [row for row in ROWS if 'error' in results.get(row, {})]
        return f'stopped after {limit:.0f} s' if waiting else 'finished'

    def study(self, known: Dict[str, Any], limit: float) -> str:
        """Train the arms of the study, several runs at a time."""
        data = osp.join('data', 'cifar10_jpg')
        if not osp.isdir(data):
            return f'not run: there is no folder {data!r} (seen from {os.getcwd()})'
        tiny = self.args.device == 'cpu'
        known.setdefault('epochs', self.args.epochs or (2 if tiny else self.epochs_for(limit)))
        command = [*own_command('study'), STUDY, '--work-dir', self.args.work_dir,
                   '--jobs', str(2 if tiny else STUDY_JOBS)]
        if tiny:
            command += ['--cfg-options', 'train_dataloader.dataset.indices=[0,5000,9000]',
                        'train_dataloader.batch_size=3', 'model.backbone.base_channels=8',
                        'model.backbone.stem_channels=8', 'model.head.in_channels=64']
        status = run_limited(command, self.path('study.log'), limit, dict(MMAFAN_STUDY_EPOCHS=str(known['epochs'])))
        with contextlib.suppress(FileNotFoundError):
            shutil.copy(osp.join(self.args.work_dir, 'rows.csv'), self.path('study_rows.csv'))
        known['table'] = self.study_table()
        if status is None:
            return f'stopped after {limit:.0f} s'
        return 'finished' if status == 0 else f'failed: study.py ended with status {status}, see study.log'

    def epochs_for(self, limit: float) -> int:
        """Tell from the measured steps how many epochs of 79 steps the time allows, side by side on one GPU."""
        seconds = self.state.get('cost', {}).get('rows', {}).get(STUDY_ROW, {}).get('result', {}).get('seconds')
        if seconds is None:
            return 8
        # Three seeds of the baseline, of equal compute (half as many epochs again) and of two arms with A-FAN's passes.
        epoch = 79 * 3 * (2.5 * seconds['baseline'] + 2 * seconds['afan'])
        return int(min(max((limit - 45) / (1.25 * epoch), 4), 100))

    def study_table(self) -> str:
        """Summarise the runs that are finished; empty where none is."""
        whole = osp.join(self.args.work_dir, 'table.md')
        if osp.exists(whole):
            with open(whole, encoding='utf-8') as file:
                return file.read().strip()
        rows = osp.join(self.args.work_dir, 'rows.csv')
        if not osp.exists(rows):
            return ''
        from ..study.recipe import load_study
        from ..study.statistics import summarise, table
        [study] = load_study(STUDY)
        values: Dict[str, Dict[int, float]] = {arm: {} for arm in study.arms}
        with open(rows, newline='') as file:
            for row in csv.DictReader(file):
                values[row['arm']][int(row['seed'])] = float(row['value'])
        return table(study, summarise(study, values, {}))


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the parts and print the summary."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what a part has started ends, too
    check = Check(parse_args(argv))
    status = check.run()
    print(f'\n{summary_of(check.state)}\nEverything is in {check.args.out}.')
    sys.exit(status)
