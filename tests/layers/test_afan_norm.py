"""AFANNorm: batch norm bit for bit in a clean pass, and each policy's statistics in an adversarial one."""
from __future__ import annotations

import copy
import importlib
import io
import pickle
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.model import BaseModule, ExponentialMovingAverage, initialize, revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from mmengine.runner.checkpoint import get_state_dict, load_state_dict
from torch import nn

import mmafan
from mmafan.layers import AFANNorm, PassAwareNorm, adopt_norms
from mmafan.layers.afan_norm import AuxiliaryNorm
from mmafan.replay import PassKind, running_pass

POLICIES = ('shared', 'batch', 'frozen', 'separate')
KINDS = (PassKind.ATTACK, PassKind.ADVERSARIAL)
EVERY_POLICY = pytest.mark.parametrize('policy', POLICIES)
EVERY_KIND = pytest.mark.parametrize('kind', KINDS, ids=lambda k: k.value)
STOCK_KEYS = {'weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked'}


def randomise(norm, seed=0):
    """Give a norm parameters and statistics that are all different."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in norm.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return norm


def pair(policy=None, mode='train', **kwargs):
    """An AFANNorm and the stock layer with the same state."""
    stock = randomise(nn.BatchNorm2d(6, **kwargs))
    norm = AFANNorm(6, policy=policy, **kwargs)
    norm.load_state_dict(stock.state_dict())
    return norm.train(mode == 'train'), stock.train(mode == 'train')


def tap(**fields):
    """The field afan of a model config, with one tap."""
    return dict(taps=dict(s=dict(module='backbone.layer1', step_size=0.1)), **fields)


def state(norm):
    return {k: v.clone() for k, v in norm.state_dict().items()}


def assert_same_state(one, other):
    assert one.keys() == other.keys()
    for key in one:
        assert torch.equal(one[key], other[key]), key


def run(norm, x):
    """Output, and gradients of the input and the parameters, for a fixed upstream gradient."""
    x = x.clone().requires_grad_()
    out = norm(x)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(3)).to(out)
    return [out.detach(), *torch.autograd.grad((out * upstream).sum(), [x, norm.weight, norm.bias])]


def column(values, x):
    return np.asarray(values).reshape(1, -1, *[1] * (x.ndim - 2))


def numpy_norm(x, mean, var, weight, bias, eps=1e-5):
    return (x - column(mean, x)) / np.sqrt(column(var, x) + eps) * column(weight, x) + column(bias, x)


def batch_statistics(x):
    """Mean, biased and unbiased variance per channel."""
    flat = np.moveaxis(x, 1, 0).reshape(x.shape[1], -1)
    mean = flat.sum(1) / flat.shape[1]
    squares = ((flat - mean[:, None])**2).sum(1)
    return mean, squares / flat.shape[1], squares / (flat.shape[1] - 1)


# ---------------------------------------------------------------- building
@pytest.mark.parametrize('name', ['AFANNorm', 'mmafan.AFANNorm'])
@pytest.mark.parametrize('scope', ['mmpretrain', 'mmdet', 'mmseg', 'mmengine'])
def test_builds_from_every_scope_and_is_batch_norm(scope, name):
    if scope != 'mmengine':
        pytest.importorskip(scope, reason=f'{scope} is not installed')
        importlib.import_module(f'{scope}.registry')
    cnn = pytest.importorskip('mmcv.cnn', reason='build_norm_layer is a function of mmcv')
    with DefaultScope.overwrite_default_scope(scope):
        layer_name, norm = cnn.build_norm_layer(dict(type=name), 64, postfix=1)
        fields = dict(requires_grad=False, momentum=0.3, eps=0.01, policy='frozen')
        _, options = cnn.build_norm_layer(dict(type=name, **fields), 8)
    assert type(norm) is AFANNorm and layer_name == 'bn1' and norm.num_features == 64
    assert (options.momentum, options.eps, options.policy) == (0.3, 0.01, 'frozen')
    assert not any(p.requires_grad for p in options.parameters())
    stock = nn.BatchNorm2d(64)
    assert (norm.eps, norm.momentum, norm.affine) == (stock.eps, stock.momentum, stock.affine)
    for mode in (True, False):
        norm.train(mode), stock.train(mode)
        x = torch.randn(4, 64, 3, 3)
        for mine, theirs in zip(run(norm, x), run(stock, x)):
            assert torch.equal(mine, theirs)
    assert_same_state(state(norm), state(stock))


@pytest.mark.parametrize('name', ['AFANNorm', 'mmafan.AFANNorm'])
def test_stock_backbones_take_it_as_norm_cfg(name):
    pytest.importorskip('mmpretrain', reason='the backbone is a model of mmpretrain')
    from mmpretrain.registry import MODELS
    importlib.import_module('mmpretrain.models')
    config = dict(type='ResNet', depth=18, base_channels=4, stem_channels=4, norm_eval=True)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        net = MODELS.build(dict(config, norm_cfg=dict(type=name, requires_grad=True)))
        stock = MODELS.build(config)
    net.load_state_dict(stock.state_dict(), strict=True)
    net.train(), stock.train()
    norms = [m for m in net.modules() if isinstance(m, AFANNorm)]
    assert len(norms) == 20 and not any(n.training for n in norms)
    x = torch.randn(2, 3, 32, 32)
    with running_pass(PassKind.ADVERSARIAL, 'shared'):
        assert torch.equal(net(x)[0], stock(x)[0])


@pytest.mark.parametrize('policy', ['share', 'Frozen', '', 3])
def test_unknown_policy(policy):
    with pytest.raises(ValueError, match=r'AFANNorm\.policy must be None or one of .*, got ' + repr(policy)):
        AFANNorm(4, policy=policy)


# ---------------------------------------------------------------- clean passes
@pytest.mark.parametrize(
    'options', [{}, dict(momentum=None), dict(track_running_stats=False), dict(eps=0.1, momentum=0.7)], ids=repr)
@pytest.mark.parametrize('mode', ['train', 'eval'])
@pytest.mark.parametrize('policy', [None, *POLICIES])
def test_clean_pass_is_batch_norm_bit_for_bit(policy, mode, options):
    norm, stock = pair(policy, mode, **options)
    for step in range(3):
        x = torch.randn(5, 6, 3, 2) * 2 + 1
        for mine, theirs in zip(run(norm, x), run(stock, x)):
            assert torch.equal(mine, theirs)
        assert_same_state(state(norm), state(stock))


@EVERY_POLICY
@EVERY_KIND
def test_eval_mode_in_any_pass_is_the_clean_pass(policy, kind):
    """norm_eval=True of stock backbones means the running statistics, in every pass."""
    norm, stock = pair(policy, 'eval')
    x = torch.randn(5, 6, 3, 2)
    with running_pass(kind, policy):
        adversarial = run(norm, x)
    for mine, theirs in zip(adversarial, run(stock, x)):
        assert torch.equal(mine, theirs)
    assert_same_state(state(norm), state(stock))


# ---------------------------------------------------------------- adversarial passes
@EVERY_POLICY
@EVERY_KIND
@pytest.mark.parametrize('own', [True, False], ids=['policy of the layer', 'policy of the model'])
def test_output_of_every_policy(policy, kind, own):
    norm, _ = pair(policy if own else None)
    norm.double()
    x = torch.randn(5, 6, 3, 2, dtype=torch.float64) * 2 + 1
    before = {k: v.numpy().copy() for k, v in norm.state_dict().items()}
    mean, var, _ = batch_statistics(x.numpy())
    if policy == 'frozen':
        mean, var = before['running_mean'], before['running_var']
    with running_pass(kind, 'shared' if own else policy):
        out = norm(x)
    expected = numpy_norm(x.numpy(), mean, var, before['weight'], before['bias'])
    np.testing.assert_allclose(out.detach().numpy(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('momentum', [0.1, 0.35, None])
def test_shared_stores_the_adversarial_statistics(momentum):
    """As published: new = (1 - m) * old + m * statistic, with the unbiased variance; m = 1 / count for None."""
    norm, _ = pair('shared', momentum=momentum)
    norm.double()
    mean, var = norm.running_mean.numpy().copy(), norm.running_var.numpy().copy()
    for count in (1, 2, 3):
        x = torch.randn(5, 6, 3, 2, dtype=torch.float64) * 2 + 1
        with running_pass(PassKind.ADVERSARIAL, 'frozen'):
            norm(x)
        factor = 1 / count if momentum is None else momentum
        batch_mean, _, batch_var = batch_statistics(x.numpy())
        mean, var = (1 - factor) * mean + factor * batch_mean, (1 - factor) * var + factor * batch_var
        np.testing.assert_allclose(norm.running_mean.numpy(), mean, rtol=1e-12)
        np.testing.assert_allclose(norm.running_var.numpy(), var, rtol=1e-12)
        assert norm.num_batches_tracked.item() == count


@EVERY_POLICY
@EVERY_KIND
def test_what_is_stored_in_the_clean_statistics(policy, kind):
    norm, _ = pair(policy)
    before = state(norm)
    with running_pass(kind, 'shared'):
        norm(torch.randn(5, 6, 3, 2) + 3)
    stores = policy == 'shared' and kind is PassKind.ADVERSARIAL
    changed = {k for k, v in state(norm).items() if not torch.equal(v, before[k])}
    assert changed == ({'running_mean', 'running_var', 'num_batches_tracked'} if stores else set())
    assert norm.track_running_stats and norm.training


@EVERY_KIND
def test_separate_stores_its_own_statistics_and_trains_its_own_parameters(kind):
    norm, _ = pair('separate')
    norm.double()
    auxiliary = norm.auxiliary
    with torch.no_grad():
        auxiliary.weight.fill_(3.0)
        auxiliary.bias.fill_(-2.0)
    old = auxiliary.running_mean.numpy().copy()
    x = torch.randn(5, 6, 3, 2, dtype=torch.float64) + 1
    mean, var, _ = batch_statistics(x.numpy())
    with running_pass(kind, 'shared'):
        out = norm(x)
    normed = numpy_norm(x.numpy(), mean, var, [3.0] * 6, [-2.0] * 6)
    np.testing.assert_allclose(out.detach().numpy(), normed, rtol=1e-10)
    expected = 0.9 * old + 0.1 * mean if kind is PassKind.ADVERSARIAL else old
    np.testing.assert_allclose(auxiliary.running_mean.numpy(), expected, rtol=1e-12)
    out.sum().backward()
    assert norm.weight.grad is None and norm.bias.grad is None
    assert auxiliary.weight.grad is not None and auxiliary.bias.grad is not None


@EVERY_POLICY
@pytest.mark.parametrize('kind', [kind for kind in PassKind if kind is not PassKind.JOINED])
def test_exception_leaves_the_layer_as_it_was(policy, kind):
    for norm in (pair(policy)[0], adopted(nn.Sequential(Reentrant(6)), policy)[0]):
        fields, made, buffers = (norm.training, norm.track_running_stats), type(norm), dict(norm.named_buffers())
        with pytest.raises(ValueError, match='expected 4D input'):
            with running_pass(kind, policy):
                norm(torch.zeros(3, 6))
        assert (norm.training, norm.track_running_stats) == fields == (True, True) and type(norm) is made
        after = dict(norm.named_buffers())
        assert after.keys() == buffers.keys() and all(after[name] is buffer for name, buffer in buffers.items())


@EVERY_POLICY
def test_without_running_statistics_every_policy_uses_those_of_the_batch(policy):
    norm = AFANNorm(6, track_running_stats=False, policy=policy)
    stock = nn.BatchNorm2d(6, track_running_stats=False)
    x = torch.randn(5, 6, 3, 2)
    with running_pass(PassKind.ADVERSARIAL, 'frozen'):
        assert torch.equal(norm(x), stock(x))
    assert not norm.track_running_stats


@EVERY_POLICY
def test_half_precision_input(policy):
    norm, stock = pair(policy)
    x = torch.randn(5, 6, 3, 2).bfloat16()
    with running_pass(PassKind.ADVERSARIAL, 'shared'):
        out = norm(x)
    assert out.dtype is torch.bfloat16
    reference = stock.train(policy != 'frozen')(x.float())
    torch.testing.assert_close(out.float(), reference, rtol=2e-2, atol=3e-2)


class Reentrant(nn.BatchNorm2d):
    """A layer that says ``super(type(self), self)``, as mmpretrain's sparse norms do."""

    def forward(self, x):
        return super(type(self), self).forward(2 * x)


