"""Run the ``get_flops.py`` of a config's own codebase, with the same arguments.

    python tools/analysis_tools/get_flops.py CONFIG [arguments of the codebase's tool]
"""
from __future__ import annotations

from mmafan.lab.analyses.get_flops import main

if __name__ == '__main__':
    main()
