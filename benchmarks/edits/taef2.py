"""Faces on a tiny autoencoder that others trained, whose latent is a grid and follows no prior.

The decoder is `weights/taef2` (see `benchmarks/taef2.py`) in bfloat16: deterministic, latent
(32, 8, 8) for faces of 64 pixels and (32, 16, 16) for the same ones enlarged to 128, so rich that
nearly any change of pixels has a latent, and gradients find adversarial noise with ease. That is
what a taught critic and a price on the shift, in the white coordinates of the data, are for. The
judges, the flips and the limits are those of `benchmarks/edits.py`, and see 64 pixels.

    LATENTCTL_DATA=... python benchmarks/teachers.py
    LATENTCTL_DATA=... python benchmarks/taef2_faces.py --part teach
    LATENTCTL_DATA=... python benchmarks/taef2_faces.py --part edits
    LATENTCTL_DATA=... python benchmarks/taef2_faces.py --part samples
    LATENTCTL_DATA=... python benchmarks/taef2_faces.py --part identity

`--part teach` encodes the training faces once and keeps the taught critic, for the others.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from latentctl_adapters.pixels.face_networks import FaceDetector
from safetensors.torch import save_file
from torch import Tensor, nn

import latentctl
from benchmarks.edits.baselines import mean_differences
from benchmarks.edits.distill import load_taught
from benchmarks.edits.identity import compare
from benchmarks.edits.run import IDENTITY, Flips, Judges, K, Row
from benchmarks.edits.taef2_model import DOWN, LATENT, TinyAutoencoder, load_taef2
from benchmarks.shared.face_base import ATTRIBUTES, data_folder, load_faces
from benchmarks.shared.face_teachers import TEACHERS, load_network
from latentctl import Ascent, AttributeCritic, LatentFlow, Latents, PixelCritic

WEIGHTS = (0.1, 0.05, 0.03, 0.015, 0.008, 0.004)  # of the shift
DEFAULT = 0.015
OURS = "ours: gentle ascent, taught, white"


@dataclass
class Flags:
    part: Literal["teach", "edits", "samples", "identity"] = "edits"
    side: int = 64
    """Pixels of the pictures that the autoencoder sees and draws."""
    seed: int = 0
    faces: int = 50
    """Test faces, each with all ten flips."""
    mirrored: bool = True
    """Whether mirror images are encoded, too."""
    lessons: int = 6000
    lessons_per_round: int = 3000
    max_train_steps: int = 1000
    width: int = 256
    depth: int = 3
    methods: tuple[str, ...] = ()
    """The ways to edit that are measured, by the beginnings of their names; all of them if none."""
    flow_steps: int = 900
    flow_width: int = 256
    samples: int = 40
    """Samples of each attribute."""
    threads: int = 1
    output_dir: Path = Path("outputs/taef2")


class SeenAt64(nn.Module):
    """The autoencoder of faces of `side` pixels behind pictures of 64, which judges see."""

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


class Setting:
    """The decoder, the encodings and the judges."""

    def __init__(self, flags: Flags) -> None:
        self.flags = flags
        self.folder = flags.output_dir / str(flags.side)
        self.folder.mkdir(parents=True, exist_ok=True)
        model, cells = load_taef2().bfloat16(), flags.side // DOWN
        shape = (LATENT, cells, cells)
        self.drawing = latentctl.wrap(model, latent_shape=shape, value_range=(0, 1))
        self.decoder = latentctl.wrap(
            SeenAt64(model, flags.side), latent_shape=shape, value_range=(0, 1)
        )
        self.fingerprint = self.decoder.fingerprint()
        self.judges = Judges(self.decoder)
        yunet = data_folder().parent / "weights" / "yunet" / "yunet_n_320_320.onnx"
        self.detector = FaceDetector(yunet)

    @torch.no_grad()
    def encodings(self) -> Latents:
        """Of the training faces, once."""
        file = self.folder / "latents"
        if not file.exists():
            images, labels, _ = load_faces("train")
            shown = [images, images.flip(-1)] if self.flags.mirrored else [images]
            means = [
                self.decoder.encode(part.float() / 255).mean for x in shown for part in x.split(128)
            ]
            latents = Latents(torch.cat(means), None, labels.repeat(len(shown), 1), ATTRIBUTES)
            latents.save(file)
        return Latents.load(file)

    def faces_found(self, z: Tensor) -> float:
        """Share of pictures in which a detector finds a face."""
        with torch.no_grad():
            return (
                torch.cat([self.detector.found(self.decoder.decode(part)) for part in z.split(64)])
                .float()
                .mean()
                .item()
            )

    def save(self, name: str, result: Any) -> None:
        if self.decoder.fingerprint() != self.fingerprint:
            raise latentctl.errors.FingerprintError("The frozen decoder has changed.")
        file = self.folder / f"{name}-{self.flags.seed}.json"
        file.write_text(json.dumps(result, indent=1) + "\n")

    def sheet(self, name: str, columns: list[Tensor], labels: list[str]) -> None:
        """Draws latents, a list of columns, at the full size."""
        from recipes.support.report import face_sheet

        with torch.no_grad():
            drawn = torch.stack([self.drawing.decode(z).clamp(0, 1) for z in columns], 1)
        rows = [""] * len(drawn)
        sheet = face_sheet(drawn, row_labels=rows, column_labels=labels)
        (self.folder / f"{name}.png").write_bytes(sheet)


def teach(setting: Setting) -> None:
    """Encodes once, and teaches a critic of latents by the networks on pixels."""
    flags = setting.flags
    began = time.process_time()
    latents = setting.encodings()
    seconds = {"encoding": time.process_time() - began}
    teacher = PixelCritic(setting.decoder, *(load_network(number) for number in TEACHERS))
    began = time.process_time()
    taught = latentctl.teach(
        teacher,
        latents,
        lessons=flags.lessons,
        lessons_per_round=flags.lessons_per_round,
        width=flags.width,
        depth=flags.depth,
        max_train_steps=flags.max_train_steps,
        batch_size=128,
        learning_rate=2e-3,
        seed=flags.seed,
    )
    seconds["teaching"] = time.process_time() - began
    config = {"config": taught.config, "cpu_seconds": seconds}
    (setting.folder / f"taught-{flags.seed}.json").write_text(json.dumps(config))
    save_file(taught.state_dict(), setting.folder / f"taught-{flags.seed}.safetensors")
    print(seconds, flush=True)


def edits(setting: Setting) -> None:
    """Ours, and what plain gradients and vectors make of the same faces."""
    flags = setting.flags
    latents = setting.encodings()
    taught = load_taught(setting.folder, flags.seed)
    options = {"width": flags.width, "depth": flags.depth, "max_train_steps": 600}
    plain = AttributeCritic.fit(latents, seed=flags.seed, **options)
    teacher = PixelCritic(setting.decoder, *(load_network(number) for number in TEACHERS))
    vectors = mean_differences(latents.mean.flatten(1), latents.labels)
    bare = {"realism_weight": 0, "steps": 100}

    def ours(test: Flips, weight: float) -> Tensor:
        return Ascent.for_edits(taught, shift_weight=weight).move(test.z, test.targets(taught)).z

    def not_white(test: Flips, weight: float) -> Tensor:
        ascent = Ascent.for_edits(taught, shift_weight=weight, whitened=False)
        return ascent.move(test.z, test.targets(taught)).z

    def untaught(test: Flips, weight: float) -> Tensor:
        return Ascent.for_edits(plain, shift_weight=weight).move(test.z, test.targets(plain)).z

    def gradient(test: Flips, threshold: float) -> Tensor:
        asked = test.targets(plain)
        return Ascent(plain, **bare).move(test.z, asked, threshold=threshold).z

    def through(test: Flips, threshold: float) -> Tensor:
        ascent = Ascent(teacher, **{**bare, "steps": 40})
        return torch.cat(
            [
                ascent.move(z, y, threshold=threshold).z
                for z, y in zip(test.z.split(64), test.asked.split(64), strict=True)
            ]
        )

    def along(test: Flips, strength: float) -> Tensor:
        sign = torch.nan_to_num(2 * test.asked - 1)
        return test.z + strength * (sign @ vectors).view_as(test.z)

    ways: dict[str, tuple[Any, tuple[float, ...]]] = {
        OURS: (ours, WEIGHTS),
        "the same, not white": (not_white, (0.3, 0.15, 0.08, 0.04, 0.02)),
        "the same, critic of labels alone": (untaught, WEIGHTS),
        "attribute vectors": (along, (0.5, 1, 1.5, 2, 3)),
        "plain gradient, critic of labels": (gradient, (0.9, 0.99, 0.9999)),
        "plain gradient through the decoder": (through, (0.99,)),
    }
    if flags.methods:
        ways = {name: way for name, way in ways.items() if name.startswith(flags.methods)}
    test = Flips(setting.judges, "test", flags.faces)
    rows: dict[str, list[Row]] = {}
    kept: dict[str, dict[float, Tensor]] = {}
    for name, (way, strengths) in ways.items():
        rows[name], kept[name] = [], {}
        for strength in strengths:
            began = time.process_time()
            z = way(test, strength)
            seconds = time.process_time() - began
            row = test.judge(f"{name} {strength:g}", z, strength=strength)
            row.pop("said")
            row |= {"faces_found": setting.faces_found(z), "cpu_seconds": seconds / len(z)}
            rows[name].append(row)
            kept[name][strength] = z.view(K, flags.faces, *z.shape[1:])
        print({row["strength"]: row["faces_found"] for row in rows[name]}, flush=True)
    real = {
        "reconstructions": setting.faces_found(test.faces),
        "originals": setting.detector.found(test.x).float().mean().item(),
    }
    file = setting.folder / f"edits-{flags.seed}.json"
    older = json.loads(file.read_text())["rows"] if file.exists() else {}
    setting.save("edits", {"rows": {**older, **rows}, "faces_found": real})
    shown = {name: kept[name][nearest(rows[name])] for name in ways}
    if OURS in shown:
        shown[OURS] = kept[OURS][DEFAULT]
    for name, file in {OURS: "ours", "plain gradient through the decoder": "gradient"}.items():
        if name in shown:
            columns = [test.faces[:8], *(z[:8] for z in shown[name])]
            setting.sheet(f"edits-{file}", columns, ["as it is", *ATTRIBUTES])
    smiles = [z[ATTRIBUTES.index("Smiling"), :8] for z in shown.values()]
    setting.sheet("smiles", [test.faces[:8], *smiles], ["as it is", *(n[:22] for n in shown)])


def nearest(rows: list[Row]) -> float:
    """The strength whose edits are about as like the person as the limit asks."""
    chosen: float = min(rows, key=lambda row: abs(row["identity"] - IDENTITY))["strength"]
    return chosen


def samples(setting: Setting) -> None:
    """Samples of the flow, and by attribute, judged."""
    flags = setting.flags
    latents = setting.encodings()
    taught = load_taught(setting.folder, flags.seed)
    began = time.process_time()
    flow = LatentFlow.fit(
        latents.select([]),
        "matching",
        width=flags.flow_width,
        depth=2,
        guidance=1.5,
        max_train_steps=flags.flow_steps,
        batch_size=64,
        seed=flags.seed,
    )
    result: dict[str, Any] = {"flow_cpu_seconds": time.process_time() - began}
    count = flags.samples
    starts = {
        "N(0, I)": latentctl.Gaussian(latents.latent_shape).sample(count, seed=flags.seed),
        "standardised": latentctl.Gaussian.fit(latents).sample(count, seed=flags.seed),
        "flow": flow.sample(count, seed=flags.seed),
    }
    found = {name: setting.faces_found(z) for name, z in starts.items()}
    result["faces_found"] = {**found, "encodings": setting.faces_found(latents[:count].mean)}
    print(result, flush=True)
    setting.sheet("priors", [z[:8] for z in starts.values()], list(starts))
    faces = latentctl.condition(
        setting.decoder, taught, Ascent.for_edits(taught, shift_weight=0.005), prior=flow
    )
    columns, rows = [starts["flow"][:8]], {}
    for name in ATTRIBUTES:
        out = faces.sample(count, seed=flags.seed, **{name: True})
        said, _ = setting.judges(out.z)
        rows[name] = {
            "before": (setting.judges(out.start)[0][:, taught.index(name)] > 0.5)
            .float()
            .mean()
            .item(),
            "judge": (said[:, taught.index(name)] > 0.5).float().mean().item(),
            "satisfied": out.satisfied.float().mean().item(),
            "faces_found": setting.faces_found(out.z),
        }
        print(name, rows[name], flush=True)
        columns.append(out.z[:8])
    setting.sheet("samples", columns, ["flow", *ATTRIBUTES])
    setting.save("samples", {**result, "attributes": rows})


def identity(setting: Setting) -> None:
    """The likeness to the photograph, beside a linear direction of equal success."""
    latents, taught = setting.encodings(), load_taught(setting.folder, setting.flags.seed)
    test = Flips(setting.judges, "test", setting.flags.faces)
    move = Ascent.for_edits(taught, shift_weight=DEFAULT).move(test.z, test.targets(taught))
    lines = {"mean difference": mean_differences(latents.mean.flatten(1), latents.labels)}
    strengths = [0.25 * 1.25**i for i in range(17)]
    setting.save("identity", compare(test, move.z, lines, strengths))


def main(flags: Flags) -> None:
    torch.set_num_threads(flags.threads)
    setting = Setting(flags)
    {"teach": teach, "edits": edits, "samples": samples, "identity": identity}[flags.part](setting)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Flags))