@EVERY_POLICY
@pytest.mark.parametrize('kind', [kind for kind in PassKind if kind is not PassKind.JOINED])  # which has groups
def test_a_layer_may_ask_for_its_own_type(policy, kind):
    block, stock, x = Block(Reentrant), Block(), torch.randn(5, 4, 3, 2)
    adopt_norms(block, policy)
    stock.load_state_dict(block.state_dict())
    made = type(block.norm)
    with running_pass(kind, policy):
        out = block.norm(x)
    expected = stock.norm.train(policy != 'frozen' or kind in (PassKind.CLEAN, PassKind.CHECK))(2 * x)
    torch.testing.assert_close(out, expected)
    assert type(block.norm) is made and made is not Reentrant


# ---------------------------------------------------------------- the auxiliary norm and checkpoints
class Block(BaseModule):
    """Something with norms at two depths."""

    def __init__(self, norm=nn.BatchNorm2d, init_cfg=None, **kwargs):
        super().__init__(init_cfg)
        self.norm = norm(4, **kwargs)
        self.inner = nn.Sequential(nn.Conv2d(4, 6, 1), norm(6, **kwargs))

    def forward(self, x):
        return self.inner(self.norm(x))


def separate_block():
    return Block(AFANNorm, policy='separate')


@pytest.mark.parametrize('make', [separate_block, lambda: copy.deepcopy(separate_block()),
                                  lambda: pickle.loads(pickle.dumps(separate_block()))],
                         ids=['fresh', 'deepcopy', 'pickle'])
