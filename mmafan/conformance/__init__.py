"""Every family of stock models beside its A-FAN version: one config each, made small, one proof and one prediction."""
from .families import choose_config, family_names
from .sweep import run_sweep
from .trial import Row, try_config

__all__ = ['Row', 'choose_config', 'family_names', 'run_sweep', 'try_config']
