"""The kept results of the studies: every table is that of its rows, and the documents print no other."""
from __future__ import annotations

import csv
import importlib
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / 'docs'
EVIDENCE = DOCS / 'evidence'
DOCUMENTS = ('evidence.md', 'evidence_appendix.md')
STUDIES = sorted(path.parent.name for path in EVIDENCE.glob('*/table.md'))  # written when all runs are finished
EARLIER = {'segmentation_step_size', 'segmentation_step_size_camvid'}  # the appendix says with which commits
VERDICT = re.compile(r'- .* to .*: (beats all|above all, not beyond chance|does not beat all)')


@pytest.fixture
def study(repo, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '0')
    return importlib.import_module('mmafan.lab.study.recipe')


def read_rows(name):
    """Return the rows of a study by data set, of which there is one with an empty name where the study names none."""
    by_set = {}
    with open(EVIDENCE / name / 'rows.csv', newline='') as file:
        for row in csv.DictReader(file):
            by_set.setdefault(row['data_set'], []).append(row)
    return by_set


def read_tables(name):
    """Return what table.md has for each data set: a table and, with controls, the lines below it."""
    kept = (EVIDENCE / name / 'table.md').read_text().strip()
    parts = re.split(r'(?:^|\n\n)([^\n|]+):\n\n(?=\| arm )', kept)
    return dict(zip(parts[1::2], parts[2::2])) if len(parts) > 1 else {'': kept}


def cells(line):
    return [cell.strip() for cell in line.strip('|').split('|')]


def table_lines(text):
    return [line for line in text.splitlines() if line.startswith('| ')]


def by_arm(table):
    return {cells(line)[0]: cells(line) for line in table_lines(table)}


def test_there_are_studies():
    assert len(STUDIES) >= 3


def test_tables_of_several_data_sets_are_read(monkeypatch, tmp_path):
    monkeypatch.setitem(globals(), 'EVIDENCE', tmp_path)
    (tmp_path / 'two').mkdir()
    (tmp_path / 'two' / 'table.md').write_text(
        'n60:\n\n| arm |\n|---|\n| a |\n\nAgainst b:\n- a: +1 to b: beats all\n\nn 20:\n\n| arm |\n|---|\n')
    assert read_tables('two') == {
        'n60': '| arm |\n|---|\n| a |\n\nAgainst b:\n- a: +1 to b: beats all', 'n 20': '| arm |\n|---|'}


@pytest.mark.parametrize('name', STUDIES)
def test_the_table_is_that_of_the_rows(repo, study, name):
    summary = importlib.import_module('mmafan.lab.study.statistics')
    studies = study.load_study(str(repo / 'configs' / 'studies' / f'{name}.py'))
    rows, tables = read_rows(name), read_tables(name)
    assert list(rows) == list(tables) == [found.data_set for found in studies]
    for found in studies:
        kept = tables[found.data_set]
        by_metric = {}
        for row in rows[found.data_set]:
            by_metric.setdefault(row['metric'], {}).setdefault(row['arm'], {})[int(row['seed'])] = float(row['value'])
        assert list(by_metric) == found.metrics
        for runs_by_arm in by_metric.values():
            assert list(runs_by_arm) == list(found.arms)
            assert all(sorted(runs) == sorted(found.seeds) for runs in runs_by_arm.values())
        values = by_metric[found.metric]
        printed = by_arm(kept)
        compute = {arm: float(printed[arm][5]) for arm in values}  # of the trainings, and no function of the rows
        first, *further = (summary.summarise(found, one, compute) for one in by_metric.values())
        table = summary.table(found, first, dict(zip(found.also, further)))
        assert kept == '\n\n'.join(filter(None, [table, summary.verdict(found, values)]))


@pytest.mark.parametrize('name', sorted(set(STUDIES) - EARLIER))
def test_the_rows_are_of_the_configs_of_today(repo, study, name):
    runs = importlib.import_module('mmafan.lab.study.runs')
    by_set = read_rows(name)
    for found in study.load_study(str(repo / 'configs' / 'studies' / f'{name}.py')):
        rows = by_set[found.data_set]
        hashes = {arm: runs.fingerprint(study.run_config(found, arm, found.seeds[0], 'work'), found.identity)
                  for arm in found.arms}
        assert {row['arm']: row['config_sha256'] for row in rows if int(row['seed']) == found.seeds[0]} == hashes
    every = [row for rows in by_set.values() for row in rows]
    assert len({row['config_sha256'] for row in every}) == len({
        (row['data_set'], row['arm'], row['seed']) for row in every})


def test_the_documents_print_the_tables_and_no_other():
    """But for the summaries: every table, with the lines below it, is in one of the documents, below its command."""
    texts = {name: (DOCS / name).read_text() for name in DOCUMENTS}
    tables = {name: read_tables(name) for name in STUDIES}
    kept = {line for parts in tables.values() for part in parts.values() for line in part.splitlines()}
    printed = [line for text in texts.values() for line in text.splitlines() if line.startswith('| ')
               or VERDICT.fullmatch(line)]
    assert len(printed) > 10
    assert [line for line in printed if line not in kept and not line.startswith(('| `', '| study |'))] == []
    for name, parts in tables.items():
        command = f'\npython tools/study.py configs/studies/{name}.py\n'
        [home] = [text for text in texts.values() if command in text]
        assert home.count(command) == 1
        below = home.split(command)[1].split('\npython tools/study.py ')[0]
        for part in parts.values():
            assert f'\n\n{part}\n' in below
            assert sum(text.count(f'\n\n{part}\n') for text in texts.values()) == 1


def test_the_summaries_have_the_studies_that_report():
    """With the cells of their tables, each study (or `study`, data set) in one of the documents."""
    found = [cells(line) for name in DOCUMENTS for line in (DOCS / name).read_text().splitlines()
             if line.startswith('| `')]
    expected = []
    for name in STUDIES:
        if '_tune_' in name or name.endswith('_peers'):  # whose A-FAN is that of another study
            continue
        for data_set, table in read_tables(name).items():
            arms = by_arm(table)
            expected += [[f'`{name}`' + (f', {data_set}' if data_set else ''), arms['arm'][2], arms['baseline'][2],
                          arms['equal compute'][4], arms['A-FAN'][4], line[len('- A-FAN: '):]]
                         for line in table.splitlines() if line.startswith('- A-FAN: ')]
    assert sorted(found) == sorted(expected)
