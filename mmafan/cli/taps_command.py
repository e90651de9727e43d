"""``mmafan taps CONFIG``: the modules that can be a tap, what comes after each, what each costs."""
from __future__ import annotations

import argparse
import fnmatch
import json
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

import torch

from .configs import build_model, family_of, read_config, stock_model, synthetic_batches
from .probe import Candidate, find_candidates, training_step
from .recipes import Recipe, choose_recipe, stage_of
from .stages import recommend_stage

BATCH_SIZE = 2
# tau hardly depends on the resolution; on a CPU a step at the size of street scenes takes minutes.
LARGEST_SIDE = 256
# The recipes of segmentation are for dilated ResNets, whose third stage has 1/8 of the image's resolution. A
# hierarchical transformer has it after its second stage.
TOKEN_STAGE = 2


@dataclass
class Search:
    """What a look into the model of a config found.

    Attributes:
        cfg: The config; its preprocessor pads to the images looked at.
        model: The stock model.
        candidates: Modules that can be taps, in the order in which they run.
        size: Height and width of the images, in pixels.
        losses: Names of the model's losses.
    """
    cfg: Any
    model: Any
    candidates: List[Candidate]
    size: Tuple[int, int]
    losses: Tuple[str, ...] = ()

    def paths(self) -> List[str]:
        """Return the paths of all modules."""
        return [path for path, _ in self.model.named_modules() if path]

    def place(self, recipe: Recipe) -> Recipe:
        """Move the taps of a recipe to the modules of this model, in place; return the recipe.

        A tap that keeps losses of other names than the model's keeps all that depend on it.

        Raises:
            ValueError: If no module stands for a stage that the recipe names.
        """
        for name, tap in recipe.taps.items():
            if not all(fnmatch.filter(self.losses, kept) for kept in tap.get('losses') or ()):
                del tap['losses']
            stage = stage_of(tap['module'])
            if stage is None:
                continue
            module = recommend_stage(stage, self.model, self.candidates, self.size[0])
            if stage > TOKEN_STAGE and family_of(self.cfg) == 'mmseg' and self._hands_on_tokens(module):
                module = recommend_stage(TOKEN_STAGE, self.model, self.candidates, self.size[0])
            if module is None:
                place = f'stage {stage}' if stage else 'the stem'
                raise ValueError(f'the recipe puts a tap at {place} of the backbone, and no module of '
                                 f'{type(self.model).__name__} stands for it; choose one of those that mmafan taps '
                                 f'lists and write it into afan.taps.{name}.module')
            tap['module'] = module
        return recipe

    def is_frozen(self) -> bool:
        """Return whether a part of the backbone is not trained, so that no gradient comes to what is before it."""
        backbone = getattr(self.model, 'backbone', torch.nn.Module())
        return not all(parameter.requires_grad for parameter in backbone.parameters())

    def _hands_on_tokens(self, module: Optional[str]) -> bool:
        return any(c.path == module and len(c.shapes[0]) == 3 for c in self.candidates)

    def tau(self, module: str) -> Optional[float]:
        """Return the share of a step that comes after a module; of a list of modules that of its last one."""
        if module == 'inputs':
            return 1.0
        named = dict(self.model.named_modules())
        if isinstance(named.get(module), torch.nn.ModuleList):
            module = f'{module}.{len(named[module]) - 1}'
        return next((c.share for c in self.candidates if c.path == module), None)


def random_data(cfg: Any, image_size: Optional[int] = None) -> Any:
    """Make a small batch of random images, of the config's crop but no larger than is quick on a CPU."""
    batch = synthetic_batches(cfg, 1, BATCH_SIZE, image_size)[0]
    if image_size is None and max(batch['inputs'][0].shape[-2:]) > LARGEST_SIDE:
        batch = synthetic_batches(cfg, 1, BATCH_SIZE, LARGEST_SIDE)[0]
    return batch


