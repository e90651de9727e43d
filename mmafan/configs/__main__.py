"""Write the files that stand for the configs: ``python -m mmafan.configs`` after a config came, went or was renamed."""
from __future__ import annotations

import os
import os.path as osp

from . import FOLDER, config_paths, module_path

TEXT = '''# Stands for the config of this name, see mmafan/configs/__init__.py; written by `python -m mmafan.configs`.
globals().update(__import__('mmafan.configs', fromlist=['load']).load(__file__))
'''


def write() -> int:
    """Write what is missing, remove what stands for nothing; return the number of files."""
    wanted = {module_path(config) for config in config_paths()}
    packages = {osp.dirname(path) for path in wanted}
    packages |= {osp.dirname(path) for path in packages} - {''}
    kept = wanted | {osp.join(package, '__init__.py') for package in packages}
    for folder, folders, names in os.walk(FOLDER, topdown=False):
        for path in (osp.relpath(osp.join(folder, name), FOLDER) for name in names if name.endswith('.py')):
            if osp.dirname(path) and path not in kept:
                os.remove(osp.join(FOLDER, path))
    for path in kept:
        os.makedirs(osp.dirname(osp.join(FOLDER, path)), exist_ok=True)
        with open(osp.join(FOLDER, path), 'w') as file:
            file.write('' if path.endswith('__init__.py') else TEXT)
    return len(wanted)


if __name__ == '__main__':
    print(f'{write()} files in {FOLDER}')
