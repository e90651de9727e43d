"""What analyses of a trained model share: the model of a config with the weights of a checkpoint, labelled batches."""
from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import os.path as osp
import random
import sys
from typing import Any, Callable, Dict, List, NamedTuple, Optional

from .arguments import CFG_OPTIONS_HELP, CfgOptions, add_trust_argument, choose_device, positive
from .configs import load_config
from .errors import require_file, stop
from .faults import require_whole, trust_checkpoints

SPLITS = ('val', 'train')
PICTURES = ('.png', '.pdf', '.svg', '.jpg')


class Trained(NamedTuple):
    """A trained model, in evaluation mode, and the config it was built from."""
    cfg: Any
    model: Any
    device: Any

    def prepare(self, data: Any) -> Any:
        """Return a batch as the model's ``forward`` takes it: images normalised and stacked, on the device.

        The batch of the data loader is not modified. Only mmseg's preprocessor pads label maps along with images, and
        only for training; no other one is told that it trains, so that nothing is mixed or augmented.
        """
        data = copy.deepcopy(data)
        return self.model.data_preprocessor(data, self.cfg.get('default_scope') == 'mmseg')

    def loss(self, batch: Any, seed: int = 0) -> Any:
        """Return the sum of the task losses of a prepared batch, a tensor of no dimension.

        Args:
            batch: Of :meth:`prepare`; not modified, although some losses write into the data samples they are given.
            seed: Of the random draws in the loss (sampled boxes, dropout), the same for every call.
        """
        import torch

        from ..replay.tree import snapshot
        torch.manual_seed(seed)
        own = snapshot(batch, lambda tensor: tensor)
        return self.model.parse_losses(self.model(**own, mode='loss'))[0]


def load_trained(config: str, checkpoint: str, cfg_options: Optional[dict] = None,
                 device: Optional[str] = None) -> Trained:
    """Build the model of a config and give it the weights of a checkpoint, all of them.

    A-FAN models and stock models have the same keys, so each takes the checkpoint of the other.

    Args:
        config: Config file.
        checkpoint: Checkpoint file or URL.
        cfg_options: Fields of the config to override.
        device: Such as ``'cpu'`` or ``'cuda:0'``; None: CUDA where there is one.

    Returns:
        The config, the model in evaluation mode, and its device. Ends the program with one sentence where the config
        is wrong or the weights are not those of its model.
    """
    require_file(checkpoint, 'checkpoint', ('.pth', ))
    cfg = load_config(config, cfg_options)
    require_whole(checkpoint)
    import torch
    chosen = torch.device(choose_device(device))
    try:
        model = build_model(cfg)
    except (KeyError, TypeError, ValueError) as error:
        stop(f'the model of {config!r} cannot be built: {first_line(error)}')
    load_weights(model, checkpoint, config)
    return Trained(cfg, model.to(chosen).eval(), chosen)


def build_model(cfg: Any) -> Any:
    """Build the model of a config, in its scope and with its preprocessor."""
    from mmengine.registry import MODELS, init_default_scope
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    fields = copy.deepcopy(cfg.model)
    if 'data_preprocessor' in cfg:
        fields.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    return MODELS.build(fields)


def load_weights(model: Any, checkpoint: str, config: str) -> None:
    """Load every weight of the model from a checkpoint, or stop with one sentence that tells what does not fit."""
    from mmengine.runner import CheckpointLoader
    require_whole(require_file(checkpoint, 'checkpoint', ('.pth', )))
    try:
        with contextlib.redirect_stdout(sys.stderr):
            loaded = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
    except Exception as error:  # whatever torch raises for a file that is none of its own
        stop(f'{checkpoint!r} must be a checkpoint that torch can load, got {type(error).__name__}: '
             f'{first_line(error)}')
    state = loaded.get('state_dict', loaded) if isinstance(loaded, dict) else None
    if not isinstance(state, dict):
        stop(f'{checkpoint!r} must hold a state_dict, got {type(loaded).__name__}')
    state = {name[len('module.'):] if name.startswith('module.') else name: value for name, value in state.items()}
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # shapes
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        stop(f'the weights of {checkpoint!r} must be those of the model of {config!r}: {lines[-1]}')
    wrong = [f'{len(names)} {what}, such as {names[0]!r}'
             for what, names in (('missing', missing), ('too many', unexpected)) if names]
    if wrong:
        stop(f'the weights of {checkpoint!r} must be those of the model of {config!r}: {" and ".join(wrong)}')


