"""The set-up scripts, offline: a stand-in for pip installs empty packages into an empty venv.

The stand-in keeps the one trait that matters: mmcv and mmcv-lite own the same files, so that
removing either removes the files of both.
"""
from __future__ import annotations

import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted([*ROOT.glob('tools/*.sh'), ROOT / '.ci' / 'run'])
# What the scripts call; a test leaves one out, or puts another in its place.
PROGRAMS = (
    'awk', 'bash', 'cat', 'cksum', 'cut', 'df', 'dirname', 'env', 'find', 'flock', 'grep', 'head',
    'mkdir', 'mv', 'nproc', 'rm', 'sed', 'sh', 'sleep', 'tail', 'tar', 'wc')
Result = subprocess.CompletedProcess
KEY = f'py{sys.version_info[0]}{sys.version_info[1]}-torch2.12.1-cpu-mmcv2.1.0'
fits_default_set = pytest.mark.skipif(
    not (3, 10) <= sys.version_info[:2] <= (3, 12),
    reason='the default set is for Python 3.10 to 3.12')
fits_classic_set = pytest.mark.skipif(
    sys.version_info >= (3, 12), reason='the classic set is for Python 3.8 to 3.11')

FAKE_PIP = '''
import os, pathlib, shutil, sys, sysconfig

site = pathlib.Path(sysconfig.get_paths()['purelib'])
arguments = sys.argv[1:]
with open(os.environ['FAKE_PIP_LOG'], 'a') as log:
    log.write(' '.join(arguments) + '\\n')
fail_on, _, message = os.environ.get('FAKE_PIP_FAIL', '').partition('|')
if fail_on and fail_on in ' '.join(arguments):
    print(message)
    sys.exit(1)


def name_and_version(argument):
    if argument.endswith('.whl'):
        return os.path.basename(argument).split('-')[:2]
    return argument.split('==')


def metadata(name, version):
    return site / f"{name.replace('-', '_')}-{version}.dist-info"


def install(argument, target=site):
    name, version = name_and_version(argument)
    if target is site:
        metadata(name, version).mkdir(exist_ok=True)
        (metadata(name, version) / 'METADATA').write_text(f'Name: {name}\\nVersion: {version}\\n')
    if name in ('mmcv', 'mmcv-lite'):
        (target / 'mmcv').mkdir(parents=True, exist_ok=True)
        (target / 'mmcv' / '__init__.py').write_text(f"__version__ = '{version}'")
        if argument.endswith('.whl') and 'compiled elsewhere' not in open(argument).read():
            (target / 'mmcv' / 'ops.py').write_text(
                'def nms(boxes, scores, threshold): return None, boxes\\n'
                'def RoIAlign(size): return lambda *inputs: None\\n'
                'def get_compiling_cuda_version(): return "not available"\\n')


command = arguments[0]
if command == 'install':
    target = site
    pins = []
    while arguments[1:]:
        argument = arguments.pop(1)
        if argument == '--target':
            target = pathlib.Path(arguments.pop(1))
        elif argument == '-r':
            lines = open(arguments.pop(1)).read().splitlines()
            pins += [line for line in lines if '==' in line and not line.startswith('#')]
        elif argument in ('-c', '--extra-index-url'):
            arguments.pop(1)
        elif not argument.startswith('-'):
            pins.append(argument)
    for pin in pins:
        install(pin, target)
elif command == 'uninstall':
    for name in arguments[2:]:
        for folder in site.glob(name.replace('-', '_') + '-*.dist-info'):
            shutil.rmtree(folder)
            if name.startswith('mmcv'):
                shutil.rmtree(site / 'mmcv', ignore_errors=True)
elif command == 'download':
    offered = os.environ.get('FAKE_PIP_OFFERS')
    if not offered:
        sys.exit('ERROR: No matching distribution found')
    os.makedirs(arguments[arguments.index('-d') + 1], exist_ok=True)
    shutil.copy(offered, arguments[arguments.index('-d') + 1])
'''

FAKE_TORCH = '''
__version__ = '{version}'
class version: cuda = '13.0'
class cuda:
    @staticmethod
    def is_available(): return False
class Kept:
    def tolist(self): return [0]
def tensor(values): return Kept()
def ones(*shape): return None
'''


