"""A run's results as one HTML file; its figures are drawn in `figures.py`.

The file loads nothing: pictures are embedded as base64 and there is no script. Equal input gives
equal bytes: no dates, no random ids. A picture has the size that its resolution implies at 96
pixels to the inch, and is never wider than the page.
"""

from __future__ import annotations

__all__ = ["Report", "face_sheet", "loss_curves"]

import base64
import html
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from latentctl.errors import InputError, ShapeError
from latentctl.storage.files import write_atomic

from .figures import face_sheet, loss_curves

STATUS = ("met", "missed")
STYLE = Path(__file__).with_name("report.css")


class Report:
    """One self-contained HTML page, filled from top to bottom.

    In texts, captions and cells, `**bold**` and words between backquotes are formatted; all other
    text is escaped.

    Arguments:
        title: Heading of the page.
        subtitle: The setting of the run, in a sentence.

    Example:
        >>> report = Report("Faces")
        >>> report.section("Figures", "Over **three** seeds.")
        >>> report.table(["what", "value"], [["accuracy", 0.91234], ["FID", None]])
        >>> report.save("report.html")  # doctest: +SKIP
    """

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title, self.subtitle = title, subtitle
        self._sections: list[tuple[str, list[str]]] = []

    def section(self, title: str, text: str = "") -> None:
        """Begin a section; empty lines in `text` separate paragraphs."""
        paragraphs = [part for part in re.split(r"\n\s*\n", text.strip()) if part]
        self._sections.append((title, [f"<p>{_inline(part)}</p>" for part in paragraphs]))

    def picture(self, image: bytes | Path, caption: str, *, width: int | None = None) -> None:
        """Show a PNG; small ones in a row are placed side by side.

        Arguments:
            image: The PNG, or its file.
            caption: The caption, also the alternative text.
            width: In CSS pixels; by the picture's own resolution if not given.

        Raises:
            InputError: If the file is missing, or not a PNG.
        """
        if isinstance(image, Path) and not image.is_file():
            raise InputError(f"The report needs the picture {image}, which does not exist.")
        data = image.read_bytes() if isinstance(image, Path) else image
        pixels, height, natural = _png_size(data)
        alt = html.escape(re.sub(r"`|\*\*", "", caption))
        self._add(
            f'<figure class="picture" style="--width: {width or natural}px"><div class="scroll">'
            f'<img src="data:image/png;base64,{base64.b64encode(data).decode()}" alt="{alt}" '
            f'width="{pixels}" height="{height}"></div>'
            f"<figcaption>{_inline(caption)}</figcaption></figure>"
        )

    def players(self, sounds: Sequence[tuple[str, bytes]], *, columns: int = 3) -> None:
        """Show a player for each WAV file, row by row.

        Arguments:
            sounds: Captions and files.
            columns: Players in a row of a wide page.

        Raises:
            InputError: If a file is no WAV file.
        """
        figures = []
        for caption, sound in sounds:
            if sound[:4] != b"RIFF" or sound[8:12] != b"WAVE":
                raise InputError(f"The report plays WAV files; {caption!r} is not one.")
            label = html.escape(re.sub(r"`|\*\*", "", caption))
            figures.append(
                f'<figure><audio controls preload="none" aria-label="{label}" '
                f'src="data:audio/wav;base64,{base64.b64encode(sound).decode()}"></audio>'
                f"<figcaption>{_inline(caption)}</figcaption></figure>"
            )
        self._add(f'<div class="players" style="--columns: {columns}">{"".join(figures)}</div>')

    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[object]],
        *,
        caption: str = "",
        goals: Sequence[str] | None = None,
    ) -> None:
        """Show a table: three significant digits, an en dash where there is no value.

        Arguments:
            columns: The headings.
            rows: As many cells each; a cell that is "met" or "missed" is coloured.
            caption: The caption, below.
            goals: One for each row, shown before a column of "met" and "missed", or else last.

        Raises:
            ShapeError: If a row does not fit the columns, or goals are missing.
        """
        columns, cells = list(columns), [list(row) for row in rows]
        for row in cells:
            if len(row) != len(columns):
                raise ShapeError(f"A row of {len(row)} cells, {row}, for {len(columns)} columns.")
        if goals is not None:
            if len(goals) != len(cells):
                raise ShapeError(f"{len(goals)} goals for {len(cells)} rows: give one for each.")
            judged = (i for i in range(1, len(columns)) if any(row[i] in STATUS for row in cells))
            place = next(judged, len(columns))
            columns.insert(place, "goal")
            for row, goal in zip(cells, goals, strict=True):
                row.insert(place, goal)
        head = "".join(f'<th scope="col">{_inline(name)}</th>' for name in columns)
        body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in cells)
        note = f"<figcaption>{_inline(caption)}</figcaption>" if caption else ""
        self._add(
            f'<figure><div class="scroll"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>{note}</figure>"
        )

    def settings(self, values: Mapping[str, object]) -> None:
        """Show names and exact values in a folded section; nested groups are flattened."""

        def single(group: Mapping[str, object]) -> Iterator[tuple[str, object]]:
            for name, value in group.items():
                yield from single(value) if isinstance(value, Mapping) else [(name, value)]

        def exact(value: object) -> str:
            if isinstance(value, (list, tuple)):
                return ", ".join(map(exact, value))
            return "–" if value is None else str(value)

        rows = "".join(
            f"<tr><td><code>{html.escape(name)}</code></td>"
            f"<td>{html.escape(exact(value))}</td></tr>"
            for name, value in single(values)
        )
        self._add(f"<details><summary>Settings</summary><table>{rows}</table></details>")

    def save(self, path: str | Path) -> Path:
        """Write the page, atomically."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, self._page().encode())
        return path

    def _add(self, block: str) -> None:
        if not self._sections:
            self._sections.append(("", []))
        self._sections[-1][1].append(block)

    def _page(self) -> str:
        titles = [(f"s{i}", html.escape(title)) for i, (title, _) in enumerate(self._sections)]
        links = "\n".join(f'<a href="#{anchor}">{title}</a>' for anchor, title in titles if title)
        nav = f"<nav>{links}</nav>" if len(titles) > 2 else ""
        subtitle = f"<p>{_inline(self.subtitle)}</p>" if self.subtitle else ""
        sections = "\n".join(
            f'<section id="{anchor}">'
            + "\n".join([f"<h2>{title}</h2>" if title else "", *blocks])
            + "</section>"
            for (anchor, title), (_, blocks) in zip(titles, self._sections, strict=True)
        )
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{html.escape(self.title)}</title>\n<style>\n{STYLE.read_text()}</style></head>\n"
            f"<body><header><h1>{html.escape(self.title)}</h1>{subtitle}{nav}</header>\n"
            f"<main>{sections}</main></body></html>\n"
        )


def _inline(text: str) -> str:
    def mark(match: re.Match[str]) -> str:
        code, bold = match.groups()
        return f"<code>{code}</code>" if code else f"<strong>{bold}</strong>"

    return re.sub(r"`([^`]+)`|\*\*(.+?)\*\*", mark, html.escape(text))


def _cell(value: object) -> str:
    if isinstance(value, str) and value in STATUS:
        return f'<td class="{value}">{value}</td>'
    text = _text(value)
    kind = ' class="long"' if len(text) > 24 else ""
    return f"<td{kind}>{_inline(text)}</td>"


def _text(value: object) -> str:
    if isinstance(value, Tensor) or type(value).__module__ == "numpy":
        value = value.item()  # type: ignore[attr-defined]  # a scalar, or it raises
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return str(value)
    if value == 0:
        return "0"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"


def _png_size(data: bytes) -> tuple[int, int, int]:
    """Width and height in pixels, and the width in CSS pixels by the PNG's own resolution."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise InputError(f"The report shows PNG files; these bytes begin with {data[:8]!r}.")
    if data[-8:-4] != b"IEND":
        raise InputError(f"This PNG of {len(data)} bytes is truncated: draw or copy it again.")
    width, height = struct.unpack(">II", data[16:24])
    place = data.find(b"pHYs", 33, data.find(b"IDAT"))
    if place > 0:
        per_metre, _, unit = struct.unpack(">IIB", data[place + 4 : place + 13])
        if unit == 1 and per_metre:
            return width, height, round(width * 96 / 0.0254 / per_metre)
    return width, height, width
