# SPDX-License-Identifier: GPL-3.0-or-later
"""A page of its own with tables of Markdown cells: what people look at in a browser and pass on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 84rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 0 0 1.5rem; }
th, td { border-bottom: 1px solid #ddd; padding: .3rem .6rem; text-align: right; vertical-align: top; }
th { border-bottom: 2px solid #888; }
th.text, td.text { text-align: left; }
td.bar { background: linear-gradient(90deg, #0b6e4f33 var(--share), transparent var(--share)); }
code { background: #f2f2f2; padding: 0 .2rem; }
"""
NUMBER = re.compile(r"-?[\d,]+(\.\d+)?")

Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]  # title, head, rows


def inline(text: str) -> str:
    """HTML of a line of Markdown, of which only `code` is known."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", escape(text, quote=False))


def number(cell: str) -> float | None:
    return float(cell.replace(",", "")) if NUMBER.fullmatch(cell) else None


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Yield a table; a number has a bar behind it, as long as its share of the column's largest."""
    columns = [[number(cell) for cell in column] for column in zip(*rows, strict=True)]
    text = [not any(value is not None for value in column) for column in columns]
    largest = [max((value for value in column if value is not None), default=0) for column in columns]
    yield f"<h2>{inline(title)}</h2><table><tr>"
    for name, is_text in zip(head, text, strict=True):
        yield f"<th{' class=text' if is_text else ''}>{inline(name)}</th>"
    yield "</tr>"
    for index, row in enumerate(rows):
        yield "<tr>"
        for cell, column, is_text, most in zip(row, columns, text, largest, strict=True):
            value = column[index]
            if value is not None and most > 0:
                yield f'<td class=bar style="--share: {max(0.0, value) / most:.0%}">{inline(cell)}</td>'
            else:
                yield f"<td{' class=text' if is_text else ''}>{inline(cell)}</td>"
        yield "</tr>"
    yield "</table>"


def page(title: str, paragraphs: Sequence[str], tables: Iterable[Table], after: Sequence[str]) -> str:
    """Return the page, which needs no other file."""
    lines = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>',
        f"<style>{STYLE}</style><h1>{escape(title)}</h1>",
        *(f"<p>{inline(text)}</p>" for text in paragraphs),
    ]
    for each in tables:
        lines += table(*each)
    lines += [f"<p>{inline(text)}</p>" for text in after]
    return "\n".join([*lines, "</html>", ""])
