"""What is missing is told in one sentence when mmafan is imported, and pip is told to install nothing of a fork."""
from __future__ import annotations

import configparser
import subprocess
import sys
import textwrap

import pytest

from mmafan import dependencies


def imported_without(*names, code=''):
    """Import mmafan where some modules are absent; return the last line of the error."""
    script = f'''
        import sys
        class Absent:
            def find_spec(self, name, path=None, target=None):
                if name in {names!r}:
                    raise ModuleNotFoundError('No module named ' + repr(name), name=name)
        sys.meta_path.insert(0, Absent())
        {code}
        import mmafan
        '''
    done = subprocess.run([sys.executable, '-c', textwrap.dedent(script)], universal_newlines=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.returncode != 0
    return done.stderr.strip().splitlines()[-1]


def test_missing_torch_is_a_sentence():
    assert 'mmafan needs torch, which is not installed' in imported_without('torch')


def test_missing_mmengine_is_a_sentence(monkeypatch):

    def absent(name):
        if name == 'mmengine':
            raise ModuleNotFoundError("No module named 'mmengine'", name='mmengine')
        return sys.modules[name]

    monkeypatch.setattr(dependencies, 'import_module', absent)
    with pytest.raises(ModuleNotFoundError, match='there is no mmengine here: install mmengine') as error:
        dependencies.check()
    assert error.value.name == 'mmengine'


@pytest.mark.parametrize('name, sentence', [('pkg_resources', "pip install 'setuptools<82'"),
                                            ('yapf', "No module named 'yapf'")])
def test_what_mmengine_lacks_is_not_taken_for_mmengine(name, sentence, monkeypatch):

    def absent(module):
        if module == 'mmengine':
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)
        return sys.modules[module]

    monkeypatch.setattr(dependencies, 'import_module', absent)
    with pytest.raises(ImportError) as error:
        dependencies.check()
    assert sentence in str(error.value)


@pytest.mark.parametrize('version, fits', [('0.10.3', False), ('0.10.4', True), ('0.11.0rc1', True), ('1.0.0', False)])
def test_version_of_mmengine(version, fits, monkeypatch):
    import mmengine
    monkeypatch.setattr(mmengine, '__version__', version)
    if fits:
        dependencies.check()
    else:
        with pytest.raises(ImportError, match=f'found {version}'):
            dependencies.check()


def test_pip_replaces_no_fork(repo):
    """A requirement named mmengine would install upstream's beside or over onedl-mmengine."""
    setup = configparser.ConfigParser()
    setup.read(repo / 'setup.cfg')
    required = setup['options']['install_requires'].split()
    assert [name.split('<')[0] for name in required] == ['setuptools']
    assert {'mmpretrain', 'mmdet', 'mmseg', 'all'} <= set(setup['options.extras_require'])
    everything = set(setup['options.extras_require']['all'].split('\n'))
    for name in ('mmpretrain', 'mmdet', 'mmseg'):
        assert set(setup['options.extras_require'][name].split('\n')) <= everything
