# The recipe for small data sets that a network learns by heart, for stock configs that have `custom_hooks` of their
# own: they add dict(type='mmafan.AdvFeatureHook', fit_threshold=0.3) to those. Others take afan_small_data.py, which
# has the hook. docs/when_to_use.md says when it helps and when it costs.
custom_imports = dict(imports=['mmafan'], allow_failed_imports=False)

# One tap right after the stem, and an additive step of a fifth of the feature's standard deviation: early taps and real
# steps gain where a training set is learned by heart; re-injecting channel statistics takes most of an attack back.
# The strengths follow how well the training set is fitted (the hook's fit_threshold), so that nothing is attacked
# where there is still something to learn. What comes before the tap keeps its gradient; what comes after it has twice
# of it while A-FAN is on.
afan_recipe = dict(
    taps=dict(backbone=dict(module='backbone.relu', step_size=0.2, step_unit='std', weight=1.0)),
    clean_weight=1.0,
    batch_norm='batch')
