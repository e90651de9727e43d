"""Run a forward as an adversarial pass: the head replays, the tap returns a perturbed feature, the tail runs."""
from __future__ import annotations

from contextlib import ExitStack, nullcontext
from typing import Any, Callable, ContextManager, Dict, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from .batch import map_tensors, select_samples
from .calls import Patches, WatchedCall, select_elements, snapshot
from .checkpointing import replaying
from .rng import RandomState
from .state import PassKind, running_pass
from .tap import Records, TapCapture
from .unused import Watch


class Replay:
    """Context in which the model's forward is one adversarial pass; everything is put back at its end.

    Args:
        name: Name of the tap, for messages.
        module: Module of the tap; None for the model inputs, where everything is tail.
        at: ``'output'`` or ``'input'`` of the module.
        capture: What the clean pass left at the tap.
        features: What is at the tap: one tensor for each of ``capture.features``.
        kind: ``ATTACK``, ``ADVERSARIAL`` or ``CHECK``.
        batch_norm: Policy of the norms in the tail.
        streams: Random streams at the begin and at the end of the clean pass.
        size: Number of samples in the clean batch.
        indices: The samples the pass is for, if not all; the forward must get the same samples.
        with_grad: Whether the tail builds a graph.
        calls: Methods that return what they returned in the clean pass, wherever they are called, with their records.
        protection: Context that keeps what a forward changes beside norms.
        watch: Notes which of the recorded outputs are read.

    Raises:
        RuntimeError: If the pass does not reach the tap as often as the clean one, or reads an output that was not
            kept.
    """

    def __init__(self, name: str, module: Optional[nn.Module], at: str, capture: TapCapture, features: Sequence[Tensor],
                 kind: PassKind, batch_norm: str, streams: Tuple[RandomState, RandomState], size: int,
                 indices: Optional[Tensor] = None, with_grad: bool = True,
                 calls: Sequence[Tuple[WatchedCall, Records]] = (),
                 protection: Optional[ContextManager[None]] = None, watch: Optional[Watch] = None) -> None:
        self._watch = watch
        self._calls_to_replay, self._protection = calls, protection or nullcontext()
        self._name, self._module, self._at, self._capture = name, module, at, capture
        self._state, self._with_grad = (kind, batch_norm), with_grad
        self._start, self._end = streams
        self._size, self._indices = size, indices
        self._outputs = capture.rebuild(features, indices, size)
        self._patches = Patches()
        self._calls = 0

    def __enter__(self) -> 'Replay':
        self._grad_mode = torch.is_grad_enabled()
        self._stack = ExitStack()
        self._stack.enter_context(self._protection)
        if self._watch is not None:
            self._stack.enter_context(self._watch)
            self._watch.draws_begin_at(self._start)
        self._stack.enter_context(replaying(lambda: self._module is not None and self._calls < len(self._outputs)))
        for call, records in self._calls_to_replay:
            self._replay_call(call, records)
        if self._module is None:
            self._begin_tail()
            return self
        self._start.restore()
        torch.set_grad_enabled(False)
        self._stack.enter_context(running_pass(PassKind.ATTACK, 'batch'))  # a head that runs leaves no trace
        everywhere = {call.key for call, _ in self._calls_to_replay}
        for key, records in _by_method(self._capture.head).items():
            if key not in everywhere:
                self._patches.set(records[0].owner, records[0].name,
                                  replayed(records, self._indices, self._size, self._watch))
        if self._watch is not None and self._at == 'output':
            self._watch.replays(self._module, len(self._outputs))
        self._stock_forward = self._module.forward
        self._patches.set(self._module, 'forward', self._tap_forward)
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._patches.undo()
        torch.set_grad_enabled(self._grad_mode)
        self._stack.close()
        self._end.restore()
        if kind is None and self._module is not None and self._calls != len(self._outputs):
            raise RuntimeError(f"the module of tap '{self._name}' ran {self._calls} times in an adversarial pass but "
                               f'{len(self._outputs)} times in the clean one')

    def _tap_forward(self, *_: Any, **__: Any) -> Any:
        if not self._calls:
            self._begin_tail()
        self._calls += 1
        if self._calls > len(self._outputs):
            raise RuntimeError(f"the module of tap '{self._name}' ran more often in an adversarial pass than the "
                               f'{len(self._outputs)} times of the clean one')
        output = self._outputs[self._calls - 1]
        if self._at == 'output':
            return output
        args, kwargs = output
        return self._stock_forward(*args, **kwargs)

    def _begin_tail(self) -> None:
        if self._watch is not None:
            self._watch.draws_begin_at(None)
        self._stack.enter_context(running_pass(*self._state))
        torch.set_grad_enabled(self._with_grad)
        torch.clear_autocast_cache()  # weights cast while gradients were off have none
        if self._capture.random_state is not None:
            self._capture.random_state.restore()

    def _replay_call(self, call: WatchedCall, records: Records) -> None:
        """Replay a method wherever it is called; the random streams go on as they did in the clean pass."""
        indices = self._indices
        if indices is not None and call.per_sample:
            if len(records) % self._size:
                raise RuntimeError(f'{type(call.owner).__name__}.{call.name} ran {len(records)} times for {self._size} '
                                   f'samples, so that its results cannot be told apart; set the fraction of tap '
                                   f"'{self._name}' to 1.0")
            chosen = set(indices.tolist())
            records, indices = [r for k, r in enumerate(records) if k % self._size in chosen], None
        self._patches.set(call.owner, call.name, replayed(records, indices, self._size, self._watch))


def replayed(records: Records, indices: Optional[Tensor], size: int,
             watch: Optional[Watch] = None) -> Callable[..., Any]:
    """Make a method that returns the recorded outputs in turn, and runs for real once they are used up.

    A module used before and after the tap (a shared activation) is replayed for its first calls alone.
    """
    stock = getattr(records[0].owner, records[0].name)
    remaining = iter(records)
    if watch is not None and records[0].name == 'forward':
        watch.replays(records[0].owner, len(records))

    def method(*args: Any, **kwargs: Any) -> Any:
        record = next(remaining, None)
        if record is None:
            return stock(*args, **kwargs)
        if record.random_state is not None:
            if watch is not None:
                watch.draws_begin_at(record.random_state)
            record.random_state.restore()
        if record.name != 'forward':  # what the codebase does to a result stays its own
            return snapshot(Tensor.detach, select_elements(record.output, indices, size))
        output = record.output
        if record.unused:
            return output
        if indices is not None:  # indexing copies
            output = map_tensors(lambda t: select_samples(t, indices, size), output)
        elif record.copied:
            output = map_tensors(Tensor.clone, output)
        return output if watch is None else watch.hand_out(record.owner, output)

    return method


def _by_method(records: Records) -> Dict[Tuple[int, str], Records]:
    grouped: Dict[Tuple[int, str], Records] = {}
    for record in records:
        grouped.setdefault((id(record.owner), record.name), []).append(record)
    return grouped
