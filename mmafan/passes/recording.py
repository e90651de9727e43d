"""Record a clean pass at its taps, and replay its head in an adversarial pass.

A *tap* is the output of one module; what runs before it is the *head* and what runs after it the *tail*. While a clean
pass is recorded, every module that has finished when a tap is reached leaves its output behind. In an adversarial pass
those modules return what they left (detached), the tap's module returns a perturbed feature, and only the tail really
runs, with the random draws of the clean pass. Nothing here knows a model's forward.
"""
from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from .batch import floating, map_tensors, select_samples, tensors_of
from .rng import RandomState
from .state import PassKind, running_pass

INPUTS = 'inputs'
Records = List[Tuple[nn.Module, Any]]


def autocast_enabled() -> bool:
    """Whether autocast is on, for the GPU or the CPU."""
    try:
        return torch.is_autocast_enabled('cuda') or torch.is_autocast_enabled('cpu')
    except TypeError:  # torch < 2.4
        return torch.is_autocast_enabled() or torch.is_autocast_cpu_enabled()


class TapCapture:
    """What the clean pass left at one tap.

    Attributes:
        outputs: Output of every call of the tap's module, detached; usually one call with one tensor ``(N, C, ...)``.
        live: The floating tensors, still part of the clean graph (for ``autograd.grad``).
        gradients: ``dL/df`` for each of ``live``, filled in by the clean backward.
        head: The modules that had finished, outermost only, with their detached outputs in order of calls.
        random_state: Random streams as they were when the tap was reached.
        autocast: Whether the tap was reached under autocast.
    """

    def __init__(self) -> None:
        self.outputs: List[Any] = []
        self.live: List[Tensor] = []
        self.gradients: List[Optional[Tensor]] = []
        self.head: Records = []
        self.random_state: Optional[RandomState] = None
        self.autocast = False

    @property
    def features(self) -> List[Tensor]:
        """The clean floating tensors, detached, in the order of :attr:`live`."""
        return [t for output in self.outputs for t in floating(output)]

    def take(self, output: Any) -> Any:
        """Keep an output and return the copy that the tail consumes.

        The copy keeps later in-place operations (``ReLU(inplace=True)``) away from the recorded feature.
        """
        self.outputs.append(map_tensors(Tensor.detach, output))
        return map_tensors(self._track, output)

    def _track(self, tensor: Tensor) -> Tensor:
        if not torch.is_floating_point(tensor):
            return tensor
        index = len(self.live)
        self.live.append(tensor)
        self.gradients.append(None)
        if tensor.requires_grad:

            def keep(gradient: Tensor) -> None:
                self.gradients[index] = gradient.detach()

            tensor.register_hook(keep)
        return tensor.clone()

    def rebuild(self, features: Sequence[Tensor], indices: Optional[Tensor], size: int) -> List[Any]:
        """Put perturbed tensors in the places of the clean ones.

        Args:
            features: One tensor for each of :attr:`features`.
            indices: The samples they stand for, if not all.
            size: Number of samples in the clean batch.
        """
        replacements = iter(features)

        def replace(tensor: Tensor) -> Tensor:
            if torch.is_floating_point(tensor):
                return next(replacements)
            return tensor if indices is None else select_samples(tensor, indices, size)

        return [map_tensors(replace, output) for output in self.outputs]

    def release_graph(self) -> None:
        """Forget the clean graph."""
        self.live = []


