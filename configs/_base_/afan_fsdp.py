# FSDP through mmengine; checkpoints are whole. A config lists this file beside an A-FAN config:
#
#     _base_ = ['../mmpretrain/resnet50_afan_in1k.py', '../_base_/afan_fsdp.py']
#
# Excludes afan.batch_norm='separate'. `min_num_params` is the number of parameters of a unit, the part of the network
# that is gathered at a time.
#
# Activation checkpointing goes by `strategy = dict(activation_checkpointing=dict(check_fn=...))`, mmengine's for FSDP,
# not by `with_cp=True`: in steps with A-FAN off that is torch's reentrant kind, which fails under FSDP.
runner_type = 'FlexibleRunner'
strategy = dict(
    type='FSDPStrategy',
    state_dict_cfg='full',
    model_wrapper=dict(
        type='MMFullyShardedDataParallel',
        use_orig_params=True,
        auto_wrap_policy=dict(
            type='torch.distributed.fsdp.wrap.size_based_auto_wrap_policy', min_num_params=1_000_000)))
