"""Facts about an object as one line of text and as an HTML table, for notebooks.

All text is escaped. The HTML has no script, and its colours are those of the page.
"""

from __future__ import annotations

__all__ = ["Described", "Markup", "html_picture", "html_table", "repr_of"]

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

NAMES = 12  # of a long list, before it is cut
CELL = "text-align:left;vertical-align:middle;padding:2px 8px;white-space:nowrap"


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


class Described:
    """An object that is shown by its `facts`, as one line and as a table in notebooks."""

    def facts(self) -> dict[str, Any]:
        """What a user wants to know, by name; None where it does not apply."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return repr_of(type(self).__name__.lstrip("_"), self.facts())

    def _repr_html_(self) -> str:
        return html_table(type(self).__name__.lstrip("_"), self.facts())


def repr_of(kind: str, facts: Mapping[str, Any]) -> str:
    """One line for `repr`; facts that are None are left out.

    Example:
        >>> repr_of("Critic", {"attributes": ("Smiling", "Male"), "latent": (8,), "note": None})
        'Critic(attributes: Smiling, Male; latent: (8,))'
    """
    parts = [f"{key}: {_words(value)}" for key, value in facts.items() if value is not None]
    return f"{kind}({'; '.join(parts)})"


def html_table(
    title: str, facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]] = (), note: str = ""
) -> str:
    """A title, a table of facts, and a table of rows with one header.

    Arguments:
        title: The kind of object.
        facts: Values by name; those that are None are left out.
        rows: Cells by column.
        note: A sentence below.

    Example:
        >>> "&lt;b&gt;" in html_table("Critic", {"attributes": ("<b>",)})
        True
    """
    parts = [f"<div><strong>{html.escape(title)}</strong>"]
    if facts:
        lines = (
            f'<tr><th style="{CELL}">{html.escape(key)}</th>{_cell(value)}</tr>'
            for key, value in facts.items()
            if value is not None
        )
        parts.append(f"<table>{''.join(lines)}</table>")
    if rows:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        head = "".join(f'<th style="{CELL}">{html.escape(key)}</th>' for key in columns)
        body = "".join(
            f"<tr>{''.join(_cell(row.get(key, '')) for key in columns)}</tr>" for row in rows
        )
        parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
    if note:
        parts.append(f"<p>{html.escape(note)}</p>")
    return "".join([*parts, "</div>"])


def html_picture(png: bytes, text: str, *, width: int) -> Markup:
    """A PNG as an `img` that holds its bytes; `text` is read where it is not shown."""
    data = base64.b64encode(png).decode()
    return Markup(
        f'<img src="data:image/png;base64,{data}" alt="{html.escape(text)}" '
        f'style="width:{width}px;max-width:none;border:1px solid #ccc;image-rendering:pixelated">'
    )


def _cell(value: Any) -> str:
    text = value if isinstance(value, Markup) else html.escape(_words(value))
    return f'<td style="{CELL}">{text}</td>'


def _words(value: Any) -> str:
    """A value in plain text: a list of names is joined, and cut where it is long."""
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, str) or not isinstance(value, Iterable):
        return str(value)
    words = [*map(str, value)]
    if all(isinstance(item, int | float) for item in value):
        return f"({', '.join(words)}{',' * (len(words) == 1)})"
    more = f" and {len(words) - NAMES} more" if len(words) > NAMES else ""
    return ", ".join(words[:NAMES]) + more
