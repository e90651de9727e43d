"""Wrappers for several processes."""
from .distributed import AFANDistributedDataParallel

__all__ = ['AFANDistributedDataParallel']
