"""Measures what a decoder can be used for: `examine`, shown as text and as JSON.

Five measurements decide it: the laws of `latentctl.evaluation.laws`, the reconstruction error, the
fit of the prior to the latents of data, the realism test of samples of the prior, and the speed.
"""

from __future__ import annotations

__all__ = ["Ability", "Diagnosis", "Law", "examine"]

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..critics import AttributeCritic, PixelCritic, prior_labels
from ..decoder import Decoder
from ..errors import InputError, LawError
from ..random import seeded
from .figures import figure
from .latent_statistics import ADVICE, latent_statistics, prior_advice, reconstruction
from .laws import decoder_laws
from .probe import linear_probe, probe_advice
from .realism import LEAST, sample_realism
from .speed import measure_speed

SAMPLES = 256  # prior samples, where there are no data
REALISTIC = 0.6  # share of the precision and recall of data that realistic samples reach
POOR = 0.5  # explained variance below which edits of real samples are not advised
INVERSION = 1200  # decodings with gradient per sample in `with_inversion` by default


@dataclass(frozen=True)
class Law:
    """One law of `latentctl.evaluation.laws`; `sentence` says how it is broken."""

    name: str
    holds: bool
    sentence: str = ""


@dataclass(frozen=True)
class Ability:
    """A use of decoders in latentctl, and whether it works with this one."""

    what: str
    works: bool | None
    """None if it was not tested."""

    sentence: str


@dataclass(frozen=True)
class Diagnosis:
    """What `examine` found; `print` shows it as text."""

    decoder: dict[str, Any]
    """Name, shapes, range, dtype, device, fingerprint, encoder and differentiable."""

    data: str
    """What it was measured on."""

    laws: list[Law]
    reconstruction: dict[str, float]
    latents: dict[str, float]

    samples: dict[str, float]
    """The realism test of samples of the prior; empty without data."""

    probe: dict[str, float]
    """Balanced accuracy of a linear probe of prior latents; empty without networks."""

    advice: str
    """Which prior to use."""

    speed: dict[str, float]
    abilities: list[Ability]

    @property
    def lawful(self) -> bool:
        """Whether every law holds."""
        return all(law.holds for law in self.laws)

    def to_json(self) -> str:
        """All of it as a JSON object; what is not finite is null."""
        return json.dumps(_finite({"lawful": self.lawful, **asdict(self)}), indent=1) + "\n"

    def __str__(self) -> str:
        lines = [str(self.decoder["name"])]
        lines += [f"  {key}: {value}" for key, value in self.decoder.items() if key != "name"]
        lines.append("Laws")
        for law in self.laws:
            lines.append(f"  {'holds' if law.holds else 'BROKEN'}: {law.name}")
            lines += [f"    {law.sentence}"] * (not law.holds)
        for title, numbers in (
            (f"Reconstruction of {self.data}", self.reconstruction),
            (f"Latents of {self.data}", self.latents),
            ("Samples of the prior beside reconstructions of data", self.samples),
            ("Speed and memory", self.speed),
        ):
            lines += [title] * bool(numbers)
            lines += [f"  {figure(key, value)}" for key, value in numbers.items()]
        lines += ["Balanced accuracy of a linear probe of prior latents"] * bool(self.probe)
        lines += [f"  {name}: {value:.2f}" for name, value in self.probe.items()]
        lines += ["Prior", f"  {self.advice}", "What works"]
        words = {True: "yes", False: "NO", None: "not tested"}
        lines += [f"  {words[a.works]}: {a.what}. {a.sentence}" for a in self.abilities]
        return "\n".join(lines)


def examine(
    decoder: Decoder,
    x: Tensor | None = None,
    *,
    scorer: PixelCritic | None = None,
    probe_samples: int = 1000,
    batch_size: int = 16,
    seed: int = 0,
) -> Diagnosis:
    """Checks the laws of a decoder, and measures what decides on its use.

    Arguments:
        decoder: The decoder. Nothing about it is changed.
        x: Samples of data `(N, *sample_shape)`, some hundreds; without them 256 decoded samples of
            the prior, which give no information about the latents of data.
        scorer: Networks on samples through this decoder. With them it is measured whether their
            attributes are directions of the latent.
        probe_samples: Samples of the prior that are scored for that.
        batch_size: Samples that are encoded and decoded together, for the speed too.
        seed: Seed of the prior samples and of the posterior noise.

    Raises:
        ShapeError: If `x` has another shape.
        InputError: If `x` is not finite or out of range, or fewer than two samples.

    Example:
        >>> import latentctl
        >>> decoder = latentctl.wrap(torch.nn.Linear(2, 12), decode="forward")
        >>> report = examine(decoder)
        >>> report.lawful, [ability.what for ability in report.abilities if ability.works is False]
        (True, ['Edit real samples'])
    """
    if x is not None:
        decoder.check_sample(x)
        if len(x) < 2:
            raise InputError(f"Statistics need two samples or more, these are {len(x)}.")
    laws = [_tried(name, law) for name, law in decoder_laws(decoder, seed=seed).items()]
    broken = {law.name for law in laws if not law.holds}
    decodes = not any(name.startswith("decodes") for name in broken)
    encodes = decodes and decoder.can_encode and not any(n.startswith("encodes") for n in broken)
    data = f"{SAMPLES} decoded samples of the prior" if x is None else f"{len(x)} samples of data"
    quality: dict[str, float] = {}
    latents: dict[str, float] = {}
    realism: dict[str, float] = {}
    advice = "Not measured without encodings. N(0, I) is the usual prior of generators."
    if encodes:
        samples = x
        if samples is None:
            with torch.no_grad():
                z = decoder.prior.sample(SAMPLES, seed=seed)
                samples = decoder.decode(z, batch_size=batch_size).cpu()
        quality = reconstruction(decoder, samples, batch_size)
        latents = latent_statistics(decoder, samples, batch_size, seed)
        advice = ADVICE[prior_advice(latents)]
        if x is not None and len(x) >= LEAST:
            realism = sample_realism(decoder, x, batch_size, seed)
        if x is None:
            advice += " Measured on the decoder's own samples; give data to measure theirs."
    probe: dict[str, float] = {}
    if decodes and scorer is not None:
        probe = linear_probe(prior_labels(scorer, probe_samples, seed=seed))
    measurable = decodes and (encodes or not decoder.can_encode)
    rates = measure_speed(decoder, batch_size) if measurable else {}
    return Diagnosis(
        decoder={
            "name": decoder.name,
            "latent_shape": decoder.latent_shape,
            "sample_shape": decoder.sample_shape,
            "value_range": decoder.value_range,
            "dtype": str(decoder.dtype).removeprefix("torch."),
            "device": str(decoder.device),
            "fingerprint": decoder.fingerprint(),
            "encoder": decoder.can_encode,
            "differentiable": decoder.differentiable,
        },
        data=data,
        laws=laws,
        reconstruction=quality,
        latents=latents,
        samples=realism,
        probe=probe,
        advice=advice,
        speed=rates,
        abilities=[
            Ability("Sample", *_sampling(decodes, realism)),
            *_abilities(decoder, broken, decodes, encodes, quality, probe, rates),
        ],
    )