def load_labelled(cfg: Any, count: int, split: str = 'val', batch_size: Optional[int] = None,
                  seed: int = 0) -> List[Any]:
    """Read the first batches of a data loader of the config, with labels.

    Test pipelines of mmdet and mmseg load annotations after the image has been resized, so that metrics see them in
    the image's own size; here they are loaded right after the image, so that they fit what the model sees.

    Args:
        cfg: The config.
        count: Number of batches.
        split: ``'val'`` or ``'train'``.
        batch_size: Samples in a batch; None: as configured.
        seed: Of the order and of random transforms.

    Returns:
        Batches as the data loader gives them; fewer where the data set is smaller.
    """
    import numpy as np
    import torch

    from ..analysis import load_batches
    name = f'{split}_dataloader'
    loader = copy.deepcopy(cfg.get(name))
    if not loader:
        stop(f'the config must have a {name} for --split {split}, got {loader!r}')
    loader = loader[0] if isinstance(loader, list) else loader
    dataset = loader['dataset']
    while isinstance(dataset.get('dataset'), dict):
        dataset = dataset['dataset']
    if dataset.get('pipeline'):
        dataset['pipeline'] = label_first(dataset['pipeline'])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    chosen = copy.deepcopy(cfg)
    chosen.train_dataloader = loader
    try:
        return load_batches(chosen, count, batch_size)
    except (OSError, ValueError) as error:
        stop(f'{name} of the config must give labelled samples, got {type(error).__name__}: {first_line(error)}')


def label_checkpoints(arguments: List[str]) -> Dict[str, str]:
    """Return label to checkpoint for ``LABEL=FILE`` or ``FILE``; a file alone is named by its folder and itself."""
    found: Dict[str, str] = {}
    for argument in arguments:
        label, sign, path = argument.partition('=')
        if not sign or osp.isfile(argument):
            path, label = argument, '/'.join(osp.splitext(argument)[0].replace(os.sep, '/').split('/')[-2:])
        if not label or label in found:
            stop(f'every checkpoint must have a label of its own, got {label!r} for {path!r}; write LABEL=FILE')
        found[label] = require_file(path, 'checkpoint', ('.pth', ))
    return found


def label_first(pipeline: List[dict]) -> List[dict]:
    """Return the pipeline with the loading of annotations right after that of the image."""
    from ..naming import type_name
    labels = [step for step in pipeline if type_name(step['type']) == 'LoadAnnotations']
    others = [step for step in pipeline if step not in labels]
    images = [k for k, step in enumerate(others) if 'LoadImage' in type_name(step['type'])]
    return others[:images[0] + 1] + labels + others[images[0] + 1:] if images else list(pipeline)


def first_line(error: BaseException) -> str:
    """First line of an error's message."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return next(iter(str(text).strip().splitlines()), type(error).__name__)


def make_parser(description: str, picture: str, num_batches: int, several: bool = False) -> argparse.ArgumentParser:
    """Make the parser with the arguments that all analyses have.

    Args:
        description: For ``--help``.
        picture: Default file name of the picture.
        num_batches: Default of ``--num-batches``.
        several: Whether several checkpoints may be given.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', nargs='+' if several else None, help='checkpoint file or URL' + (
        '; several stand side by side, LABEL=FILE names one' if several else ''))
    parser.add_argument('--split', choices=SPLITS, default='val', help='data loader to read (default: %(default)s)')
    parser.add_argument('--num-batches', type=positive, default=num_batches,
                        help=f'batches to average over (default: {num_batches})')
    parser.add_argument('--batch-size', type=positive, help='samples in a batch (default: config)')
    parser.add_argument('--seed', type=int, default=0, help='of every random draw (default: 0)')
    parser.add_argument('--out', default=picture, metavar='PICTURE', help=f'picture to write (default: {picture})')
    parser.add_argument('--device', help="such as 'cpu' or 'cuda:0' (default: best)")
    parser.add_argument('--threads', type=positive, help='threads of torch on the CPU')
    parser.add_argument('--json', action='store_true', help='print one JSON object, nothing else')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, help=CFG_OPTIONS_HELP)
    add_trust_argument(parser)
    return parser


def measured(args: argparse.Namespace, measure: Callable[[argparse.Namespace], dict]) -> dict:
    """Measure with the logs of the codebases on stderr; a wrong value is one sentence."""
    with contextlib.redirect_stdout(sys.stderr):
        try:
            return measure(args)
        except ValueError as error:
            stop(str(error))


def run_tool(args: argparse.Namespace, measure: Callable[[argparse.Namespace], dict],
             report: Callable[[dict], str]) -> None:
    """Measure, and print the result as a table or, with ``--json``, as one object; what goes wrong is one sentence."""
    import torch
    if args.trust_checkpoint:
        trust_checkpoints()
    if args.threads:
        torch.set_num_threads(args.threads)
    if not args.out.endswith(PICTURES):
        stop(f'--out must end in one of {", ".join(PICTURES)}, got {args.out!r}')
    if not osp.isdir(osp.dirname(args.out) or '.'):
        stop(f'--out must lie in a folder that exists, got {args.out!r}')
    result = measured(args, measure)
    print(json.dumps(result, indent=2) if args.json else report(result))
