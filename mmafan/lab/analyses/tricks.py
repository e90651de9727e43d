"""Measure what could make a step of A-FAN cheaper, for any A-FAN config.

In one process and in turn it trains steps of the stock model with norms that are frozen, so that
samples do not depend on one another:

- `in turn` / `concatenated`: as many passes as asked for with a batch each, as A-FAN runs its
  strengths, beside one pass with all of them in one batch; one optimizer step each.
- `channels-last`: a step of the stock model and one of A-FAN with weights and images in that
  memory format, beside the usual one.
- `same perturbation`: a step of A-FAN that adds the perturbation of its first one again, as a step
  does that reuses it: what the attack itself costs beside the passes.
- with `--compile`, A-FAN's training step as `torch.compile` makes it, after twelve steps.

It prints medians in units of a baseline step, and the peak memory.
"""
from __future__ import annotations

import argparse
import copy
import functools
import json
import os.path as osp
import statistics
from typing import Any, Callable, Dict, Optional, Sequence

from ..arguments import CFG_OPTIONS_HELP, CfgOptions, choose_device, require_positive
from ..configs import load_whole_config
from ..errors import stop
from ..trained import measured


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Measure what could make a step of A-FAN cheaper.')
    parser.add_argument('config', help='config file whose model is mmafan.AFAN<Stock>')
    parser.add_argument('--batch-size', type=int, help='samples in a batch (default: config)')
    parser.add_argument('--image-size', type=int, help='side of the random images (default: config)')
    parser.add_argument('--passes', type=int, default=4, help='passes to join (default: 4)')
    parser.add_argument('--repeats', type=int, default=5, help='measured rounds (default: 5)')
    parser.add_argument('--compile', metavar='BACKEND', help="measure torch.compile too, such as 'inductor'")
    parser.add_argument('--device', default=None, help="such as 'cpu' or 'cuda:0' (default: best)")
    parser.add_argument('--threads', type=int, help='threads of torch on the CPU')
    parser.add_argument('--cpu-time', action='store_true', help='count processor time of this process')
    parser.add_argument('--json', action='store_true', help='print one JSON object, nothing else')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, help=CFG_OPTIONS_HELP)
    args = parser.parse_args(argv)
    require_positive(args, 'batch_size', 'image_size', 'passes', 'repeats', 'threads')
    return args


def measure(args: argparse.Namespace) -> dict:
    """Measure; return seconds and peak memory by name."""
    import torch

    from ...analysis import peak_memory, random_batches, resident_bytes
    from ...analysis.arm import Arm
    from ...analysis.data import image_size_of
    from ...analysis.timing import Clock, time_in_turn
    cfg = load_whole_config(args.config, args.cfg_options)
    if args.compile and args.compile not in torch._dynamo.list_backends(exclude_tags=()):
        stop(f'--compile must be one of {", ".join(torch._dynamo.list_backends())}, got {args.compile!r}')
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(choose_device(args.device))
    size: Any = (args.image_size, ) * 2 if args.image_size else tuple(image_size_of(cfg))
    for fields in (cfg.get('data_preprocessor'), cfg.model.get('data_preprocessor')):
        if fields is not None and 'size' in fields:
            fields['size'] = size
    one = args.batch_size or cfg.train_dataloader.get('batch_size', 1)
    small, large = (random_batches(cfg, 1, count, size)[0] for count in (one, one * args.passes))
    arms = {'baseline': Arm(cfg, device, afan=False)}
    steps: Dict[str, Callable[[Any], Any]] = {'baseline': arms['baseline'].train_step}
    arms['frozen'] = Arm(cfg, device, afan=False)
    for module in arms['frozen'].model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()

    def in_turn(data: Any) -> None:
        model, optim_wrapper = arms['frozen'].model, arms['frozen'].optim_wrapper
        for _ in range(args.passes):
            losses = model._run_forward(model.data_preprocessor(data, True), mode='loss')
            optim_wrapper.backward(model.parse_losses(losses)[0])
        optim_wrapper.step()
        optim_wrapper.zero_grad()

    steps['in turn'] = in_turn
    steps['concatenated'] = lambda data: arms['frozen'].train_step(large)
    for name in ('A-FAN', 'baseline, channels-last', 'A-FAN, channels-last'):
        arms[name] = Arm(cfg, device, afan='A-FAN' in name)
        steps[name] = arms[name].train_step
        if 'channels-last' in name:
            arms[name].model.to(memory_format=torch.channels_last)
            arms[name].model.data_preprocessor.register_forward_hook(_channels_last)
    arms['A-FAN, same perturbation'] = Arm(cfg, device, afan=True)
    steps['A-FAN, same perturbation'] = _with_one_perturbation(arms['A-FAN, same perturbation'].train_step)
    if args.compile:
        arms['A-FAN, compiled'] = Arm(cfg, device, afan=True)
        compiled = torch.compile(arms['A-FAN, compiled'].model.train_step, backend=args.compile)
        steps['A-FAN, compiled'] = lambda data: compiled(data, arms['A-FAN, compiled'].optim_wrapper)
        for _ in range(12):  # torch compiles again for a while
            steps['A-FAN, compiled'](small)
    rounds = time_in_turn(steps, [small], args.repeats, 1, Clock(device, args.cpu_time))
    owner = dict({name: name for name in steps}, **{'in turn': 'frozen', 'concatenated': 'frozen'})
    memory = {name: peak_memory(functools.partial(step, small), device)
              + resident_bytes(arms[owner[name]].model, arms[owner[name]].optim_wrapper.optimizer)
              for name, step in steps.items()}
    return dict(config=args.config, batch_size=one, image_size=list(size), passes=args.passes, device=str(device),
                threads=torch.get_num_threads(), torch=torch.__version__, repeats=args.repeats,
                clock='process' if args.cpu_time else 'wall', memory_bytes=memory,
                seconds={name: statistics.median(values) for name, values in rounds.items()})


