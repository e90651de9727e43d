"""mmpretrain's own tools on a child of one of our configs, by the name ``mmafan::``."""
from __future__ import annotations

import os
import subprocess
import sys

import pytest

mmpretrain = pytest.importorskip('mmpretrain', reason='the tools are those of mmpretrain')
pytest.importorskip('sklearn', reason='the images are part of scikit-learn')
pytestmark = pytest.mark.slow

TOOLS = {
    'misc/print_config.py': (['child.py'], "type='mmafan.AFANImageClassifier'"),
    'visualization/vis_scheduler.py': (['child.py', '--dataset-size', '100', '--ngpus', '1', '--not-show',
                                        '--save-path', 'rate.png'], 'rate.png'),
}


@pytest.mark.parametrize('tool', TOOLS)
def test_stock_tool_runs_on_a_child(tool, repo, tmp_path):
    arguments, word = TOOLS[tool]
    (tmp_path / 'child.py').write_text("_base_ = [__import__('mmafan') and "
                                       "'mmafan::mmpretrain/resnet_afan_digits.py']\n")
    script = os.path.join(mmpretrain.__path__[0], '.mim', 'tools', *tool.split('/'))
    done = subprocess.run([sys.executable, script, *arguments], cwd=tmp_path, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, universal_newlines=True,
                          env=dict(os.environ, PYTHONPATH=str(repo), MPLBACKEND='Agg', COLUMNS='200'))
    assert done.returncode == 0 and word in done.stdout, done.stdout[-3000:]
