"""A report as one page: everything of it is there, and nothing outside is referred to."""
from __future__ import annotations

import base64
import importlib

import pytest

from ..pages import Page, check_offline

REPORT = '''\
# A & B

Two lines
of **one** paragraph, 1 < 2, *slanted*, 2 * 3 * 4, a_b. See [the page](docs/x.md).

| arm | `command` |
|---|---|
| a ± 1 | `run "x|y" <z>` |
| b | |

- one
  more
- two

```bash
python <x> **not bold**
```

![curves & bars](curves.png)
![gone](no.png)
'''
DOT = b'\x89PNG\r\n, or what else a picture is made of'


@pytest.fixture
def page_tool(repo, monkeypatch):
    return importlib.import_module('mmafan.lab.page')


def test_page_holds_the_report_and_its_pictures(page_tool, tmp_path):
    (tmp_path / 'curves.png').write_bytes(DOT)
    page_tool.write_page(REPORT, str(tmp_path / 'report.html'))
    text = (tmp_path / 'report.html').read_text()
    page = check_offline(tmp_path / 'report.html', pictures=1)
    assert page.cells == [['arm', 'command'], ['a ± 1', 'run "x|y" <z>'], ['b', '']]
    assert '<title>A &amp; B</title>' in text and '<h1>A &amp; B</h1>' in text
    assert 'of <strong>one</strong> paragraph, 1 &lt; 2, <em>slanted</em>, 2 * 3 * 4, a_b.' in text
    assert 'See the page (docs/x.md).' in page.text and 'python <x> **not bold**' in page.text
    assert text.count('<li>') == 2 and '<em>gone</em>' in text
    assert base64.b64encode(DOT).decode() in text and 'alt="curves &amp; bars"' in text


@pytest.mark.parametrize('text, found', [
    ('<img src="a.png">', ['a.png']),
    ('<link href="https://x/y.css">', ['https://x/y.css']),
    ('<script>1</script>', ['script']),
    ('<style>a { background: url(b.png) }</style>', ['b.png']),
    ('<a href="data:,">x</a>', []),
])
def test_references_are_found(text, found):
    assert Page(text).references == found


def test_open_tags_are_found():
    assert Page('<p><em>x</p></em>').problems
