"""The Sample tab: pictures by attributes, each of which can be edited."""

from __future__ import annotations

__all__ = ["SampleTab"]

from typing import Any

import gradio as gr

from . import pictures, script
from .edit_tab import SEEDS, EditTab
from .session import Demand, Session, Start
from .source import Source
from .widgets import Guarded, panel, panel_value, paragraphs, plain, tiles

MOST = 36
HOW = ["The same seed starts from the same samples while the attributes change."]


class SampleTab:
    """Its components and events.

    Arguments:
        source: What is served.
        session: The state that holds a `Session`.
        edit: Shows the sample that is pressed.
        tabs: Turns to it.
    """

    def __init__(self, source: Source, session: gr.State, edit: EditTab, tabs: gr.Tabs) -> None:
        self.source, self.edit = source, edit
        with gr.Row(elem_classes="workbench"):
            with gr.Column(scale=7, min_width=320):
                self.tiles = tiles("samples", "Samples: press one to edit it", "No samples yet.")
                self.words = plain()
            with gr.Column(scale=5, min_width=320):
                with gr.Row(elem_classes="starts"):
                    self.count = gr.Slider(1, MOST, 12, step=1, label="Number of samples")
                    self.seed = gr.Number(
                        0, label="Seed", precision=0, minimum=0, maximum=SEEDS - 1
                    )
                with gr.Row(elem_classes="actions"):
                    self.draw = gr.Button("Sample", variant="primary", size="sm")
                    self.another = gr.Button("Another seed", size="sm")
                self.problem = plain()
                self.panel = panel("sample-attributes", holds=False, strength=False)
                plain(paragraphs(HOW, "explain"))
        outputs = [self.tiles, self.words, self.problem]
        options: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}
        inputs = [session, self.count, self.seed]
        self.panel.submit(
            Guarded(2)(self._wanted), inputs, outputs, trigger_mode="always_last", **options
        )
        self.draw.click(Guarded(2)(self._drawn), inputs, outputs, **options)
        self.another.click(
            lambda seed: (int(seed or 0) + 1) % SEEDS, self.seed, self.seed, queue=False
        ).then(Guarded(2)(self._drawn), inputs, outputs, **options)
        chosen = [*edit.whole, tabs, self.problem]
        self.tiles.select(Guarded(len(chosen) - 1)(self._chosen), session, chosen, **options)

    def show(self, session: Session) -> dict[str, Any]:
        """The panel of the attributes."""
        demand = session.wanted
        wanted = dict(demand.wanted)
        rows = [{"name": name, "wanted": wanted.get(name)} for name in session.faces.names]
        return panel_value(rows, session.version, None, 1.0)

    def _wanted(
        self, session: Session, count: float, seed: float | None, event: gr.EventData
    ) -> tuple[Any, ...]:
        session.wanted = Demand.of(event._data)
        return self._drawn(session, count, seed)

    def _drawn(self, session: Session, count: float, seed: float | None) -> tuple[Any, ...]:
        wanted: dict[str, Any] = dict(session.wanted.wanted)
        plain = all(name in self.source.faces.names for name in wanted)
        faces = self.source.faces if plain else session.faces
        number = min(max(1, int(count)), MOST)
        out = faces.sample(number, seed=int(seed or 0), **wanted)
        call = f"faces.sample({script.arguments({'seed': int(seed or 0), **wanted})})"
        call = call.replace("sample(", f"sample({number}, ", 1)
        session.samples = (out, call, faces)
        captions = [
            ("✓ " if good and wanted else "") + str(place + 1)
            for place, good in enumerate(out.satisfied.tolist())
        ]
        shown = pictures.tiles(self.source.decoder, out.x, captions)
        words = "Press one to edit it."
        if wanted:
            words = f"{int(out.satisfied.sum())} of {number} are as requested (✓). {words}"
        return {"items": shown}, paragraphs([words], "explain")

    def _chosen(self, session: Session, event: gr.EventData) -> tuple[Any, ...]:
        place = int(event._data["place"])
        out, call, faces = session.samples
        load = "" if faces is self.source.faces else f"{script.LOAD}\n"
        start = Start(
            out.z[place : place + 1],
            out.x[place : place + 1],
            f"sample {place + 1}",
            f"{load}start = latentctl.Latents({call}.z[{place}:{place + 1}])",
        )
        session.begin(start)
        return *self.edit.show(session), gr.Tabs(selected="edit")
