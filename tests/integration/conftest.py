"""The scripts in tools/ as modules."""
from __future__ import annotations

import importlib

import pytest
import torch


@pytest.fixture
def fsdp():
    """Skip where FSDP needs a GPU: it asks for a stream with a priority, which torch 2.1 does not have on a CPU."""
    try:
        torch.cpu.Stream(priority=-1)
    except TypeError:
        pytest.skip(f'FSDP does not run on a CPU with torch {torch.__version__}')


@pytest.fixture
def tools(repo, monkeypatch):
    """Return a function that imports a module of the tools."""
    monkeypatch.syspath_prepend(str(repo / 'tools'))
    monkeypatch.setenv('LOCAL_RANK', '0')  # the tools set it, and the other tests must not see that
    return importlib.import_module


@pytest.fixture
def quickstart(tools):
    """Return the program."""
    return tools('quickstart')


@pytest.fixture
def runs(tools):
    """Return the module that trains."""
    return tools('quickstart_runs')


@pytest.fixture
def read_row():
    """Return a function that finds the one table row of a report with this beginning, as its cells."""

    def read(text, beginning):
        lines = [line for line in text.splitlines() if line.startswith(f'| {beginning}')]
        assert len(lines) == 1, lines
        return [cell.strip() for cell in lines[0].strip('|').split('|')]

    return read
