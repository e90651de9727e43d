"""A report as one HTML page that opens anywhere: pictures are inside it, and nothing is loaded.

Understands what the reports of these tools are written in: headings, paragraphs, tables, lists, fenced code, pictures,
`code`, **bold**, *italic* and links.
"""
from __future__ import annotations

import base64
import html
import os.path as osp
import re
from typing import Iterator, List

PAGE = '''<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }}
div.table {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: 0.9rem; }}
th, td {{ border-bottom: 1px solid #8886; padding: 0.3rem 0.7rem 0.3rem 0; text-align: left; vertical-align: top; }}
img {{ max-width: 100%; background: white; }}
code {{ font-size: 0.85em; background: #8882; padding: 0.1em 0.25em; border-radius: 3px; }}
pre {{ overflow-x: auto; background: #8882; padding: 0.7rem; }}
pre code {{ background: none; padding: 0; }}
</style>
</head>
<body>
{body}
</body>
</html>
'''
KINDS = {'.png': 'image/png', '.jpg': 'image/jpeg', '.jpeg': 'image/jpeg', '.svg': 'image/svg+xml'}


def inline(text: str, folder: str) -> str:
    """Turn the markup inside a line into HTML; a picture is put into the page.

    Example:
        >>> inline('**1 < 2**, `a | b`', '.')
        '<strong>1 &lt; 2</strong>, <code>a | b</code>'
    """
    kept: List[str] = []

    def keep(value: str) -> str:
        kept.append(value)
        return f'\0{len(kept) - 1}\0'

    text = re.sub(r'`([^`]+)`', lambda found: keep(f'<code>{html.escape(found[1])}</code>'), text)
    text = re.sub(r'!\[([^\]]*)\]\(([^)]+)\)', lambda found: keep(picture(found[2], found[1], folder)), text)
    text = html.escape(text, quote=False)
    text = re.sub(r'\[([^\]]+)\]\(([^)]+)\)', r'\1 (\2)', text)
    text = re.sub(r'\*\*(.+?)\*\*', r'<strong>\1</strong>', text)
    text = re.sub(r'(?<![\w*])\*([^*\s][^*]*)\*(?![\w*])', r'<em>\1</em>', text)
    return re.sub('\0(\\d+)\0', lambda found: kept[int(found[1])], text)


def picture(path: str, about: str, folder: str) -> str:
    """Return a picture as a part of the page; where there is no such file, its name."""
    kind, full = KINDS.get(osp.splitext(path)[1].lower()), osp.join(folder, path)
    if kind is None or not osp.isfile(full):
        return f'<em>{html.escape(about or path)}</em>'
    with open(full, 'rb') as file:
        content = base64.b64encode(file.read()).decode()
    return f'<img alt="{html.escape(about)}" src="data:{kind};base64,{content}">'


def blocks(text: str, folder: str) -> Iterator[str]:
    """Yield the blocks of a report as HTML."""
    lines = text.split('\n') + ['']
    number = 0
    while number < len(lines):
        begin, line = number, lines[number]
        number += 1
        if line.startswith('```'):
            while number < len(lines) and not lines[number].startswith('```'):
                number += 1
            code = '\n'.join(lines[begin + 1:number])
            number += 1
            yield f'<pre><code>{html.escape(code)}</code></pre>'
        elif re.match(r'#+ ', line):
            level = len(line) - len(line.lstrip('#'))
            yield f'<h{level}>{inline(line[level:].strip(), folder)}</h{level}>'
        elif line.startswith('|'):
            while number < len(lines) and lines[number].startswith('|'):
                number += 1
            yield table(lines[begin:number], folder)
        elif re.match(r'[-*] ', line):
            while number < len(lines) and (re.match(r'[-*] ', lines[number]) or lines[number].startswith('  ')):
                number += 1
            items = re.split(r'^[-*] ', '\n'.join(lines[begin:number]), flags=re.M)[1:]
            yield '<ul>' + ''.join(f'<li>{inline(item.strip(), folder)}</li>' for item in items) + '</ul>'
        elif line.strip():
            while number < len(lines) and lines[number].strip() and not re.match(r'[|]|#+ |```|[-*] ', lines[number]):
                number += 1
            yield f'<p>{inline(" ".join(lines[begin:number]), folder)}</p>'


def table(lines: List[str], folder: str) -> str:
    """Return a table, whose second line divides its head from its rows."""

    def cells(line: str, tag: str) -> str:
        parts = re.split(r'(?<!\\)\|(?=(?:[^`]*`[^`]*`)*[^`]*$)', line.strip().strip('|'))
        return '<tr>' + ''.join(f'<{tag}>{inline(part.strip(), folder)}</{tag}>' for part in parts) + '</tr>'

    rows = ''.join(cells(line, 'td') for line in lines[2:])
    return f'<div class="table"><table><thead>{cells(lines[0], "th")}</thead><tbody>{rows}</tbody></table></div>'


def write_page(text: str, path: str) -> None:
    """Write a report as a page.

    Args:
        text: The report; pictures are seen from the folder of the page.
        path: Of the page.
    """
    title = next((line[2:] for line in text.split('\n') if line.startswith('# ')), osp.basename(path))
    with open(path, 'w', encoding='utf-8') as file:
        file.write(PAGE.format(title=html.escape(title), body='\n'.join(blocks(text, osp.dirname(path)))))