def _tried(name: str, law: Callable[[], None]) -> Law:
    try:
        law()
    except LawError as error:
        return Law(name, False, str(error))
    except Exception as error:  # whatever the network raises; the other laws are still checked
        return Law(name, False, f"{type(error).__name__}: {error}")
    return Law(name, True)


def _abilities(
    decoder: Decoder,
    broken: set[str],
    decodes: bool,
    encodes: bool,
    quality: dict[str, float],
    probe: dict[str, float],
    rates: dict[str, float],
) -> list[Ability]:
    gradient = rates.get("decode_and_backward_per_second", 0.0)
    climbs = decodes and decoder.differentiable and "has the gradient it states" not in broken
    climbing = "No true gradient reaches the latents; critics over latents do not need it."
    if climbs:
        climbing = f"100 steps take {100 / gradient:.2g} s a sample here." if gradient else ""
    frozen, weights = "changes none of its tensors" not in broken, decoder.model.state_dict()
    pack = "Packs identify this decoder by the fingerprint of its weights."
    if not weights:
        pack = "No weights were found, so a pack cannot distinguish this decoder from another."
    elif not frozen:
        pack = "The fingerprint changes with use, so a saved pack would be refused."
    return [
        Ability("Edit real samples", *_editing(decoder, decodes, encodes, quality, gradient)),
        Ability("Critics, controllers and flows over latents", *_learns(decoder, probe)),
        Ability(
            "Critics of samples and completion, by ascent through the decoder", climbs, climbing
        ),
        Ability("Packs", bool(weights) and frozen, pack),
    ]


def _sampling(decodes: bool, realism: dict[str, float]) -> tuple[bool | None, str]:
    if not decodes:
        return False, "A law of decoding is broken."
    if not realism:
        return None, (
            f"Whether samples of the prior look like data was not tested: that takes an encoder "
            f"and {LEAST} samples of data (--data)."
        )
    share = min(
        realism[f"sample_{kind}"] / max(realism[f"data_{kind}"], 1e-9)
        for kind in ("precision", "recall")
    )
    words = f"Samples of the prior reach {share:.0%} of the precision and recall of other data."
    if share >= REALISTIC:
        return True, f"{words} The test finds only large differences."
    return False, f"{words} See the advice on the prior."


def _editing(
    decoder: Decoder, decodes: bool, encodes: bool, quality: dict[str, float], gradient: float
) -> tuple[bool, str]:
    if not decoder.can_encode and not (decoder.differentiable and decodes):
        return False, "There is no encoder: latentctl.wrap(model, encode=...)."
    if not decoder.can_encode:
        cost = f", about {INVERSION / gradient:.2g} s a sample here" if gradient else ""
        return False, f"There is no encoder. Search: latentctl.with_inversion(decoder){cost}."
    if not encodes:
        return False, "A law of encoding or decoding is broken."
    if "wrong" in quality:
        return True, f"{quality['wrong']:.1%} of the entries change in the reconstruction."
    share = quality.get("explained", math.nan)
    if not share >= POOR:
        return False, f"Encoding keeps {share:.0%} of the variance: another sample comes back."
    return True, f"Encoding keeps {share:.0%} of the samples' variance."


def _learns(decoder: Decoder, probe: dict[str, float]) -> tuple[bool, str]:
    try:
        with seeded(0):  # layers draw their weights from torch's generator
            AttributeCritic(decoder.latent_shape, ["attribute"], width=4)
    except InputError as error:
        return False, str(error)
    size = math.prod(decoder.latent_shape)
    words = f"Trained on cached latents of {size} numbers, without the decoder."
    return True, words + probe_advice(probe)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
