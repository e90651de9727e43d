# Taps and strengths of the published COCO recipe for two-stage detectors, on a stock schedule. A
# config that lists this file beside a stock config takes its fields with
# `model = dict(afan=_base_.afan_recipe)`: `model` itself cannot come from two bases.
custom_imports = dict(imports=['mmafan'], allow_failed_imports=False)
custom_hooks = [dict(type='mmafan.AdvFeatureHook')]

# Published: taps, step sizes, strengths, re-injection, frozen batch norms. Ours: the weights, which
# sum to 1 (0.5 + 4 * 0.1 + 0.1), so that the scale of the loss, and with it the learning rate,
# stays that of the stock config.
afan_recipe = dict(
    taps=dict(
        backbone=dict(
            module='backbone.layer2',
            step_size=0.1 / 255,
            strengths=(0.25, 0.5, 0.75, 1.0),
            reinject=(False, False, True, True),
            moments='channel',
            weight=0.1),
        # The vector of each RoI before the two branches; only the losses of the RoI head count.
        roi=dict(
            module='roi_head.bbox_head.shared_fcs',
            step_size=0.1 / 255,
            weight=0.1,
            losses=('loss_cls', 'loss_bbox'))),
    clean_weight=0.5,
    batch_norm='frozen')