class Sandbox:
    """A copy of the scripts, a PATH of its own and an empty environment."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / 'repo'
        self.programs = folder / 'bin'
        self.environment = folder / 'environment'
        self.wheels = folder / 'wheels'
        self.pip_log = folder / 'pip.log'
        self.programs.mkdir()
        self.pip_log.touch()
        for name in PROGRAMS:
            (self.programs / name).symlink_to(shutil.which(name))
        shutil.copytree(ROOT / 'tools', self.root / 'tools',
                        ignore=shutil.ignore_patterns('__pycache__'))
        shutil.copytree(ROOT / 'requirements', self.root / 'requirements')
        shutil.copy(ROOT / 'setup.cfg', self.root)
        (self.root / 'setup.py').touch()
        (self.root / 'mmafan').mkdir()
        (self.root / 'mmafan' / '__init__.py').touch()

    @property
    def site(self) -> Path:
        return next(self.environment.glob('lib/python*/site-packages'))

    def program(self, name: str, text: str) -> Path:
        """Puts an executable shell script on the sandbox's PATH."""
        path = self.programs / name
        path.unlink(missing_ok=True)
        path.write_text(f'#!/bin/sh\n{text}\n')
        path.chmod(0o755)
        return path

    def make_environment(self, **installed: str) -> None:
        """Makes an environment with the stand-in for pip and the named distributions."""
        venv.create(self.environment, with_pip=False, symlinks=True)
        self.module('pip/__main__.py', FAKE_PIP)
        self.module('mmengine/utils.py',
                    'def get_installed_path(name): return __import__(name).__file__')
        for name in ('mmdet', 'mmseg', 'mmpretrain', 'torchvision'):
            self.module(f'{name}/__init__.py', '')
        for name, version in installed.items():
            folder = self.site / f'{name}-{version}.dist-info'
            folder.mkdir()
            (folder / 'METADATA').write_text(f'Name: {name}\nVersion: {version}\n')
        if 'torch' in installed:
            self.module('torch.py', FAKE_TORCH.format(version=installed['torch']))

    def module(self, name: str, text: str) -> None:
        path = self.site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / '__init__.py').touch()
        path.write_text(text)

    def wheel(self, folder: Path, text: str = 'fits') -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / 'mmcv-2.1.0-cp3-cp3-linux_x86_64.whl'
        path.write_text(text)
        return path

    def run(self, script: str, *arguments: str, **variables: str) -> Result:
        environment = dict(PATH=str(self.programs), HOME=str(self.root), LC_ALL='C.UTF-8',
                           MMAFAN_MIN_DISK_GB='0', FAKE_PIP_LOG=str(self.pip_log))
        environment.update(variables)
        if self.environment.exists():
            environment.setdefault('VIRTUAL_ENV', str(self.environment))
        return subprocess.run(
            ['bash', str(self.root / 'tools' / script), *arguments],
            env={name: value for name, value in environment.items() if value}, cwd='/',
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)

    def setup(self, *arguments: str, **variables: str) -> Result:
        return self.run(
            'setup_env.sh', '--active', '--wheels', str(self.wheels), *arguments, **variables)

    def pip_calls(self) -> list[str]:
        return self.pip_log.read_text().splitlines()

    def distributions(self, pattern: str) -> list[str]:
        return sorted(path.name for path in self.site.glob(f'{pattern}.dist-info'))


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


def assert_one_sentence(result: Result, *parts: str) -> None:
    """The run failed with status 2, and its last line is the only error and names ``parts``."""
    assert result.returncode == 2, result.stdout + result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith('error: ')]
    assert len(errors) == 1, result.stderr
    assert result.stderr.rstrip().splitlines()[-1] == errors[0]
    assert errors[0].endswith('.')
    for part in parts:
        assert part in errors[0]


def assert_success(result: Result) -> None:
    assert result.returncode == 0, result.stdout + result.stderr


# --------------------------------------------------------------------------- scripts and options

def test_scripts_are_found() -> None:
    names = {path.name for path in SCRIPTS}
    assert {'setup_env.sh', 'run_tests.sh', 'quickstart.sh', '_env.sh', 'run'} <= names


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_script_has_valid_syntax(script: Path) -> None:
    result = subprocess.run(['bash', '-n', str(script)], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, '')


@pytest.mark.parametrize('script', ['setup_env.sh', 'run_tests.sh', 'quickstart.sh'])
def test_help_names_the_options(sandbox: Sandbox, script: str) -> None:
    result = sandbox.run(script, '--help')
    assert_success(result)
    assert result.stdout.startswith(f'Usage: bash tools/{script}')
    assert '--active' in result.stdout