class Recording:
    """Record one clean pass; afterwards replay its head for as many adversarial passes as wanted.

    Args:
        model: The model whose forward is run inside.
        taps: Tap name to dotted module name, or ``'inputs'``.
        size: Number of samples in the batch.
        keep_head: Record the head for replay; False makes :meth:`replay` run it again.
    """

    def __init__(self, model: nn.Module, taps: Mapping[str, str], size: int, keep_head: bool = True) -> None:
        self.size = size
        self.captures: Dict[str, TapCapture] = {name: TapCapture() for name in taps}
        self._modules = {name: model.get_submodule(path) for name, path in taps.items() if path != INPUTS}
        self._names = {id(module): name for name, module in self._modules.items()}
        self._keep_head = keep_head
        self._frames: List[Tuple[Optional[nn.Module], Records]] = [(None, [])]
        self._waiting = set(self._modules)
        self._start: Optional[RandomState] = None
        self._end: Optional[RandomState] = None
        self._model = model

    # ------------------------------------------------------------------ the clean pass
    def __enter__(self) -> 'Recording':
        self._start = RandomState()
        self._handles: List[Any] = []
        skipped = getattr(self._model, 'data_preprocessor', None)
        for module in self._model.modules():
            if module is self._model or module is skipped:
                continue
            if self._keep_head and next(module.children(), None) is not None:
                self._handles.append(module.register_forward_pre_hook(self._open_frame))
            if self._keep_head or id(module) in self._names:
                self._handles.append(module.register_forward_hook(self._finish))
        return self

    def __exit__(self, *_: Any) -> None:
        for handle in self._handles:
            handle.remove()
        self._frames = [(None, [])]
        self._end = RandomState()

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
            self._frames[-1][1].append((module, map_tensors(Tensor.detach, output)))
        return output if name is not None else None

    def _reach_tap(self, name: str, output: Any) -> Any:
        capture = self.captures[name]
        if name in self._waiting:
            self._waiting.remove(name)
            capture.head = [record for _, frame in self._frames for record in frame]
            capture.random_state = RandomState()
            capture.autocast = autocast_enabled()
        return capture.take(output)

    # ------------------------------------------------------------------ adversarial passes
    @contextmanager
    def replay(self,
               name: str,
               features: Sequence[Tensor],
               kind: PassKind,
               batch_norm: str,
               indices: Optional[Tensor] = None,
               with_grad: bool = True) -> Iterator[None]:
        """Run the forward inside as an adversarial pass of tap ``name``.

        Args:
            name: The tap.
            features: What its module returns: one tensor for each of ``captures[name].features``.
            kind: ``ATTACK`` or ``ADVERSARIAL``.
            batch_norm: Policy of the norms in the tail.
            indices: The samples the pass is for, if not all; the forward must get the same samples.
            with_grad: Whether the tail builds a graph.

        Raises:
            RuntimeError: If the pass never reaches the tap.
        """
        capture = self.captures[name]
        outputs = capture.rebuild(features, indices, self.size)
        grad_mode = torch.is_grad_enabled()
        patched: List[nn.Module] = []
        with ExitStack() as stack:
            try:
                if name not in self._modules:  # the tap 'inputs': everything is tail
                    self._start_tail(stack, capture, kind, batch_norm, with_grad)
                    yield
                    return
                if self._start is not None:
                    self._start.restore()
                torch.set_grad_enabled(False)
                stack.enter_context(running_pass(PassKind.ATTACK, 'batch'))  # a head that runs leaves no trace
                for module, recorded in self._grouped(capture.head):
                    self._patch(module, self._returner(module, recorded, indices))
                    patched.append(module)
                calls: List[int] = []

                def tap_forward(*_: Any, **__: Any) -> Any:
                    if not calls:
                        self._start_tail(stack, capture, kind, batch_norm, with_grad)
                    calls.append(1)
                    if len(calls) > len(outputs):
                        raise RuntimeError(f"the module of tap '{name}' ran {len(calls)} times in an adversarial "
                                           f'pass but {len(outputs)} times in the clean one')
                    return outputs[len(calls) - 1]

                self._patch(self._modules[name], tap_forward)
                patched.append(self._modules[name])
                yield
                if not calls:
                    raise RuntimeError(f"the module of tap '{name}' was not reached in an adversarial pass, "
                                       f'although the clean pass reached it')
            finally:
                for module in patched:
                    module.__dict__['forward'] = module.__dict__.pop('_afan_forward')
                    if module.__dict__['forward'] is None:
                        del module.__dict__['forward']
                torch.set_grad_enabled(grad_mode)
                if self._end is not None:
                    self._end.restore()

    @staticmethod
    def _start_tail(stack: ExitStack, capture: TapCapture, kind: PassKind, batch_norm: str,
                    with_grad: bool) -> None:
        stack.enter_context(running_pass(kind, batch_norm))
        torch.set_grad_enabled(with_grad)
        torch.clear_autocast_cache()  # weights cast while gradients were off have none
        if capture.random_state is not None:
            capture.random_state.restore()

    @staticmethod
    def _grouped(records: Records) -> List[Tuple[nn.Module, List[Any]]]:
        grouped: Dict[int, Tuple[nn.Module, List[Any]]] = {}
        for module, output in records:
            grouped.setdefault(id(module), (module, []))[1].append(output)
        return list(grouped.values())

    @staticmethod
    def _patch(module: nn.Module, forward: Callable[..., Any]) -> None:
        if '_afan_forward' not in module.__dict__:
            module.__dict__['_afan_forward'] = module.__dict__.get('forward')
        module.__dict__['forward'] = forward

    def _returner(self, module: nn.Module, recorded: List[Any],
                  indices: Optional[Tensor]) -> Callable[..., Any]:
        original = module.forward
        remaining = iter(recorded)
        nothing = object()

        def forward(*args: Any, **kwargs: Any) -> Any:
            output = next(remaining, nothing)
            if output is nothing:  # a module that runs before and after the tap
                return original(*args, **kwargs)
            if indices is None:
                return output
            return map_tensors(lambda t: select_samples(t, indices, self.size), output)

        return forward

    def check(self) -> Iterator[Tuple[str, str]]:
        """Yield ``(tap, what is wrong)`` for taps that cannot work, after the clean forward."""
        for name, capture in self.captures.items():
            if not capture.outputs:
                yield name, 'never ran in the forward pass of the loss'
            elif not any(tensors_of(output) for output in capture.outputs):
                kinds = ', '.join(sorted({type(output).__name__ for output in capture.outputs}))
                yield name, f'returns {kinds}, which holds no tensor'
            elif not capture.live:
                yield name, 'returns no floating tensor'
            elif not any(t.requires_grad for t in capture.live):
                yield name, ('returns a feature without gradient (frozen parameters before it, a no_grad block, or '
                             'reentrant activation checkpointing)')
