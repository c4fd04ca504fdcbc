"""The figures of a report: sheets of faces, loss curves and maps of a critic, each as a PNG.

They are drawn with matplotlib, without its global state and independent of its settings. Plots have
192 pixels to the inch, twice the resolution of a page; sheets of faces have 96.
"""

from __future__ import annotations

__all__ = ["drawing", "face_sheet", "loss_curves", "png_of"]

import contextlib
import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from latentctl.errors import InputError, ShapeError, UnknownNameError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE_DPI, PLOT_DPI = 96, 192
INK, SOFT, LINE, BLUE, ORANGE = "#26282b", "#5f6368", "#dedfdb", "#1f5f7a", "#e0793a"
SATISFIED, NOT_SATISFIED = "#2a9d6f", "#cf3f4f"
WRAP: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
STYLE = {
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "ytick.minor.width": 0.4,
}


def face_sheet(
    x: Tensor,
    *,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    scale: float = 2,
    marked: Tensor | None = None,
    notes: Sequence[Sequence[str]] | None = None,
) -> bytes:
    """The PNG of a labelled sheet of `R` by `C` images.

    Arguments:
        x: Images in [0, 1], `(R, C, 3, h, w)`, or `(R * C, 3, h, w)` row by row if it is labelled.
        row_labels: At the left, `R` or none.
        column_labels: Above, `C` or none; slanted where one is much wider than an image.
        scale: Pixels of the sheet to a pixel of `x`, smoothly interpolated.
        marked: `(R, C)`: a green frame where 1, a red frame with a cross where 0, none where NaN.
        notes: `R` by `C` short texts under the images, such as probabilities.

    Raises:
        ShapeError: If images, labels, marked and notes are not of one `R` by `C`.
        InputError: If a value is not finite or outside [0, 1].
    """
    if x.ndim == 4 and len(x) == len(row_labels) * len(column_labels) > 0:
        x = x.unflatten(0, (len(row_labels), len(column_labels)))
    if x.ndim != 5 or x.shape[2] != 3 or x.numel() == 0:
        raise ShapeError(
            f"A sheet of {len(row_labels)} row labels and {len(column_labels)} column labels needs "
            f"images (R, C, 3, h, w), or (R * C, 3, h, w), these are {tuple(x.shape)}."
        )
    rows, columns = x.shape[:2]
    for name, fits in {
        "row_labels": len(row_labels) in (0, rows),
        "column_labels": len(column_labels) in (0, columns),
        "marked": marked is None or tuple(marked.shape) == (rows, columns),
        "notes": notes is None or [len(line) for line in notes] == [columns] * rows,
    }.items():
        if not fits:
            raise ShapeError(f"The {name} do not fit {rows} rows and {columns} columns of images.")
    x = x.detach().float().cpu()
    if not (x.isfinite().all() and x.min() > -1e-3 and x.max() < 1 + 1e-3):
        raise InputError(
            f"A sheet needs images in [0, 1]; their values go from {x.min():.3g} to {x.max():.3g}."
        )
    height, width = (max(1, round(side * scale)) for side in x.shape[3:])
    faces = F.interpolate(x.flatten(0, 1), (height, width), mode="bicubic", antialias=True)
    faces = faces.clamp(0, 1).movedim(1, 3)
    marked = None if marked is None else marked.float().cpu()

    font, frame = max(11, round(width / 7)), max(2, width // 40)
    gap = 3 * frame
    with drawing(PAGE_DPI) as figure:

        def write(text: str, size: float, **style: Any) -> Any:
            style |= {"fontsize": size * 72 / PAGE_DPI, "parse_math": False}
            return figure.text(0, 0, text, transform=None, **style)

        def extent(texts: Sequence[Any], side: str) -> int:
            return round(max((getattr(t.get_window_extent(), side) for t in texts), default=0))

        labels = column_labels if any(column_labels) else ()
        heads = [write(text, font, ha="center") for text in labels]
        room = width / max(1, extent(heads, "width"))
        slanted = room < 0.75
        for head in heads:
            if slanted:
                head.set(rotation=35, rotation_mode="anchor", ha="left")
            else:
                head.set(fontsize=head.get_fontsize() * min(1, room))
        names = [
            write(textwrap.fill(text, 18, **WRAP), font, ha="right", va="center", linespacing=1.15)
            for text in (row_labels if any(row_labels) else ())
        ]
        below = [
            write(text, max(10, 0.8 * font), ha="center", va="top", color=SOFT)
            for line in notes or []
            for text in line
        ]

        left = gap + (extent(names, "width") + font // 2 if names else 0)
        top = gap + (extent(heads, "height") + font // 2 if heads else 0)
        step_x, step_y = width + gap, height + gap
        if below:
            step_y += extent(below, "height") + font // 3
        ends = [columns * step_x]
        if slanted:
            ends += [c * step_x + width // 2 + extent([h], "width") for c, h in enumerate(heads)]
        sheet = torch.ones(top + rows * step_y, left + max(ends), 3)
        up = len(sheet)  # text counts from the lower edge, rows of pixels from the upper one

        for c, head in enumerate(heads):
            head.set_position((left + c * step_x + width / 2, up - top + font / 2))
        for r, name in enumerate(names):
            name.set_position((left - font / 2, up - top - r * step_y - height / 2))
        for place, face in enumerate(faces):
            r, c = divmod(place, columns)
            x0, y0 = left + c * step_x, top + r * step_y
            x1, y1 = x0 + width, y0 + height
            if marked is not None and not marked[r, c].isnan():
                colour = SATISFIED if marked[r, c] else NOT_SATISFIED
                sheet[y0 - frame : y1 + frame, x0 - frame : x1 + frame] = _rgb(colour)
                if not marked[r, c]:
                    box = {"facecolor": colour, "edgecolor": "none", "pad": 1.5}
                    cross = write("×", font, ha="right", va="top", color="white", bbox=box)
                    cross.set_position((x1 - 1, up - y0 - 1))
            sheet[y0:y1, x0:x1] = face
            if below:
                below[place].set_position((x0 + width / 2, up - y1 - frame - font / 6))
        figure.set_size_inches(sheet.shape[1] / PAGE_DPI, up / PAGE_DPI)
        figure.figimage((sheet * 255).round().byte().numpy(), zorder=-1)
        return png_of(figure)


def loss_curves(log: Sequence[Mapping[str, Any]], *, keys: Sequence[str] = ("loss",)) -> bytes:
    """The PNG of a run's curves, a panel for each player and key: a smoothed line over the raw one.

    Arguments:
        log: The lines of `metrics.jsonl`: each with "step", perhaps "player", and values.
        keys: The values to draw, for the players that have them. Steps without a finite value
            are left out; a logarithmic axis is used where a positive curve spans a factor of 30.

    Raises:
        InputError: If there is no finite value in the log.
        UnknownNameError: If a key is in no line.
    """
    import numpy as np

    if not log:
        raise InputError("The log is empty, so no curve can be drawn.")
    for key in keys:
        if not any(key in line for line in log):
            raise UnknownNameError(
                "value in the log", key, sorted({k for line in log for k in line})
            )
    players = dict.fromkeys(line.get("player", "") for line in log)
    curves = []
    for player in players:
        for key in keys:
            lines = [line for line in log if line.get("player", "") == player]
            pairs = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
            values = np.array(pairs, dtype=float).reshape(-1, 2)
            if len(values := values[np.isfinite(values[:, 1])]):
                curves.append((f"{player} {key}".strip(), *values.T))
    if not curves:
        raise InputError(f"No line of this log has a finite value of {', '.join(keys)}.")
    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    width = 4.6 if columns == 1 else 3.3 * columns
    with drawing(size=(width, 2.6 * rows)) as figure:
        for place, (title, steps, raw) in enumerate(curves):
            axes = figure.add_subplot(rows, columns, place + 1, title=title, xlabel="step")
            window = np.ones(2 * (len(raw) // 25) + 1)
            weight = np.convolve(np.ones_like(raw), window, "same")
            smooth = np.convolve(raw, window, "same") / weight
            axes.plot(steps, raw, color=BLUE, alpha=0.25, linewidth=0.7)
            axes.plot(steps, smooth, color=BLUE, linewidth=1.5, solid_capstyle="round")
            if raw.min() > 0 and smooth.max() > 30 * smooth.min():
                axes.set_yscale("log")
            axes.grid(axis="y", color=LINE, linewidth=0.6)
            axes.set_axisbelow(True)
        return png_of(figure)


@torch.no_grad()
@contextlib.contextmanager
def drawing(dpi: float = PLOT_DPI, size: tuple[float, float] | None = None) -> Iterator[Figure]:
    """A figure in the style of the reports, independent of matplotlib's settings."""
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(dpi=dpi, figsize=size, layout="constrained" if size else None)
        FigureCanvasAgg(figure)
        yield figure


def png_of(figure: Figure) -> bytes:
    """The PNG of a figure; equal figures give equal bytes."""
    file = io.BytesIO()
    # without the version of matplotlib in the file
    figure.savefig(file, format="png", dpi=figure.dpi, metadata={"Software": None})
    return file.getvalue()


def _rgb(colour: str) -> Tensor:
    return torch.tensor(list(bytes.fromhex(colour[1:]))) / 255
