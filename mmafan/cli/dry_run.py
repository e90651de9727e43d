"""What would switch A-FAN off without a word, and one step of a config on random images."""
from __future__ import annotations

from typing import Any, Dict, List

import torch

from ..analysis import prove, theoretical_cost
from ..config import AFANConfig
from .configs import PREFIX, build_model, stock_model, synthetic_batches, type_name
from .environment import Finding
from .taps_command import BATCH_SIZE, random_data, search


def check_config(cfg: Any) -> List[Finding]:
    """Look for what is wrong, or would silently disable A-FAN, without building anything."""
    kind, found = type_name(cfg.model.type), []
    if not kind.startswith(PREFIX):
        remedy = f"write type='mmafan.{PREFIX}{kind}', or let mmafan init write the config"
        return [Finding('problem', f'model.type is {kind!r}, which trains without A-FAN', remedy)]
    try:
        config = AFANConfig.from_dict(cfg.model.get('afan'))
    except ValueError as error:
        return [Finding('problem', str(error))]
    imports = (cfg.get('custom_imports') or {}).get('imports', [])
    if 'mmafan' not in ([imports] if isinstance(imports, str) else imports):
        found.append(Finding('note', 'custom_imports lacks mmafan: tools of the codebases cannot build this config',
                             "custom_imports = dict(imports=['mmafan'], allow_failed_imports=False)"))
    found += check_hook(cfg)
    for name, tap in config.taps.items():
        if not tap.active:
            found.append(Finding('note', f'afan.taps.{name}.weight is 0: the tap is off', 'give it a weight'))
        elif tap.step_size == 0:
            found.append(Finding('note', f'afan.taps.{name}.step_size is 0: its passes are unperturbed (a control)',
                                 'give it a step'))
        elif tap.direction == 'random_sign':
            found.append(Finding('note', f"afan.taps.{name}.direction is 'random_sign': noise, no attack (a control)",
                                 "'gradient' attacks"))
    if not any(tap.active for tap in config.taps.values()):
        found.append(Finding('problem', 'every tap is off: this trains without A-FAN', 'give one of them a weight'))
    return found


def check_hook(cfg: Any) -> List[Finding]:
    """Look at the hook that schedules A-FAN."""
    hooks = [hook for hook in cfg.get('custom_hooks') or [] if type_name(hook['type']) == 'AdvFeatureHook']
    if not hooks:
        return [Finding('note', 'there is no AdvFeatureHook: A-FAN runs in every step, unscheduled and unlogged',
                        "custom_hooks = [dict(type='mmafan.AdvFeatureHook')]")]
    loop = cfg.get('train_cfg') or {}
    by_epoch = hooks[0].get('by_epoch', True)
    length = loop.get('max_epochs' if by_epoch else 'max_iters')
    begin = hooks[0].get('begin', 0)
    if length is not None and begin >= length:
        unit = 'epochs' if by_epoch else 'iterations'
        return [Finding('problem', f'AdvFeatureHook.begin={begin} is not below the {length} {unit} of training: A-FAN '
                        f'never starts', f'begin it before {length}')]
    return []


def dry_run(cfg: Any) -> List[Finding]:
    """Build the model, run one training step on random images with all checks, and say what it costs."""
    found_taps = search(cfg, repeats=1)
    model_cfg, afan = stock_model(cfg)
    model_cfg.update(type=cfg.model.type, afan=afan)
    try:
        model = build_model(cfg, model_cfg)
        model.train()
        if hasattr(model.afan, 'hooked'):  # what the hook says of itself before training
            model.afan.hooked = True
        torch.manual_seed(0)
        batch = synthetic_batches(cfg, 1, BATCH_SIZE, found_taps.size)[0]
        losses = model(**model.data_preprocessor(batch, True), mode='loss')
        model.parse_losses(losses)[0].backward()
    except (ValueError, TypeError) as error:
        return [Finding('problem', str(error))]
    config = model.afan.config
    terms = {key: value for key, value in losses.items() if key.startswith('adv_')}
    size = ' x '.join(map(str, found_taps.size))
    found = [Finding('ok', f'{type(model).__name__}: one step on {BATCH_SIZE} random images of {size} pixels')]
    suffixes: Dict[str, Dict[str, float]] = {}
    for name, tap in config.taps.items():
        if not tap.active:
            continue
        mine = sum(key.startswith(f'adv_{name}_') for key in terms)
        if not mine:
            found.append(Finding('note', f'tap {name} at {tap.module}: sat this step out (fraction {tap.fraction})',
                                 f'a batch of {BATCH_SIZE} may be too small for its fraction'))
        tau = found_taps.tau(tap.module)
        suffixes[name] = dict(share=1.0 if tau is None else tau, attack_share=1.0 if tau is None else tau)
        measured = 'unknown' if tau is None else f'{tau:.2f}'
        found.append(Finding('ok', f'tap {name} at {tap.module}: the gradient arrives, {mine} adversarial loss terms, '
                             f'{tap.num_passes} passes, tau {measured}'))
    if not any(parameter.grad is not None for parameter in model.parameters()):
        found.append(Finding('problem', 'no parameter has a gradient: everything is frozen', 'unfreeze a part'))
    cost = theoretical_cost({name: tap for name, tap in config.taps.items() if tap.active}, suffixes)
    found.append(Finding('ok', f'theory: a step costs {cost:.2f} of one without A-FAN; mmafan cost measures it'))
    return found


def prove_config(cfg: Any, device: str = 'cpu') -> List[Finding]:
    """Compare steps of the config's model on random images with its stock model's; name the first difference."""
    batch = random_data(cfg)
    fields, afan = stock_model(cfg)
    try:
        model = build_model(cfg, {**fields, 'type': cfg.model.type, 'afan': afan}).to(device)
        stock = build_model(cfg, fields).to(device)
        stock.load_state_dict(model.state_dict())
        proof = prove(model, batch, stock)
    except (ValueError, TypeError) as error:
        return [Finding('problem', f'nothing could be proven: {error}')]
    if not proof.holds:
        more = f' ({len(proof.wrong) - 1} more)' if len(proof.wrong) > 1 else ''
        return [Finding('problem', f'A-FAN is wrong on this model: {proof.wrong[0]}{more}',
                        'please report it, with the config')]
    digits = f'within {proof.spread.allows("loss"):.0e}' if any(proof.spread.values()) else 'to the last digit'
    return [Finding('ok', f'proven on {device}: gradients of {proof.before} parameters 1.0 times, of {proof.after} 2.0 '
                    f'times, of {proof.between} otherwise those of the stock model as they have to be (error '
                    f'{proof.error:.0e}), its losses {digits}, its buffers and random streams')]
