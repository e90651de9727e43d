"""The laboratory, whose programs run in the process of the tests here."""
from __future__ import annotations

import importlib

import pytest


@pytest.fixture(autouse=True)
def local_rank(monkeypatch):
    """Programs set this variable, and the other tests must not see that."""
    monkeypatch.setenv('LOCAL_RANK', '0')


@pytest.fixture
def tools():
    """Return a function that imports a module of the laboratory by name."""
    return lambda name: importlib.import_module(f'mmafan.lab.{name}')
