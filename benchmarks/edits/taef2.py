"""Faces on a pretrained tiny autoencoder, whose latent is a grid and follows no known prior.

The decoder is `weights/taef2` (see `benchmarks/edits/taef2_model.py`) in bfloat16: deterministic,
latent (32, 8, 8) for faces of 64 pixels and (32, 16, 16) for the same ones enlarged to 128. Nearly
any change of pixels has a latent, and gradients find adversarial noise with ease. A distilled
critic, and a shift measured in the whitened coordinates of the data, prevent that. The judges, the
flips and the limits are those of `benchmarks/edits/run.py`, at 64 pixels.

    LATENTCTL_DATA=... python -m benchmarks.shared.face_networks
    LATENTCTL_DATA=... python -m benchmarks.edits.taef2 --part teach
    LATENTCTL_DATA=... python -m benchmarks.edits.taef2 --part edits
    LATENTCTL_DATA=... python -m benchmarks.edits.taef2 --part samples
    LATENTCTL_DATA=... python -m benchmarks.edits.taef2 --part identity

`--part teach` encodes the training faces once and writes the distilled critic, for the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import latentctl
from benchmarks.edits.baselines import Method, along, for_edits, plain_ascent, sweep
from benchmarks.edits.distill import TeachFlags, distill
from benchmarks.edits.identity import compare
from benchmarks.edits.setting import IDENTITY, EditFlags, Flips, K, Setting
from benchmarks.edits.taef2_model import DOWN, LATENT, TinyAutoencoder, load_taef2
from benchmarks.shared.base import decode, encode, unchanged
from benchmarks.shared.face_base import ATTRIBUTES, load_faces
from benchmarks.shared.face_networks import faces_found
from benchmarks.shared.run import read, report, run, timed
from latentctl import Ascent, AttributeCritic, LatentFlow, Latents
from latentctl.controllers import Request
from recipes.support.celeba_attrs.report import attribute_vectors

WEIGHTS = (0.1, 0.05, 0.03, 0.015, 0.008, 0.004)  # of the shift
DEFAULT = 0.015
OURS, DECODER_GRADIENT = "ours: distilled, whitened", "plain gradient through the decoder"


@dataclass
class Flags(EditFlags):
    part: Literal["teach", "edits", "samples", "identity"] = "edits"
    side: int = 64  # Pixels of the pictures that the autoencoder encodes and draws.
    faces: int = 50
    mirrored: bool = True  # Whether mirror images are encoded, too.
    teach: TeachFlags = field(
        default_factory=lambda: TeachFlags(
            6000, 3000, width=256, max_train_steps=1000, batch_size=128, learning_rate=2e-3
        )
    )
    methods: tuple[str, ...] = ()
    """The ways to edit that are measured, by the beginnings of their names; all of them if none."""
    flow_steps: int = 900
    flow_width: int = 256
    count: int = 40  # Samples of each attribute.
    output_dir: Path = Path("outputs/taef2")


class SeenAt64(nn.Module):
    """The autoencoder of faces of `side` pixels behind pictures of 64, which judges take."""

    def __init__(self, model: TinyAutoencoder, side: int) -> None:
        super().__init__()
        self.model, self.side = model, side

    def encode(self, x: Tensor) -> Tensor:
        size = (self.side, self.side)
        if self.side != x.shape[-1]:
            large = F.interpolate(x.float(), size, mode="bicubic", antialias=True)
            x = large.clamp(0, 1).to(x.dtype)
        return self.model.encode(x)

    def decode(self, z: Tensor) -> Tensor:
        x = self.model.decode(z)
        return x if self.side == 64 else F.interpolate(x, (64, 64), mode="area")


class GridSetting(Setting):
    """The setting of a latent that is a grid; pictures are drawn at the full size."""

    flags: Flags

    def __init__(self, flags: Flags) -> None:
        model, cells = load_taef2().bfloat16(), flags.side // DOWN
        shape = {"latent_shape": (LATENT, cells, cells), "value_range": (0, 1)}
        self.drawing = latentctl.wrap(model, **shape)
        decoder = latentctl.wrap(SeenAt64(model, flags.side), **shape)
        super().__init__(flags, decoder, flags.output_dir / str(flags.side))

    @cached_property
    def latents(self) -> Latents:
        """Encodings of the training faces, which are computed once and stored."""
        file = self.folder / "latents"
        if not file.exists():
            images, labels, _ = load_faces("train")
            if self.flags.mirrored:
                images, labels = torch.cat([images, images.flip(-1)]), labels.repeat(2, 1)
            encode(self.decoder, images, labels, ATTRIBUTES).save(file)
        return Latents.load(file)

    def found(self, z: Tensor) -> float:
        """Share of pictures in which a detector finds a face."""
        return faces_found(self.judges, decode(self.decoder, z))

    def draw(self, name: str, columns: list[Tensor], labels: list[str]) -> None:
        """Draws latents, a list of columns, at the full size."""
        drawn = torch.stack([decode(self.drawing, z) for z in columns], 1)
        self.sheet(name, drawn, [""] * len(drawn), labels)


def teach(setting: GridSetting) -> None:
    """Encodes once, and distils the networks on pixels into a critic of latents."""
    flags = setting.flags
    distill(setting.decoder, setting.latents, setting.folder, flags.seed, flags.teach)


def edits(setting: GridSetting) -> None:
    """Ours, plain gradients and attribute vectors on the same faces."""
    flags, student, test = setting.flags, setting.student, setting.test
    sizes = {"width": flags.teach.width, "depth": flags.teach.depth, "seed": flags.seed}
    of_labels = AttributeCritic.fit(setting.latents, smooth=False, max_train_steps=600, **sizes)

    def through(test: Flips, threshold: float) -> Tensor:
        plain = Ascent(setting.teachers, realism_weight=0, steps=40)
        parts = zip(test.z.split(64), test.target.split(64), strict=True)
        requests = [(z, Request(target=y, threshold=threshold)) for z, y in parts]
        return torch.cat([plain.move(z, request).z for z, request in requests])

    unwhitened = (0.3, 0.15, 0.08, 0.04, 0.02)
    plain = Ascent(of_labels, realism_weight=0)
    methods = [
        for_edits(OURS, student, WEIGHTS),
        for_edits("the same, not whitened", student, unwhitened, whitened=False),
        for_edits("the same, critic of labels alone", of_labels, WEIGHTS),
        along("attribute vectors", attribute_vectors(setting.latents), (0.5, 1, 1.5, 2, 3)),
        plain_ascent("plain gradient, critic of labels", plain, (0.9, 0.99, 0.9999)),
        Method(DECODER_GRADIENT, (0.99,), through),
    ]
    if flags.methods:
        methods = [method for method in methods if method.name.startswith(flags.methods)]
    rows, moved = sweep(test, methods, lambda z: {"faces_found": setting.found(z)})
    real = {
        "reconstructions": setting.found(test.faces),
        "originals": faces_found(setting.judges, test.x),
    }
    shown = {}
    for name, found in rows.items():
        # the strength whose edits have about the identity that the limit requires
        near = min(found, key=lambda row: abs(row["identity"] - IDENTITY))["strength"]
        z = moved[name][DEFAULT if name == OURS else near]
        shown[name] = z.unflatten(0, (K, flags.faces))[:, :8]
    for older in read(setting.folder, f"edits-{flags.seed}.json"):  # of other methods
        rows = {**older["rows"], **rows}
    setting.save("edits", {"rows": rows, "faces_found": real})
    for name, file in {OURS: "ours", DECODER_GRADIENT: "gradient"}.items():
        if name in shown:
            columns = [test.faces[:8], *shown[name]]
            setting.draw(f"edits-{file}", columns, ["as it is", *ATTRIBUTES])
    smiles = [z[ATTRIBUTES.index("Smiling")] for z in shown.values()]
    setting.draw("smiles", [test.faces[:8], *smiles], ["as it is", *(n[:22] for n in shown)])


def samples(setting: GridSetting) -> None:
    """Samples of the flow, and by attribute, judged."""
    flags, latents, student = setting.flags, setting.latents, setting.student
    count = flags.count
    flow, seconds = timed(
        LatentFlow.fit,
        latents.select([]),
        "matching",
        width=flags.flow_width,
        depth=2,
        guidance=1.5,
        max_train_steps=flags.flow_steps,
        batch_size=64,
        seed=flags.seed,
    )
    priors = {
        "N(0, I)": latentctl.Gaussian(latents.latent_shape),
        "standardised": latentctl.Gaussian.fit(latents),
        "flow": flow,
    }
    starts = {name: prior.sample(count, seed=flags.seed) for name, prior in priors.items()}
    found = {name: setting.found(z) for name, z in starts.items()}
    found["encodings"] = setting.found(latents[:count].mean)
    report(found)
    setting.draw("priors", [z[:8] for z in starts.values()], list(starts))
    ascent = Ascent.for_edits(student, shift_weight=0.005)
    faces = latentctl.condition(setting.decoder, student, ascent, prior=flow)
    columns, rows = [starts["flow"][:8]], {}
    for column, name in enumerate(ATTRIBUTES):
        out = faces.sample(count, seed=flags.seed, **{name: True})
        before, after = (
            (setting.see(z)[0][:, column] > 0.5).float().mean().item() for z in (out.start, out.z)
        )
        rows[name] = {
            "before": before,
            "judge": after,
            "satisfied": out.satisfied.float().mean().item(),
            "faces_found": setting.found(out.z),
        }
        report({"name": name, **rows[name]})
        columns.append(out.z[:8])
    setting.draw("samples", columns, ["flow", *ATTRIBUTES])
    result = {"flow_cpu_seconds": seconds, "faces_found": found, "attributes": rows}
    setting.save("samples", result)


def identity(setting: GridSetting) -> None:
    """The similarity to the photograph, beside a linear direction of equal success."""
    lines = {"mean difference": attribute_vectors(setting.latents)}
    ascent = Ascent.for_edits(setting.student, shift_weight=DEFAULT)
    setting.save("identity", compare(setting, ascent, lines))


PARTS = {part.__name__: part for part in (teach, edits, samples, identity)}


def main(flags: Flags) -> None:
    setting = GridSetting(flags)
    with unchanged(setting.decoder):
        PARTS[flags.part](setting)


if __name__ == "__main__":
    run(main, Flags)
