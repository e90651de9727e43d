"""Record a clean pass of a model, and replay it up to a tap as often as wanted: see README.md beside this file."""
from .batch import INPUTS, Batch, Chosen
from .facts import Facts, WatchedCall
from .recording import Recording
from .replay import Replay
from .state import PassKind, PassState, current_pass, running_pass
from .tap import TapCapture

__all__ = ['INPUTS', 'Batch', 'Chosen', 'Facts', 'PassKind', 'PassState', 'Recording', 'Replay', 'TapCapture',
           'WatchedCall', 'current_pass', 'running_pass']
