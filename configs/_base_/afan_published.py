# The authors' recipe for CIFAR-10 (main_perturb.py): five attack steps, one strength, no re-injection. A config that
# lists this file beside another takes its fields with `model = dict(afan=_base_.afan_recipe)`: `model` itself cannot
# come from two bases.
custom_hooks = [dict(type='mmafan.AdvFeatureHook')]

afan_recipe = dict(
    taps=dict(
        backbone=dict(
            module='backbone.layer1',
            step_size=0.5 / 255,
            num_steps=5,
            strengths=(1.0, ),
            reinject=False,
            weight=0.5)),
    clean_weight=0.5,
    batch_norm='shared')
