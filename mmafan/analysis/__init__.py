"""What A-FAN costs: time and memory of a training step, measured beside the step without it."""
from .compute import count_training_flops
from .cost import StepCost, measure_step_cost, theoretical_cost
from .data import load_batches, random_batches
from .memory import peak_memory, resident_bytes
from .published import published_step

__all__ = [
    'StepCost', 'count_training_flops', 'load_batches', 'measure_step_cost', 'peak_memory', 'published_step',
    'random_batches', 'resident_bytes', 'theoretical_cost'
]
