"""The demos, and what is checked of each."""
from __future__ import annotations

import pytest
import torch


@pytest.fixture
def quickstart(tools):
    """Return the program."""
    return tools('quickstart.command')


@pytest.fixture
def train_run(tools):
    """Return a function that trains a run of a demo with one seed."""

    def train(task, arm, epochs, folder, on_epoch=None, hooks=()):
        return tools('study.runner').train_one(task.study(1, epochs), arm, 0, str(folder), on_epoch, hooks)

    return train


@pytest.fixture
def read_row():
    """Return a function that finds the one table row of a report with this beginning, as its cells."""

    def read(text, beginning):
        lines = [line for line in text.splitlines() if line.startswith(f'| {beginning}')]
        assert len(lines) == 1, lines
        return [cell.strip() for cell in lines[0].strip('|').split('|')]

    return read


@pytest.fixture
def check_cost(read_row):
    """Return a function that checks the cost of a step in a report against its two times."""

    def check(text):
        ratio, theory = (float(read_row(text, f'{name} cost')[1].split()[0]) for name in ('measured', 'theoretical'))
        assert 1 < theory < 3
        baseline, afan = (float(value) for value in read_row(text, 'median step')[1].split(' and '))
        assert ratio == pytest.approx(afan / baseline, rel=0.02)

    return check


@pytest.fixture
def check_arms_and_resume(train_run, tmp_path):
    """Return a function that checks that the arms of a demo start from the same weights and see the same images, and
    that a killed run goes on to the weights of an uninterrupted one."""
    from mmengine.hooks import Hook
    seen = []

    class Look(Hook):

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter == 0:
                weights = [p.detach().clone() for p in runner.model.parameters()]
                seen.append((torch.stack(data_batch['inputs']), weights))

    class Kill(Hook):

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.epoch == 1:
                raise KeyboardInterrupt

    class Keep(Hook):

        def after_train(self, runner):
            self.weights = [p.detach().clone() for p in runner.model.parameters()]

    def check(task):
        straight, resumed = Keep(), Keep()
        train_run(task, 'baseline', 1, tmp_path / 'one', hooks=(Look(), ))
        train_run(task, 'afan', 2, tmp_path / 'one', hooks=(Look(), straight))
        (images, weights), (other_images, other_weights) = seen
        assert torch.equal(images, other_images)
        assert len(weights) == len(other_weights) and all(map(torch.equal, weights, other_weights))
        with pytest.raises(KeyboardInterrupt):
            train_run(task, 'afan', 2, tmp_path / 'two', hooks=(Kill(), ))
        epochs = []
        train_run(task, 'afan', 2, tmp_path / 'two', lambda epoch, _: epochs.append(epoch), (resumed, ))
        assert epochs == [2]
        assert all(map(torch.equal, straight.weights, resumed.weights))

    return check