def test_state_dict_has_the_keys_of_the_stock_layer(make):
    block = make()
    keys = list(Block().state_dict())
    assert isinstance(block.norm.auxiliary, AuxiliaryNorm)
    assert list(block.state_dict()) == keys
    assert list(get_state_dict(block)) == keys
    assert set(block.norm.state_dict()) == STOCK_KEYS
    assert len(list(block.parameters())) == len(list(Block().parameters())) + 4
    assert {'norm.auxiliary.weight', 'inner.1.auxiliary.bias'} <= dict(block.named_parameters()).keys()


@pytest.mark.parametrize('load', [lambda m, s: m.load_state_dict(s, strict=True),
                                  lambda m, s: load_state_dict(m, s, strict=True)], ids=['torch', 'mmengine'])
def test_loading_stock_weights_copies_them_to_the_auxiliary(load):
    block, stock = separate_block(), Block()
    randomise(stock.norm, 1), randomise(stock.inner[1], 2)
    load(block, stock.state_dict())
    for norm, source in ((block.norm, stock.norm), (block.inner[1], stock.inner[1])):
        assert_same_state(state(norm), state(source))
        auxiliary = {**dict(norm.auxiliary.named_parameters()), **dict(norm.auxiliary.named_buffers())}
        assert_same_state({k: v.detach() for k, v in auxiliary.items()}, state(source))
        assert norm.auxiliary.weight is not norm.weight
    load(stock, block.state_dict())