def search(cfg: Any, image_size: Optional[int] = None, repeats: int = 3) -> Search:
    """Look into one training step of a config's stock model, on random images."""
    batch = random_data(cfg, image_size)
    torch.manual_seed(0)
    model = build_model(cfg, stock_model(cfg)[0])
    model.train()
    step = training_step(model, [batch])
    candidates, losses = find_candidates(model, step, repeats), step(0)
    height, width = batch['inputs'][0].shape[-2:]
    return Search(cfg, model, candidates, (int(height), int(width)), losses)


def shown(candidates: List[Candidate], marked: List[str], called: List[str]) -> List[Candidate]:
    """Keep what a reader chooses from: the parts of the parts, and those of lists, which are never called."""
    kept = []
    for candidate in candidates:
        parent = candidate.path.rpartition('.')[0]
        depth = candidate.path.count('.')
        if depth <= 1 or depth == 2 and parent not in called or candidate.path in marked:
            kept.append(candidate)
    return kept


def rows(found: Search, everything: bool = False) -> List[Dict[str, Any]]:
    """Return what the command prints, as plain values."""
    family = family_of(found.cfg)
    recipe = choose_recipe(family, 'default', found.paths())
    try:
        taps = {tap['module']: name for name, tap in found.place(recipe).taps.items()}
    except ValueError:
        taps = {}
    lists = dict(found.model.named_modules())
    for module in list(taps):
        if isinstance(lists.get(module), torch.nn.ModuleList):
            taps[f'{module}.{len(lists[module]) - 1}'] = taps.pop(module)
    called = [c.path for c in found.candidates]
    listed = found.candidates if everything else shown(found.candidates, list(taps), called)
    return [dict(module=c.path, shapes=[list(shape) for shape in c.shapes], calls=c.calls, tau=c.share,
                 cost=1 + c.share, batch_norms_after=c.batch_norms, recommended=taps.get(c.path),
                 recipe=recipe.file if c.path in taps else None) for c in listed]


def report(found: Search, table: List[Dict[str, Any]]) -> str:
    """Lay the rows out as text."""
    height, width = found.size
    width_of_names = max([len(row['module']) for row in table] + [6])
    lines = [f'{type(found.model).__name__}, {BATCH_SIZE} random images of {height} x {width} pixels', '',
             f'{"module":<{width_of_names}}  {"shape":<22}{"tau":>6}{"cost":>7}{"norms":>7}']
    for row in table:
        shape = 'x'.join(map(str, row['shapes'][0])) + (f' +{len(row["shapes"]) - 1}' if len(row['shapes']) > 1 else '')
        mark = f'  <- recommended ({row["recommended"]}, {row["recipe"]})' if row['recommended'] else ''
        lines.append(f'{row["module"]:<{width_of_names}}  {shape:<22}{row["tau"]:>6.2f}{row["cost"]:>7.2f}'
                     f'{row["batch_norms_after"]:>7}{mark}')
    lines += ['', 'tau: share of a step that comes after the module, measured here. cost: of a step with one',
              'adversarial pass on all samples, in steps without; N passes on a fraction p cost 1 + N p tau.',
              'norms: batch norms after it, which adversarial passes run. The recommended modules are those of the',
              'default recipe.']
    return '\n'.join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument('config', help="config file, stock or with A-FAN, or a name such as 'mmdet::retinanet/x.py'")
    parser.add_argument('--all', action='store_true', help='list the modules at every depth')
    parser.add_argument('--image-size', type=int, metavar='PIXELS', help='side of the random images (default: the crop '
                        f'of the config, {LARGEST_SIDE} at the most)')
    parser.add_argument('--json', action='store_true', help='print one JSON list, nothing else')


def run(args: argparse.Namespace) -> None:
    """Print the table."""
    found = search(read_config(args.config), args.image_size)
    table = rows(found, args.all)
    print(json.dumps(table, indent=2) if args.json else report(found, table))