def _with_one_perturbation(step: Callable[[Any], Any]) -> Callable[[Any], None]:
    from unittest import mock

    from ...models.attack import Attack
    attack_of = Attack.run
    kept: Dict[Any, Any] = {}

    def run(attack: Any, *args: Any) -> None:
        key = attack.config.where, *(feature.shape for feature in attack.clean)  # as many samples take part
        if key not in kept:
            attack_of(attack, *args)
            kept[key] = [new - clean for new, clean in zip(attack.adversarial, attack.clean)]
        attack.adversarial = [clean + difference for clean, difference in zip(attack.clean, kept[key])]

    def one(data: Any) -> None:
        with mock.patch.object(Attack, 'run', run):
            step(data)

    return one


def _channels_last(_: Any, __: Any, data: Any) -> Any:
    import torch
    data = copy.copy(data)
    data['inputs'] = data['inputs'].contiguous(memory_format=torch.channels_last)
    return data


def report(result: dict) -> str:
    """Lay the result out as text."""
    size = ' x '.join(map(str, result['image_size']))
    lines = [f'{osp.basename(result["config"])}: {result["batch_size"]} {size} random images a step, '
             f'{result["passes"]} passes to join, {result["device"]}, {result["threads"]} threads, torch '
             f'{result["torch"]}, medians of {result["repeats"]} interleaved steps'
             + (' (processor time)' if result['clock'] == 'process' else ''), '']
    base = result['seconds']['baseline'], result['memory_bytes']['baseline']
    lines.append(f'{"":26}{"step":>12}{"relative":>10}{"peak memory":>14}{"relative":>10}')
    for name, seconds in result['seconds'].items():
        memory = result['memory_bytes'][name]
        lines.append(f'{name:26}{seconds * 1000:>9.1f} ms{seconds / base[0]:>10.3f}'
                     f'{memory / 2**20:>10.1f} MiB{memory / base[1]:>10.3f}')
    seconds = result['seconds']
    lines += ['', f'concatenated / in turn {seconds["concatenated"] / seconds["in turn"]:.3f}',
              *(f'{name} / A-FAN {seconds[name] / seconds["A-FAN"]:.3f}'
                for name in ('A-FAN, channels-last', 'A-FAN, same perturbation'))]
    return '\n'.join(lines)


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Measure and print."""
    args = parse_args(argv)
    result = measured(args, measure)
    print(json.dumps(result, indent=2) if args.json else report(result))
