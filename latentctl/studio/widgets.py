"""The parts of the page that gradio does not have: controls, a stage, and pictures as buttons.

Each is a `gradio.HTML` with a fixed template and a script under `web/`, which changes the page in
place when its value changes.
"""

from __future__ import annotations

__all__ = [
    "CSS",
    "ENDED",
    "MELODIES",
    "PICTURES",
    "Guarded",
    "cancel_button",
    "header",
    "message",
    "painter",
    "panel",
    "panel_value",
    "plain",
    "present",
    "stage",
    "tiles",
]

import functools
import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ..errors import InputError, LatentctlError
from .receipt import words

ENDED = """() => document.querySelectorAll(".running").forEach(
  (text) => text.classList.remove("running"))"""  # what a cancelled job cannot do itself
WEB = Path(__file__).parent / "web"
CSS = (WEB / "studio.css").read_text()

STRENGTH = """<div class="strength"><label>Strength of the whole move
<input type="range" min="0" max="1.5" step="0.05" value="1"></label><output>1.00</output></div>"""

PICTURES = """<div class="stage" data-shows="side">
<div class="views" role="group" aria-label="View">
<button type="button" data-view="side" aria-pressed="true">Side by side</button>
<button type="button" data-view="wipe" aria-pressed="false">Wipe</button>
<button type="button" data-view="difference" aria-pressed="false">Difference</button>
</div>
<div class="frames">
<figure class="before"><img data-of="before" alt="">
<figcaption data-text="origin"></figcaption></figure>
<figure class="after"><img data-of="after" alt=""><figcaption>After</figcaption></figure>
<figure class="changed"><img data-of="difference" alt="">
<figcaption>Difference: white is the largest change</figcaption></figure>
</div>
<label class="wiper">Before, and after
<input class="cut" type="range" min="0" max="100" value="50"></label>
<p class="note" role="status" data-text="note"></p>
<p class="take">Download
<a data-href="png" download="edited.png">the picture with its receipt (PNG)</a>
<a data-href="json" download="edited.png.json">the receipt (JSON)</a></p>
</div>"""

MELODIES = """<div class="stage melodies">
<div class="frames">
<figure class="before"><img data-of="before" alt="">
<audio controls data-of="before_sound" aria-label="Play the melody before"></audio>
<figcaption data-text="origin"></figcaption></figure>
<figure class="after"><img data-of="after" alt="">
<audio controls data-of="after_sound" aria-label="Play the melody after"></audio>
<figcaption data-text="after_words"></figcaption></figure>
</div>
<p class="legend" data-text="legend"></p>
<p class="note" role="status" data-text="note"></p>
<p class="take">Download
<a data-href="midi" download="edited.mid">the melody (MIDI)</a>
<a data-href="after_sound" download="edited.wav">its sound (WAV)</a>
<a data-href="png" download="edited.png">the piano roll with its receipt (PNG)</a>
<a data-href="json" download="edited.png.json">the receipt (JSON)</a></p>
</div>"""


REGION = """<div class="region"><canvas width="320" height="320" tabindex="0" role="application"
aria-label="Cells that may change"></canvas><div class="presets">
<button type="button" data-preset="all">Everywhere</button>
<button type="button" data-preset="upper">Upper half</button>
<button type="button" data-preset="lower">Lower half</button>
<button type="button" data-preset="left">Left half</button>
<button type="button" data-preset="right">Right half</button>
<button type="button" data-preset="invert">Invert</button></div></div>"""


def plain(value: str | None = None, name: str | None = None) -> gr.HTML:
    """Text of the page; it takes no room while it is empty."""
    return gr.HTML(
        value, elem_id=name, js_on_load=None, elem_classes="plain", apply_default_css=False
    )


def _script(name: str) -> str:
    return (WEB / f"{name}.js").read_text()


def header(title: str, note: str) -> gr.HTML:
    """The title of the page and one sentence."""
    text = f"<header><h1>{html.escape(title)}</h1><p>{html.escape(note)}</p></header>"
    return plain(text)


