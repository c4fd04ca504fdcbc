"""What an edit holds: everything, what is not tied to the request, or nothing.

    python -m benchmarks.edits.holds --faces 40 --part drawn
    LATENTCTL_DATA=... python -m benchmarks.edits.holds --faces 40 --part real

Every attribute of some faces is flipped, one at a time, from what a judge sees in the
reconstruction. The judge saw originals alone and is used by no method. Ties are those of the labels
of training faces (`latentctl.critics.ties`), and leakage is the share of attributes whose side of
0.5 changes for the judge: of those that are not tied to the flipped one, and of those that are.

- `drawn`: the generator, the pack and the judge of drawn faces that ship, fifteen attributes; and
  how often the judge agrees with the evaluator's "satisfied" at several thresholds, and at the one
  that `choose_threshold` finds on other faces.
- `real`: the frozen face VAE and fifteen attributes. A critic is distilled from one network on
  reconstructions, and a judge is trained on originals, about ten minutes of one core.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from latentctl_adapters import embedded
from latentctl_adapters.embedded.drawn_faces import ProceduralFaces
from latentctl_adapters.pixels.classifier import PixelClassifier
from latentctl_adapters.pixels.face_networks import FaceEmbedder
from torch import Tensor

import latentctl
from benchmarks.shared.base import decode, encode, pixels, reconstruct, weights_file
from benchmarks.shared.face_base import ATTRIBUTES, face_decoder, load_faces
from benchmarks.shared.run import Row, SeededFlags, report, run, write
from latentctl import Ascent, AttributeCritic, Decoder, Latents, PixelCritic
from latentctl.conditional.threshold import choose_threshold
from latentctl.controllers import Request
from latentctl.critics.ties import find_ties, tied_to

OTHERS = ("Bangs", "Heavy_Makeup", "Wearing_Lipstick", "High_Cheekbones", "Mouth_Slightly_Open")
FIFTEEN = (*ATTRIBUTES, *OTHERS)
FACTORS = (3.0, 5.0, 10.0, 20.0)  # of the odds from which on a pair is tied
BATCH = 64


@dataclass
class Flags(SeededFlags):
    part: Literal["drawn", "real"] = "drawn"
    faces: int = 40  # Test faces, each with every attribute flipped.
    output_dir: Path = Path("outputs/holds")


class Flips:
    """Every attribute of some faces flipped, `(K * faces)` in attribute order."""

    def __init__(self, critic: AttributeCritic, z: Tensor, see: Callable[[Tensor], Tensor]) -> None:
        self.critic, self.names, self.see = critic, critic.names, see
        count = len(self.names)
        self.z = z.repeat(count, *[1] * (z.ndim - 1))
        self.before = see(z).repeat(count, 1)
        self.column = torch.arange(count).repeat_interleave(len(z))
        self.wanted = 1 - self.of_column(self.before).round()
        self.target = torch.full_like(self.before, torch.nan)
        self.target.scatter_(1, self.column[:, None], self.wanted[:, None])
        self.asked = ~self.target.isnan()

    def of_column(self, values: Tensor) -> Tensor:
        return values.gather(1, self.column[:, None])[:, 0]

    def row(self, name: str, ties: Any, hold: Tensor, **more: Any) -> tuple[Row, Tensor]:
        """Figures of the edits that hold these attributes; `ties` define what leaks where."""
        request = Request(target=self.target, hold=hold)
        moved = Ascent.for_edits(self.critic).move(self.z, request).z
        found = self.see(moved)
        done = (self.of_column(found).round() == self.wanted).float()
        changed = ((found > 0.5) != (self.before > 0.5)).float()
        tied = tied_to(self.asked, ties, self.names)
        some = tied.any(1)
        row = {
            "name": name,
            "success": done.mean().item(),
            "success of attributes with ties": done[some].mean().item(),
            "leakage, untied": changed[~tied & ~self.asked].mean().item(),
            "leakage, tied": changed[tied].mean().item(),
            "held": hold.sum(1).float().mean().item(),
            **more,
        }
        each = done.view(len(self.names), -1).mean(1)
        row["attributes"] = dict(zip(self.names, each.tolist(), strict=True))
        return row, moved


def compare(flips: Flips, labels: Tensor, also: Callable[[Tensor], Row] = lambda z: {}) -> Any:
    """Rows of what may be held, of several factors of ties too."""
    ties = find_ties(labels, flips.names)
    holds = {"True": ~flips.asked, "untied": None, "False": torch.zeros_like(flips.asked)}
    holds |= {f"untied, factor {f:g}": None for f in FACTORS if f != 10.0}
    rows = []
    for name, hold in holds.items():
        factor = float(name.rsplit(" ", 1)[1]) if "factor" in name else 10.0
        some = find_ties(labels, flips.names, factor=factor)
        if hold is None:
            hold = ~(flips.asked | tied_to(flips.asked, some, flips.names))
        row, moved = flips.row(name, ties, hold, pairs=len(some))
        rows.append(report(row | also(moved)))
    return {"ties": [str(tie) for tie in ties], "rows": rows}


def drawn(flags: Flags) -> Any:
    pack, judge = embedded.pack(), embedded.judge()
    people = ProceduralFaces.split("test", flags.faces, flags.seed)
    x = people.images(0, flags.faces).float() / 255
    see = judged(pack.decoder, judge)
    labels = ProceduralFaces(8000).factors(0, 8000).attributes.float()
    found = compare(Flips(pack.critic, encode(pack.decoder, x).mean, see), labels)
    pack.critic.ties = find_ties(labels, pack.names)
    return {**found, "thresholds": thresholds(pack, see, flags)}


def thresholds(pack: latentctl.Conditional, see: Callable[[Tensor], Tensor], flags: Flags) -> Any:
    """The judge's agreement with what the evaluator calls satisfied."""
    tune, test = (
        ProceduralFaces.split(name, flags.faces, flags.seed).images(0, flags.faces).float() / 255
        for name in ("validation", "test")
    )
    chosen = choose_threshold(pack, encode(pack.decoder, tune))
    flips = Flips(pack.critic, encode(pack.decoder, test).mean, see)
    out = pack.edit(Latents(flips.z), y=flips.target)
    claimed = 1 - (flips.of_column(out.probability) - flips.wanted).abs()
    agrees = flips.of_column(see(out.z)).round() == flips.wanted
    rows = []
    for threshold in (0.5, 0.8, 0.9, *([] if chosen is None else [chosen])):
        some = claimed >= threshold
        name = f"{threshold:g}{', chosen' * (threshold == chosen)}"
        row = {"name": name, "satisfied": some.float().mean().item()}
        row |= {"expected": claimed[some].mean().item()}
        rows.append(report(row | {"judge agrees": agrees[some].float().mean().item()}))
    return rows


