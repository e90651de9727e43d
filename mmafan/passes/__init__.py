"""One training pass: which pass is running, what it captured, and how the head is replayed."""
from .batch import Batch
from .recording import Recording, TapCapture
from .state import PassKind, current_pass, running_pass

__all__ = ['Batch', 'PassKind', 'Recording', 'TapCapture', 'current_pass', 'running_pass']
