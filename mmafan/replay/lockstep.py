"""Run the forward of a clean pass and those of waiting passes in step, so that the modules they share run once.

Each waiting pass has a thread of its own, but one thread runs at a time: a waiting pass goes on until it comes to a
module, and waits there. Where the clean pass comes to the same module, it runs once for the rows of all, and each pass
gets its own rows. Everything else (targets, losses, what is between modules) each pass computes by itself, as the stock
model does. Where rows do not fit, or a module does not treat them independently, each pass runs the module by itself,
so that no result depends on what meets.
"""
from __future__ import annotations

import functools
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Set, Tuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .attributes import exchanged
from .checkpointing import inside_region
from .forward_state import forward_state, read_state
from .joining import Joins, Meetings, alike
from .recording import Recording
from .rng import RandomState
from .state import PassKind, Patches, Unjoinable, current_pass, passes_of, running_pass
from .tap import autocasts
from .tree import map_tensors
from .waiting_pass import Key, WaitingPass


class _WaitingPatches:
    """Takes the place of :class:`Patches` for a waiting pass: nobody else sees what it replaces."""

    def __init__(self, lockstep: 'Lockstep') -> None:
        self._lockstep = lockstep

    def set(self, owner: Any, name: str, function: Any) -> None:
        """Replace ``owner.name`` for the pass that is running."""
        self._lockstep.dispatch(owner, name)
        if self._lockstep.running is not None:
            self._lockstep.running.replaced[id(owner), name] = function

    def hold(self, parameters: Sequence[Any]) -> None:
        """Let parameters be constants in the pass that is running."""
        if self._lockstep.running is not None:
            self._lockstep.running.held = {id(parameter): parameter.requires_grad_(False) for parameter in parameters}

    def undo(self) -> None:
        """Replace nothing more, and hold nothing."""
        running = self._lockstep.running
        if running is not None:
            running.replaced.clear()
            for parameter in running.held.values():
                parameter.requires_grad_()
            running.held = {}


