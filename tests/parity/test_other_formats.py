"""torch.fx, TorchScript, torch.export and ONNX take an A-FAN model as they take the stock one."""
from __future__ import annotations

import inspect
import io

import pytest
import torch

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=['BN', 'AFANNorm'])
def pair(tiny_classifier, request):
    """The stock classifier and the A-FAN one, with the same weights."""
    mine = tiny_classifier(backbone=dict(norm_cfg=dict(type=request.param))).eval()
    stock = tiny_classifier('ImageClassifier', None).eval()
    stock.load_state_dict(mine.state_dict(), strict=True)
    return stock, mine


def symbolic(model, **kwargs):
    traced = torch.fx.symbolic_trace(model, **kwargs)
    return [(node.op, str(node.target)) for node in traced.graph.nodes], traced


@pytest.mark.parametrize('part', ['model', 'backbone'])
def test_symbolic_trace(pair, part):
    kwargs = dict(concrete_args=dict(mode='tensor', data_samples=None)) if part == 'model' else {}
    found = []
    for model in pair:
        nodes, traced = symbolic(model if part == 'model' else model.backbone, **kwargs)
        out = traced(IMAGES)
        found.append((nodes, out if isinstance(out, torch.Tensor) else out[0]))
    assert found[0][0] == found[1][0] and torch.equal(found[0][1], found[1][1])
    assert sum(op == 'call_module' for op, _ in found[0][0]) > 20


def test_torchscript_trace_is_saved_and_loaded(pair):
    kinds, outputs = [], []
    for model in pair:
        traced, file = torch.jit.trace(model, IMAGES), io.BytesIO()
        kinds.append([node.kind() for node in traced.inlined_graph.nodes()])
        torch.jit.save(traced, file)
        file.seek(0)
        outputs.append(torch.jit.load(file)(IMAGES))
    assert kinds[0] == kinds[1] and torch.equal(*outputs)


def test_torch_export(pair):
    if not hasattr(torch, 'export'):
        pytest.skip('this torch has no torch.export')
    graphs = []
    for model in pair:
        exported = torch.export.export(model, (IMAGES, ))
        graphs.append([str(node.target) for node in exported.graph.nodes])
    assert graphs[0] == graphs[1]


def test_onnx(pair):
    onnx = pytest.importorskip('onnx', reason='torch writes ONNX files with the package onnx')
    old = dict(dynamo=False) if 'dynamo' in inspect.signature(torch.onnx.export).parameters else {}
    operators = []
    for model in pair:
        file = io.BytesIO()
        torch.onnx.export(model, (IMAGES, ), file, **old)
        operators.append([node.op_type for node in onnx.load_from_string(file.getvalue()).graph.node])
    assert operators[0] == operators[1] and 'Conv' in operators[0]
