"""Runs that tools make: what is kept of a run with other settings, and of one that was killed while it wrote."""
from __future__ import annotations

import importlib
import json
import shutil

import pytest


@pytest.fixture
def runs(repo, monkeypatch):
    return importlib.import_module('mmafan.lab.study.runs')


def test_a_run_with_other_settings_is_put_aside_and_comes_back(runs, tmp_path):
    folder = tmp_path / 'seed_0'

    def use(identity):
        found = runs.put_aside(str(folder), identity)
        assert found == folder.exists() or not found
        folder.mkdir(exist_ok=True)
        (folder / 'started.json').write_text(json.dumps(dict(fingerprint=identity)))
        return found

    first, second = '1' * 64, '2' * 64
    assert not use(first)
    (folder / 'result').write_text('of the first')
    assert not use(first) and (folder / 'result').exists()
    assert not use(second) and not (folder / 'result').exists()
    assert (tmp_path / 'seed_0.11111111' / 'result').exists()
    assert use(first) and (folder / 'result').read_text() == 'of the first'
    assert use(second) and not (folder / 'result').exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['seed_0', 'seed_0.11111111']


@pytest.mark.parametrize('text', ['', '{"fingerprint": "11', 'null', '[1]', '\xff', '{"fingerprint"'])
def test_half_a_file_counts_as_none(runs, tmp_path, text):
    path = tmp_path / 'result.json'
    path.write_bytes(text.encode('latin1'))
    assert runs.read_json(str(path)) == {} == runs.read_json(str(tmp_path / 'missing.json'))
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'started.json').write_bytes(text.encode('latin1'))
    assert not runs.put_aside(str(tmp_path / 'run'), '1' * 64) and (tmp_path / 'run').is_dir()
    runs.write_json(str(path), dict(a=1))
    assert runs.read_json(str(path)) == dict(a=1)


def test_the_recipe_that_a_base_offers_does_not_identify_a_run(runs):
    from mmengine.config import Config
    cfg = Config(dict(model=dict(afan=dict(step=1)), afan_recipe=dict(step=1), work_dir='a'))
    known = runs.fingerprint(cfg, {})
    cfg.afan_recipe.step, cfg.work_dir = 2, 'b'
    assert runs.fingerprint(cfg, {}) == known
    cfg.model.afan.step = 2
    assert runs.fingerprint(cfg, {}) != known


def test_a_logger_made_before_is_kept_off_the_screen_too(runs, capsys, monkeypatch):
    from mmengine.logging import MMLogger, print_log
    monkeypatch.setattr(MMLogger, '_instance_dict', MMLogger._instance_dict.copy())
    MMLogger.get_instance('made_before', logger_name='mmengine')
    print_log('first', 'current')
    with runs.quiet():
        print_log('second', 'current')
    print_log('third', 'current')
    text = ''.join(capsys.readouterr())
    assert 'first' in text and 'second' not in text and 'third' in text
    with pytest.raises(ValueError), runs.quiet():  # what goes wrong is told in full
        print_log('fourth', 'current')
        raise ValueError


def test_a_killed_run_counts_what_came_before(runs, tmp_path, repo, monkeypatch):
    """Its best validation and its steps attacked are those of all sessions, and measures are no validations."""
    from mmengine.config import Config
    from mmengine.hooks import Hook
    monkeypatch.syspath_prepend(str(repo / 'tests' / 'integration'))
    from toy_task import toy_config

    def config():
        cfg = Config.fromstring(toy_config(epochs=3), '.py')
        cfg.custom_hooks[0].begin = 1  # of three epochs of two iterations, the last two are attacked
        cfg.work_dir, cfg.launcher = str(tmp_path / 'run'), 'none'
        return cfg

    class Killed(Hook):
        priority = 'LOWEST'

        def before_train_epoch(self, runner) -> None:
            if runner.epoch == 2:
                raise KeyboardInterrupt

    measured = importlib.import_module('mmafan.lab.study.measures').Measure(data='train')
    whole = runs.train_once(config(), {}, measures=dict(training=measured))
    shutil.rmtree(tmp_path / 'run')
    with pytest.raises(KeyboardInterrupt):
        runs.train_once(config(), {}, hooks=(Killed(), ), measures=dict(training=measured))
    known = runs.read_json(str(tmp_path / 'run' / 'validations.json'))
    assert list(known) == ['2', '4']
    [name] = known['4']
    runs.write_json(str(tmp_path / 'run' / 'validations.json'), {**known, '2': {name: 1e3}})
    found = runs.train_once(config(), {}, measures=dict(training=measured))
    assert found['metrics'][f'best {name}'] == 1e3
    assert found[runs.ATTACKED_SHARE] == whole[runs.ATTACKED_SHARE] == pytest.approx(4 / 6)
    assert found['metrics'][name] == whole['metrics'][name] and f'training {name}' in found['metrics']
    assert list(runs.read_json(str(tmp_path / 'run' / 'validations.json'))) == ['2', '4', '6']
