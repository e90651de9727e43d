"""Tests of a codebase on A-FAN models that are off: what they run on, and what is said of differences."""
from __future__ import annotations

import os
import subprocess
import sys

import pytest

MODELS = '''
import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS

@MODELS.register_module()
class Net(BaseModel):
    def __init__(self, width, bias=True):
        super(Net, self).__init__()
        self.fc = torch.nn.Linear(width, 2, bias)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return dict(loss=self.fc(inputs).square().mean()) if mode == 'loss' else self.fc(inputs)
'''
TESTS = '''
import unittest, torch, mmengine
from models import Net

class TestNet(unittest.TestCase):
    def test_by_registry(self):
        model = mmengine.registry.MODELS.build(dict(type='Net', width=3, bias=False))
        assert isinstance(model, Net) and model.fc.bias is None
        assert set(model(torch.ones(2, 3), mode='loss')) == {'loss'}

def test_by_name():
    assert Net(3)(torch.ones(2, 3)).shape == (2, 2)

def test_that_fails():
    assert Net(3).nothing

def test_that_tells_them_apart():
    assert not hasattr(Net(3), 'afan') or DIFFER
'''


@pytest.mark.slow
@pytest.mark.parametrize('differ', [False, True])
def test_tests_run_on_both_and_are_compared(repo, tmp_path, differ):
    folder = tmp_path / 'checkout' / 'tests' / 'test_models'
    folder.mkdir(parents=True)
    (tmp_path / 'checkout' / 'models.py').write_text(MODELS)
    (folder / 'test_net.py').write_text(TESTS.replace('DIFFER', str(not differ)))
    done = subprocess.run(
        ['bash', str(repo / 'tools' / 'upstream_tests.sh'), str(tmp_path / 'checkout')], universal_newlines=True,
        env=dict(os.environ, PYTHON=sys.executable), stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=600)
    lines = done.stdout.strip().splitlines()
    assert 'A-FAN models that are off: 4 built (4 Net)' in lines, done.stdout + done.stderr
    assert done.returncode == int(differ)
    assert lines[-1] == f'4 tests, 3 pass with stock models, {int(differ)} differ with A-FAN off'
    if differ:
        assert lines[-2].startswith('tests.test_models.test_net::test_that_tells_them_apart: passed with stock models, '
                                    'failure: ')


def test_a_folder_without_tests_is_one_sentence(repo, tmp_path):
    done = subprocess.run(['bash', str(repo / 'tools' / 'upstream_tests.sh'), str(tmp_path)], universal_newlines=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.returncode == 2 and done.stderr.count('\n') == 1 and 'no folder tests' in done.stderr
