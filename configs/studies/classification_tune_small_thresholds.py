# classification_tune_small_regimes.py with another seed: from which loss on should the step rise, and how far?
_base_ = './classification_tune_small_regimes.py'
seeds = [201]
data_sets = dict(_delete_=True, n60=_base_.data_sets.n60, n60crop=_base_.data_sets.n60crop)


def arm(module='backbone.relu', step_size=0.1, weight=1.0, clean=1.0, hook={}, **fields):
    fields = dict(dict(strengths=(1.0, ), reinject=False, strength_sampling='all'), module=module, step_size=step_size,
                  weight=weight, **fields)
    return dict(options={
        'model.afan.clean_weight': clean, **{f'model.afan.taps.backbone.{k}': v for k, v in fields.items()},
        'custom_hooks': [dict(type='mmafan.AdvFeatureHook', **hook)]})


arms = {
    '_delete_': True,
    'baseline': dict(stock=True),
    'stem 0.2 fit 0.3': arm(hook=dict(fit_threshold=0.3), step_size=0.2),
    'stem 0.2 fit 0.5': arm(hook=dict(fit_threshold=0.5), step_size=0.2),
    'stem 0.3 fit 0.3': arm(hook=dict(fit_threshold=0.3), step_size=0.3),
}
del arm
