"""Subcommands of ``mmafan``."""
from __future__ import annotations

import argparse
import sys
from importlib import import_module
from typing import Dict, List, NoReturn, Optional, Tuple

from ..version import __version__

# Subcommand: module with add_arguments(parser) and run(args), and its line in the help.
COMMANDS: Dict[str, str] = {
    'taps': 'list the modules that can be a tap, what each costs, and the recommended one',
    'init': 'write the A-FAN config of a stock config, every line explained',
    'doctor': 'say what is installed and what does not fit; with a config, try one step',
    'export': 'write the stock config and checkpoint of a trained model, which need no mmafan',
}
# Subcommand: module of mmafan.lab whose main(argv) is also that of a file in tools/, and its line in the help.
TOOLS: Dict[str, Tuple[str, str]] = {
    'train': ('train', 'train a config'),
    'test': ('test', 'test a checkpoint'),
    'study': ('study.command', 'train arms x seeds and compare them'),
    'cost': ('analyses.step_cost', 'measure what A-FAN adds to a step'),
    'compare': ('analyses.compare', 'train with and without A-FAN from the same seeds'),
}


def stop(sentence: str) -> NoReturn:
    """End with status 2 and one sentence on stderr."""
    print(f'error: {sentence}', file=sys.stderr)
    raise SystemExit(2)


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the own subcommands; those of the tools parse for themselves."""
    tools = '\n'.join(f'    {name:<10} {text}' for name, (_, text) in TOOLS.items())
    parser = argparse.ArgumentParser(
        prog='mmafan', formatter_class=argparse.RawDescriptionHelpFormatter,
        description='Adversarial feature augmentation (A-FAN) for OpenMMLab models.',
        epilog=f'tools, with the options that each prints with --help:\n{tools}')
    parser.add_argument('--version', action='version', version=f'mmafan {__version__}')
    commands = parser.add_subparsers(dest='command', metavar='command', required=True)
    for name, text in COMMANDS.items():
        child = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + '.')
        import_module(f'.{name}_command', __package__).add_arguments(child)
    return parser


def main(argv: Optional[List[str]] = None) -> None:
    """Run a subcommand; a wrong config or path ends in one sentence."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in TOOLS:
        sys.argv = [f'mmafan {argv[0]}', *argv[1:]]  # which their help names
        import_module(f'..lab.{TOOLS[argv[0]][0]}', __package__).main(argv[1:])
        return
    try:
        args = make_parser().parse_args(argv)
        import_module(f'.{args.command}_command', __package__).run(args)
    except (ValueError, FileNotFoundError) as error:
        stop(str(error))
