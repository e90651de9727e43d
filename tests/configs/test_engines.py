"""The bases of engines that shard, without the engines: they merge, and their fields are ones the engines know."""
from __future__ import annotations

import inspect

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODEL_WRAPPERS, OPTIM_WRAPPERS, RUNNERS, STRATEGIES

pytest.importorskip('mmpretrain', reason='the configs are for classification')
pytest.importorskip('sklearn', reason='the digits are part of scikit-learn')

# The fields of `zero_optimization` in deepspeed 0.16.9 that are not deprecated, the oracle where it is not installed;
# their meaning: https://www.deepspeed.ai/docs/config-json/#zero-optimizations-for-fp16-training
ZERO_FIELDS = {
    'stage', 'contiguous_gradients', 'reduce_scatter', 'reduce_bucket_size', 'use_multi_rank_bucket_allreduce',
    'allgather_partitions', 'allgather_bucket_size', 'overlap_comm', 'load_from_fp32_weights', 'elastic_checkpoint',
    'offload_param', 'offload_optimizer', 'sub_group_size', 'stage3_prefetch_bucket_size',
    'stage3_param_persistence_threshold', 'stage3_model_persistence_threshold', 'stage3_max_live_parameters',
    'stage3_max_reuse_distance', 'stage3_gather_16bit_weights_on_model_save', 'stage3_module_granularity_threshold',
    'stage3_use_all_reduce_for_fetch_params', 'ignore_unused_parameters', 'legacy_stage1', 'round_robin_gradients',
    'zero_hpz_partition_size', 'zero_quantized_weights', 'zero_quantized_nontrainable_weights',
    'zero_quantized_gradients', 'zeropp_loco_param', 'mics_shard_size', 'mics_hierarchical_params_gather',
    'memory_efficient_linear', 'pipeline_loading_checkpoint', 'override_module_apply', 'log_trace_cache_warnings'}
DEEPSPEED = "optim_wrapper = dict(type='DeepSpeedOptimWrapper')\n"


def read(repo, folder, engine, text=''):
    bases = [str(repo / 'configs' / name) for name in ('mmpretrain/resnet_afan_digits.py', f'_base_/afan_{engine}.py')]
    config = folder / 'config.py'
    config.write_text(f'_base_ = {bases!r}\n{text}')
    return Config.fromfile(str(config))


def accepted(cls):
    """Names of the arguments of a class whose keyword arguments go on to its bases."""
    return {name for base in cls.__mro__ if '__init__' in vars(base)
            for name, p in inspect.signature(base.__init__).parameters.items() if p.kind is not p.VAR_KEYWORD}


@pytest.mark.parametrize('engine, text', [('deepspeed', DEEPSPEED), ('fsdp', '')], ids=['deepspeed', 'fsdp'])
def test_base_merges_with_an_afan_config_and_names_what_mmengine_has(repo, tmp_path, engine, text):
    plain = Config.fromfile(str(repo / 'configs/mmpretrain/resnet_afan_digits.py'))
    cfg = read(repo, tmp_path, engine, text)
    assert cfg.model == plain.model and cfg.custom_hooks == plain.custom_hooks
    assert cfg.optim_wrapper.optimizer == plain.optim_wrapper.optimizer
    assert RUNNERS.get(cfg.runner_type).__name__ == 'FlexibleRunner'
    fields = dict(cfg.strategy)
    strategy = STRATEGIES.get(fields.pop('type'))
    assert strategy is not None and fields and fields.keys() <= accepted(strategy)


def test_optimizer_wrapper_of_deepspeed_takes_the_optimizer_alone(repo, tmp_path):
    wrapper = dict(read(repo, tmp_path, 'deepspeed', DEEPSPEED).optim_wrapper)
    cls = OPTIM_WRAPPERS.get(wrapper.pop('type'))
    assert cls.__name__ == 'DeepSpeedOptimWrapper'
    assert wrapper.keys() == set(inspect.signature(cls).parameters) == {'optimizer'}
    # The fields that stand in for those of other wrappers, as the base says.
    assert {'gradient_clipping', 'gradient_accumulation_steps', 'fp16', 'bf16'} <= accepted(
        STRATEGIES.get('DeepSpeedStrategy'))


@pytest.mark.parametrize('stage', [None, 0, 1, 2, 3])
def test_zero_has_a_stage_and_fields_that_deepspeed_knows(repo, tmp_path, stage):
    text = '' if stage is None else f'strategy = dict(zero_optimization=dict(stage={stage}))\n'
    zero = read(repo, tmp_path, 'deepspeed', DEEPSPEED + text).strategy.zero_optimization
    assert zero.keys() <= ZERO_FIELDS
    assert zero.stage == (2 if stage is None else stage) and zero.stage in range(4)


def test_an_installed_deepspeed_takes_the_fields(repo, tmp_path):
    config = pytest.importorskip('deepspeed.runtime.zero.config', reason='needs pip install deepspeed==0.16.9')
    zero = read(repo, tmp_path, 'deepspeed', DEEPSPEED).strategy.zero_optimization.to_dict()
    assert config.DeepSpeedZeroConfig(**zero).stage == zero['stage']
    known = {field.alias or name for name, field in config.DeepSpeedZeroConfig.model_fields.items()}
    assert zero.keys() <= known


def test_wrapper_of_fsdp_takes_the_fields(repo, tmp_path):
    fields = dict(read(repo, tmp_path, 'fsdp').strategy.model_wrapper)
    wrapper = MODEL_WRAPPERS.get(fields.pop('type'))
    assert fields.keys() <= accepted(wrapper)
    policy = dict(fields['auto_wrap_policy'])
    name = policy.pop('type').rpartition('.')
    function = getattr(__import__(name[0], fromlist=[name[2]]), name[2])
    assert policy.keys() <= set(inspect.signature(function).parameters)


@pytest.mark.parametrize('sharded', [True, False])
def test_auxiliary_norms_are_refused_where_parameters_are_sharded(tiny_classifier, sharded):
    """ZeRO stage 3 leaves parameters without elements between their uses; stages 0 to 2 leave them whole."""
    from mmafan.hooks.training_state import check_auxiliary
    model = tiny_classifier(afan=dict(taps=dict(s=dict(module='backbone.layer1', step_size=0.1)),
                                      batch_norm='separate'))
    if not sharded:
        check_auxiliary(model)
        return
    for parameter in model.parameters():
        parameter.data = torch.empty(0)
    with pytest.raises(ValueError, match=r"^afan.batch_norm must not be 'separate' where an engine shards .*ZeRO "
                                         r"stage 3\), got 'separate': use 'batch'[^.]*$"):
        check_auxiliary(model)
