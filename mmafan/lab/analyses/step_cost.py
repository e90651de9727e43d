"""Measure what A-FAN adds to a training step, beside theory and beside its authors' own schedule.

In one process and in turn it trains steps of the same config without A-FAN (the *baseline*: the
stock model type, the same optimizer), with A-FAN, and in the order of the authors' code
(*published*), on the same batches; it prints medians, the theoretical cost 1 + N tau
(mmafan/analysis/cost.py states the formula and how tau is measured) and the peak memory of each
(mmafan/analysis/memory.py). With `--processes` so many of them train together, each with such
batches, and the gradients that a step exchanges are counted; the first one prints.
"""
from __future__ import annotations

import argparse
import contextlib
import json
import os
import os.path as osp
import subprocess
import sys
from typing import Optional, Sequence

from ..arguments import CFG_OPTIONS_HELP, CfgOptions, choose_device, positive
from ..configs import load_whole_config
from ..errors import stop
from ..processes import own_command
from ..trained import measured

CHILD = 'MMAFAN_STEP_COST_CHILD'
SCHEDULES = ('auto', 'two_phase', 'single_graph', 'joined')


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description='Measure what A-FAN adds to a training step: time and peak memory.')
    parser.add_argument('config', help='config file whose model is mmafan.AFAN<Stock>')
    parser.add_argument('--batch-size', type=positive, help='samples in a batch (default: config)')
    parser.add_argument('--image-size', type=positive, metavar='PIXELS',
                        help='side of the random images (default: the crop of the config)')
    parser.add_argument('--synthetic', action='store_true',
                        help="random images, also where the config's own data is there "
                        '(used anyway where the data folder is missing)')
    parser.add_argument('--num-batches', type=positive, default=2,
                        help='different batches, used in turn (default: 2)')
    parser.add_argument('--repeats', type=positive, default=9,
                        help='measured steps of each kind (default: 9)')
    parser.add_argument('--warmup', type=positive, default=2,
                        help='steps of each kind before the measured ones (default: 2)')
    parser.add_argument('--schedule', choices=SCHEDULES, help='override afan.schedule')
    parser.add_argument('--device', default=None, help="such as 'cpu' or 'cuda:0' (default: best)")
    parser.add_argument('--processes', type=positive, default=1,
                        help='processes that train together, one GPU each or all on the CPU (default: 1)')
    parser.add_argument('--threads', type=positive, help='threads of torch on the CPU')
    parser.add_argument('--cpu-time', action='store_true',
                        help='count the processor time of this process, not the time that passes: '
                        'for a CPU that is busy with other work (use it with --threads 1)')
    parser.add_argument('--no-published', action='store_true', help='leave that schedule out')
    parser.add_argument('--no-memory', action='store_true', help='measure time only')
    parser.add_argument('--json', action='store_true', help='print one JSON object, nothing else')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, help=CFG_OPTIONS_HELP)
    return parser.parse_args(argv)


def measure(args: argparse.Namespace) -> dict:
    """Measure; return the plain result with the conditions of the measurement."""
    import torch
    cfg = load_whole_config(args.config, args.cfg_options)
    from ...analysis import load_batches, measure_step_cost, random_batches
    from ...analysis.arm import baseline_model
    from ...analysis.data import has_data, image_size_of
    baseline_model(cfg)  # a wrong config is told before any data is read
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.schedule:
        cfg.model.afan.schedule = args.schedule
    device = choose_device(args.device)
    if args.processes > 1:
        cfg.launcher = 'pytorch'
        device = join_processes(device)
    if device == 'cpu':
        from ..cpu import adapt_to_cpu
        adapt_to_cpu(cfg)
    batch_size = args.batch_size or cfg.train_dataloader.get('batch_size', 1)
    synthetic = args.synthetic or not has_data(cfg)
    if synthetic:
        image_size = [args.image_size] * 2 if args.image_size else list(image_size_of(cfg))
        for fields in (cfg.get('data_preprocessor'), cfg.model.get('data_preprocessor')):
            if fields is not None and 'size' in fields:  # what mmseg pads to
                fields['size'] = tuple(image_size)
        batches = random_batches(cfg, args.num_batches, batch_size, tuple(image_size))
    else:
        image_size = None
        batches = load_batches(cfg, args.num_batches, args.batch_size)
    cost = measure_step_cost(cfg, batches, args.repeats, args.warmup, device,
                             published=not args.no_published, memory=not args.no_memory,
                             process_time=args.cpu_time)
    conditions = dict(config=args.config, data='random' if synthetic else 'config',
                      batch_size=batch_size, image_size=image_size, device=str(device),
                      threads=torch.get_num_threads(), torch=torch.__version__,
                      clock='process' if args.cpu_time else 'wall', repeats=args.repeats,
                      schedule=cfg.model.afan.get('schedule', 'auto'), processes=args.processes)
    return {**conditions, **cost.to_dict()}


