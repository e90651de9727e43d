# The detection demo with A-FAN: features after the second stage, one drawn strength for each image,
# the two stronger ones re-injected, and the vector of each RoI. The weights sum to 1.
_base_ = './faster_rcnn_digits.py'

custom_hooks = [dict(type='mmafan.AdvFeatureHook')]

model = dict(
    type='mmafan.AFANFasterRCNN',
    afan=dict(
        taps=dict(
            backbone=dict(
                module='backbone.layer2',
                step_size=0.1,
                step_unit='std',
                strengths=(0.25, 0.5, 0.75, 1.0),
                strength_sampling='random',
                reinject=(False, False, True, True),
                weight=0.4),
            roi=dict(
                module='roi_head.bbox_head.shared_fcs.1',
                step_size=0.1,
                step_unit='std',
                weight=0.1,
                losses=('loss_cls', 'loss_bbox'))),
        clean_weight=0.5,
        batch_norm='batch'))
