"""Record a clean pass at its taps, and replay its head in an adversarial pass.

A *tap* is the output of one module; what runs before it is the *head* and what runs after it the *tail*. While a clean
pass is recorded, every module that has finished when a tap is reached leaves its output behind. In an adversarial pass
those modules return what they left (detached), the tap's module returns a perturbed feature, and only the tail really
runs, with the random draws of the clean pass. Nothing here knows a model's forward.
"""
from __future__ import annotations

from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

import torch
from torch import Tensor, nn

from .batch import map_tensors, tensors_of
from .replay import Replay
from .rng import RandomState
from .state import PassKind
from .tap import INPUTS, Record, Records, TapCapture, autocast_enabled


class Recording:
    """Record one clean pass; afterwards replay its head for as many adversarial passes as wanted.

    Args:
        model: The model whose forward is run inside.
        taps: Tap name to dotted module name, or ``'inputs'``.
        size: Number of samples in the batch.
        keep_head: Record the head for replay; False makes :meth:`replay` run it again.
        changed: Names of the modules whose outputs operations in place change later, so that copies are kept; None
            keeps copies of all and finds out, in :attr:`changed`.
    """

    def __init__(self, model: nn.Module, taps: Mapping[str, str], size: int, keep_head: bool = True,
                 changed: Optional[Set[str]] = None) -> None:
        self.changed = changed
        self.size = size
        self.captures: Dict[str, TapCapture] = {name: TapCapture() for name in taps}
        self._modules = {name: model.get_submodule(path) for name, path in taps.items() if path != INPUTS}
        self._names = {id(module): name for name, module in self._modules.items()}
        self._keep_head = keep_head
        self._frames: List[Tuple[Optional[nn.Module], Records]] = [(None, [])]
        self._waiting = set(self._modules)
        self._model = model

    # ------------------------------------------------------------------ the clean pass
    def __enter__(self) -> 'Recording':
        self._start = RandomState()
        self._handles: List[Any] = []
        skipped = getattr(self._model, 'data_preprocessor', None)
        self._paths = {id(module): path for path, module in self._model.named_modules()}
        for module in self._model.modules():
            if module is self._model or module is skipped:
                continue
            if self._keep_head and next(module.children(), None) is not None:
                self._handles.append(module.register_forward_pre_hook(self._open_frame))
            if self._keep_head or id(module) in self._names:
                self._handles.append(module.register_forward_hook(self._finish))
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        for handle in self._handles:
            handle.remove()
        self._frames = [(None, [])]
        self._end = RandomState()
        if kind is not None:
            return
        found = {self._paths[id(r.module)] for c in self.captures.values() for r in c.head if r.changed}
        if self.changed is None:
            self.changed = found
        elif found - self.changed:
            raise RuntimeError(f'the output of {sorted(found - self.changed)} is changed in place in this step but was '
                               f'not in the first one, so that it cannot be replayed; set afan.replay=False')

    def record_inputs(self, inputs: Any) -> Any:
        """Take the model inputs as the tap ``'inputs'``, where one is configured; return what the model gets."""
        for name, capture in self.captures.items():
            if name not in self._modules:
                capture.random_state = self._start
                inputs = map_tensors(lambda t: t.detach().requires_grad_(torch.is_floating_point(t)), inputs)
                return capture.take(inputs)
        return inputs

    def _open_frame(self, module: nn.Module, _: Any) -> None:
        if self._waiting:
            self._frames.append((module, []))

    def _finish(self, module: nn.Module, _: Any, output: Any) -> Any:
        name = self._names.get(id(module))
        if name is None and not self._waiting:
            return None
        if any(owner is module for owner, _ in self._frames):
            while self._frames.pop()[0] is not module:  # frames of calls that ended in an exception
                pass
        if name is not None:
            output = self._reach_tap(name, output)
        if self._keep_head and self._waiting:
            records = self._frames[-1][1]
            if records:
                records[-1].allow(output)
            records.append(self._record(module, output))
        return output if name is not None else None

    def _record(self, module: nn.Module, output: Any) -> Record:
        watched = [(t, t._version) for t in tensors_of(output)]
        copied = self.changed is None or self._paths[id(module)] in self.changed
        kept = map_tensors(lambda t: t.detach().clone() if copied else t.detach(), output)
        return Record(module, kept, copied, [(t.detach(), version) for t, version in watched])

    def _reach_tap(self, name: str, output: Any) -> Any:
        capture = self.captures[name]
        if name in self._waiting:
            self._waiting.remove(name)
            capture.head = [record for _, frame in self._frames for record in frame]
            capture.random_state = RandomState()
            capture.autocast = autocast_enabled()
        return capture.take(output)

    # ------------------------------------------------------------------ adversarial passes
    def replay(self, name: str, features: Sequence[Tensor], kind: PassKind, batch_norm: str,
               indices: Optional[Tensor] = None, with_grad: bool = True) -> Replay:
        """Return the context of an adversarial pass of tap ``name``; arguments as of :class:`Replay`."""
        return Replay(name, self._modules.get(name), self.captures[name], features, kind, batch_norm,
                      (self._start, self._end), self.size, indices, with_grad)

    def check(self) -> Iterator[Tuple[str, str]]:
        """Yield ``(tap, what is wrong)`` for taps that cannot work, after the clean forward."""
        for name, capture in self.captures.items():
            if not capture.outputs:
                yield name, 'never ran in the forward pass of the loss'
            elif not any(tensors_of(output) for output in capture.outputs):
                kinds = ', '.join(sorted({type(output).__name__ for output in capture.outputs}))
                yield name, f'returns {kinds}, which holds no tensor'
            elif not capture.live:
                yield name, 'returns no floating tensor with a dimension of samples'
            elif not any(t.requires_grad for t in capture.live):
                yield name, ('returns a feature without gradient (frozen parameters before it, a no_grad block, or '
                             'reentrant activation checkpointing)')
