"""A forward in a thread of its own, which waits wherever it comes to a module."""
from __future__ import annotations

import functools
import threading
from contextlib import ExitStack
from typing import Any, Callable, ContextManager, Dict, List, Optional, Tuple

import torch
from torch import nn

from .state import PassState
from .tap import autocasts

Key = Tuple[int, str]  # an object, by `id`, and the name of a method


class _Abandoned(BaseException):
    """Ends a waiting pass whose result nobody wants any more."""


class WaitingPass(threading.Thread):
    """A pass that waits in a thread of its own wherever it comes to a module.

    Args:
        run: Computes its result.

    Attributes:
        passes: Those it has begun and not ended, while it waits.
        replaced: Methods that are others for it alone.
        held: Parameters that are constants for it alone, by ``id``.
        left: What it has left in attributes, while it waits.
        asks: The module that it waits at, with its arguments.
        answer: What the module has returned for it, in a tuple; None: it has to run the module by itself.
        abandoned: Whether nobody wants its result any more.
        result: What it has computed.
        error: What has ended it.
    """

    def __init__(self, run: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._compute = run
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self.passes: List[PassState] = []
        self.replaced: Dict[Key, Callable[..., Any]] = {}
        self.held: Dict[int, nn.Parameter] = {}
        self.left: Dict[Any, Any] = {}
        self.asks: Optional[Tuple[nn.Module, Any, Any]] = None
        self.answer: Any = None
        self.abandoned = False
        self.result: Any = None
        self.error: Optional[BaseException] = None
        self._settings = _thread_settings()

    @property
    def done(self) -> bool:
        """Whether it has its result."""
        return not self.is_alive() and self.ident is not None

    def run(self) -> None:
        """Of the thread."""
        self._go.acquire()
        try:
            if not self.abandoned:
                with ExitStack() as stack:
                    for setting in self._settings:
                        stack.enter_context(setting())
                    self.result = self._compute()
        except BaseException as error:
            self.error = error
        self.asks = None
        self._back.release()

    def proceed(self) -> None:
        """Let it run until it waits again, or ends; called from the clean pass."""
        if self.ident is None:
            self.start()
        self._go.release()
        self._back.acquire()
        if self.error is not None or self.asks is None:
            self.join()
        if self.error is not None and not isinstance(self.error, _Abandoned):
            raise self.error

    def meet(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Wait at a module; return None where it has to run by itself, else a tuple with its result."""
        self.asks, self.answer = (module, args, kwargs), None
        self._back.release()
        self._go.acquire()
        self.asks = None
        if self.abandoned:
            raise _Abandoned
        answer, self.answer = self.answer, None
        return answer


def _thread_settings() -> List[Callable[[], ContextManager[Any]]]:
    """List what torch keeps for each thread, to be entered in another one."""
    settings: List[Callable[[], ContextManager[Any]]] = []
    cache = torch.is_autocast_cache_enabled()
    for device, dtype in autocasts():
        settings.append(functools.partial(torch.autocast, device, dtype, True, cache))
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        settings.append(functools.partial(torch.cuda.device, torch.cuda.current_device()))
        settings.append(functools.partial(torch.cuda.stream, torch.cuda.current_stream()))
    return settings