def test_strict_loading_still_finds_missing_and_unexpected_keys():
    weights = Block().state_dict()
    del weights['norm.weight']
    weights['norm.wait'] = torch.zeros(4)
    with pytest.raises(RuntimeError, match='(?s)Missing.*norm.weight.*Unexpected.*norm.wait'):
        separate_block().load_state_dict(weights)


def test_copies_do_not_share_tensors():
    block = separate_block()
    other = copy.deepcopy(block)
    shared = {t.data_ptr() for t in block.parameters()} & {t.data_ptr() for t in other.parameters()}
    assert shared == set()
    with running_pass(PassKind.ADVERSARIAL, 'shared'):
        other(torch.randn(3, 4, 2, 2))
    assert other.norm.auxiliary.num_batches_tracked == 1 and block.norm.auxiliary.num_batches_tracked == 0


def test_pickle_in_another_process():
    """A model is sent to other processes, and saved as a whole, with its class names only."""
    buffer = io.BytesIO()
    torch.save(adopted(nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm1d(3)), 'separate'), buffer)
    script = textwrap.dedent('''
        import io, sys, torch, mmafan
        model = torch.load(io.BytesIO(sys.stdin.buffer.read()), weights_only=False)
        print(*[type(m).__name__ for m in model.modules()], len(model.state_dict()))
        ''')
    done = subprocess.run([sys.executable, '-c', script], input=buffer.getvalue(), stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr.decode()[-300:]
    assert done.stdout.decode().split() == [
        'Sequential', 'AFANNorm', 'AuxiliaryNormBatchNorm2d', 'AFANNorm1d', 'AuxiliaryNormBatchNorm1d', '10']


def test_initialisation_reaches_the_layer_as_it_reaches_batch_norm():
    """Stock models set their norms by ``layer=['_BatchNorm', ...]``, a name of a base class."""
    for layer in ('_BatchNorm', 'BatchNorm2d'):
        block, stock = separate_block(), Block()
        for module in (block, stock):
            initialize(module, dict(type='Constant', val=0.25, bias=0.5, layer=[layer]))
        assert stock.norm.weight.unique().tolist() == [0.25]
        for name, value in stock.named_parameters():
            if 'inner.0' not in name:
                assert torch.equal(dict(block.named_parameters())[name], value), (layer, name)


def test_auxiliary_starts_as_a_copy_of_the_initialised_norm(tiny_classifier):
    """``zero_init_residual`` sets the last norm of every block to 0, after the model is built."""
    model = tiny_classifier(afan=tap(batch_norm='separate'), backbone=dict(zero_init_residual=True))
    model.init_weights()
    norms = {n: m for n, m in model.named_modules() if isinstance(m, PassAwareNorm)}
    assert len(norms) == 20 and norms['backbone.layer1.0.bn2'].weight.tolist() == [0] * 4
    for name, norm in norms.items():
        assert torch.equal(norm.auxiliary.weight, norm.weight), name


# ---------------------------------------------------------------- adopting the norms of a stock model
class UserNorm(nn.BatchNorm2d):
    """A user's own batch norm, with a forward of its own."""

    def forward(self, x):
        return super().forward(x) + 1


class UserAFANNorm(AFANNorm):
    """A user's own version of AFANNorm."""


def adopted(model, policy='batch'):
    adopt_norms(model, policy)
    return model


ADOPTABLE = [(nn.BatchNorm1d, (5, 4)), (nn.BatchNorm1d, (5, 4, 3)), (nn.BatchNorm2d, (5, 4, 3, 2)),
             (nn.BatchNorm3d, (5, 4, 3, 2, 2)), (UserNorm, (5, 4, 3, 2)), (UserAFANNorm, (5, 4, 3, 2))]


@EVERY_POLICY
@pytest.mark.parametrize('cls, shape', ADOPTABLE, ids=lambda v: getattr(v, '__name__', None) or str(len(v)))
def test_adopted_norm(cls, shape, policy):
    model = nn.Sequential(randomise(cls(4)), nn.ReLU())
    stock = copy.deepcopy(model[0])
    tensors = {k: id(v) for k, v in [*model.named_parameters(), *model.named_buffers()]}
    assert len(adopt_norms(model, policy)) == 1
    norm = model[0]
    now = dict([*model.named_parameters(), *model.named_buffers()])
    assert {k: id(now[k]) for k in tensors} == tensors
    assert isinstance(norm, PassAwareNorm) and isinstance(norm, cls)
    assert list(norm.state_dict()) == list(stock.state_dict())
    x = torch.randn(shape)
    assert torch.equal(norm(x), stock(x))
    before = state(norm)
    with running_pass(PassKind.ADVERSARIAL, policy):
        out = norm(x + 1)
    reference = copy.deepcopy(stock)
    if policy == 'frozen' and cls is not UserNorm:
        reference.eval()
    if not (policy == 'frozen' and cls is UserNorm):
        torch.testing.assert_close(out, reference(x + 1))
    kept = all(torch.equal(v, before[k]) for k, v in state(norm).items())
    assert kept == (policy != 'shared')


@EVERY_POLICY
def test_adopted_norm_keeps_the_forward_of_its_class(policy):
    norm = adopted(nn.Sequential(UserNorm(4)), policy)[0]
    x = torch.randn(5, 4, 3, 3)
    with running_pass(PassKind.ADVERSARIAL, policy):
        plain = adopted(nn.Sequential(nn.BatchNorm2d(4)), policy)[0](x)
        torch.testing.assert_close(norm(x), plain + 1)


def test_sync_norm_is_adopted():
    model = nn.Sequential(nn.SyncBatchNorm(4))
    assert len(adopt_norms(model, 'separate')) == 1
    assert isinstance(model[0], PassAwareNorm) and isinstance(model[0], nn.SyncBatchNorm)
    assert isinstance(model[0].auxiliary, nn.SyncBatchNorm) and set(model[0].state_dict()) == STOCK_KEYS
    x = torch.randn(3, 4, 2, 2)
    with running_pass(PassKind.ADVERSARIAL, 'frozen'):
        assert torch.equal(model[0].eval()(x), nn.BatchNorm2d(4).eval()(x))
    with running_pass(PassKind.ADVERSARIAL, 'frozen'):
        model.train()
        model[0].policy = 'frozen'
        assert torch.equal(model[0](x), nn.BatchNorm2d(4).eval()(x))


@EVERY_POLICY
def test_adopting_again_changes_nothing(policy):
    block = adopted(Block(), policy)
    before = {n: (id(m), type(m)) for n, m in block.named_modules()}
    assert len(adopt_norms(block, policy)) == 2
    assert {n: (id(m), type(m)) for n, m in block.named_modules()} == before
    assert len(block.norm._state_dict_hooks) == (policy == 'separate')
    other = adopted(Block(Reentrant), policy)
    assert type(other.norm) is type(other.inner[1]) is type(adopted(Block(Reentrant), policy).norm)
    assert len(block.state_dict()) == len(Block().state_dict())


def test_model_without_norms():
    others = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4))
    assert not adopt_norms(others, 'separate')