@pytest.mark.parametrize('arguments, parts', [
    (['--fast'], ["unknown option '--fast'", '--help']),
    (['default'], ["unknown option 'default'"]),
    (['--set', 'newest'], ["unknown set 'newest'", 'default, classic or onedl']),
    (['--set=newest'], ["unknown set 'newest'"]),
    (['--set'], ['--set needs a value']),
    (['--active', '--python', 'python3'], ['--python', '--active', 'only one']),
])
def test_wrong_option_is_named(sandbox: Sandbox, arguments: list[str], parts: list[str]) -> None:
    assert_one_sentence(sandbox.run('setup_env.sh', *arguments), *parts)
    assert not (sandbox.root / '.venv').exists()


def test_quickstart_says_which_demos_exist(sandbox: Sandbox) -> None:
    assert_one_sentence(sandbox.run('quickstart.sh', 'translation'), "unknown demo 'translation'",
                        'classification, detection and segmentation')


@pytest.mark.parametrize('arguments, given', [
    ([], '--lite'), (['--seeds', '1'], '--lite'), (['classification'], '--lite'), (['detection', '--seeds', '1'], ''),
    (['segmentation', '--seeds', '1'], ''),
])
def test_quickstart_waits_for_the_operators_where_they_are_needed(
        sandbox: Sandbox, arguments: list[str], given: str) -> None:
    (sandbox.root / 'tools' / 'setup_env.sh').write_text('echo "given: $*"; exit 3\n')
    result = sandbox.run('quickstart.sh', *arguments)
    assert (result.returncode, result.stdout.strip()) == (3, f'given: {given}'.strip())


# --------------------------------------------------------------------------- preconditions

@pytest.mark.parametrize('chosen, version, parts', [
    ('default', '3.7', ['3.10, 3.11 or 3.12', 'is 3.7', '--python']),
    ('default', '3.13', ['3.10, 3.11 or 3.12', 'is 3.13']),
    ('classic', '3.12', ['classic', '3.8, 3.9, 3.10 or 3.11', 'is 3.12']),
])
@pytest.mark.parametrize('named', [False, True], ids=['on PATH', 'by --python'])
def test_wrong_python(
        sandbox: Sandbox, chosen: str, version: str, parts: list[str], named: bool) -> None:
    python = sandbox.program('oddpython' if named else 'python3', f'echo {version}')
    arguments = ['--python', str(python)] if named else []
    assert_one_sentence(sandbox.run('setup_env.sh', '--set', chosen, *arguments), *parts)
    assert not (sandbox.root / '.venv').exists()


def test_no_python_at_all(sandbox: Sandbox) -> None:
    assert_one_sentence(sandbox.run('setup_env.sh'), 'python3 is not found')


def test_a_fitting_python_of_another_name_is_taken(sandbox: Sandbox) -> None:
    sandbox.program('python3', 'echo 3.7')
    sandbox.program('python3.12', 'echo 3.12')
    result = sandbox.run('setup_env.sh', MMAFAN_MIN_DISK_GB='1000000')
    assert_one_sentence(result, 'disk space')


def test_no_venv_module(sandbox: Sandbox) -> None:
    sandbox.program('python3', 'case $2 in *version_info*) echo 3.11 ;; *) exit 1 ;; esac')
    assert_one_sentence(sandbox.run('setup_env.sh'), 'no venv module', 'python3.11-venv')


def test_no_disk(sandbox: Sandbox) -> None:
    sandbox.program('python3', 'echo 3.11')
    sandbox.program('df', 'echo header; echo /dev/disk 99999999 1 5242880 1% /')
    result = sandbox.run('setup_env.sh', MMAFAN_MIN_DISK_GB='')
    assert_one_sentence(result, 'has 5 GB', '12 GB are needed')
    assert not (sandbox.root / '.venv').exists()


def test_active_without_an_environment(sandbox: Sandbox) -> None:
    result = sandbox.run('setup_env.sh', '--active')
    assert_one_sentence(result, 'no environment is active', '.venv')


@pytest.mark.parametrize('version', ['2.14.0', '2.15.1+cu130', '3.0.0'])
def test_torch_that_mmcv_cannot_be_compiled_for(sandbox: Sandbox, version: str) -> None:
    sandbox.make_environment(torch=version)
    assert_one_sentence(sandbox.setup(), f'torch {version}', '2.14', '2.13 or older')
    assert sandbox.pip_calls() == []


def test_torch_for_numpy_1_contradicts_the_default_set(sandbox: Sandbox) -> None:
    sandbox.make_environment(torch='2.1.2')
    assert_one_sentence(sandbox.setup('--set', 'default'), 'torch 2.1.2', '--set classic')


