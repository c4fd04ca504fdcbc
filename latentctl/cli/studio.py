"""`latentctl studio` opens a page in the browser that edits, samples and teaches."""

from __future__ import annotations

__all__ = ["add_parser", "run", "source_of"]

import argparse
import dataclasses
import importlib.util
import logging
import webbrowser
from pathlib import Path
from typing import Any

from ..decoder import read_samples
from ..errors import InputError
from ..rewards import Reward
from ..studio.medium import Score
from ..studio.source import Source
from ..studio.uploads import picture_code
from .sources import (
    EMBEDDED_PACK,
    MODEL,
    add_loading,
    image_files,
    load_function,
    load_pack,
    made_pack,
    sample_rows,
)
from .waiting import Waiting

EMBEDDED = "latentctl_adapters.embedded"
PICTURES = 48
DRAWN = (
    "Drawn faces and the generator that ships with the package. Move a slider: one attribute "
    "changes, and every other one is held."
)
RULES = {"c_major": "latentctl_adapters.melody_rewards:c_major"}  # by the name of an attribute
OWN = "Move a slider: one attribute changes, and every other one is held."


def add_parser(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "studio",
        help="a page in the browser: sliders, receipts, teaching",
        description="Opens a page in the browser that edits, samples, teaches and compares. "
        "Without a pack it serves the drawn faces that ship with the package. It listens on "
        "127.0.0.1 and loads nothing from the network.",
    )
    parser.add_argument(
        "pack",
        nargs="?",
        help="a folder written by save_pretrained or owner/name on the hub, with --decoder; or "
        "FILE.py:FUNCTION that returns a Conditional with its evaluator",
    )
    parser.add_argument("--decoder", help=MODEL)
    add_loading(parser)
    parser.add_argument("--images", help="a folder of pictures to begin with")
    parser.add_argument(
        "--reward",
        action="append",
        help="of melodies: a rule, FILE.py:FUNCTION or MODULE:FUNCTION, once for each; notes that "
        "break it are marked. By default c_major, where the pack has it",
    )
    parser.add_argument("--port", type=int, help="the port; a free one from 7860 on by default")
    parser.add_argument("--no_browser", action="store_true", help="do not open the browser")
    parser.set_defaults(run=run)


def run(flags: argparse.Namespace) -> int:
    """Serves until it is interrupted. A waiting page is there before anything is loaded."""
    if importlib.util.find_spec("gradio") is None:
        raise InputError("The studio needs gradio: pip install 'latentctl[ui]'.")
    waiting = Waiting(flags.port)
    try:
        print(f"latentctl studio: {waiting.address} (Ctrl+C ends it)", flush=True)
        if not flags.no_browser:
            webbrowser.open(waiting.address)
        from ..studio.page import serve

        logging.getLogger("httpx").setLevel(logging.WARNING)  # gradio asks its own server
        source = source_of(flags)
    finally:
        waiting.close()
    serve(source, waiting.port)
    return 0


def source_of(flags: argparse.Namespace) -> Source:
    """What the flags name: a pack on its decoder, or the drawn faces."""
    if flags.pack is None and flags.decoder is None:
        source = _drawn(flags)
    elif flags.pack is not None and flags.decoder is None and ":" in flags.pack:
        source = Source(made_pack(flags.pack, "PACK", flags.device), _code(flags), note=OWN)
    elif flags.pack is None or flags.decoder is None:
        raise InputError(
            "A pack needs the decoder it was made for: PACK --decoder FILE.py:FUNCTION."
        )
    else:
        source = Source(load_pack(flags), _code(flags), note=OWN)
    if flags.images is not None:
        _add_pictures(source, Path(flags.images))
    return dataclasses.replace(source, rules=_rules(flags, source))


def _rules(flags: argparse.Namespace, source: Source) -> dict[str, Reward]:
    if not isinstance(source.decoder.display.show, Score):
        if flags.reward:
            raise InputError(f"--reward needs a decoder of melodies, not {source.decoder.name}.")
        return {}
    known = [function for name, function in RULES.items() if name in source.faces.names]
    functions = known if flags.reward is None else flags.reward
    return {name.rpartition(":")[2]: load_function(name, "--reward") for name in functions}


def _drawn(flags: argparse.Namespace) -> Source:
    if importlib.util.find_spec("timm") is None:
        raise InputError("The evaluator of the drawn faces needs timm: pip install timm.")
    make = load_function(EMBEDDED_PACK, "PACK")
    said = logging.getLogger("latentctl.conditional.pack")
    said.disabled = True  # it asks for the evaluator, which follows
    try:
        faces = make(evaluated=False).to(flags.device)
    finally:
        said.disabled = False
    data = load_function(f"{EMBEDDED}.drawn_faces:ProceduralFaces", "studio")(PICTURES)
    code = f"import latentctl\nfrom {EMBEDDED} import pack\n\nfaces = pack()"

    def code_of(place: int) -> str:
        return (
            f"from {EMBEDDED}.drawn_faces import ProceduralFaces\n\n"
            f"picture = ProceduralFaces({PICTURES}).images(0, {PICTURES})[{place}:{place + 1}]"
        )

    images = read_samples(data.images(0, PICTURES), faces.decoder)
    return Source(faces, code, images, code_of, DRAWN, evaluated=lambda: make(faces.decoder))


def _add_pictures(source: Source, folder: Path) -> None:
    decoder = source.decoder
    files = image_files(folder)[:PICTURES]
    if not files:
        raise InputError(f"--images {folder}: there is no image there.")
    if not decoder.can_encode or len(decoder.sample_shape) != 3:
        raise InputError(
            f"--images needs a decoder of pictures with an encoder, as {decoder.name} is not."
        )
    rows = [{"image": {"bytes": None, "path": str(file)}} for file in files]
    source.pictures = sample_rows(decoder, rows)
    source.code_of = lambda place: picture_code(str(files[place]), decoder)


def _code(flags: argparse.Namespace) -> str:
    """The lines of Python that load what the flags name."""
    device = "" if flags.device == "cpu" else f".to({flags.device!r})"
    if flags.decoder is None:
        before, faces = _called(flags.pack)
    else:
        load = f"latentctl.load({flags.adapter!r}, pretrained_model_name_or_path={flags.decoder!r})"
        before, model = ("", load) if flags.adapter else _called(flags.decoder)
        faces = f"latentctl.Conditional.from_pretrained({flags.pack!r}, {model})"
    return f"import latentctl\n{before}faces = {faces}{device}"


def _called(function: str) -> tuple[str, str]:
    """Lines of Python that import a function of the user's, and the call."""
    where, _, name = function.rpartition(":")
    if where.endswith(".py"):
        return "import runpy\n\n", f"runpy.run_path({where!r})[{name!r}]()"
    return f"from {where} import {name}\n\n", f"{name}()"
