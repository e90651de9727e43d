"""Hooks: the schedule of A-FAN, randomness that survives a resume, and a peer to compare with."""
from .adv_feature_hook import AdvFeatureHook
from .moment_exchange_hook import MomentExchangeHook
from .resumable_seed_hook import ResumableSeedHook

__all__ = ['AdvFeatureHook', 'MomentExchangeHook', 'ResumableSeedHook']
