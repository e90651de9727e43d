"""One training pass: which pass is running, what it captured, and how the head is replayed."""
from .batch import Batch
from .recording import Recording
from .state import PassKind, current_pass, running_pass
from .tap import TapCapture

__all__ = ['Batch', 'PassKind', 'Recording', 'TapCapture', 'current_pass', 'running_pass']
