"""The Teach tab: a new attribute from marked pictures."""

from __future__ import annotations

__all__ = ["TeachTab"]

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import torch

from ..errors import LatentctlError
from . import pictures, teaching
from .edit_tab import EditTab
from .sample_tab import SampleTab
from .session import Session
from .source import Source
from .widgets import ENDED, Guarded, cancel_button, message, paragraphs, plain, present, tiles

BATCH = 24  # pictures that are added at once
MOST_POOL = 240
HOW = (
    "Press a {} once if it has the attribute, twice if it has it not. Mark 5 to 100, of each kind "
    "about as many."
)
CANCELLED = ("Teaching was cancelled. Nothing is changed.",)


class TeachTab:
    """Its components and events.

    Arguments:
        source: What is served.
        session: The state that holds a `Session`.
        edit: Gets the new slider.
        sample: Gets the new slider, too.
    """

    def __init__(self, source: Source, session: gr.State, edit: EditTab, sample: SampleTab) -> None:
        self.source, self.edit, self.sample = source, edit, sample
        with gr.Row(elem_classes="workbench"):
            with gr.Column(scale=7, min_width=320):
                plain(paragraphs([HOW.format(edit.medium.thing)], "explain"))
                self.pool = tiles("pool", "Examples to mark")
                with gr.Row(elem_classes="actions"):
                    self.more = gr.Button("More samples", size="sm")
                    self.upload = gr.UploadButton(
                        "Upload more",
                        file_types=[*edit.medium.file_types],
                        file_count="multiple",
                        size="sm",
                    )
            with gr.Column(scale=5, min_width=320):
                self.name = gr.Textbox(label="Name of the attribute", elem_id="taught-name")
                with gr.Row(elem_classes="actions"):
                    self.teach = gr.Button("Teach", variant="primary", elem_id="teach-button")
                    self.cancel = cancel_button("teach-cancel")
                self.problem = plain(name="teach-problem")
                self.words = plain(name="teach-words")
                self.taught = gr.Dropdown([], label="Taught attributes", value=None)
                with gr.Row(elem_classes="actions"):
                    self.remove = gr.Button("Remove it", size="sm")
                    self.prepare = gr.Button("Save the pack", size="sm", elem_id="save-pack")
                self.file = gr.DownloadButton(
                    "Download the pack (ZIP)", visible=False, elem_id="pack-file"
                )
        self._connect(session)

    def _connect(self, session: gr.State) -> None:
        options: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}
        pool = [self.pool, self.problem]
        marks: dict[str, Any] = {**options, "show_progress": "hidden"}
        self.pool.select(Guarded(1)(self._turned), session, pool, **marks)
        self.more.click(Guarded(1)(self._more), session, pool, **options)
        self.upload.upload(Guarded(1)(self._uploaded), [session, self.upload], pool, **options)
        changed = [self.words, self.taught, *self.edit.whole, self.sample.panel, self.problem]
        count = len(changed) - 1
        running = self.teach.click(self._taught, [session, self.name], changed, **options)
        self.cancel.click(None, None, None, cancels=[running], js=ENDED).then(
            lambda: paragraphs(CANCELLED, "receipt lesson"), None, self.words, queue=False
        )
        self.remove.click(Guarded(count)(self._removed), [session, self.taught], changed, **options)
        self.prepare.click(Guarded(1)(self._saved), session, [self.file, self.problem], **options)

    def show(self, session: Session) -> dict[str, Any]:
        """The pictures to mark."""
        if session.pool is None:
            session.pool = teaching.Pool(self.source.gallery[:0])
            some = self.source.gallery
            session.pool.grow(some, [f"picture {place + 1}" for place in range(len(some))])
            if len(some) < BATCH:
                self._grow(session)
        return self._tiles(session)

    def _grow(self, session: Session) -> None:
        pool = session.pool
        out = self.source.faces.sample(BATCH, seed=1, start=pool.drawn)
        pool.grow(out.z, [f"sample {pool.drawn + place + 1}" for place in range(BATCH)])
        pool.drawn += BATCH

    def _tiles(self, session: Session) -> dict[str, Any]:
        pool = session.pool
        if pool.drawings is None or len(pool.drawings) < len(pool.z):
            known = pool.drawings or []
            with torch.no_grad():
                x = self.source.decoder.decode(pool.z[len(known) :], batch_size=64)
            pool.drawings = [*known, *pictures.uris(self.source.decoder, x)]
        found = zip(pool.drawings, pool.captions, pool.marks, strict=True)
        said = {"": "unmarked", "with": "has it", "without": "has it not"}
        return {
            "items": [
                {"src": src, "caption": caption, "mark": mark, "words": said[mark]}
                for src, caption, mark in found
            ]
        }

    def _turned(self, session: Session, event: gr.EventData) -> Any:
        session.pool.turn(int(event._data["place"]))
        return self._tiles(session)

    def _more(self, session: Session) -> Any:
        if len(session.pool.z) + BATCH > MOST_POOL:
            raise teaching.full(MOST_POOL)
        self._grow(session)
        return self._tiles(session)

    def _uploaded(self, session: Session, paths: list[str]) -> Any:
        if len(session.pool.z) + len(paths) > MOST_POOL:
            raise teaching.full(MOST_POOL)
        x = torch.cat([self.edit.medium.read(path) for path in paths])
        z = self.source.decoder.encode(x, batch_size=64).mean
        session.pool.grow(z, [Path(path).name for path in paths])
        return self._tiles(session)

    def _taught(self, session: Session, name: str) -> Iterator[tuple[Any, ...]]:
        """What is being done; the session changes at the end."""
        rest = [gr.skip()] * (2 + len(self.edit.whole))
        try:
            pool, faces = present(session).pool, session.faces
            for step in teaching.teach(name, pool, self.source, faces):
                if isinstance(step, str):
                    yield paragraphs([step], "receipt lesson running"), *rest, message()
                    continue
                session.taught[step.critic.names[0]] = step.critic
                changed = self._changed(session, step.sentences(), step.warnings())
                yield *changed, message()
        except (LatentctlError, OSError) as problem:
            yield "", *rest, message(str(problem))

    def _removed(self, session: Session, name: str | None) -> tuple[Any, ...]:
        said = ["There is nothing to remove."]
        if name is not None and session.taught.pop(name, None) is not None:
            said = [f"{name} is removed. Results before it are in the history."]
        return self._changed(session, said)

    def _changed(
        self, session: Session, said: list[str], warnings: list[str] | None = None
    ) -> tuple[Any, ...]:
        session.use(teaching.extended(self.source, session.taught))
        names = list(session.taught)
        listed = gr.Dropdown(names, value=names[-1] if names else None)
        shown = self.edit.show(session)
        words = paragraphs(said, "receipt lesson", warnings or [])
        return words, listed, *shown, self.sample.show(session)

    def _saved(self, session: Session) -> Any:
        # the page's own temporary folder, which is emptied
        folder = Path(tempfile.mkdtemp(dir=os.environ.get("GRADIO_TEMP_DIR")))
        return gr.DownloadButton(
            value=str(teaching.saved_pack(session.faces, folder)), visible=True
        )
