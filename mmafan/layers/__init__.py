"""Layers: batch norm that knows which pass is running."""
from .afan_norm import AFANNorm, PassAwareNorm, adopt_norms

__all__ = ['AFANNorm', 'PassAwareNorm', 'adopt_norms']
