"""The receipt that a saved picture carries, in its metadata and in a file beside it.

A receipt is one JSON object: what was asked and held, what was achieved, the fingerprints of the
decoder, the pack and the evaluator, the seed, the versions, the hashes of the inputs, and the
latents from which an edit began, so that `verify` can make the picture again. It carries a hash of
itself, which shows changes; it is no signature, since there is no key.

It stands in the text `latentctl` of the PNG file, with `Description`, `Software` and an XMP packet
of IPTC's digital source type beside it, and in `NAME.png.json`. A receipt of over 512 KiB, of many
large latents, is in `NAME.png.json` alone.

References:
    | Digital Source Type (IPTC) https://cv.iptc.org/newscodes/digitalsourcetype/
"""

from __future__ import annotations

__all__ = [
    "FORMAT",
    "KEY",
    "ai_fields",
    "fields_of",
    "input_hashes",
    "packed",
    "receipt_of",
    "request_of",
    "sidecar",
    "unpacked",
]

import base64
import hashlib
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..controllers import Request
from ..critics import Critic
from ..display import pixel_hash
from ..errors import CheckpointError, InputError
from ..storage import VERSION
from ..storage.files import sealed
from .guarantee import Guarantee
from .origin import Kind, Origin

FORMAT = 1
KEY = "latentctl"  # of the text in a PNG file
LARGEST = 1 << 19  # bytes of a receipt in a PNG file, of which readers take less than 1 MiB
MOST_APART = 1 << 20  # of the numbers of samples, between which noise is drawn
SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/"
SOURCES: dict[Kind, tuple[str, str]] = {
    "edit": (f"{SOURCE}compositeWithTrainedAlgorithmicMedia", "Edited by AI"),
    "sample": (f"{SOURCE}trainedAlgorithmicMedia", "Made by AI"),
}
XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    Iptc4xmpExt:DigitalSourceType="{source}"
    xmp:CreatorTool="{software}"/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""


def ai_fields(kind: Kind, version: str = VERSION) -> dict[str, str]:
    """The texts of a PNG file that say in standard fields that it was edited or made by AI.

    Arguments:
        kind: "edit" or "sample".
        version: Of latentctl.

    Example:
        >>> ai_fields("edit", "0.1.0")["Description"]
        'Edited by AI, with latentctl 0.1.0.'
    """
    source, words = SOURCES[kind]
    software = f"latentctl {version}"
    return {
        "Software": software,
        "Description": f"{words}, with {software}.",
        "XML:com.adobe.xmp": XMP.format(source=source, software=software),
    }


def receipt_of(
    origin: Origin,
    names: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    start: Tensor,
    inputs: Tensor | None,
    picture: Tensor,
    layout: Mapping[str, Any],
    guarantee: Guarantee | None = None,
) -> dict[str, Any]:
    """The receipt of B samples.

    Arguments:
        origin: How they were made.
        names: The K attributes.
        rows: What was asked and achieved, by sample (`Outcome.receipts`).
        start: The latents before the move, `(B, *latent_shape)`.
        inputs: The inputs, `(B, *sample_shape)`; None of samples and of edits of latents.
        picture: The picture of all of them, `(H, W, 3)` bytes.
        layout: Columns and margin of the picture.
        guarantee: What is promised of the verdicts.
    """
    request = origin.request
    source, words = SOURCES[origin.kind]
    edited = origin.kind == "edit"
    return {
        "format": FORMAT,
        "statement": f"{words}.",
        "digital_source_type": source,
        "kind": origin.kind,
        "names": list(names),
        "request": {
            "where": origin.where,
            "where_is_text": request.where is None or origin.where is not None,
            "strength": float(request.strength),
            "threshold": float(request.threshold),
            "seed": request.seed,
            "region": None if request.region is None else packed(request.region),
        },
        "samples": [
            {"index": index, "held": held, "input": found, **row}
            for index, held, found, row in zip(
                _indices(request, len(rows)),
                _held(request, names, len(rows)),
                [None] * len(rows) if inputs is None else input_hashes(inputs),
                rows,
                strict=True,
            )
        ],
        "guarantee": None if guarantee is None else guarantee.facts(),
        "start": packed(start) if edited else None,
        **origin.maker.facts,
        "picture": {**layout, "size": list(picture.shape[:2]), "sha256": pixel_hash(picture)},
    }


def fields_of(receipt: Mapping[str, Any]) -> dict[str, str]:
    """The texts of a PNG file with this receipt, without the receipt itself where it is large.

    Raises:
        InputError: If it is no receipt.
    """
    if receipt.get("kind") not in SOURCES:
        raise InputError(f"There is no kind of receipt {str(receipt.get('kind'))[:80]!r}.")
    text = sealed(receipt).decode()
    fields = ai_fields(receipt["kind"], str(receipt.get("latentctl_version", VERSION)))
    return {**fields, KEY: text} if len(text) <= LARGEST else fields


def sidecar(path: Path) -> Path:
    """The file of the receipt beside a picture: `NAME.png.json`."""
    return path.with_name(f"{path.name}.json")


def packed(value: Tensor) -> dict[str, Any]:
    """A tensor as JSON: single precision, little-endian, in base64."""
    raw = value.detach().cpu().float().contiguous().numpy().astype("<f4").tobytes()
    return {"shape": list(value.shape), "float32": base64.b64encode(raw).decode()}


def unpacked(value: Mapping[str, Any]) -> Tensor:
    """The tensor of `packed`.

    Example:
        >>> unpacked(packed(torch.ones(2, 1)))
        tensor([[1.],
                [1.]])
    """
    import numpy as np

    raw = np.frombuffer(base64.b64decode(value["float32"], validate=True), "<f4")
    return torch.from_numpy(raw.astype(np.float32)).reshape(value["shape"])


def request_of(
    receipt: Mapping[str, Any], names: Sequence[str], where: Critic | None
) -> tuple[Request, list[int]]:
    """The request of a receipt, and the number of each sample.

    Arguments:
        receipt: The receipt.
        names: The attributes of the critic, in its order.
        where: The critic of its expression.

    Raises:
        CheckpointError: If the numbers of the samples are too far apart.
    """
    asked, rows = receipt["request"], receipt["samples"]
    index = [operator.index(row["index"]) for row in rows]
    if max(index) - min(index) >= MOST_APART or min(index) < 0:
        raise CheckpointError(f"its samples are {min(index)} to {max(index)}, too far apart.")
    target = [[row[f"requested_{name}"] for name in names] for row in rows]
    held = [[name in row["held"] for name in names] for row in rows]
    request = Request(
        target=torch.tensor([[torch.nan if v is None else v for v in row] for row in target]),
        hold=torch.tensor(held) if receipt["kind"] == "edit" else None,
        where=where,
        region=None if asked["region"] is None else unpacked(asked["region"]),
        strength=asked["strength"],
        threshold=float(asked["threshold"]),
        seed=asked["seed"],
        index=torch.tensor(index),
    )
    return request, index


def _indices(request: Request, count: int) -> list[int]:
    return list(range(count)) if request.index is None else request.index.tolist()


def _held(request: Request, names: Sequence[str], count: int) -> list[list[str]]:
    if request.hold is None:
        return [[] for _ in range(count)]
    return [
        [name for name, held in zip(names, row, strict=True) if held]
        for row in request.hold.tolist()
    ]


def input_hashes(inputs: Tensor) -> list[str]:
    """SHA-256 of each input `(B, *sample_shape)` in single precision."""
    return [
        hashlib.sha256(x.detach().cpu().float().contiguous().numpy().tobytes()).hexdigest()
        for x in inputs
    ]