@fits_classic_set
def test_torch_for_numpy_1_gets_the_classic_set(sandbox: Sandbox) -> None:
    sandbox.make_environment(torch='2.1.2', torchvision='0.16.2')
    result = sandbox.setup('--lite')
    assert_success(result)
    assert '(classic set)' in result.stdout
    assert sandbox.distributions('numpy-*') == ['numpy-1.24.4.dist-info']


@fits_default_set
def test_forks_are_refused(sandbox: Sandbox) -> None:
    sandbox.make_environment(torch='2.12.1', onedl_mmcv='2.3.6')
    metadata = sandbox.site / 'onedl_mmcv-2.3.6.dist-info' / 'METADATA'
    metadata.write_text('Name: onedl-mmcv\nVersion: 2.3.6\n')
    assert_one_sentence(sandbox.setup(), 'onedl-mmcv', 'another environment')


@fits_default_set
def test_the_fork_does_not_go_beside_upstream(sandbox: Sandbox) -> None:
    sandbox.make_environment(torch='2.12.1', mmcv='2.1.0')
    (sandbox.site / 'mmcv-2.1.0.dist-info' / 'METADATA').write_text('Name: mmcv\nVersion: 2.1.0\n')
    assert_one_sentence(sandbox.setup('--set', 'onedl'), 'mmcv', 'another --set')


# --------------------------------------------------------------------------- installing

@fits_default_set
def test_lite_then_full_never_keeps_both(sandbox: Sandbox) -> None:
    sandbox.make_environment(torch='2.12.1', torchvision='0.27.1')
    result = sandbox.setup('--lite')
    assert_success(result)
    assert 'mmcv-lite 2.1.0' in result.stdout
    assert sandbox.distributions('mmcv*') == ['mmcv_lite-2.1.0.dist-info']

    wheel = sandbox.wheel(sandbox.wheels / KEY)
    sandbox.pip_log.write_text('')
    result = sandbox.setup()
    assert_success(result)
    assert 'the operators import and run' in result.stdout
    assert sandbox.distributions('mmcv*') == ['mmcv-2.1.0.dist-info']
    calls = sandbox.pip_calls()
    assert calls.index('uninstall -y mmcv mmcv-lite') < calls.index(f'install --no-deps {wheel}')
    assert (sandbox.site / 'mmcv' / 'ops.py').exists()


@fits_default_set
def test_lite_takes_a_fitting_wheel(sandbox: Sandbox) -> None:
    sandbox.make_environment(torch='2.12.1', torchvision='0.27.1')
    sandbox.wheel(sandbox.wheels / KEY)
    assert_success(sandbox.setup('--lite'))
    assert sandbox.distributions('mmcv*') == ['mmcv-2.1.0.dist-info']


@fits_default_set
def test_second_run_installs_nothing(sandbox: Sandbox) -> None:
    sandbox.make_environment(torch='2.12.1', torchvision='0.27.1')
    sandbox.wheel(sandbox.wheels / KEY)
    assert_success(sandbox.setup())
    sandbox.pip_log.write_text('')
    for arguments in ([], ['--lite']):
        result = sandbox.setup(*arguments)
        assert_success(result)
        assert 'nothing to do' in result.stdout
    assert sandbox.pip_calls() == []

    with open(sandbox.root / 'requirements' / 'default.txt', 'a') as file:
        file.write('tabulate==0.9.0\n')
    assert_success(sandbox.setup())
    assert sandbox.distributions('tabulate-*') == ['tabulate-0.9.0.dist-info']


@fits_default_set
def test_missing_torch_is_installed_as_pinned(sandbox: Sandbox) -> None:
    sandbox.make_environment()
    sandbox.module('torch.py', FAKE_TORCH.format(version='2.12.1'))
    assert_success(sandbox.setup('--lite'))
    pins = 'torch==2.12.1 torchvision==0.27.1'
    assert len([call for call in sandbox.pip_calls() if call.endswith(pins)]) == 1


@fits_default_set
@pytest.mark.parametrize('torch, wanted, index', [
    ('2.9.1', '0.24.1', None),
    ('2.13.0', '0.28.0', None),
    ('2.6.0+cpu', '0.21.0', 'https://download.pytorch.org/whl/cpu'),
    ('2.12.1+cu130', '0.27.1', 'https://download.pytorch.org/whl/cu130'),
])
def test_torch_is_kept_and_gets_its_torchvision(
        sandbox: Sandbox, torch: str, wanted: str, index: str | None) -> None:
    sandbox.make_environment(torch=torch)
    assert_success(sandbox.setup('--lite'))
    calls = [call for call in sandbox.pip_calls() if 'torchvision==' in call]
    assert len(calls) == 1
    assert f'torchvision=={wanted}' in calls[0]
    assert ('--extra-index-url' in calls[0]) == (index is not None)
    assert index is None or index in calls[0]
    assert not [call for call in sandbox.pip_calls() if re.search(r'\btorch==', call)]
    assert sandbox.distributions('torch-*') == [f'torch-{torch}.dist-info']


