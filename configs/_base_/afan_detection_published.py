# The authors' detection recipe for Faster R-CNN C4, as their train_aug_final.py runs it; see
# configs/mmdet/README.md for what mmdet's C4 does differently.
custom_imports = dict(imports=['mmafan'], allow_failed_imports=False)
custom_hooks = [dict(type='mmafan.AdvFeatureHook')]

# (clean + 4 adversarial) / 3 * 0.7 + roi / 3 * 0.3: as published the weights sum to 1.27.
afan_recipe = dict(
    taps=dict(
        backbone=dict(
            module='backbone.layer2',
            step_size=1 / 255,
            strengths=(0.25, 0.5, 0.75, 1.0),
            reinject=(False, False, True, True),
            moments='channel',
            weight=0.7 / 3),
        # The pooled RoI vector. Three settings are published: step_size=0.1 / 255 (this one),
        # step_size=0.05 / 255, and step_size=0.2 / 255 with reinject=True.
        roi=dict(
            module='roi_head.bbox_head.avg_pool',
            step_size=0.1 / 255,
            weight=0.3 / 3,
            losses=('loss_cls', 'loss_bbox'))),
    clean_weight=0.7 / 3,
    batch_norm='frozen')
