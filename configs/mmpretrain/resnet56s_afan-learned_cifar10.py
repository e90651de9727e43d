# The authors' variant with learned strengths (main_learnable.py): nine taps, every third block.
_base_ = './resnet56s_cifar10.py'

custom_hooks = [dict(type='mmafan.AdvFeatureHook')]

model = dict(
    type='mmafan.AFANImageClassifier',
    afan=dict(
        taps={
            name: dict(module=module, step_size=1 / 255, num_steps=3, weight=0.5 / 9)
            for name, module in dict(
                stem='backbone.relu',
                layer1_3='backbone.layer1.3',
                layer1_6='backbone.layer1.6',
                layer2_0='backbone.layer2.0',
                layer2_4='backbone.layer2.4',
                layer2_7='backbone.layer2.7',
                layer3_1='backbone.layer3.1',
                layer3_5='backbone.layer3.5',
                layer3_8='backbone.layer3.8').items()
        },
        clean_weight=0.5,
        batch_norm='shared',
        learn_strengths=dict(lr=0.01, momentum=0.9, l1=1.0, init=1 / 9)))