def test_auxiliary_is_given_where_the_layer_or_the_model_asks_for_it():
    block = Block(AFANNorm)
    block.norm = AFANNorm(4, policy='separate')
    assert len(adopt_norms(block, 'frozen')) == 2
    assert block.norm._modules.get('auxiliary') is not None and 'auxiliary' not in block.inner[1]._modules
    block = to_sync_and_back(block)  # a conversion forgets the policy of a layer, but keeps what is inside of it
    adopt_norms(block, 'frozen')
    assert isinstance(block.norm.auxiliary, AuxiliaryNorm) and list(block.state_dict()) == list(Block().state_dict())


def test_an_auxiliary_norm_without_parameters_or_statistics_follows_as_well():
    for options in (dict(affine=False), dict(track_running_stats=False), dict(affine=False, track_running_stats=False)):
        source, norm = randomise(nn.BatchNorm2d(4, **options)), AFANNorm(4, policy='separate', **options)
        norm.load_state_dict(source.state_dict(), strict=True)
        auxiliary = {**dict(norm.auxiliary.named_parameters()), **dict(norm.auxiliary.named_buffers())}
        assert_same_state({name: value.detach() for name, value in auxiliary.items()}, state(source))


# ---------------------------------------------------------------- conversion to and from SyncBN
@EVERY_POLICY
def test_conversions_keep_the_state_and_adoption_repairs_the_norms(policy):
    block = adopted(Block(), policy)
    randomise(block.norm), randomise(block.inner[1])
    if policy == 'separate':
        with torch.no_grad():
            block.norm.auxiliary.weight.fill_(7.0)
    weights, parameters = state(block), {k: v.detach().clone() for k, v in block.named_parameters()}
    reference = copy.deepcopy(block)
    sync = nn.SyncBatchNorm.convert_sync_batchnorm(block)
    assert not isinstance(sync.norm, PassAwareNorm), 'the conversion keeps the class now: adopting again can go'
    assert len(adopt_norms(sync, policy)) == 2
    assert isinstance(sync.norm, PassAwareNorm) and isinstance(sync.norm, nn.SyncBatchNorm)
    assert_same_state(state(sync), weights)
    back = revert_sync_batchnorm(sync)
    assert len(adopt_norms(back, policy)) == 2
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in back.modules())
    assert_same_state(state(back), weights)
    assert_same_state({k: v.detach() for k, v in back.named_parameters()}, parameters)
    x = torch.randn(3, 4, 2, 2)
    with running_pass(PassKind.ADVERSARIAL, policy):
        torch.testing.assert_close(back(x), reference(x))
    kept = all(torch.equal(v, weights[k]) for k, v in state(back).items())
    assert kept == (policy != 'shared')


