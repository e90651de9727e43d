"""Files that survive: written whole or not at all, read without running what they hold, and locked while in use.

Nothing here knows A-FAN or a codebase.
"""
from .checkpoints import Found, find_checkpoint, problem_of
from .lock import FolderLock
from .writing import is_disk_full, remove_parts, write_whole

__all__ = ['FolderLock', 'Found', 'find_checkpoint', 'is_disk_full', 'problem_of', 'remove_parts', 'write_whole']