def judged(decoder: Decoder, judge: PixelClassifier) -> Callable[[Tensor], Tensor]:
    """The judge's probabilities of latents."""
    return lambda z: torch.cat([judge.probability(decode(decoder, p)) for p in z.split(BATCH)])


def network(folder: Path, images: Tensor, labels: Tensor, seed: int, epochs: int) -> Any:
    """A small network on images, trained once."""
    plain, options = "resnet18", {"channels": (16, 32, 64, 128), "act_layer": "silu"}
    if folder.name == "judge":  # another architecture
        plain, options = "resnet10t", {"channels": (32, 64, 96, 128), "act_layer": "gelu"}
    if not folder.exists():
        sizes: Any = {"model_name": plain, "model_options": options, "epochs": epochs, "seed": seed}
        with torch.enable_grad():
            made = PixelClassifier.fit(images, labels, FIFTEEN, **sizes)
        made.save_pretrained(folder)
    return PixelClassifier.from_pretrained(folder)


def real(flags: Flags) -> Any:
    decoder = face_decoder()
    images, labels, _ = load_faces("train", FIFTEEN)
    judge = network(flags.output_dir / "judge", images, labels, seed=77, epochs=5)
    folder = flags.output_dir / "critic"
    if not folder.exists():
        redrawn = (255 * reconstruct(decoder, images)).round().byte()
        teacher = network(flags.output_dir / "teacher", redrawn, labels, seed=1, epochs=9)
        latents = encode(decoder, images)
        latents = Latents(latents.mean, latents.std, labels, FIFTEEN)
        small = {"samples": 6000, "samples_per_round": 3000, "max_train_steps": 1200, "width": 512}
        pixel = PixelCritic(decoder, teacher, names=FIFTEEN)
        with torch.enable_grad():
            latentctl.distill(pixel, latents, prior=decoder.prior, **small).save(folder)
    critic = AttributeCritic.load(folder)
    z = encode(decoder, pixels(load_faces("test")[0][: flags.faces])).mean
    embedder = FaceEmbedder(weights_file("mobilefacenet/MobileFaceNet.onnx"))
    flips = Flips(critic, z, judged(decoder, judge))
    same = embedder(decode(decoder, z)).repeat(len(FIFTEEN), 1)

    def identity(moved: Tensor) -> Row:
        faces = torch.cat([embedder(decode(decoder, part)) for part in moved.split(BATCH)])
        return {"identity": (faces * same).sum(1).mean().item()}

    return compare(flips, labels, identity)


PARTS = {part.__name__: part for part in (drawn, real)}


def main(flags: Flags) -> None:
    with torch.no_grad():
        found = PARTS[flags.part](flags)
    write(flags.output_dir / f"{flags.part}-{flags.seed}.json", found)


if __name__ == "__main__":
    run(main, Flags)
