"""The kept results of the studies: every table is that of its rows, and the document prints no other."""
from __future__ import annotations

import csv
import importlib
from pathlib import Path

import pytest

EVIDENCE = Path(__file__).resolve().parents[1] / 'docs' / 'evidence'
STUDIES = sorted(path.parent.name for path in EVIDENCE.glob('*/rows.csv'))
EARLIER = {'segmentation_step_size', 'segmentation_step_size_camvid'}  # docs/evidence.md says with which commits


@pytest.fixture
def study(repo, monkeypatch):
    monkeypatch.syspath_prepend(str(repo / 'tools'))
    monkeypatch.setenv('LOCAL_RANK', '0')
    return importlib.import_module('_study')


def test_there_are_studies():
    assert len(STUDIES) >= 3


@pytest.mark.parametrize('name', STUDIES)
def test_the_table_is_that_of_the_rows(repo, study, name):
    summary = importlib.import_module('_summary')
    with open(EVIDENCE / name / 'rows.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    by_metric = {}
    for row in rows:
        by_metric.setdefault(row['metric'], {}).setdefault(row['arm'], {})[int(row['seed'])] = float(row['value'])
    [found] = study.load_study(str(repo / 'configs' / 'studies' / f'{name}.py'))
    assert list(by_metric) == found.metrics
    for runs_by_arm in by_metric.values():
        assert list(runs_by_arm) == list(found.arms)
        assert all(sorted(runs) == sorted(found.seeds) for runs in runs_by_arm.values())
    values = by_metric[found.metric]
    kept = (EVIDENCE / name / 'table.md').read_text()
    lines = kept.splitlines()
    compute = {cells(line)[0]: cells(line)[5] for line in lines if line.startswith('| ')}
    compute = {arm: float(compute[arm]) for arm in values}
    first, *further = (summary.summarise(found, one, compute) for one in by_metric.values())
    table = summary.table(found, first, dict(zip(found.also, further)))
    assert kept.strip() == '\n\n'.join(filter(None, [table, summary.verdict(found, values)]))


@pytest.mark.parametrize('name', sorted(set(STUDIES) - EARLIER))
def test_the_rows_are_of_the_configs_of_today(repo, study, name):
    with open(EVIDENCE / name / 'rows.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    [found] = study.load_study(str(repo / 'configs' / 'studies' / f'{name}.py'))
    runs = importlib.import_module('_runs')
    hashes = {arm: runs.fingerprint(study.run_config(found, arm, found.seeds[0], 'work'), found.identity)
              for arm in found.arms}
    assert {row['arm']: row['config_sha256'] for row in rows if int(row['seed']) == found.seeds[0]} == hashes
    assert len({row['config_sha256'] for row in rows}) == len({(row['arm'], row['seed']) for row in rows})


def cells(line):
    return [cell.strip() for cell in line.strip('|').split('|')]


def test_the_document_prints_the_tables_and_no_other(repo):
    """But for the summary, which takes its cells from those of the studies that report, every one of them."""
    printed = [line for line in (repo / 'docs' / 'evidence.md').read_text().splitlines() if line.startswith('| ')]
    tables = {path.parent.name: path.read_text().splitlines() for path in EVIDENCE.glob('*/table.md')}
    kept = {line for lines in tables.values() for line in lines if line.startswith('| ')}
    summary = {cells(line)[0].strip('`'): cells(line)[1:] for line in printed if line.startswith('| `')}
    assert len(printed) > 10
    assert [line for line in printed if line not in kept and not line.startswith(('| `', '| study |'))] == []
    reports = {name for name, lines in tables.items()
               if 'tune' not in name and not name.endswith('_peers')  # whose A-FAN is that of another study
               and any(line.startswith('- A-FAN: ') for line in lines)}
    assert set(summary) == reports
    for name, found in summary.items():
        arms = {cells(line)[0]: cells(line) for line in tables[name] if line.startswith('| ')}
        [verdict] = [line for line in tables[name] if line.startswith('- A-FAN: ')]
        assert found == [arms['arm'][2], arms['baseline'][2], arms['equal compute'][4], arms['A-FAN'][4],
                         verdict[len('- A-FAN: '):]]
