# Which statistics for the batch norms of an adversarial pass? On the images of classification_tune_digits.py.
_base_ = './classification_tune_digits.py'
seeds = [100, 101, 102, 103, 104]


def arm(batch_norm, strengths=(1.0, )):
    return dict(options={
        'model.afan.batch_norm': batch_norm,
        'model.afan.clean_weight': 0.5,
        'model.afan.taps.stage1': dict(
            module='backbone.layer2', step_size=0.03, step_unit='std', strengths=strengths, strength_sampling='random',
            reinject=False, weight=0.5)
    })


arms = {
    '_delete_': True,
    'baseline': dict(stock=True),
    'own batch': arm('batch'),
    'shared': arm('shared'),
    'running': arm('frozen'),
    'separate': arm('separate'),
    # Half of the samples at random are as good as clean, so that the batch that a norm sees is a mixture.
    'mixed batch': arm('batch', (0.001, 1.0)),
}
del arm
