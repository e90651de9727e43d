"""The three forms of installation: each trains a step from a foreign folder, with what it brought alone."""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile

import pytest

pytest.importorskip('mmpretrain', reason='the demo is of mmpretrain')
pytestmark = pytest.mark.slow

TRAIN = ('train', '{config}', '--work-dir', '{folder}/work', '--cfg-options', 'train_cfg.max_epochs=1',
         'train_cfg.val_interval=1', 'train_dataloader.dataset.num_train_samples=25')
CHILD = "_base_ = [__import__('mmafan') and 'mmafan::mmpretrain/resnet_afan_digits.py']\n"
NEW_STYLE = ('from mmengine.config import read_base\nwith read_base():\n'
             '    from mmafan.configs.mmpretrain.resnet_afan_digits import *\n')


def call(*command, **options):
    done = subprocess.run(list(map(str, command)), universal_newlines=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, **options)
    assert done.returncode == 0, f'{command}: {done.stdout[-3000:]}'
    return done.stdout


@pytest.fixture(scope='module')
def sources(tmp_path_factory):
    """A copy of what is tracked, so that no build leaves anything in the repository."""
    repo = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    copy = tmp_path_factory.mktemp('sources') / 'mmafan'
    ignored = shutil.ignore_patterns('.git', '.venv', 'data', 'work_dirs', '*.egg-info', '__pycache__', 'build', 'dist')
    shutil.copytree(repo, copy, symlinks=True, ignore=ignored)
    return copy


@pytest.fixture
def environment(tmp_path):
    """A fresh environment that sees the packages of this one, but not its mmafan."""
    folder = tmp_path / 'env'
    call(sys.executable, '-m', 'venv', folder)
    python = folder / 'bin' / 'python'
    site = call(python, '-c', 'import sysconfig; print(sysconfig.get_paths()["purelib"])').strip()
    linked = os.path.join(site, 'seen')
    os.makedirs(linked)
    packages = sysconfig.get_paths()['purelib']
    for name in os.listdir(packages):
        if 'mmafan' not in name.lower() and not name.endswith('.pth') and name not in ('pip', '__pycache__'):
            os.symlink(os.path.join(packages, name), os.path.join(linked, name))
    with open(os.path.join(site, 'seen.pth'), 'w') as file:
        file.write(linked + '\n')
    return python


def clean():
    return {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}


def install(python, form, sources, folder):
    """Install a form of the sources; return the folder that may hold nothing of them at run time."""
    pip = (python, '-m', 'pip', 'install', '-q', '--no-deps', '--no-build-isolation', '--no-index')
    if form == 'editable':
        call(*pip, '-e', sources, env=clean())
        return
    if form == 'wheel':
        call(python, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', folder / 'dist', sources,
             env=clean())
    else:
        call(python, 'setup.py', '-q', 'sdist', '-d', folder / 'dist', cwd=sources, env=clean())
    [archive] = (folder / 'dist').iterdir()
    call(*pip, archive, env=clean())


@pytest.mark.parametrize('form', ['wheel', 'sdist', 'editable'])
def test_installed_package_trains_from_a_foreign_folder(form, environment, sources, tmp_path):
    install(environment, form, sources, tmp_path)
    folder = tmp_path / 'foreign'
    folder.mkdir()
    where = call(environment, '-c', 'import mmafan; print(mmafan.__file__)', cwd=folder, env=clean()).split()[-1]
    assert where.startswith(str(sources if form == 'editable' else tmp_path / 'env'))
    command = environment.parent / 'mmafan'
    assert 'mmengine' in call(command, 'doctor', cwd=folder, env=clean())
    for name, text in (('child', CHILD), ('new_style', NEW_STYLE)):
        (folder / f'{name}.py').write_text(text)
        out = call(command, *(part.format(config=f'{name}.py', folder=folder / name) for part in TRAIN), cwd=folder,
                   env=clean())
        assert 'afan_stage1_adversarial: ' in out and 'Epoch(val) [1]' in out


def test_sdist_has_what_a_reader_needs(environment, sources, tmp_path):
    call(environment, 'setup.py', '-q', 'sdist', '-d', tmp_path / 'dist', cwd=sources, env=clean())
    [archive] = (tmp_path / 'dist').iterdir()
    with tarfile.open(archive) as file:
        names = {name.partition('/')[2] for name in file.getnames()}
    for name in ('README.md', 'CHANGELOG.md', 'CITATION.cff', 'requirements/default.txt', 'docs/method.md',
                 'tests/conftest.py', 'configs/mmpretrain/resnet_digits.py', 'mmafan/.mim/tools/train.py',
                 'mmafan/py.typed', 'mmafan/configs/mmpretrain/resnet_afan_digits.py'):
        assert name in names, name
