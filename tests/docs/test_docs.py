"""The documents: every link leads somewhere, no page is left out, and what comes from the code is up to date."""
from __future__ import annotations

import re
import runpy
from dataclasses import fields
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PAGES = sorted([*REPO.glob('*.md'), *REPO.glob('docs/*.md'), *REPO.glob('configs/*/README.md'),
                *REPO.glob('examples/**/*.md'), *REPO.glob('mmafan/**/*.md')])
PAGES = [page for page in PAGES if '.mim' not in page.parts]


def without_code(text):
    return re.sub(r'`[^`\n]*`', '', re.sub(r'^```.*?^```', '', text, flags=re.M | re.S))


def anchors(page):
    """Anchors of a page's headings, as GitHub and myst make them."""
    text = re.sub(r'^```.*?^```', '', page.read_text(), flags=re.M | re.S)
    titles = re.findall(r'^#+ (.+)$', text, re.M)
    return {re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-') for title in titles}


@pytest.mark.parametrize('page', PAGES, ids=[str(page.relative_to(REPO)) for page in PAGES])
def test_links_lead_somewhere(page):
    for target in re.findall(r'\]\(([^)\s]+)\)', without_code(page.read_text())):
        if re.match(r'[a-z]+:', target):
            continue
        path, _, anchor = target.partition('#')
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f'{target}: there is no {found}'
        if anchor:
            assert anchor in anchors(found), f'{target}: {found.name} has {sorted(anchors(found))}'


def test_pictures_of_the_pages_are_whole():
    """GitHub, the site and a reader without a network show the same diagram."""
    from xml.etree import ElementTree
    for picture in REPO.glob('docs/*.svg'):
        root = ElementTree.parse(picture).getroot()
        assert root.tag.endswith('svg') and 'http' not in picture.read_text().replace('http://www.w3.org/2000/svg', '')


def test_every_page_is_in_the_contents():
    """Of the site; the page of what is public is written where it is built."""
    blocks = re.findall(r'```\{toctree\}\n(.*?)```', (REPO / 'docs' / 'index.md').read_text(), re.S)
    listed = {line for block in blocks for line in block.split('\n') if line and not line.startswith(':')}
    assert listed == {page.stem for page in REPO.glob('docs/*.md')} - {'index'} | {'api'}


@pytest.fixture(scope='module')
def tool():
    return runpy.run_path(str(REPO / 'mmafan' / 'lab' / 'docs.py'))


def test_what_is_written_from_the_code_is_up_to_date(tool):
    stale = [str(path.relative_to(REPO)) for path, text in tool['wanted']().items() if path.read_text() != text]
    assert not stale, f'run python tools/write_docs.py: {stale}'


def test_every_field_has_a_row_with_its_default(tool):
    from mmafan.config import AFANConfig, LearnStrengthsConfig
    from mmafan.tap_config import TapConfig
    for (_, _, source), cls in zip(tool['TABLES'], (AFANConfig, TapConfig, LearnStrengthsConfig)):
        rows = {field.name: field for field in tool['read_fields'](*source)}
        assert set(rows) == {f.name for f in fields(cls) if f.name != 'where'}
        for f in fields(cls):
            if f.name != 'where' and rows[f.name].default is not None:
                assert eval(rows[f.name].default) == f.default, f.name
            assert f.name == 'where' or rows[f.name].text.endswith('.')


def test_table_in_the_readme_is_the_one_of_the_docstrings(tool):
    readme = (REPO / 'README.md').read_text()
    assert (tool['BEGIN'] in readme) == (tool['END'] in readme) == (tool['readme_table']() in readme)


def test_docstrings_become_cells_of_a_table(tool):
    docstring = ('Say.\n\nAttributes:\n    a: One ``x`` of\n        :class:`Y`.\n    b: ``l1 * |w|``.\n\n'
                 'Returns:\n    c: No.')
    entries = tool['read_section'](docstring, 'Attributes')
    assert entries == {'a': 'One ``x`` of :class:`Y`.', 'b': '``l1 * |w|``.'}
    assert tool['as_markdown'](entries['a']) == 'One `x` of `Y`.'
    assert tool['as_markdown'](entries['b']) == r'`l1 * \|w\|`.'


def test_page_of_what_is_public_has_every_name(tool, tmp_path):
    import mmafan.functional
    import mmafan.hooks
    assert tool['main'](['--check', '--api', str(tmp_path / 'api.md')]) == 0
    page = (tmp_path / 'api.md').read_text()
    for package in (mmafan.functional, mmafan.hooks):
        for name in set(package.__all__) - {'MOMENTS'}:
            assert f'### {package.__name__}.{name}\n' in page
    assert 'class AdvFeatureHook(begin: int=0' in page


def test_links_out_of_the_site_become_paths():
    local_links = runpy.run_path(str(REPO / 'docs' / 'conf.py'))['local_links']
    assert local_links('[a](../x/y.md#z), [`x/y.md`](../x/y.md), [b](c.md), ![d](../e.png)') == (
        'a (`x/y.md`), `x/y.md`, [b](c.md), ![d](../e.png)')


def sentences(page):
    """The sentences of each line of a page's text, without code; a bold word may lead a sentence."""
    text = re.sub(r'^```.*?^```', lambda m: '\n' * m.group().count('\n'), page.read_text(), flags=re.M | re.S)
    for number, line in enumerate(text.split('\n'), 1):
        if line.strip() and not line.startswith(('|', '#', '    ', '<', '!')):
            line = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', re.sub(r'`[^`]*`', 'X', line.strip()))
            yield number, [s for s in re.split(r'(?<=[.!?])\s+(?=[A-Z])', line) if len(s.split()) > 2]


@pytest.mark.parametrize('page', [page for page in PAGES if page.name != 'CHANGELOG.md'], ids=lambda page: page.stem)
def test_a_line_has_one_sentence(page):
    several = [number for number, found in sentences(page) if len(found) > 1]
    assert not several, f'{page}: lines {several} have more than one sentence'
