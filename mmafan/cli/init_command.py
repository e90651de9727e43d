"""``mmafan init STOCK_CONFIG -o OUT.py``: the A-FAN config of a stock config, every line explained."""
from __future__ import annotations

import argparse
import os
import os.path as osp
from typing import Any, Dict, List

from .configs import PREFIX, build_model, family_of, read_config, type_name
from .explain import HOOK, explain_recipe
from .recipes import PURPOSES, RECIPES, Recipe, choose_recipe
from .taps_command import Search, search

IN_PACKAGE = f'{os.sep}.mim{os.sep}configs{os.sep}'

TEMPLATE = '''# {title}
# {purpose}
# Written by
#     mmafan init {config}{options}
# Change what you like, and check it with `mmafan doctor {out}`.
{base}
{imports}
{hooks}
{model}
'''


def is_new_style(cfg: Any) -> bool:
    """Whether a config inherits by ``with read_base()``, and so must its children."""
    from mmengine.config import Config
    return bool(cfg.filename) and Config._is_lazy_import(cfg.filename)


def base_lines(cfg: Any, config: str, out: str) -> str:
    """Return the lines that inherit the stock config.

    Raises:
        ValueError: If it is of the new style and in no package, from which alone it can be imported anywhere.
    """
    about = '# Everything that is not written here is as in the stock config.\n'
    if not is_new_style(cfg):
        return f'{about}_base_ = [{base_of(config, out)!r}]'
    package, found, name = osp.realpath(cfg.filename).rpartition(f'{os.sep}configs{os.sep}')
    if not found or not osp.isfile(osp.join(package, '__init__.py')):
        raise ValueError(f'{config} is a new-style config (read_base) in no package; name one of an installed package')
    module = f'{osp.basename(package)}.configs.{name[:-3].replace(os.sep, ".")}'
    return (f'{about}from mmengine.config import read_base\n\nwith read_base():\n'
            f'    from {module} import *  # noqa: F401,F403')


def base_of(config: str, out: str) -> str:
    """Return how the written config names the stock one: by package where it is installed, else by relative path."""
    if '::' in config:
        return config
    real = osp.realpath(config)
    package, found, name = real.rpartition(IN_PACKAGE)
    if found:
        return f'{osp.basename(package)}::{name}'
    return osp.relpath(real, osp.dirname(osp.realpath(out)) or '.')


def import_lines(cfg: Any) -> str:
    """Return the line that imports mmafan, beside what the stock config imports."""
    given = cfg.get('custom_imports') or {}
    names = [*([given['imports']] if isinstance(given.get('imports'), str) else given.get('imports', [])), 'mmafan']
    return ('# Registers the model and the hook.\n'
            f'custom_imports = dict(imports={names!r}, allow_failed_imports=False)')


def hook_lines(cfg: Any, fields: Dict[str, Any]) -> str:
    """Return the lines that add the hook, with the fields of the recipe, to those of the stock config."""
    named = dict(type='mmafan.AdvFeatureHook', **fields)
    mine = 'dict(' + ', '.join(f'{key}={value!r}' for key, value in named.items()) + ')'
    given = 'custom_hooks' if is_new_style(cfg) else '_base_.custom_hooks'
    hooks = f'[*{given}, {mine}]' if cfg.get('custom_hooks') else f'[{mine}]'
    about = [f'# {HOOK[key]}' for key in ('type', *fields)]
    return '\n'.join([*about, f'custom_hooks = {hooks}'])


def purpose_lines(recipe_name: str, recipe: Recipe, stock: str) -> str:
    """Return what the recipe is for, and which of its taps the model has no place for."""
    lines = [f'The recipe {recipe_name!r} is configs/_base_/{recipe.file}.',
             f'It is {PURPOSES[recipe_name]} (docs/when_to_use.md).']
    lines += [f'Its tap {name} is left out: {stock} has no {module}.' for name, module in recipe.left_out.items()]
    return '\n# '.join(lines)


def write(found: Search, config: str, recipe_name: str, out: str) -> str:
    """Return the text of the A-FAN config.

    Args:
        found: A look into the stock config.
        config: As it was named.
        recipe_name: Of the recipe.
        out: Path that the text will have.

    Raises:
        ValueError: If no tap of the recipe has a place in the model.
    """
    cfg = found.cfg
    recipe = choose_recipe(family_of(cfg), recipe_name, found.paths())
    found.place(recipe)
    if not recipe.taps:
        raise ValueError(f'no tap of the recipe {recipe_name!r} has a place in {type_name(cfg.model.type)}; choose a '
                         f'module that mmafan taps {config} lists')
    stock = type_name(cfg.model.type)
    model = '\n'.join([
        '# The model; what is not written here stays as the stock config has it.',
        'model.update(' if is_new_style(cfg) else 'model = dict(',
        f"    # {stock} with A-FAN: 'AFAN' + the stock type. Fields, weights and predictions are the stock model's.",
        f"    type='mmafan.{PREFIX}{stock}',",
        explain_recipe(recipe.fields, {tap['module']: found.tau(tap['module']) for tap in recipe.taps.values()},
                       found.is_frozen())])
    options = '' if recipe_name == 'default' else f' --recipe {recipe_name}'
    return TEMPLATE.format(
        title=f'{osp.basename(config)[:-3]} with A-FAN.',
        purpose=purpose_lines(recipe_name, recipe, stock), config=config, options=options, out=osp.basename(out),
        base=base_lines(cfg, config, out) + '\n', imports=import_lines(cfg) + '\n',
        hooks=hook_lines(cfg, recipe.hook) + '\n', model=model)


def check(path: str) -> Any:
    """Read the written config and build its model; return the model."""
    from .configs import stock_model
    cfg = read_config(path)
    model, afan = stock_model(cfg)
    model.update(type=cfg.model.type, afan=afan)
    return build_model(cfg, model)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    names: List[str] = sorted({name for recipes in RECIPES.values() for name in recipes})
    parser.add_argument('config', help="stock config: a file, or a name such as 'mmdet::retinanet/x.py'")
    parser.add_argument('-o', '--out', required=True, metavar='OUT.py', help='file to write')
    parser.add_argument('--recipe', default='default', choices=names, help='(default: default)')
    parser.add_argument('--force', action='store_true', help='write over a file that is there')


def run(args: argparse.Namespace) -> None:
    """Write the config, and build its model once."""
    if not args.out.endswith('.py'):
        raise ValueError(f'-o must name a .py file, got {args.out!r}')
    if osp.exists(args.out) and not args.force:
        raise ValueError(f'{args.out} is there already; --force writes over it')
    cfg = read_config(args.config)
    if 'afan' in cfg.model or type_name(cfg.model.type).startswith(PREFIX):
        raise ValueError(f'{args.config} has A-FAN already (model.type={cfg.model.type!r}); name the stock config')
    choose_recipe(family_of(cfg), args.recipe, ())  # a wrong name is told before the model is built
    text = write(search(cfg, repeats=1), args.config, args.recipe, args.out)
    os.makedirs(osp.dirname(osp.abspath(args.out)), exist_ok=True)
    with open(args.out, 'w') as file:
        file.write(text)
    model = check(args.out)
    places: Dict[str, str] = {name: tap.module for name, tap in model.afan.config.taps.items()}
    print(f'{args.out}: {type(model).__name__}, taps ' + ', '.join(f'{k} at {v}' for k, v in places.items()))
