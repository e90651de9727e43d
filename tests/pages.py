"""Looking at a page of HTML as a browser without a network does."""
from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {'meta', 'link', 'img', 'br', 'hr', 'input'}


class Page(HTMLParser):
    """What a page loads or leads to, its text and its tables.

    Attributes:
        references: Values of whatever a browser would load or follow, but for what lies inside the page (``data:``).
        pictures: Number of pictures that lie inside.
        cells: Rows of all tables.
        text: All of its text.
        problems: Tags that are closed in another order than they were opened.
    """
    NAMES = {'src', 'href', 'srcset', 'poster', 'data', 'action', 'background'}

    def __init__(self, text):
        super().__init__()
        self.references, self.pictures, self.cells, self.text, self.problems, self.open = [], 0, [], '', [], []
        self.feed(text)
        self.close()
        self.references += re.findall(r'url\(([^)]*)\)|@import', text)
        self.problems += [f'{tag} is never closed' for tag in self.open]

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        if tag == 'script':
            self.references.append('script')
        self.pictures += tag == 'img'
        if tag == 'tr':
            self.cells.append([])
        if tag in ('td', 'th'):
            self.cells[-1].append('')
        self.references += [value for name, value in attrs if name in self.NAMES and not value.startswith('data:')]

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.problems.append(f'{tag} is closed out of order')

    def handle_data(self, data):
        self.text += data
        if {'td', 'th'} & set(self.open):
            self.cells[-1][-1] += data


def check_offline(path, pictures):
    """The page opens offline: it refers to nothing outside, and the pictures are inside."""
    page = Page(path.read_text())
    assert not page.references and not page.problems, (page.references, page.problems)
    assert page.pictures == pictures
    return page
