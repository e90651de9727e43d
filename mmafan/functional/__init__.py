"""Pure tensor algebra of A-FAN: no state, no mmengine."""
from .perturb import (ascend, draw_random_start, draw_strengths, finite_samples, mix_strength, per_sample, project_l2,
                      project_linf, sample_std, strongest_gradients)
from .statistics import MOMENTS, feature_moments, normalize_feature, reinject_statistics

__all__ = ['MOMENTS', 'ascend', 'draw_random_start', 'draw_strengths', 'feature_moments', 'finite_samples',
           'mix_strength', 'normalize_feature', 'per_sample', 'project_l2', 'project_linf', 'reinject_statistics',
           'sample_std', 'strongest_gradients']
