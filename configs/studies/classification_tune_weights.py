# Which weights for the clean and the adversarial terms? An adversarial pass trains what comes after its tap alone, so
# that weights of 1/2 and 1/2 halve the gradient of what comes before. Hands that show digits; none of the images that
# validate here is one of classification_sign_digits.py.
_base_ = './classification_sign_digits.py'
seeds = [100, 101]
options = {
    'train_dataloader.dataset.indices': [i for i in range(1000) if 10 <= i % 100 < 20],
    'val_dataloader.dataset.datasets': [
        dict(type='CustomDataset', data_root='data/signdigits', data_prefix='train',
             indices=[i for i in range(1000) if i % 100 >= 60],
             pipeline=_base_.options['train_dataloader.dataset.pipeline'][:2] + [dict(type='PackInputs')])],
}


def arm(clean_weight, weight, **fields):
    fields = {f'model.afan.taps.backbone.{k}': v for k, v in dict(fields, weight=weight).items()}
    return dict(options={'model.afan.clean_weight': clean_weight, **fields})


arms = {
    '_delete_': True,
    'baseline': dict(stock=True),
    'zero step, 0.5 + 0.5': arm(0.5, 0.5, step_size=0.0),
    'zero step, 1 + 0.5': arm(1.0, 0.5, step_size=0.0),
    'A-FAN, 0.5 + 0.5': arm(0.5, 0.5),
    'A-FAN, 1 + 0.5': arm(1.0, 0.5),
    'A-FAN 0.1, 1 + 0.5': arm(1.0, 0.5, step_size=0.1),
}
del arm
