"""Run a forward as an adversarial pass: the prefix replays, a perturbed feature is at the tap, the suffix runs."""
from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Callable, Dict, Optional, Sequence, Tuple

import torch
from torch import Tensor

from .attributes import leave
from .batch import Chosen, select_elements, select_samples
from .facts import WatchedCall
from .forward_state import forward_state
from .recording import Recording
from .state import PassKind, PassState, running_pass
from .tap import Record, Records, TapCapture
from .tree import copy_values, map_tensors, snapshot


class Replay:
    """Context in which the model's forward is one adversarial pass; everything is put back at its end.

    Args:
        recording: The clean pass.
        name: Name of the tap, or ``''``: without one nothing is perturbed. At the model inputs everything is suffix.
        features: What is at the tap: one tensor for each of its features.
        state: The pass, ``ATTACK``, ``ADVERSARIAL`` or ``CHECK``, and the policy of its norms.
        chosen: The samples the pass is for, if not all; the forward must get the same samples.

    Raises:
        RuntimeError: If the pass does not reach the tap as often as the clean one.
    """

    def __init__(self, recording: Recording, name: str, features: Sequence[Tensor], state: PassState,
                 chosen: Optional[Chosen] = None) -> None:
        self._recording, self._name, self._state = recording, name, state
        self._chosen = chosen
        facts = recording.facts
        self._capture = recording.captures[name] if name else TapCapture()
        held = facts.held if self._capture.prefix and name in facts.held else facts.before
        get = recording.model.get_parameter
        self._held = [get(path) for path in held.get(name, ())]  # constants of this pass
        self._until = [get(path) for path in facts.until.get(name, ())]  # and of what comes before the tap
        self._module = recording.modules.get(name)
        self._outputs = self._capture.rebuild(features, chosen)
        self._patches = recording.make_patches()
        self._calls = 0

    def __enter__(self) -> 'Replay':
        self._grad_mode = torch.is_grad_enabled()
        self._stack = ExitStack()
        try:
            self._begin()
        except BaseException:  # what has been put in place so far must not stay
            self._leave()
            raise
        return self

    def _begin(self) -> None:
        self._patches.hold(self._held)
        torch.clear_autocast_cache()  # weights that the clean pass has cast are part of its graph
        if self._recording.state:
            self._stack.enter_context(forward_state(self._recording.model, self._recording.state))
        if self._recording.attributes is not None:
            self._stack.enter_context(self._recording.attributes.protected())
        calls = self._recording.calls_to_replay(self._name)
        for call, records in calls:
            self._replay_call(call, records)
        torch.set_grad_enabled(True)
        self._recording.streams[0].restore()
        if self._module is None:
            self._enter_suffix()
            return
        # A prefix that runs leaves no trace.
        self._stack.enter_context(running_pass(PassKind.ATTACK, 'batch', before_tap=True))
        everywhere = {call.key for call, _ in calls}
        grouped: Dict[Tuple[int, str], Records] = {}
        for record in self._capture.prefix:
            grouped.setdefault((id(record.owner), record.name), []).append(record)
        for key, records in grouped.items():
            if key not in everywhere:
                self._patches.set(records[0].owner, records[0].name, self._replayed(records, self._chosen))
        at = self._recording.taps[self._name].at
        self._stock_forward = None if at == 'output' else self._module.forward
        self._patches.set(self._module, 'forward', self._tap_forward)
        for parameter in self._until:
            parameter.requires_grad_(False)

    def _leave(self) -> None:
        self._patches.undo()
        for parameter in self._until:
            parameter.requires_grad_()
        torch.set_grad_enabled(self._grad_mode)
        self._stack.close()
        self._recording.streams[1].restore()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._leave()
        if kind is None and self._module is not None and self._calls != len(self._outputs):
            raise RuntimeError(f"the module of tap '{self._name}' ran {self._calls} times in an adversarial pass but "
                               f'{len(self._outputs)} times in the clean one, as one that calls itself does')

    def _tap_forward(self, *_: Any, **__: Any) -> Any:
        self._calls += 1
        if self._calls > len(self._outputs):
            raise RuntimeError(f"the module of tap '{self._name}' ran more often in an adversarial pass than the "
                               f'{len(self._outputs)} times of the clean one')
        if self._calls in (1, len(self._outputs)):
            self._enter_suffix(before_tap=self._calls < len(self._outputs))
        self._capture.random_states[self._calls - 1].restore()
        output = self._outputs[self._calls - 1]
        if self._stock_forward is None:
            if self._capture.left[self._calls - 1]:
                leave(self._capture.left[self._calls - 1], self._chosen)
            return output
        args, kwargs = output
        return self._stock_forward(*args, **kwargs)

    def _enter_suffix(self, before_tap: bool = False) -> None:
        for parameter in self._until:
            parameter.requires_grad_()
        self._stack.enter_context(running_pass(self._state.kind, self._state.batch_norm, before_tap=before_tap))

    def _replay_call(self, call: WatchedCall, records: Records) -> None:
        """Replay a method wherever it is called; the random streams go on as they did in the clean pass."""
        chosen, size = self._chosen, self._recording.size
        if chosen is not None and call.per_sample:
            if len(records) % size:
                raise RuntimeError(f'{type(call.owner).__name__}.{call.name} ran {len(records)} times for {size} '
                                   f'samples, so that its results cannot be told apart; set the fraction of tap '
                                   f"'{self._name}' to 1.0")
            records, chosen = [r for k, r in enumerate(records) if k % size in chosen.numbers], None
        self._patches.set(call.owner, call.name, self._replayed(records, chosen))

    def _replayed(self, records: Records, chosen: Optional[Chosen]) -> Callable[..., Any]:
        """Make a method that returns the recorded outputs in turn, and runs for real once they are used up.

        A module used before and after the tap (a shared activation) is replayed for its first calls alone.
        """
        owner, name = records[0].owner, records[0].name
        stock, remaining = getattr(owner, name), iter(records)
        own = list(owner.parameters()) if self._held and name == 'forward' else []
        rests = bool(own) and not any(parameter.requires_grad for parameter in own)

        def method(*args: Any, **kwargs: Any) -> Any:
            record = next(remaining, None)
            if record is None and not rests:
                return stock(*args, **kwargs)
            if record is None:  # once more beside the tap: a prefix that runs leaves no trace
                with running_pass(PassKind.ATTACK, 'batch'):
                    return stock(*args, **kwargs)
            if record.random_state is not None:
                record.random_state.restore()
            if record.left:
                leave(record.left, chosen)
            return replayed_output(record, chosen)

        return method


def replayed_output(record: Record, chosen: Optional[Chosen]) -> Any:
    """Return what a recorded call gives to an adversarial pass: what is done to it there stays its own."""
    if record.name != 'forward':
        return snapshot(select_elements(record.output, chosen), copy_values)
    if chosen is not None:  # indexing copies
        return map_tensors(lambda t: select_samples(t, chosen), record.output)
    return map_tensors(Tensor.clone, record.output) if record.copied else record.output