def panel(name: str, *, holds: bool = True, strength: bool = True) -> gr.HTML:
    """Rows of sliders; its events are `input` while one moves and `submit` after that.

    Arguments:
        name: Its id on the page.
        holds: Whether attributes can be held.
        strength: Whether there is a slider of the strength.
    """
    mark = "" if holds else '<span class="no-holds" hidden></span>'
    return gr.HTML(
        None,
        html_template=f'{mark}<div class="rows"></div>{STRENGTH if strength else ""}',
        js_on_load=_script("panel"),
        elem_id=name,
        elem_classes="panel" if holds else "panel free",
        apply_default_css=False,
    )


def panel_value(
    rows: Sequence[Mapping[str, Any]], version: int, hold: Sequence[str] | None, strength: float
) -> dict[str, Any]:
    """What a panel shows; sliders follow where `version` is another one than before."""
    shown = [{**row, "label": words(row["name"])} for row in rows]
    return {"rows": shown, "version": version, "hold": hold, "strength": strength}


def stage(template: str) -> gr.HTML:
    """Before and after, `PICTURES` or `MELODIES`, with links to the files."""
    return gr.HTML(
        None,
        html_template=template,
        js_on_load=_script("stage"),
        elem_id="stage-box",
        apply_default_css=False,
    )


def painter() -> gr.HTML:
    """Cells of the latent over the picture; its event is `submit`, whose data have the `rows`."""
    return gr.HTML(
        None,
        html_template=REGION,
        js_on_load=_script("region"),
        elem_id="region",
        apply_default_css=False,
    )


def tiles(name: str, label: str, empty: str = "", *, titled: bool = False) -> gr.HTML:
    """Pictures as buttons; its event is `select`, whose data have the `place`.

    Arguments:
        name: Its id on the page.
        label: What they are.
        empty: What stands there without pictures.
        titled: Whether the label stands above them.
    """
    label = html.escape(label)
    above = f'<p class="above" aria-hidden="true">{label}</p>' if titled else ""
    text = f'<p class="empty">{html.escape(empty)}</p>' if empty else ""
    return gr.HTML(
        None,
        html_template=f'{above}<div class="tiles" role="group" aria-label="{label}"></div>{text}',
        js_on_load=_script("tiles"),
        elem_id=name,
        apply_default_css=False,
    )


def cancel_button(name: str) -> gr.Button:
    """A button that is shown while the text of its tab has the class `running` (studio.css)."""
    return gr.Button("Cancel", size="sm", elem_id=name, elem_classes="cancel")


def message(text: str = "") -> str:
    """A sentence on what went wrong, or nothing."""
    return f'<p class="problem" role="alert">{html.escape(text)}</p>' if text else ""


def paragraphs(sentences: Sequence[str], name: str, warnings: Sequence[str] = ()) -> str:
    """Sentences, one a paragraph, and warnings after them."""
    plain = "".join(f"<p>{html.escape(text)}</p>" for text in sentences)
    marked = "".join(f'<p class="warning">{html.escape(text)}</p>' for text in warnings)
    return f'<div class="{name}">{plain}{marked}</div>'


def present(session: Any) -> Any:
    """The session of a visitor.

    Raises:
        InputError: If there is none yet, or it was dropped.
    """
    if session is None:
        raise InputError(
            "The page is still being loaded, or was left for more than an hour. Wait some "
            "seconds, or reload the page."
        )
    return session


class Guarded:
    """Makes handlers that put an error on the page as a sentence, and change nothing else.

    Arguments:
        outputs: The number of outputs, the message apart, which comes last.
    """

    def __init__(self, outputs: int) -> None:
        self.outputs = outputs

    def __call__(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(handler)
        def guarded(*arguments: Any) -> Any:
            try:
                found = handler(present(arguments[0]), *arguments[1:])
            except (LatentctlError, OSError) as problem:
                return (*[gr.skip()] * self.outputs, message(str(problem)))
            return (*found, message()) if self.outputs > 1 else (found, message())

        return guarded