@fits_classic_set
def test_torch_without_a_known_torchvision(sandbox: Sandbox) -> None:
    sandbox.make_environment(torch='1.13.1')
    assert_one_sentence(sandbox.setup(), 'torch 1.13.1', 'no torchvision is known')


@fits_default_set
@pytest.mark.parametrize('message, parts', [
    ("NewConnectionError('Failed to establish a new connection')",
     ['could not reach a package index', 'PIP_FIND_LINKS', '--wheels']),
    ('ERROR: No matching distribution found for numpy', ['index lacks', 'PIP_FIND_LINKS']),
    ('OSError: [Errno 28] No space left on device', ['disk is full']),
    ('ERROR: something else', ['installing the libraries failed', 'setup.log']),
])
def test_failure_of_pip_is_explained(sandbox: Sandbox, message: str, parts: list[str]) -> None:
    sandbox.make_environment(torch='2.12.1', torchvision='0.27.1')
    result = sandbox.setup(FAKE_PIP_FAIL=f'libraries.txt|{message}')
    assert_one_sentence(result, *parts)
    assert message in result.stderr


@fits_default_set
def test_no_compiler(sandbox: Sandbox) -> None:
    sandbox.make_environment(torch='2.12.1', torchvision='0.27.1')
    assert_one_sentence(sandbox.setup(), 'no C++ compiler', 'apt install g++', '--wheels')


@fits_default_set
@pytest.mark.parametrize('place', ['keyed folder', 'find-links'])
def test_wheel_compiled_for_another_torch_is_not_used(
        sandbox: Sandbox, tmp_path: Path, place: str) -> None:
    sandbox.make_environment(torch='2.12.1', torchvision='0.27.1')
    folder = sandbox.wheels / KEY if place == 'keyed folder' else tmp_path / 'links'
    wheel = sandbox.wheel(folder, 'compiled elsewhere')
    offers = {} if place == 'keyed folder' else {'FAKE_PIP_OFFERS': str(wheel)}
    # The wheel is tried and found unfit; the compile is next, for which a compiler is missing.
    assert_one_sentence(sandbox.setup(**offers), 'no C++ compiler')
    tried = [call for call in sandbox.pip_calls() if '--target' in call]
    assert len(tried) == 1 and tried[0].endswith('.whl')
    assert sandbox.distributions('mmcv*') == []


@fits_default_set
def test_wheel_from_find_links_is_used(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.make_environment(torch='2.12.1', torchvision='0.27.1')
    wheel = sandbox.wheel(tmp_path / 'links')
    assert_success(sandbox.setup(FAKE_PIP_OFFERS=str(wheel)))
    assert sandbox.distributions('mmcv*') == ['mmcv-2.1.0.dist-info']


@fits_default_set
def test_stale_development_line_is_replaced(sandbox: Sandbox) -> None:
    sandbox.make_environment(torch='2.12.1', torchvision='0.27.1')
    (sandbox.site / 'mmafan-dev.pth').write_text('/somewhere/else\n')
    assert_success(sandbox.setup('--lite'))
    assert (sandbox.site / 'mmafan-dev.pth').read_text() == f'{sandbox.root}\n'


# --------------------------------------------------------------------------- the pinned sets

@pytest.mark.parametrize('name', ['default', 'classic', 'onedl', 'test'])
def test_every_requirement_is_pinned(name: str) -> None:
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    lines = [line for line in lines if line and not line.startswith('#')]
    assert lines
    assert [line for line in lines if not re.fullmatch(r'[A-Za-z][\w-]*==[\w.]+', line)] == []


def test_both_sets_pin_the_same_packages() -> None:
    texts = [(ROOT / 'requirements' / f'{name}.txt').read_text() for name in ('default', 'classic')]
    names = [set(re.findall(r'^([\w-]+)==', text, re.M)) for text in texts]
    assert names[0] == names[1]
    assert 'mmcv' in names[0]


def test_set_of_the_fork_differs_in_the_packages_of_openmmlab_alone() -> None:
    own, fork = ({line for line in (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
                  if '==' in line} for name in ('default', 'onedl'))
    assert all(line.startswith('mm') for line in own - fork) and len(own - fork) == 5
    assert all(line.startswith('onedl-mm') for line in fork - own) and len(fork - own) == 5