def check(args: argparse.Namespace) -> None:
    """Stop with one sentence where the config is wrong, before processes start."""
    cfg = load_whole_config(args.config, args.cfg_options)
    from ...analysis.arm import baseline_model
    from ...config import AFANConfig
    try:
        AFANConfig.from_dict(baseline_model(cfg)[1])
    except (TypeError, ValueError) as error:
        stop(str(error))


def join_processes(device: str) -> str:
    """Join the group of processes that torchrun has started; return the device of this one."""
    import torch
    if device == 'cpu':
        return device  # adapt_to_cpu starts the group
    rank, count = int(os.environ['LOCAL_RANK']), torch.cuda.device_count()
    if rank >= count:
        raise ValueError(f'--processes must be at most {count}, the number of GPUs, got {os.environ["WORLD_SIZE"]}; '
                         f'use --device cpu for more')
    torch.cuda.set_device(rank)
    torch.distributed.init_process_group('nccl')
    return f'cuda:{rank}'


def start_processes(args: argparse.Namespace, argv: Sequence[str]) -> int:
    """Run this tool in as many processes as asked for; return the exit status."""
    environment = dict(os.environ)
    environment[CHILD] = '1'
    environment.setdefault('OMP_NUM_THREADS', str(args.threads or max(1, (os.cpu_count() or 1) // args.processes)))
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={args.processes}',
               *own_command('cost')[1:], *argv]
    return subprocess.run(command, env=environment).returncode


def report(result: dict) -> str:
    """Lay the result out as text."""
    images = (f'{" x ".join(map(str, result["image_size"]))} random images'
              if result['data'] == 'random' else "samples of the config's data")
    lines = [f'{osp.basename(result["config"])}: {result["batch_size"]} {images} a step, '
             f'{result["processes"]} x {result["device"]}, {result["threads"]} threads, torch {result["torch"]}, '
             f'medians of {result["repeats"]} interleaved steps'
             + (' (processor time)' if result['clock'] == 'process' else ''), '',
             f'{"":24}{"step":>12}{"relative":>10}{"peak memory":>14}{"relative":>10}']
    names = dict(baseline='baseline', afan=f'A-FAN ({result["schedule"]})', published='published')
    for key, title in names.items():
        if key not in result['seconds']:
            continue
        seconds, base = result['seconds'][key], result['seconds']['baseline']
        line = f'{title:24}{seconds * 1000:>9.1f} ms{seconds / base:>10.3f}'
        memory = result['memory_bytes']
        if key in memory:
            line += f'{memory[key] / 2**20:>10.1f} MiB{memory[key] / memory["baseline"]:>10.3f}'
        lines.append(line)
    lines += [f'{"theory":24}{"":12}{result["theory"]:>10.3f}', '']
    for name, suffix in result['suffixes'].items():
        line = (f'tap {name}: tau {suffix["share"]:.3f}, {suffix["passes"]:.0f} adversarial passes of '
                f'{suffix["fraction"]:.0%} of the samples')
        if suffix['attack_passes']:
            line += (f', {suffix["attack_passes"]:.0f} attack passes of {suffix["attack_share"]:.3f} '
                     f'baseline steps')
        lines.append(line)
    for key, counts in result['exchanged'].items():
        lines.append(f'{names[key]}: {counts["bytes"] / 2**20:.2f} MiB of gradients exchanged in '
                     f'{counts["reductions"]} reductions a step')
    ratios = result['ratios']
    lines.append(f'A-FAN / theory {ratios["afan_over_theory"]:.3f}')
    if 'published_over_afan' in ratios:
        lines.append(f'published / A-FAN {ratios["published_over_afan"]:.3f}')
    return '\n'.join(lines)


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Measure and print."""
    args = parse_args(argv)
    if args.processes > 1 and CHILD not in os.environ:
        with contextlib.redirect_stdout(sys.stderr):
            check(args)
        sys.exit(start_processes(args, sys.argv[1:] if argv is None else argv))
    result = measured(args, measure)
    if CHILD not in os.environ or os.environ['RANK'] == '0':
        print(json.dumps(result, indent=2) if args.json else report(result))
    if CHILD in os.environ:
        from ...compat import end_process
        end_process()
