"""Record a clean pass at its taps, and replay its head in an adversarial pass.

A *tap* is the output of one module, or its input; what runs before it is the *head* and what runs after it the *tail*.
While a clean pass is recorded, every module that has finished when a tap is reached leaves its output behind. In an
adversarial pass those modules return what they left (detached), a perturbed feature is at the tap, and only the tail
really runs, with the random draws of the clean pass. Nothing here knows a model's forward.
"""
from __future__ import annotations

from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

import torch
from torch import Tensor, nn

from ..tap_config import SIDES, TapConfig
from .batch import is_feature, map_tensors, tensors_of
from .calls import Patches, WatchedCall, snapshot, tensors_in
from .forward_state import Place, changed_places, forward_state, read_places, read_state
from .graph import node_of
from .replay import Replay
from .rng import RandomState
from .state import PassKind
from .tap import INPUTS, Record, Records, TapCapture, autocast_enabled
from .unused import StandIn, Watch


class Recording:
    """Record one clean pass; afterwards replay its head for as many adversarial passes as wanted.

    Args:
        model: The model whose forward is run inside.
        taps: The taps by name.
        size: Number of samples in the batch.
        keep_head: Record the head for replay; False makes :meth:`replay` run it again.
        changed: Names of the modules whose outputs operations in place change later, so that copies are kept; None
            keeps copies of all and finds out, in :attr:`changed`.
        calls: Methods that are recorded and replayed as modules are; without ``keep_head`` the paired ones alone.
        idle: By tap, the numbers of the calls whose results its losses do not depend on; None: not known yet.
        unused: By tap, names of the modules before it whose outputs no adversarial pass reads, so that they are not
            kept; None: not known yet.
        changed_state: What a forward changes in the model beside norms; adversarial passes find it as the clean one
            did, and leave it alone. None finds out, in :attr:`changed_state`.
    """

    def __init__(self, model: nn.Module, taps: Mapping[str, TapConfig], size: int, keep_head: bool = True,
                 changed: Optional[Set[str]] = None, calls: Sequence[WatchedCall] = (),
                 idle: Optional[Dict[str, Set[int]]] = None, unused: Optional[Dict[str, Set[str]]] = None,
                 changed_state: Optional[List[Place]] = None) -> None:
        self.changed_state = changed_state
        self.changed = changed
        self.idle = idle
        self.unused = unused
        self._calls = [call for call in calls if keep_head or call.paired]
        self._call_records: Dict[Any, Records] = {call.key: [] for call in self._calls}
        self._num_hidden = 0
        self.size = size
        self.captures: Dict[str, TapCapture] = {name: TapCapture() for name in taps}
        self._modules = {name: model.get_submodule(tap.module) for name, tap in taps.items() if tap.module != INPUTS}
        self._names: Dict[str, Dict[int, str]] = {side: {
            id(module): name for name, module in self._modules.items() if taps[name].at == side} for side in SIDES}
        self._taps = dict(taps)
        self._keep_head = keep_head
        self._frames: List[Tuple[Any, Records]] = [(None, [])]
        self._waiting = set(self._modules)
        self._model = model

    # ------------------------------------------------------------------ the clean pass
    def __enter__(self) -> 'Recording':
        first = self.changed_state is None
        self._state = read_state(self._model) if first else read_places(self._model, self.changed_state or [])
        self._start = RandomState()
        self._handles: List[Any] = []
        skipped = getattr(self._model, 'data_preprocessor', None)
        self._paths = {id(module): path for path, module in self._model.named_modules()}
        for module in self._model.modules():
            if module is self._model or module is skipped:
                continue
            if id(module) in self._names['input']:
                self._handles.append(module.register_forward_pre_hook(self._enter_tap, with_kwargs=True))
            if self._keep_head and next(module.children(), None) is not None:
                self._handles.append(module.register_forward_pre_hook(self._open_frame))
            if self._keep_head or id(module) in self._names['output']:
                self._handles.append(module.register_forward_hook(self._finish))
        self._patches = Patches()
        for call in self._calls:
            self._patches.set(call.owner, call.name, self._watched(call, getattr(call.owner, call.name)))
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        for handle in self._handles:
            handle.remove()
        self._patches.undo()
        self._num_hidden = 0
        self._frames = [(None, [])]
        self._end = RandomState()
        if kind is not None:
            return
        if self.changed_state is None:
            self.changed_state = changed_places(self._model, self._state)
            self._state = {place: self._state[place] for place in self.changed_state}
        found = {self._paths[id(r.owner)] for c in self.captures.values() for r in c.head if r.changed}
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

    def _open_frame(self, owner: Any, _: Any = None) -> None:
        if self._waiting and not self._num_hidden:
            self._frames.append((owner, []))

    def _close_frame(self, owner: Any) -> None:
        if any(opened is owner for opened, _ in self._frames):
            while self._frames.pop()[0] is not owner:  # frames of calls that ended in an exception
                pass

    def _enter_tap(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        if self._num_hidden:
            return None
        own = map_tensors(Tensor.clone, (args, kwargs))  # what else consumes the tensors is no part of the tail
        return self._reach_tap(self._names['input'][id(module)], own)

    def _finish(self, module: nn.Module, _: Any, output: Any) -> Any:
        name = self._names['output'].get(id(module))
        if self._num_hidden or name is None and not self._waiting:
            return None
        self._close_frame(module)
        if name is not None:
            output = self._reach_tap(name, output)
        if self._keep_head and self._waiting:
            self._append(self._record(module, output), output)
        return output if name is not None else None

    def _append(self, record: Record, output: Any) -> None:
        records = self._frames[-1][1]
        if records:
            records[-1].allow(output)
        records.append(record)

    def _record(self, module: nn.Module, output: Any) -> Record:
        path, unused = self._paths[id(module)], self.unused or {}
        if all(path in unused.get(name, ()) for name in self._waiting):
            return Record(module, 'forward', map_tensors(lambda _: StandIn(path), output), unused=True)
        watched = [(t, t._version) for t in tensors_of(output)]
        copied = self.changed is None or path in self.changed
        kept = map_tensors(lambda t: t.detach().clone() if copied else t.detach(), output)
        return Record(module, 'forward', kept, copied, [(t.detach(), version) for t, version in watched])

    def _watched(self, call: WatchedCall, stock: Callable[..., Any]) -> Callable[..., Any]:
        """Make the method that records a call; what runs inside a paired one is no part of any pass."""
        number = self._calls.index(call)
        needed = call.paired or self.idle is None or any(number in found for found in self.idle.values())

        def method(*args: Any, **kwargs: Any) -> Any:
            if self._num_hidden:
                return stock(*args, **kwargs)
            if call.paired:
                self._num_hidden += 1
                try:
                    output = stock(*args, **kwargs)
                finally:
                    self._num_hidden -= 1
            else:
                self._open_frame(call)
                output = stock(*args, **kwargs)
                self._close_frame(call)
            if needed or self._waiting:
                live = tensors_in(output) if self.idle is None and not call.paired else []
                record = Record(call.owner, call.name, snapshot(Tensor.detach, output), live=live,
                                random_state=RandomState())
                self._call_records[call.key].append(record)
                if self._waiting:
                    self._append(record, output)
            return output

        return method

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
               indices: Optional[Tensor] = None, with_grad: bool = True, watch: Optional[Watch] = None) -> Replay:
        """Return the context of an adversarial pass of tap ``name``; arguments as of :class:`Replay`."""
        idle = (self.idle or {}).get(name, ())
        calls = [(call, self._call_records[call.key]) for number, call in enumerate(self._calls)
                 if self._call_records[call.key] and (call.paired or number in idle)]
        return Replay(name, self._modules.get(name), self._taps[name].at, self.captures[name], features, kind,
                      batch_norm, (self._start, self._end), self.size, indices, with_grad, calls,
                      forward_state(self._model, self._state), watch)

    def note_unused(self, name: str, watch: Watch) -> None:
        """Add the modules before tap ``name`` whose outputs the watched pass did not read to :attr:`unused`."""
        owners = [] if watch.draws else [r.owner for r in self.captures[name].head if r.name == 'forward']
        self.unused = {**(self.unused or {}), name: {self._paths[id(o)] for o in owners if id(o) not in watch.read}}

    def find_idle(self, nodes: Set[Any]) -> Set[int]:
        """Return the numbers of the calls whose results have no part in the ``nodes`` of a loss's graph."""
        found = set()
        for number, call in enumerate(self._calls):
            live = [t for record in self._call_records[call.key] for t in record.live if t.requires_grad]
            if live and not call.paired and not any(node_of(tensor) in nodes for tensor in live):
                found.add(number)
        return found

    def release_graph(self) -> None:
        """Forget the clean graph."""
        for capture in self.captures.values():
            capture.release_graph()
        for records in self._call_records.values():
            for record in records:
                record.live.clear()

    def check(self) -> Iterator[Tuple[str, str]]:
        """Yield ``(tap, what is wrong)`` for taps that cannot work, after the clean forward."""
        for name, capture in self.captures.items():
            if not capture.outputs:
                yield name, 'never ran in the forward pass of the loss'
            elif not any(tensors_of(output) for output in capture.outputs):
                kinds = ', '.join(sorted({type(output).__name__ for output in capture.outputs}))
                yield name, f'returns {kinds}, which holds no tensor'
            elif not any(is_feature(t) for output in capture.outputs for t in tensors_of(output)):
                yield name, 'returns no floating tensor with a dimension of samples'
            elif not capture.live:
                yield name, ('returns a feature without gradient (frozen parameters before it, a no_grad block, or '
                             'reentrant activation checkpointing)')
