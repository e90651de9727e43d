# The controls of segmentation_nuclei.py with batches of 8, and with ten times the step: two thirds of the training
# folder train, one third validates; segmentation_step_size.py, which suggested 0.3, validated on other images.
_base_ = './segmentation_nuclei.py'
seeds = [10, 11, 12]
options = {
    'train_dataloader.batch_size': 8,
    'train_dataloader.dataset.indices': [i for i in range(201) if i % 3],
    'val_dataloader.dataset.indices': list(range(0, 201, 3)),
}


def larger(**fields):
    fields['step_size'] = 0.3
    return {f'model.afan.taps.{tap}.{k}': v for tap in ('backbone', 'aspp') for k, v in fields.items()}


arms = {
    '_delete_': True,
    **{name: _base_.arms[name] for name in ('baseline', 'equal compute', 'zero step', 'noise', 'A-FAN')},
    'noise 0.3': dict(control=True, options=larger(direction='random_sign')),
    'A-FAN 0.3': dict(options=larger()),
}
del larger
