"""Measures of a study: which images they load, with which pipeline, and what is wrong in one."""
from __future__ import annotations

import importlib
import re
from types import SimpleNamespace

import pytest
from mmengine.config import Config

LOAD, FLIP, PACK = dict(type='LoadImageFromFile'), dict(type='RandomFlip', prob=0.5), dict(type='PackInputs')


@pytest.fixture
def measures():
    return importlib.import_module('mmafan.lab.study.measures')


def config():
    """Wrong labels and a concatenation around what trains, and a concatenation around what validates."""
    train = [dict(type='CustomDataset', data_prefix=name, pipeline=[LOAD, FLIP, PACK]) for name in ('a', 'b')]
    return Config(dict(
        train_dataloader=dict(batch_size=8, sampler='random', dataset=dict(
            type='mmafan.RedrawnLabels', share=0.4, num_classes=10, dataset=dict(
                type='ConcatDataset', datasets=train))),
        val_dataloader=dict(batch_size=3, sampler='in order', dataset=dict(type='ConcatDataset', datasets=[
            dict(type='CustomDataset', data_prefix='c', pipeline=[LOAD, PACK])])),
        val_evaluator=dict(type='Accuracy'), val_cfg=dict()))


def test_training_images_are_loaded_as_those_of_the_validation(measures):
    cfg = config()
    [loader] = measures.dataloaders(measures.Measure(data='train'), cfg)
    assert (loader.batch_size, loader.sampler) == (3, 'in order')
    assert (loader.dataset.type, loader.dataset.share) == ('mmafan.RedrawnLabels', 0.4)
    inner = loader.dataset.dataset.datasets
    assert [one.data_prefix for one in inner] == ['a', 'b']
    assert [one.pipeline for one in inner] == [[LOAD, PACK]] * 2
    assert cfg.to_dict() == config().to_dict()


def test_what_mixes_training_images_mixes_none_that_are_measured(measures):
    cfg = config()
    cfg.train_dataloader.dataset = dict(
        type='MultiImageMixDataset', pipeline=[dict(type='Mosaic')], dataset=cfg.train_dataloader.dataset)
    [loader] = measures.dataloaders(measures.Measure(data='train'), cfg)
    assert loader.dataset.pipeline == []
    assert [one.pipeline for one in loader.dataset.dataset.dataset.datasets] == [[LOAD, PACK]] * 2


def test_there_is_a_loader_for_each_corruption_and_severity(measures):
    cfg = config()
    measure = measures.Measure(
        corruptions=('contrast', 'fog'), severities=(1, 5), options={'val_dataloader.batch_size': 7})
    found = measures.dataloaders(measure, measures.with_options(measure, cfg))
    added = [loader.dataset.datasets[0].pipeline[1] for loader in found]
    assert [(one['corruption'], one['severity']) for one in added] == [
        ('contrast', 1), ('contrast', 5), ('fog', 1), ('fog', 5)]
    assert [loader.batch_size for loader in found] == [7] * 4
    assert cfg.to_dict() == config().to_dict()


def test_metrics_are_means_over_the_loaders_by_the_name_of_the_measure(measures):
    results = iter([{'top1': 40.0, 'per class': [1.0, 2.0]}, {'top1': 60.0, 'per class': [1.0, 2.0]}, {'top1': 99.0}])
    built = []

    def build_val_loop(loop):
        built.append(loop)
        return SimpleNamespace(run=lambda: next(results))

    runner = SimpleNamespace(cfg=config(), build_val_loop=build_val_loop, hooks=[])
    assert measures.run_measures(runner, dict(
        corrupted=measures.Measure(corruptions=('fog', ), severities=(1, 2)),
        training=measures.Measure(data='train', options={'val_evaluator.topk': 5}))) == {
            'corrupted top1': 50.0, 'training top1': 99.0}
    assert [loop['type'] for loop in built] == ['ValLoop'] * 3
    assert [loop['evaluator'] for loop in built] == [
        dict(type='Accuracy'), dict(type='Accuracy'), dict(type='Accuracy', topk=5)]
    assert built[2]['dataloader'].dataset.type == 'mmafan.RedrawnLabels'


@pytest.mark.parametrize('given, sentence', [
    (dict(training='train'), "measures of .* must be a dict of dicts, such as .*, got .'training': 'train'."),
    (['training'], r"measures of .* must be a dict of dicts, such as .*, got .'training'."),
    (dict(training=dict(dta='train')), "measures.training of .* has no field 'dta'; its fields are data, corruptions, "
                                       'severities, options'),
    (dict(training=dict(data='test')), "measures.training.data must be 'val' or 'train', got 'test' in .*mine.py"),
    (dict(bad=dict(corruptions='fog')), r"measures.bad.corruptions must be names, such as .*, got 'fog'"),
    (dict(bad=dict(severities=[0, 3])), r'measures.bad.severities must be numbers from 1 to 5, .*, got \[0, 3\]'),
    (dict(bad=dict(corruptions=5)), r"measures.bad.corruptions must be names, such as .*, got 5"),
    (dict(bad=dict(severities=3)), r'measures.bad.severities must be numbers from 1 to 5, .*, got 3 in'),
    (dict(bad=dict(options=3)), r'measures.bad.options must be a dict by dotted names, .*, got 3 in'),
    (dict(bad=dict(severities=[])), r'measures.bad.severities must be numbers from 1 to 5, .*, got \[\]'),
])
def test_a_wrong_measure_is_one_sentence(measures, tmp_path, capsys, given, sentence):
    path = tmp_path / 'mine.py'
    path.write_text(f"metric = 'm'\nconfig = 'c.py'\narms = dict(baseline=dict(), a=dict())\nmeasures = {given!r}\n")
    with pytest.raises(SystemExit):
        importlib.import_module('mmafan.lab.study.recipe').load_study(str(path))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and re.search(sentence, lines[0])


@pytest.mark.parametrize('also', ['mIoU', [3]])
def test_further_metrics_are_names(measures, tmp_path, capsys, also):
    path = tmp_path / 'mine.py'
    path.write_text(f"metric = 'm'\nconfig = 'c.py'\narms = dict(baseline=dict(), a=dict())\nalso = {also!r}\n")
    with pytest.raises(SystemExit):
        importlib.import_module('mmafan.lab.study.recipe').load_study(str(path))
    assert re.fullmatch('error: also of .*mine.py must be a list of names of metrics, such as .*, got .*\n',
                        capsys.readouterr().err)
