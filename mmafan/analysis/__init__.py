"""What a step of A-FAN costs, measured beside the step without it, and the proof that it does what it has to."""
from .compute import count_training_flops
from .cost import StepCost, measure_step_cost, theoretical_cost
from .data import load_batches, random_batches
from .memory import peak_memory, resident_bytes
from .proof import Proof, prove
from .published import published_step

__all__ = [
    'Proof', 'StepCost', 'count_training_flops', 'load_batches', 'measure_step_cost', 'peak_memory', 'prove',
    'published_step', 'random_batches', 'resident_bytes', 'theoretical_cost'
]
