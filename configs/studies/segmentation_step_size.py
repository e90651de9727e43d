# Which step size, in units of the standard deviation of the tap, for segmentation? One tap at the end
# of the third stage and one at the output of the ASPP, both with the same step.
config = '../mmseg/deeplabv3plus_r18-d8_afan_nuclei-96x96.py'
metric = 'mIoU'
seeds = 2
options = {
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'val_dataloader.num_workers': 0,
    'val_dataloader.persistent_workers': False,
}


def arm(step_size, **fields):
    taps = 'model.afan.taps'
    return dict(
        options={
            f'{taps}.backbone.step_size': step_size,
            f'{taps}.aspp.step_size': step_size,
            **{f'{taps}.{tap}.{k}': v
               for tap in ('backbone', 'aspp') for k, v in fields.items()}
        })


arms = {
    'baseline': dict(stock=True),
    '0': arm(0.0),
    '0.03': arm(0.03),
    '0.1': arm(0.1),
    '0.3': arm(0.3),
    '1': arm(1.0),
    '0.3 noise': arm(0.3, direction='random_sign'),
}
del arm
