"""The Edit tab: a start, a slider for each attribute, before and after, and the receipt."""

from __future__ import annotations

__all__ = ["EditTab"]

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import gradio as gr

from . import pictures, receipt, script
from .medium import Pictures, medium_of
from .region import grid_of, read_region
from .session import STRENGTHS, Demand, Result, Session
from .source import Source
from .widgets import (
    MELODIES,
    PICTURES,
    Guarded,
    message,
    painter,
    panel,
    panel_value,
    paragraphs,
    plain,
    stage,
    tiles,
)

SEEDS = 2**31
SHOWN = 24  # pictures to start from
STRIP = "The request at several strengths: press one to take it"
LOADING = "The evaluator of the receipts is being loaded. The sliders follow in some seconds."


class EditTab:
    """Its components and events.

    Arguments:
        source: What is served.
        session: The state that holds a `Session`.
    """

    def __init__(self, source: Source, session: gr.State) -> None:
        self.source, self.session, self.medium = source, session, medium_of(source)
        with gr.Row(elem_classes="workbench edits"):
            with gr.Column(scale=7, min_width=320):
                drawn = isinstance(self.medium, Pictures)
                self.stage = stage(PICTURES if drawn else MELODIES)
                with gr.Row(elem_classes="actions"):
                    self.undo = gr.Button("Undo", size="sm")
                    self.redo = gr.Button("Redo", size="sm")
                    self.reset = gr.Button("Reset", size="sm")
                    self.spread = gr.Button("Strip of strengths", size="sm")
                    self.cancel = gr.Button("Cancel", size="sm", visible=False)
                self.strengths = tiles("strengths", STRIP, titled=True)
                self.receipt = plain(name="receipt")
                self.history = tiles("history", "History: press one to go back", titled=True)
            with gr.Column(scale=5, min_width=320):
                with gr.Row(elem_classes="starts"):
                    self.seed = gr.Number(
                        0, label="Sample of seed", precision=0, minimum=0, maximum=SEEDS - 1
                    )
                    self.another = gr.Button("Another one", size="sm", elem_id="another")
                    self.upload = gr.UploadButton(
                        f"Upload a {self.medium.thing}",
                        file_types=[*self.medium.file_types],
                        size="sm",
                        elem_id="upload",
                    )
                self.problem = plain(name="problem")
                self.panel = panel("attributes")
                self.where = gr.Textbox(
                    label="And, as a logical expression",
                    placeholder=_example(source.faces.names),
                    elem_id="where",
                    max_lines=2,
                )
                self.where_problem = plain(name="where-problem")
        self.region, self.gallery = None, None
        if grid_of(source.decoder) is not None:
            with gr.Accordion("Change only a region: paint it", open=False):
                self.region = painter()
        if len(source.gallery):
            with gr.Accordion("Start from one of these pictures", open=True):
                self.gallery = tiles("gallery", "Pictures to start from")
        with gr.Accordion("Copy as Python: the lines that give exactly this result", open=False):
            self.code = gr.Code(language="python", label="Python", elem_id="code")
        self.quick = [self.stage, self.panel, self.receipt]
        self.whole = [*self.quick, self.history, self.strengths, self.code, self.where]
        self.whole += [] if self.region is None else [self.region]
        self._connect()

    def _connect(self) -> None:
        session, where = self.session, self.where
        moves: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        self.panel.input(
            Guarded(3)(self._move),
            [session, where],
            [*self.quick, self.where_problem],
            trigger_mode="always_last",
            queue=False,
            **moves,
        )
        whole, guarded = [*self.whole, self.where_problem], Guarded(len(self.whole))
        self.panel.submit(
            guarded(self._edit), [session, where], whole, trigger_mode="always_last", **moves
        )
        for event in (where.submit, where.blur):
            event(guarded(self._rewrite), [session, where], whole, **moves)
        steps = {self.undo: Session.undo, self.redo: Session.redo, self.reset: Session.reset}
        for button, step in steps.items():
            button.click(self._stepped(step), session, whole, **moves)
        self.history.select(guarded(self._go), session, whole, **moves)
        self.strengths.select(guarded(self._strength), session, whole, **moves)
        if self.region is not None:
            self.region.submit(guarded(self._painted), session, whole, **moves)
        starts = [*self.whole, self.problem]
        another = Guarded(len(starts))(self._another)
        self.another.click(
            another, [session, self.seed], [*self.whole, self.seed, self.problem], **moves
        )
        self.seed.submit(guarded(self._sample), [session, self.seed], starts, **moves)
        self.upload.upload(guarded(self._upload), [session, self.upload], starts, **moves)
        if self.gallery is not None:
            self.gallery.select(guarded(self._picture), session, starts, **moves)
        running = self.spread.click(
            self._strengths,
            session,
            [self.strengths, self.cancel, self.where_problem],
            api_visibility="private",
            show_progress="minimal",
        )
        self.cancel.click(
            lambda: gr.Button(visible=False), None, self.cancel, cancels=[running], queue=False
        )

    def show(self, session: Session) -> tuple[Any, ...]:
        """The values of `whole`."""
        result = session.shown
        history = [
            {
                "src": past.picture,
                "caption": str(place + 1),
                "words": _summary(past),
                "mark": "current" if place == session.place else "",
            }
            for place, past in enumerate(session.past)
        ]
        code = script.lines(result, self.source)
        strip: dict[str, Any] = {"items": []}  # of another request
        shown = (*self._quick(session), {"items": history}, strip, code, result.demand.where)
        if self.region is None:
            return shown
        rows, columns = self.source.decoder.latent_shape[1:]
        return (*shown, {"rows": rows, "columns": columns, "region": result.demand.region})

    def opening(self) -> tuple[Any, ...]:
        """The values of `whole` until there is an evaluator: the picture alone."""
        visit = Session(self.source)
        result = visit.begin(visit.opening())
        value = {**self.medium.shown(result), **self.medium.kept(result)}
        value |= {"origin": f"Before: {result.start.words}", "note": result.start.note}
        said = paragraphs([LOADING], "receipt")
        return value, gr.skip(), said, *[gr.skip()] * (len(self.whole) - len(self.quick))

    def open(self) -> Any:
        """The pictures to start from."""
        x = self.source.pictures
        if x is None:
            return None
        captions = [str(place + 1) for place in range(len(x[:SHOWN]))]
        return {"items": pictures.tiles(self.source.decoder, x[:SHOWN], captions)}

    def _quick(self, session: Session, moving: bool = False) -> tuple[Any, ...]:
        began = time.perf_counter()
        result = session.shown
        value: dict[str, Any] = {
            **self.medium.shown(result),
            "before_words": f"Before: {result.start.words}",
            "after_words": f"After: {_summary(result)}",
            "difference_words": "Difference of before and after",
            "origin": f"Before: {result.start.words}",
            "note": result.start.note,
        }
        if not moving:
            value |= self.medium.kept(result)
            picture, document = receipt.files(result.outcome)
            value["png"] = pictures.data_uri(picture)
            value["json"] = pictures.data_uri(document, "application/json")
        demand = result.demand
        rows = panel_value(receipt.rows(result), session.version, demand.hold, demand.strength)
        said = paragraphs([*self.medium.said(result), *receipt.sentences(result)], "receipt")
        value["seconds"] = result.seconds + time.perf_counter() - began
        return value, rows, said

    def _move(self, session: Session, where: str, event: gr.EventData) -> tuple[Any, ...]:
        session.edit(self._demand(session, where, event), moving=True)
        return self._quick(session, moving=True)

    def _edit(self, session: Session, where: str, event: gr.EventData) -> tuple[Any, ...]:
        session.edit(self._demand(session, where, event))
        return self.show(session)

    def _demand(self, session: Session, where: str, event: gr.EventData) -> Demand:
        region = session.shown.demand.region
        return dataclasses.replace(Demand.of(event._data, where), region=region)

    def _painted(self, session: Session, event: gr.EventData) -> tuple[Any, ...]:
        region = read_region(event._data["rows"], self.source.decoder)
        session.edit(dataclasses.replace(session.shown.demand, region=region))
        return self.show(session)

    def _rewrite(self, session: Session, where: str) -> tuple[Any, ...]:
        demand = session.shown.demand
        if where.strip() != demand.where:
            session.edit(dataclasses.replace(demand, where=where.strip()))
        return self.show(session)

    def _stepped(self, step: Any) -> Any:
        def stepped(session: Session) -> tuple[Any, ...]:
            step(session)
            return self.show(session)

        return Guarded(len(self.whole))(stepped)

    def _go(self, session: Session, event: gr.EventData) -> tuple[Any, ...]:
        session.go(int(event._data["place"]))
        return self.show(session)

    def _strength(self, session: Session, event: gr.EventData) -> tuple[Any, ...]:
        strength = STRENGTHS[int(event._data["place"])]
        session.version += 1
        session.edit(dataclasses.replace(session.shown.demand, strength=strength))
        return self.show(session)

    def _another(self, session: Session, seed: float | None) -> tuple[Any, ...]:
        following = (int(seed or 0) + 1) % SEEDS
        session.begin(session.sample(following))
        return *self.show(session), following

    def _sample(self, session: Session, seed: float | None) -> tuple[Any, ...]:
        session.begin(session.sample(int(seed or 0)))
        return self.show(session)

    def _upload(self, session: Session, path: str) -> tuple[Any, ...]:
        session.begin(self.medium.start_of(path))
        return self.show(session)

    def _picture(self, session: Session, event: gr.EventData) -> tuple[Any, ...]:
        session.begin(session.picture(int(event._data["place"])))
        return self.show(session)

    def _strengths(self, session: Session) -> Iterator[Any]:
        if session is None or session.shown.demand.is_empty:
            yield gr.skip(), gr.skip(), message("Nothing is requested yet. Move a slider.")
            return
        items: list[dict[str, str]] = []
        for strength, x in session.strengths():
            items += pictures.tiles(self.source.decoder, x, [f"{strength:g}"])
            yield {"items": items}, gr.Button(visible=True), message()
        yield {"items": items}, gr.Button(visible=False), message()


def _summary(result: Result) -> str:
    wanted = [f"{receipt.words(name)} {value:.2f}" for name, value in result.demand.wanted]
    wanted += [result.demand.where] if result.demand.where else []
    wanted += ["in a region"] if wanted and result.demand.region else []
    return ", ".join(wanted) or "nothing changed"


def _example(names: tuple[str, ...]) -> str:
    simple = [name for name in names if name.isidentifier()]
    if "Smiling" in simple:
        simple = ["Smiling", *(name for name in simple if name != "Smiling")]
    return f"such as {simple[0]} & ~{simple[1]}" if len(simple) > 1 else ""
