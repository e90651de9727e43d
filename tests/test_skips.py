"""With ``CI=true`` nothing of the default set may be missing without a failure."""
from __future__ import annotations

import os
import subprocess
import sys

import pytest

TESTS = {
    'module': "import pytest\npytest.importorskip('no_such_package', reason='a package')\ndef test_a(): pass\n",
    'data': "import pytest\ndef test_a(): pytest.skip('the sample data is not there: /x')\n",
    'allowed': "import pytest\ndef test_a(): pytest.skip('needs pip install deepspeed==0.16.9')\n",
    'known': "import pytest\n@pytest.mark.xfail\ndef test_a(): assert False\n",
}


@pytest.mark.parametrize('name, fails', [('module', True), ('data', True), ('allowed', False), ('known', False)])
def test_what_is_missing_fails(repo, tmp_path, name, fails):
    (tmp_path / 'conftest.py').write_text((repo / 'tests' / 'conftest.py').read_text())
    (tmp_path / 'test_it.py').write_text(TESTS[name])
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-p', 'no:cov', 'test_it.py']
    for ci, wrong in {'true': fails, '': False}.items() if fails else [('true', False)]:
        found = subprocess.run(command, cwd=tmp_path, env=dict(os.environ, CI=ci, PYTHONPATH=str(repo)),
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert (found.returncode not in (0, 5)) == wrong, found.stdout  # 5: no test was collected