def to_sync_and_back(model):
    """What a run on several GPUs does with ``sync_bn``, and what its analysis on one GPU does after it."""
    return revert_sync_batchnorm(nn.SyncBatchNorm.convert_sync_batchnorm(model))


def before_run(model):
    mmafan.hooks.AdvFeatureHook().before_run(SimpleNamespace(model=model))


@pytest.mark.parametrize('policy', ['frozen', 'separate', 'shared'])
def test_hook_restores_the_policy_of_a_layer_after_a_conversion(policy, tiny_classifier):
    """Whatever the model asks for, ``norm_cfg=dict(type='AFANNorm', policy=...)`` is this layer's policy."""
    model = tiny_classifier(afan=tap(batch_norm='batch'), backbone=dict(norm_cfg=dict(type='AFANNorm', policy=policy)))
    assert model.backbone.layer2[0].bn1.policy == policy
    model = to_sync_and_back(model)
    before_run(model)
    norms = [m for m in model.modules() if isinstance(m, PassAwareNorm)]
    assert len(norms) == 20 and {n.policy for n in norms} == {policy}


def test_hook_stops_a_conversion_to_layers_that_are_no_batch_norm(tiny_classifier):
    """As ``sync_bn='mmcv'`` does, whose layer is no subclass of torch's."""
    model = tiny_classifier(afan=tap(batch_norm='frozen'))
    model.backbone.bn1 = nn.GroupNorm(2, 4)
    model.backbone.layer1[0].bn1 = nn.GroupNorm(2, 4)
    with pytest.raises(ValueError, match="afan.batch_norm='frozen' needs the 20 batch norms .* 2 of them .* replaced"):
        before_run(model)