class Lockstep:
    """Runs a clean pass with those that wait.

    Args:
        model: The model.
        recording: Of the clean pass; it sees nothing of the others.
        meetings: What is known of the modules; changed.
        batch_norm: Policy of the norms in the waiting passes.
        agree: Asks all processes whether all can join, where their norms wait for each other.
    """

    def __init__(self, model: nn.Module, recording: Recording, meetings: Meetings, batch_norm: str,
                 agree: Callable[[bool], bool] = bool) -> None:
        self._model, self._recording, self._meetings = model, recording, meetings
        self._batch_norm, self._agree = batch_norm, agree
        self._patches = Patches()
        self._dispatched: Set[Key] = set()
        self._names: Dict[int, str] = {}
        self._waiting: List[WaitingPass] = []
        self._joins = Joins()
        self._alone = False
        self.running: Optional[WaitingPass] = None
        taps = set(map(id, recording.modules.values()))
        self._around_taps = {id(m) for m in model.modules()
                             if any(id(inner) in taps for inner in m.modules() if inner is not m)}

    def patches(self) -> Any:
        """Make what a waiting pass replaces methods with."""
        return _WaitingPatches(self)

    def run(self, clean: Callable[[], Any], others: Sequence[Callable[[], Any]]) -> Tuple[Any, List[Any]]:
        """Run all passes; return the result of the clean one, and those of the others."""
        try:
            leaving = [f'{path}.' for path, _ in self._recording.facts.attributes or ()]
            for name, module in self._meetings.candidates(self._model):
                if any(path.startswith(f'{name}.') for path in leaving):
                    continue  # what it leaves in an attribute would be of all passes
                self._names[id(module)] = name
                self.dispatch(module, 'forward')
            for run in others:
                self._waiting.append(WaitingPass(run))
                self._proceed(self._waiting[-1])
            result = clean()
            self._alone = True
            for waiting in self._waiting:
                while not waiting.done:
                    self._proceed(waiting)
            return result, [waiting.result for waiting in self._waiting]
        finally:
            for waiting in self._waiting:
                while not waiting.done:
                    waiting.abandoned = True
                    self._proceed(waiting)
            self._patches.undo()
            self._waiting, self._joins = [], Joins()  # nothing outlives the step because these refer to each other

    def dispatch(self, owner: Any, name: str) -> None:
        """Let a method ask which pass is running."""
        key = id(owner), name
        if key in self._dispatched:
            return
        self._dispatched.add(key)
        stock = getattr(owner, name)
        meets = name == 'forward' and isinstance(owner, nn.Module)

        @functools.wraps(stock)
        def method(*args: Any, **kwargs: Any) -> Any:
            running = self.running
            if running is not None:
                own = running.replaced.pop(key, None)
                if own is not None:
                    try:
                        return own(*args, **kwargs)  # may call the method again
                    finally:
                        running.replaced[key] = own
            if not meets or self._alone or inside_region():
                return stock(*args, **kwargs)
            if running is None:
                return self._arrive(owner, stock, args, kwargs)
            held = running.held and any(id(parameter) in running.held for parameter in owner.parameters())
            if current_pass().kind is not PassKind.ADVERSARIAL or held or not self._stops_at(owner):
                return stock(*args, **kwargs)
            answer = running.meet(owner, args, kwargs)
            return stock(*args, **kwargs) if answer is None else answer[0]

        self._patches.set(owner, name, method)

    def _stops_at(self, module: nn.Module) -> bool:
        name = self._names.get(id(module))
        return (name is not None and id(module) not in self._around_taps
                and self._meetings.joinable.get(name, True))

    # ------------------------------------------------------------------ the clean pass
    def _arrive(self, module: nn.Module, stock: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run a module in the clean pass, together with those that wait for it there."""
        partners = [w for w in self._waiting if w.asks is not None and w.asks[0] is module]
        if not partners:
            return stock(*args, **kwargs)
        name = self._names[id(module)]
        calls = [(args, kwargs), *((p.asks[1], p.asks[2]) for p in partners if p.asks is not None)]
        try:
            joined, rows = self._joins.join(calls)
        except Unjoinable:
            joined = None
        if self._agree(joined is not None):
            self._meetings.undecided.pop(name, None)
            if name not in self._meetings.joinable:
                self._meetings.joinable[name] = self._agree(self._treats_alone(module, stock, calls, joined, rows))
            if self._meetings.joinable[name]:
                kinds = [PassKind.CLEAN, *[PassKind.ADVERSARIAL for _ in partners]]
                results = self._run_joined(stock, joined, rows, kinds, self._joins)
                for partner, result in zip(partners, results[1:]):
                    partner.answer = (result, )
                    self._proceed(partner)
                return results[0]
        elif name not in self._meetings.joinable:
            self._meetings.undecided[name] = None
        for partner in partners:  # they meet again at the parts of the module, or each runs them by itself
            self._proceed(partner)
        return stock(*args, **kwargs)

    def _run_joined(self, stock: Callable[..., Any], call: Any, rows: Sequence[int], kinds: Sequence[PassKind],
                    joins: Joins) -> List[Any]:
        with running_pass(PassKind.JOINED, self._batch_norm, tuple(zip(rows, kinds))), self._parts_alone():
            output = stock(*call[0], **call[1])
        return joins.split(output, tuple(rows))

    @contextmanager
    def _parts_alone(self) -> Iterator[None]:
        """Let nothing meet inside of a module that runs for all."""
        self._alone = True
        try:
            yield
        finally:
            self._alone = False

    def _treats_alone(self, module: nn.Module, stock: Callable[..., Any], calls: Sequence[Any], joined: Any,
                      rows: Sequence[int]) -> bool:
        """Whether a module gives for all rows at once what it gives for those of each pass; leaves no trace."""
        kinds = [PassKind.CHECK, *[PassKind.ATTACK for _ in calls[1:]]]  # which store nothing
        half = bool(autocasts())
        own = [m for m in module.modules() if m.training and not isinstance(m, _BatchNorm)]
        streams = RandomState()
        try:
            for part in own:  # without dropout
                part.training = False
            with self._aside(), torch.no_grad():
                alone = []
                for call, kind in zip(calls, kinds):
                    args, kwargs = _copied(call)
                    with running_pass(kind, self._batch_norm), self._parts_alone():
                        alone.append(stock(*args, **kwargs))
                together = self._run_joined(stock, _copied(joined), rows, kinds, Joins())
            return all(alike(one, other, 0.03 if half else 1e-3) for one, other in zip(alone, together))
        except Exception:
            return False
        finally:
            for part in own:
                part.training = True
            streams.restore()

    # ------------------------------------------------------------------ the others
    def _proceed(self, waiting: WaitingPass) -> None:
        """Let a waiting pass go on; what it changes outside of its results is as it was when it waits again."""
        streams, facts = RandomState(), self._recording.facts
        places = (facts.attributes or frozenset()) - {place[:2] for place in facts.changed_state or ()}
        self.running = waiting
        for parameter in waiting.held.values():
            parameter.requires_grad_(False)
        try:
            with self._aside(), passes_of(waiting.passes), exchanged(self._model, places, waiting.left):
                waiting.proceed()
        finally:
            self.running = None
            for parameter in waiting.held.values():
                parameter.requires_grad_()
            streams.restore()

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Hide what runs inside from the recording, and put back what it changes in the model."""
        changed = self._recording.facts.changed_state
        with ExitStack() as stack:
            if changed:
                stack.enter_context(forward_state(self._model, read_state(self._model, changed)))
            stack.enter_context(self._recording.hidden())
            yield


def _copied(call: Any) -> Any:
    """Copy arguments, which a module may change in place."""
    return map_tensors(lambda t: t.detach().clone(), call)
