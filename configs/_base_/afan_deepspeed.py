# DeepSpeed's ZeRO through mmengine. A config lists this file beside an A-FAN config, and names the optimizer wrapper
# (`optim_wrapper` itself cannot come from two bases):
#
#     _base_ = ['../mmpretrain/resnet50_afan_in1k.py', '../_base_/afan_deepspeed.py']
#     strategy = dict(zero_optimization=dict(stage=3))
#     optim_wrapper = dict(type='DeepSpeedOptimWrapper')
#
# Stages shard the optimizer's state (1), gradients too (2), parameters too (3); 3 excludes afan.batch_norm='separate'.
# That wrapper takes the optimizer alone: clipping is strategy.gradient_clipping, accumulation
# strategy.gradient_accumulation_steps, half precision strategy.fp16 or strategy.bf16.
# Keys of zero_optimization: https://www.deepspeed.ai/docs/config-json/#zero-optimizations-for-fp16-training
runner_type = 'FlexibleRunner'
strategy = dict(type='DeepSpeedStrategy', zero_optimization=dict(stage=2))