@pytest.mark.parametrize('schedule', ['two_phase', 'single_graph'])
def test_conversion_without_the_hook_does_not_switch_the_policy_off(schedule, tiny_classifier, tiny_batch):
    """The norms are repaired in the first step, or the run stops; clean statistics see clean features alone."""
    model = tiny_classifier(afan=tap(batch_norm='frozen', schedule=schedule))
    converted = to_sync_and_back(copy.deepcopy(model))
    for net in (model, converted):
        optimizer = OptimWrapper(torch.optim.SGD(net.parameters(), lr=0.0))
        try:
            net.train().train_step(tiny_batch(), optimizer)
        except ValueError as error:
            assert net is converted and 'afan.batch_norm' in str(error)
            return
    assert model.backbone.layer4[1].bn2.num_batches_tracked == 1
    assert_same_state(state(converted), state(model))


# ---------------------------------------------------------------- averaging
@pytest.mark.parametrize('update_buffers', [True, False])
def test_moving_average(update_buffers):
    block = separate_block()
    average = ExponentialMovingAverage(block, momentum=0.25, update_buffers=update_buffers)
    expected = {}
    for step in range(3):
        with torch.no_grad():
            for value in block.parameters():
                value.add_(torch.randn(value.shape))
        block(torch.randn(3, 4, 2, 2))
        with running_pass(PassKind.ADVERSARIAL, 'batch'):
            block(torch.randn(3, 4, 2, 2) + 5)
        average.update_parameters(block)
        for name, value in block.state_dict().items():
            value = value.double().numpy()
            averaged = name in dict(block.named_parameters()) or update_buffers
            averaged = averaged and step > 0 and 'num_batches' not in name
            expected[name] = 0.75 * expected[name] + 0.25 * value if averaged else value.copy()
    given = average.module.state_dict()
    assert given.keys() == Block().state_dict().keys()
    for name, value in given.items():
        if update_buffers and 'num_batches' in name:
            continue  # mmengine averages no integers: it keeps the first
        np.testing.assert_allclose(value.double().numpy(), expected[name], rtol=1e-5, atol=1e-6, err_msg=name)
    assert not torch.equal(average.module.norm.running_mean, average.module.norm.auxiliary.running_mean)
    Block().load_state_dict(given, strict=True)


@pytest.mark.parametrize('kind', ['BN', 'AFANNorm'])
def test_symbolic_trace_takes_the_norm_as_a_layer(tiny_classifier, kind):
    model = tiny_classifier(backbone=dict(norm_cfg=dict(type=kind))).eval()
    traced = torch.fx.symbolic_trace(model.backbone)
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(traced(images)[0], model.backbone(images)[0])
    norms = [node for node in traced.graph.nodes
             if node.op == 'call_module' and isinstance(traced.get_submodule(node.target), torch.nn.BatchNorm2d)]
    assert len(norms) == sum(isinstance(m, torch.nn.BatchNorm2d) for m in model.backbone.modules())
