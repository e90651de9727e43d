# The default recipe for stock configs that have `custom_hooks` of their own: they add
# dict(type='mmafan.AdvFeatureHook') to those. Others take afan_backbone.py, which has the hook.
custom_imports = dict(imports=['mmafan'], allow_failed_imports=False)

# One tap in the backbone. Every sample draws one of four strengths, so there is one adversarial
# pass; the statistics of the stronger half are re-injected, as published. What comes before the tap
# keeps the gradient that it has in the stock config: with a clean_weight of 0.5 it would have half of
# it, which cost up to 19 points where the schedule was short (docs/evidence_appendix.md). What comes
# after the tap has one and a half times of it. The running statistics of batch norms see clean features only.
afan_recipe = dict(
    taps=dict(
        backbone=dict(
            module='backbone.layer2',
            step_size=0.01,  # none was better beyond chance in docs/evidence_appendix.md
            step_unit='std',
            strengths=(0.25, 0.5, 0.75, 1.0),
            strength_sampling='random',
            reinject=(False, False, True, True),
            moments='channel',
            weight=0.5)),
    clean_weight=1.0,
    batch_norm='batch')
