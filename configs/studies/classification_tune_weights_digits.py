# The question of classification_tune_weights.py on handwritten digits, where 30 epochs are nearly enough; images of
# classification_tune_digits.py.
_base_ = './classification_tune_digits.py'
seeds = [100, 101, 102, 103, 104]


def arm(clean_weight, step_size):
    return dict(options={
        'model.afan.clean_weight': clean_weight,
        'model.afan.taps.stage1': dict(
            module='backbone.layer2', step_size=step_size, step_unit='std', strengths=(1.0, ), reinject=False,
            weight=0.5)
    })


arms = {
    '_delete_': True,
    'baseline': dict(stock=True),
    # The sum of the weights 1 and 0.5, in the learning rate.
    'equal loss scale': dict(stock=True, options={'optim_wrapper.optimizer.lr': 0.15}),
    'zero step, 0.5 + 0.5': arm(0.5, 0.0),
    'zero step, 1 + 0.5': arm(1.0, 0.0),
    'A-FAN, 0.5 + 0.5': arm(0.5, 0.01),
    'A-FAN, 1 + 0.5': arm(1.0, 0.01),
}
del arm
