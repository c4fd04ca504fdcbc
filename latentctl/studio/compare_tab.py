"""The Compare tab: the request of the Edit tab by every controller."""

from __future__ import annotations

__all__ = ["CompareTab"]

import html
from collections.abc import Iterator
from typing import Any

import gradio as gr

from ..errors import LatentctlError
from . import pictures, receipt
from .comparing import compare
from .session import Result, Session
from .source import Source
from .widgets import message, paragraphs, plain, present

HEAD = ("Picture", "Method", "Request", "Requested attributes", "Leaked", "Evaluations", "ms")
HOW = ["The request of the first tab, from the same start, by every method that the pack has."]


class CompareTab:
    """Its components and events."""

    def __init__(self, source: Source, session: gr.State) -> None:
        self.source = source
        plain(paragraphs(HOW, "explain"))
        with gr.Row(elem_classes="actions"):
            self.run = gr.Button("Compare", variant="primary", size="sm", elem_id="compare-button")
            self.cancel = gr.Button("Cancel", size="sm", elem_id="compare-cancel")
        self.problem = plain()
        self.table = plain(name="compared")
        running = self.run.click(
            self._compared,
            session,
            [self.table, self.problem],
            api_visibility="private",
            show_progress="minimal",
        )
        self.cancel.click(None, None, None, cancels=[running])

    def _compared(self, session: Session) -> Iterator[Any]:
        rows: list[str] = []
        try:
            for name, found in compare(present(session).shown, self.source):
                rows.append(self._row(name, found))
                yield _table(rows), message()
        except LatentctlError as problem:
            yield gr.skip(), message(str(problem))
            return
        judge = receipt.evaluator_words(session.shown.faces)
        said = paragraphs([judge], "explain")
        yield _table(rows) + said, message()

    def _row(self, name: str, found: Result | str) -> str:
        if isinstance(found, str):
            said = f'<td colspan="5">{html.escape(found)}</td>'
            return f"<tr><td></td><td>{html.escape(name)}</td>{said}</tr>"
        outcome, marked = found.outcome, receipt.rows(found)
        src = pictures.uris(self.source.decoder, outcome.x)[0]
        wanted = "; ".join(receipt.move(row) for row in marked if row["wanted"] is not None)
        leaked = "; ".join(receipt.move(row) for row in marked if row["mark"] == "leaked")
        cells = (
            name,
            receipt.holds(outcome),
            wanted or found.demand.where,
            leaked or "nothing",
            str(int(outcome.evaluations[0])),
            f"{1000 * found.seconds:.0f}",
        )
        picture = f'<td><img src="{src}" alt="{html.escape(name)}"></td>'
        return f"<tr>{picture}{''.join(f'<td>{html.escape(c)}</td>' for c in cells)}</tr>"


def _table(rows: list[str]) -> str:
    head = "".join(f'<th scope="col">{text}</th>' for text in HEAD)
    body = "".join(rows)
    return (
        f'<div class="scrolls"><table class="compared"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
