# Which size of noise is the strongest control where 600 images are learned by heart, on the images and the seed of
# classification_tune_small_regimes.py?
_base_ = './classification_tune_small_regimes.py'
data_sets = dict(_delete_=True, n60=_base_.data_sets.n60)


def arm(module='backbone.relu', step_size=0.1, weight=1.0, clean=1.0, hook={}, **fields):
    fields = dict(dict(strengths=(1.0, ), reinject=False, strength_sampling='all'), module=module, step_size=step_size,
                  weight=weight, **fields)
    return dict(options={
        'model.afan.clean_weight': clean, **{f'model.afan.taps.backbone.{k}': v for k, v in fields.items()},
        'custom_hooks': [dict(type='mmafan.AdvFeatureHook', **hook)]})


fit = dict(fit_threshold=1.0)
arms = {
    '_delete_': True,
    'baseline': dict(stock=True),
    'stem 0.1 fit': arm(hook=fit),
    'noise 0.3 fit': arm(hook=fit, step_size=0.3, direction='random_sign'),
    'stem 0.2 fit': arm(hook=fit, step_size=0.2),
    'noise 0.6 fit': arm(hook=fit, step_size=0.6, direction='random_sign'),
    'stem 0.1': arm(),
    'noise 0.1 fit': arm(hook=fit, direction='random_sign'),
    'zero step': arm(step_size=0.0),
}
del arm, fit
