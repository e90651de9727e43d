"""Every family of stock models beside its A-FAN version: one config each, made small, one proof and one prediction."""
from .families import family_names, training_configs
from .row import Row
from .sweep import run_sweep
from .trial import try_config, try_family

__all__ = ['Row', 'family_names', 'run_sweep', 'training_configs', 'try_config', 'try_family']
