"""Write what the documentation takes from the code: the tables of fields, and the page of what is public.

    python tools/write_docs.py [--check] [--api FILE]

Needs no package: mmafan/lab/docs.py, which does it, is run as a file.
"""
from __future__ import annotations

import runpy
from pathlib import Path

if __name__ == '__main__':
    runpy.run_path(str(Path(__file__).resolve().parents[1] / 'mmafan' / 'lab' / 'docs.py'), run_name='__main__')
