"""Pictures with receipts, half of them tampered: what `verify` says of each.

    python -m benchmarks.edits.receipts --seed 0

Edits and samples of drawn faces by the pack that ships are saved, and `--files` of them verified:
half as they were saved, an eighth each with other pixels, metadata, pack or decoder. Each kind is
tampered with in several ways (`PIXELS`, `METADATA`, `PACKS`, `DECODERS`), some by one who knows the
format: hashes and seals are written anew. A file is told apart if exactly what was changed is
named, and an intact one if it is called intact. The embedded faces alone are needed.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from latentctl_adapters import embedded
from latentctl_adapters.embedded.drawn_faces import ProceduralFaces
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import latentctl
from benchmarks.shared.run import Seconds, SeededFlags, run, write
from latentctl import Conditional, Decoder
from latentctl.conditional import verify
from latentctl.conditional.reading import read_saved
from latentctl.conditional.receipt import fields_of, packed, sidecar, unpacked
from latentctl.display import pixel_hash, png
from latentctl.random import generator, permutation
from latentctl.storage.files import sealed

PARTS = ("pixels", "metadata", "pack", "decoder")
REQUESTS: tuple[dict[str, Any], ...] = (
    {"Smiling": True},
    {"Eyeglasses": True, "Male": False},
    {"Black_Hair": 0.7},
    {"where": "(Young & ~Bald) | Bangs"},
)


@dataclass
class Flags(SeededFlags):
    output_dir: Path = Path("outputs/receipts")
    files: int = 200


def rewritten(file: Path, pixels: torch.Tensor, receipt: dict[str, Any]) -> None:
    """Writes a picture and a receipt with true hashes, as one does who knows the format."""
    receipt["picture"]["sha256"] = pixel_hash(pixels)
    file.write_bytes(png(pixels, fields_of(receipt)))
    sidecar(file).write_bytes(sealed(receipt))


def kept(file: Path, pixels: torch.Tensor) -> None:
    """Writes other pixels with the old metadata."""
    with Image.open(file) as image:
        texts = dict(image.text)
    info = PngInfo()
    for name, text in texts.items():
        info.add_itxt(name, text)
    Image.fromarray(pixels.numpy()).save(file, pnginfo=info)


def one_level(file: Path, seed: int) -> None:
    saved = read_saved(file)
    saved.pixels[seed % 64, 9, 0] ^= 1
    kept(file, saved.pixels)


def patch(file: Path, seed: int) -> None:
    saved = read_saved(file)
    saved.pixels[20:28, 20:28] = 128
    kept(file, saved.pixels)


def patch_with_hash(file: Path, seed: int) -> None:
    saved = read_saved(file)
    saved.pixels[20:28, 20:28] = seed % 256
    rewritten(file, saved.pixels, saved.receipt)


def mirrored(file: Path, seed: int) -> None:
    saved = read_saved(file)
    kept(file, saved.pixels.flip(1))


def stripped(file: Path, seed: int) -> None:
    Image.open(file).save(file)


def beside_alone(file: Path, seed: int) -> None:
    saved = read_saved(file)
    saved.receipt["samples"][0]["satisfied"] ^= True
    sidecar(file).write_bytes(sealed(saved.receipt))


def claimed(file: Path, seed: int) -> None:
    saved = read_saved(file)
    row = saved.receipt["samples"][0]
    row["probability_Smiling"] = 1 - row["probability_Smiling"]
    rewritten(file, saved.pixels, saved.receipt)


def other_request(file: Path, seed: int) -> None:
    saved = read_saved(file)
    row = saved.receipt["samples"][0]
    row["requested_Wearing_Hat"] = float(row["probability_Wearing_Hat"] < 0.5)
    if "Wearing_Hat" in row["held"]:
        row["held"].remove("Wearing_Hat")
    rewritten(file, saved.pixels, saved.receipt)


def other_start(file: Path, seed: int) -> None:
    saved = read_saved(file)
    if saved.receipt["start"] is None:
        saved.receipt["request"]["seed"] += 1
    else:
        saved.receipt["start"] = packed(unpacked(saved.receipt["start"]).flip(1))
    rewritten(file, saved.pixels, saved.receipt)


def unlabelled(file: Path, seed: int) -> None:
    saved = read_saved(file)
    texts = {**fields_of(saved.receipt), "Description": "A photograph."}
    file.write_bytes(png(saved.pixels, texts))


PIXELS = (one_level, patch, patch_with_hash, mirrored)
METADATA = (stripped, beside_alone, claimed, other_request, other_start, unlabelled)


def packs(faces: Conditional, folder: Path, seed: int) -> list[Path]:
    """Packs that differ from that of `faces`: by a weight, all weights, a threshold, a byte."""
    found = []
    for name in ("weight", "critic", "threshold", "byte"):
        other = Conditional.from_pretrained(faces.save_pretrained(folder / name), faces.decoder)
        first = next(other.critic.parameters())
        with torch.no_grad():
            if name == "weight":
                first.view(-1)[seed] += 1e-4
            if name == "critic":
                for weight in other.critic.parameters():
                    weight.mul_(1 + 0.01 * torch.randn(weight.shape, generator=generator(seed)))
        if name == "threshold":
            other.threshold -= 0.01
        other.save_pretrained(folder / name)
        found.append(folder / name)
    file = folder / "byte" / "critic.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1 - seed] ^= 1
    file.write_bytes(bytes(raw))
    return found


def decoders(seed: int) -> list[Decoder]:
    """The generator with a few other weights, with all weights moved, and without the last bias."""
    found = []
    for kind in range(3):
        decoder = embedded.decoder()
        weights = list(decoder.model.parameters())
        with torch.no_grad():
            if kind == 0:
                weights[seed][:1] += 1e-4
            elif kind == 1:
                for weight in weights:
                    weight.mul_(1.01)
            else:
                weights[-1].zero_()
        found.append(decoder)
    return found


def save_files(faces: Conditional, folder: Path, count: int, seed: int) -> list[Path]:
    """Edits and samples by turns, each in a file of its own."""
    each = -(-count // (2 * len(REQUESTS)))
    files = []
    for number, request in enumerate(REQUESTS):
        photos = ProceduralFaces(each * len(REQUESTS), seed=100 + seed).images(number * each, each)
        outcomes = faces.edit(photos, **request), faces.sample(each, seed=seed, **request)
        for row in range(each):
            for kind, out in zip(("edit", "sample"), outcomes, strict=True):
                files.append(out[row].save(folder / f"{number}_{row:03d}_{kind}.png", margin=0))
    order = permutation(len(files), seed=seed, epoch=0).tolist()
    return [files[number] for number in order[:count]]


def judged(
    files: list[Path], faces: Conditional, pack: Path, flags: Flags
) -> tuple[Counter[str], list[dict[str, str]]]:
    """How often each kind was told, and the files that were not."""
    others: dict[str, list[Any]] = {
        "pack": packs(faces, pack.parent, flags.seed),
        "decoder": decoders(flags.seed),
    }
    ways: dict[str, tuple[Callable[[Path, int], None], ...]] = {
        "pixels": PIXELS,
        "metadata": METADATA,
    }
    results, wrong = Counter[str](), []
    for number, file in enumerate(files):
        # half are intact; the kinds of the others take turns
        kind = "intact" if number % 2 == 0 else PARTS[number // 2 % 4]
        turn, arguments = number // 8, {"pack": pack, "decoder": faces.decoder}
        if kind in ways:
            ways[kind][turn % len(ways[kind])](file, turn + flags.seed)
        elif kind in others:
            arguments[kind] = others[kind][turn % len(others[kind])]
        verdict = verify(file, **arguments)
        right = verdict.intact if kind == "intact" else set(verdict.changed) == {kind}
        results[f"{kind}: {'told' if right else 'wrong'}"] += 1
        if not right:
            wrong.append({"file": file.name, "kind": kind, "said": str(verdict)})
            shutil.copy(file, flags.output_dir)
    return results, wrong


def main(flags: Flags) -> None:
    seconds, own = Seconds(), embedded.pack()
    faces = latentctl.condition(own.decoder, own.critic)
    with tempfile.TemporaryDirectory() as temporary:
        pack = faces.save_pretrained(Path(temporary) / "pack")
        folder = Path(temporary) / "files"
        files = seconds.measure("save", save_files, faces, folder, flags.files, flags.seed)
        results, wrong = seconds.measure("verify", judged, files, faces, pack, flags)
    figures = {"results": dict(sorted(results.items())), "wrong": wrong, "seconds": seconds}
    write(flags.output_dir / f"receipts-{flags.seed}.json", figures)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    run(main, Flags)
