# The arms of segmentation_nuclei_controls.py with three times the iterations, and other seeds.
_base_ = './segmentation_nuclei_controls.py'
seeds = [20, 21, 22]


def length(iterations):
    return {
        'train_cfg.max_iters': iterations,
        'train_cfg.val_interval': iterations,
        'param_scheduler': [
            dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
            dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=False, begin=50, end=iterations),
        ]
    }


options = length(1200)
arms = {'equal compute': dict(options=length(2400))}
del length
