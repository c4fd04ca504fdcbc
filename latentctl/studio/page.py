"""The page: its tabs, its look, and the server on this machine alone."""

from __future__ import annotations

__all__ = ["build", "opened", "serve"]

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from .compare_tab import CompareTab
from .edit_tab import EditTab
from .medium import medium_of
from .sample_tab import SampleTab
from .session import Session
from .source import Source
from .teach_tab import TeachTab
from .uploads import MOST_BYTES
from .widgets import CSS, header

IDLE = 3600  # seconds after which what a visitor left is dropped
VISITORS = 64  # sessions that are kept
FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "monospace")
# the browser may load nothing from anywhere else
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; font-src 'self' data:; "
    "style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "worker-src 'self' blob:; media-src 'self' data: blob:"
)
LIGHT = "() => { document.body.classList.remove('dark'); }"


def build(source: Source) -> gr.Blocks:
    """The page of a source; each visitor has a `Session` of their own."""
    with gr.Blocks(
        title="latentctl studio", analytics_enabled=False, delete_cache=(IDLE // 4, IDLE)
    ) as page:
        session = gr.State(None, time_to_live=IDLE)
        header("latentctl studio", source.note)
        with gr.Tabs() as tabs:
            with gr.Tab(medium_of(source).title, id="edit"):
                edit = EditTab(source, session)
            with gr.Tab("Sample", id="sample"):
                sample = SampleTab(source, session, edit, tabs)
            with gr.Tab("Teach", id="teach"):
                teach = TeachTab(source, session, edit, sample)
            with gr.Tab("Compare", id="compare"):
                CompareTab(source, session)

        def arrive() -> Iterator[tuple[Any, ...]]:
            if source.evaluated is not None:
                yield None, *edit.opening(), gr.skip(), gr.skip()
                source.complete()
            visit = Session(source)
            visit.begin(visit.opening())
            yield visit, *edit.show(visit), sample.show(visit), teach.show(visit)

        arrived = page.load(
            arrive,
            None,
            [session, *edit.whole, sample.panel, teach.pool],
            show_progress="hidden",
            api_visibility="private",
        )
        if edit.gallery is not None:
            arrived.then(
                edit.open,
                None,
                edit.gallery,
                show_progress="hidden",
                api_visibility="private",
            )
    page.queue(default_concurrency_limit=2, max_size=64)
    return page


@contextlib.contextmanager
def opened(source: Source, port: int | None = None) -> Iterator[tuple[gr.Blocks, str]]:
    """Serves a source on 127.0.0.1 meanwhile; gives the page and its address.

    Uploads are in a temporary folder, which is removed at the end.

    Arguments:
        source: What is served.
        port: The port; a free one from 7860 on if not given.
    """
    with tempfile.TemporaryDirectory(prefix="latentctl-studio-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        page = build(source)
        _, address, _ = page.launch(
            server_name="127.0.0.1",
            server_port=port,
            share=False,
            inbrowser=False,
            prevent_thread_lock=True,
            quiet=True,
            max_file_size=MOST_BYTES,
            state_session_capacity=VISITORS,
            footer_links=[],
            ssr_mode=False,
            enable_monitoring=False,
            run_history=False,
            theme=_theme(),
            css=CSS,
            js=LIGHT,
            app_kwargs={"middleware": [Middleware(_Policy)]},
        )
        threading.Thread(target=source.complete, daemon=True).start()
        try:
            yield page, address
        finally:
            page.close(verbose=False)


def serve(source: Source, port: int | None = None) -> None:
    """Serves a source on 127.0.0.1 until it is interrupted."""
    with opened(source, port) as (page, _):
        page.block_thread()


def _theme() -> gr.themes.Base:
    """System fonts, so that nothing is fetched, in calm colours."""
    return gr.themes.Base(
        primary_hue="blue", neutral_hue="slate", font=FONT, font_mono=MONO, radius_size="md"
    )


class _Policy:
    """Adds the content security policy to every answer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", POLICY.encode())
                message["headers"] = [*message.get("headers", ()), policy]
            await send(message)

        await self.app(scope, receive, answer)
