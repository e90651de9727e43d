"""Hooks: the schedule of A-FAN, and randomness that survives a resume."""
from .adv_feature_hook import AdvFeatureHook
from .resumable_seed_hook import ResumableSeedHook

__all__ = ['AdvFeatureHook', 'ResumableSeedHook']
