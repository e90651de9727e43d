"""Settings of sphinx for the documentation site; `bash tools/build_docs.sh` builds it."""
from __future__ import annotations

import re

project = 'mmafan'
author = 'The mmafan authors'
extensions = ['myst_parser']
html_theme = 'furo'
html_title = 'mmafan'
myst_heading_anchors = 4
exclude_patterns = ['evidence/**/*.md']  # tables of runs, which the pages link to as files


def local_links(text: str) -> str:
    """Turn links to files outside of the site into their paths.

    >>> local_links('see [the configs](../configs/mmdet/README.md) and [x](y.md)')
    'see the configs (`configs/mmdet/README.md`) and [x](y.md)'
    """

    def path(found: 're.Match[str]') -> str:
        target = found[2].split('#')[0]
        return f'`{target}`' if found[1].strip('`') in target else f'{found[1]} (`{target}`)'

    return re.sub(r'(?<!!)\[([^\]]+)\]\((?:\.\./)+([^)]+)\)', path, text)


def setup(app) -> None:
    """Read sources through :func:`local_links`."""

    def read(_, name, source) -> None:
        source[0] = local_links(source[0])

    app.connect('source-read', read)
