"""Record a clean pass at its taps, and what precedes them.

Modules that have finished when a tap is reached leave their outputs behind. In an adversarial pass they return these,
detached; a perturbed feature is at the tap, and only the suffix really runs, with the random draws of the clean pass.
"""
from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Callable, Dict, Iterator, List, Mapping, Set, Tuple

import torch
from mmengine.logging import print_log
from torch import nn

from .attributes import Attributes, Left
from .batch import INPUTS
from .facts import Facts, WatchedCall
from .forward_state import changed_places, read_state
from .graph import node_of
from .rng import RandomState
from .state import Patches
from .tap import SIDES, Record, Records, TapCapture
from .tree import copy_values, map_tensors, snapshot, tensors_of


class Recording:
    """Record one clean pass; afterwards :class:`Replay` runs as many adversarial passes as wanted.

    Args:
        model: The model whose forward is run inside.
        taps: Where the taps are, by name: ``module`` is a dotted name, or ``'inputs'`` for the model inputs; ``at`` one
            of ``SIDES``.
        size: Number of samples in the batch.
        facts: What is known of the model. :meth:`learned` adds what this pass shows.
        replays: Record prefixes for replay; False makes :class:`Replay` run them again.

    Attributes:
        facts: As given; without what has turned out to be no longer true.
        captures: By tap, what the pass has left there.
        model, taps, replays: As given.
        state: What a forward changes beside norms, as the pass has found it.
    """

    def __init__(self, model: nn.Module, taps: Mapping[str, Any], size: int, facts: Facts = Facts(),
                 replays: bool = True) -> None:
        self.facts, self.size = facts, size
        self.captures: Dict[str, TapCapture] = {name: TapCapture() for name in taps}
        self.modules = {name: model.get_submodule(tap.module) for name, tap in taps.items() if tap.module != INPUTS}
        self._names: Dict[str, Dict[int, str]] = {side: {} for side in SIDES}
        for name, module in self.modules.items():
            self._names[taps[name].at][id(module)] = name
        self._calls = [call for call in facts.calls if replays or call.paired]
        self._call_records: Dict[Any, Records] = {call.key: [] for call in self._calls}
        self._num_hidden = 0
        self.replays = replays
        self._frames: List[Tuple[Any, Records]] = [(None, [])]
        self._waiting = set(self.modules)
        self._finished: Set[int] = set()
        self.model, self.taps = model, taps
        self.make_patches: Callable[[], Patches] = Patches  # of the adversarial passes

    # ------------------------------------------------------------------ the clean pass
    def __enter__(self) -> 'Recording':
        places = self.facts.changed_state
        self.state = {} if places == () else read_state(self.model, places, momentum=True)
        self._start = RandomState()
        self._handles: List[Any] = []
        self._hooked = self._modules_to_hook()
        self._paths = {id(module): path for path, module in self._hooked}
        for _, module in self._hooked:
            if id(module) in self._names['input']:
                self._handles.append(module.register_forward_pre_hook(self._enter_tap, with_kwargs=True))
            if self.replays and next(module.children(), None) is not None:
                self._handles.append(module.register_forward_pre_hook(self._open_frame))
            if self.replays or id(module) in self._names['output']:  # before hooks of others, which run in any pass
                self._handles.append(module.register_forward_hook(self._finish, prepend=True))
        self._patches = Patches()
        for call in self._calls:
            self._patches.set(call.owner, call.name, self._watched(call, getattr(call.owner, call.name)))
        known = self.facts.attributes
        self.attributes = None if known == frozenset() else Attributes(self.model, known)
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if self.attributes is not None:
            self.attributes.finish()
        for handle in self._handles:
            handle.remove()
        self._patches.undo()
        for capture in self.captures.values():
            capture.finish()
        self._num_hidden, self._frames = 0, [(None, [])]
        self.streams = self._start, RandomState()
        changed = self.facts.changed_in_place
        if kind is None and changed is not None and self._changed() - changed:
            print_log(f'the output of {sorted(self._changed() - changed)} is changed in place in this step but was not '
                      'in the first one: prefixes are not replayed in this step, and more of their outputs are kept '
                      'from now on', logger='current', level=logging.WARNING)
            self.facts = replace(self.facts, changed_in_place=changed | self._changed())
            for capture in self.captures.values():
                capture.prefix = []

    def _modules_to_hook(self) -> List[Tuple[str, nn.Module]]:
        """List modules with their names: all, or those that the facts name and the taps' own."""
        if self.facts.hooked is not None:
            names = self.facts.hooked if self.replays else ()
            found = {id(m): (name, m) for name, m in zip(names, map(self.model.get_submodule, names))}
            return [*found.values(), *(('', m) for m in self.modules.values() if id(m) not in found)]
        skipped = self.model, getattr(self.model, 'data_preprocessor', None)
        return [(path, m) for path, m in self.model.named_modules() if m not in skipped and (
            m in self.modules.values() or not any(inner._forward_hooks for inner in m.modules() if inner is not m))]

    def _changed(self) -> Set[str]:
        return {self._paths[id(r.owner)] for c in self.captures.values() for r in c.prefix if r.changed}

    def record_inputs(self, inputs: Any) -> Any:
        """Take the model inputs as the tap ``'inputs'``, where one is configured; return what the model gets."""
        for name, capture in self.captures.items():
            if name not in self.modules:
                capture.reach([])
                inputs = map_tensors(lambda t: t.detach().requires_grad_(torch.is_floating_point(t)), inputs)
                return capture.take(inputs)
        return inputs

    def _open_frame(self, owner: Any, _: Any = None) -> None:
        if self._waiting and not self._num_hidden:
            self._frames.append((owner, []))

    def _close_frame(self, owner: Any) -> None:
        for number in range(len(self._frames) - 1, 0, -1):
            if self._frames[number][0] is owner:
                del self._frames[number:]  # its own, and those of calls that ended in an exception
                return

    def _enter_tap(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        if self._num_hidden:
            return None
        # What else consumes the tensors is no part of the suffix; what has no gradient is no feature.
        own = map_tensors(lambda t: t.clone() if t.requires_grad else t, (args, kwargs), keeps=True)
        return self._reach_tap(self._names['input'][id(module)], own)

    def _finish(self, module: nn.Module, _: Any, output: Any) -> Any:
        if self._num_hidden:
            return None
        name = self._names['output'].get(id(module))
        self._finished.add(id(module))
        if self.attributes is not None:
            self.attributes.look(self._paths.get(id(module), ''), module)
        if name is None and not self._waiting:
            return None
        self._close_frame(module)
        if name is not None:
            self.captures[name].left.append(self._left_by(self.taps[name].module))
            output = self._reach_tap(name, output)
        if self.replays and self._waiting:
            self._append(self._record(module, output), output)
        return output if name is not None else None

    def _append(self, record: Record, output: Any) -> None:
        records = self._frames[-1][1]
        if records:
            records[-1].allow(output)
        records.append(record)

    def _record(self, module: nn.Module, output: Any) -> Record:
        path = self._paths[id(module)]
        watched = [(t.detach(), t._version) for t in tensors_of(output)]
        copied = self.facts.changed_in_place is None or path in self.facts.changed_in_place
        kept = map_tensors(lambda t: t.detach().clone() if copied else t.detach(), output)
        return Record(module, 'forward', kept, copied, watched, left=self._left_by(path))

    def _left_by(self, path: str) -> List[Left]:
        return [] if self.attributes is None else self.attributes.left_by(path)

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Keep what runs inside out of the recording."""
        self._num_hidden += 1
        try:
            yield
        finally:
            self._num_hidden -= 1

    def _watched(self, call: WatchedCall, stock: Callable[..., Any]) -> Callable[..., Any]:
        """Make the method that records a call; what runs inside a paired one is no part of any pass."""
        number, idle = self._calls.index(call), self.facts.idle_calls
        needed = call.paired or idle is None or any(number in found for found in idle.values())

        def method(*args: Any, **kwargs: Any) -> Any:
            if self._num_hidden:
                return stock(*args, **kwargs)
            if call.paired:
                with self.hidden():
                    output = stock(*args, **kwargs)
            else:
                self._open_frame(call)
                output = stock(*args, **kwargs)
                self._close_frame(call)
            if needed or self._waiting:
                live = tensors_of(output) if idle is None and not call.paired else []
                record = Record(call.owner, call.name, snapshot(output, copy_values), live=live,
                                random_state=RandomState())
                self._call_records[call.key].append(record)
                if self._waiting:
                    self._append(record, output)
            return output

        return method

    def _reach_tap(self, name: str, output: Any) -> Any:
        if name in self._waiting:
            self._waiting.remove(name)
            self.captures[name].reach([record for _, frame in self._frames for record in frame])
        return self.captures[name].take(output)

    # ------------------------------------------------------------------ adversarial passes
    def calls_to_replay(self, name: str) -> List[Tuple[WatchedCall, Records]]:
        """List the methods that return what they returned in the clean pass, wherever they are called."""
        idle = (self.facts.idle_calls or {}).get(name, ())
        return [(call, self._call_records[call.key]) for number, call in enumerate(self._calls)
                if self._call_records[call.key] and (call.paired or number in idle)]

    def release_graph(self) -> None:
        """Forget the clean graph."""
        for capture in self.captures.values():
            capture.release_graph()
        for records in self._call_records.values():
            for record in records:
                record.live.clear()

    # ------------------------------------------------------------------ what the first step shows
    def learned(self) -> Facts:
        """Return the facts with what the clean pass has shown."""
        owners = {self._paths[id(r.owner)] for c in self.captures.values() for r in c.prefix if r.name == 'forward'}
        inside = tuple(f'{name}.' for name in owners)
        silent = {path for path, module in self._hooked if id(module) not in self._finished
                  and type(module).forward is not nn.Module.forward and not path.startswith(inside)}
        state = tuple(changed_places(self.model, self.state))
        self.state = {place: self.state[place] for place in state}
        return replace(self.facts, hooked=frozenset(owners | silent), changed_state=state,
                       changed_in_place=frozenset(self._changed()), idle_calls={}, other_losses={},
                       attributes=frozenset(self.attributes.places if self.attributes is not None else ()))

    def find_idle(self, nodes: Set[Any]) -> frozenset:
        """Return the numbers of the calls whose results have no part in the ``nodes`` of a loss's graph."""
        reached = [[node_of(t) in nodes for r in self._call_records[call.key] for t in r.live if t.requires_grad]
                   for call in self._calls]
        return frozenset(n for n, live in enumerate(reached) if live and not any(live) and not self._calls[n].paired)
