r"""`teach`: from labelled images to a critic that edits can follow, and an evaluator of them.

A critic that edits ascend is exploited by them. Critics of two kinds make it harder together than
each alone: one of latents that is trained on labels against adversarial moves (`AttributeCritic`),
and networks on images through the decoder, which are trained on reconstructions, since what the
decoder draws is all that they will see. Their mean is distilled into a fast critic of latents
(`latentctl.distill`). One more network, of another architecture, becomes the evaluator: no edit
ascends it, it is calibrated on reconstructions of images that no network was trained on, and its
threshold is chosen on edits of them.

| generator | networks are trained on | the critic is distilled on |
|---|---|---|
| with an encoder | reconstructions | encodings |
| without one | the images | prior samples, with labels by the networks |
| whose latents are noise | the images | not at all: it is the networks |
| any, with a scorer and no data | prior samples, with labels by the scorer | the same |

In the noise of a diffusion pipeline (`Decoder.latents_are_noise`) attributes are no directions, and
a small critic of latents learns nothing.
"""

from __future__ import annotations

__all__ = ["Taught", "teach"]

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from ..controllers import distill
from ..critics import AttributeCritic, Critic, MeanCritic, PixelCritic, prior_labels
from ..critics.ties import find_ties
from ..decoder import Decoder
from ..errors import InputError
from ..latents import Latents
from .condition import condition
from .networks import TEACHERS, fit_networks, inside
from .reconstructions import as_bytes, draw_labelled, read_labelled, reconstruct
from .threshold import MOST_EDITS, RATE, choose_threshold

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)

MOST_HELD_OUT = 2000
FEW_EDITS = 100  # for the threshold, where each takes many passes through a pipeline


class Taught(NamedTuple):
    """What `teach` returns."""

    critic: Critic
    """A fast critic of latents, for `condition(decoder, critic, evaluator=evaluator)`; a
    `PixelCritic` where latents are noise."""

    evaluator: PixelCritic
    """A calibrated network on images through the decoder, which no edit ascends; the scorer, where
    one was given."""


def teach(
    decoder: Decoder,
    data: Any = None,
    attributes: Sequence[str] | None = None,
    *,
    scorer: PixelCritic | None = None,
    latents: Latents | None = None,
    teachers: int = 2,
    passes: int | None = None,
    max_train_samples: int = 20_000,
    held_out: float = 0.1,
    max_train_seconds: float | None = None,
    max_train_steps: int | None = None,
    image_column: str = "image",
    transform: Callable[[Any], Any] | None = None,
    network: Callable[..., nn.Module] | None = None,
    evaluator: PixelCritic | None = None,
    rate: float = RATE,
    seed: int = 0,
    output_dir: str | Path | None = None,
    accelerator: Accelerator | None = None,
    progress: bool = True,
    **options: Any,
) -> Taught:
    """A critic and an evaluator from labelled images or a scorer, in one call: minutes on a CPU.

    Arguments:
        decoder: A decoder of images. Every image is encoded where there is an encoder: leave one
            that searches (`with_inversion`) out here, and edit with it.
        data: Labelled images, a map-style data set as `latentctl.encode_dataset` reads it.
        attributes: Names of the label columns, K of them; those of `latents` if not given.
        scorer: In place of data: networks or a function on samples, `PixelCritic(decoder, ...)`,
            which label samples of the prior. No edit ascends it, so that it needs no gradient, and
            it is returned as the evaluator.
        latents: Labelled encodings that the critic is trained on, such as those of more data; by
            default those of the images that are not held out, or of the prior.
        teachers: Networks that the critic is distilled from beside the labels, 0 to 3, each of
            another architecture.
        passes: Passes of each network over its images; by default as many as make 60,000
            images, and 3 to 30.
        max_train_samples: Most images that are read, a random part of a larger data set; and the
            number of prior samples, where there are no encodings.
        held_out: Share of the images on which the evaluator is calibrated; at most 2,000.
        max_train_seconds: Most seconds of each network.
        max_train_steps: Steps of the critic of latents, and of each round of distillation.
        image_column: Key of the image in a row that is a mapping.
        transform: As in `latentctl.encode_dataset`.
        network: Trains a network, called as `network(images, labels, names, seed=..., epochs=...,
            max_train_seconds=..., accelerator=..., progress=..., model_name=...,
            model_options=...)` with bytes `(N, C, h, w)` and labels `(N, K)`; by default
            `PixelClassifier.fit` of the adapters, which needs timm.
        evaluator: An independent evaluator that is at hand, of the same attributes. It is returned
            as it is, and none is trained.
        rate: Share of right verdicts among edits that are called satisfied, for which the threshold
            of the evaluator is chosen (`conditional.threshold`).
        seed: Decides every random number.
        output_dir: Folder of the logs, and of the networks, which a resumed run reads.
        accelerator: Where to train; `Accelerator()` by default.
        progress: Show bars on the main process, with the time that is left of each part.
        options: Further arguments of `latentctl.distill`; without teachers `width` and `depth`
            alone.

    Raises:
        InputError: If the decoder does not decode square images, an attribute has one class only,
            or an image cannot be used.
        AdapterError: If timm is missing.
        UnknownNameError: If a label column does not exist.

    Example:
        >>> import latentctl
        >>> from latentctl_adapters.embedded.drawn_faces import ProceduralFaces
        >>> from latentctl_adapters.embedded.pca import PCA
        >>> people = ProceduralFaces(80, size=32)
        >>> decoder = latentctl.wrap(PCA.fit(people.images(0, 80), 16))
        >>> critic, evaluator = teach(decoder, people, ["Smiling", "Male"], teachers=1, passes=1,
        ...     samples=32, rounds=0, max_train_steps=5, progress=False)
        >>> faces = latentctl.condition(decoder, critic, evaluator=evaluator)
        >>> faces.edit(people.images(0, 2), Smiling=True).satisfied.shape
        torch.Size([2])
    """
    sources = {"data": data, "scorer": scorer, "latents": latents, "attributes": attributes}
    names = _check(decoder, sources, teachers, held_out, options)
    started, noise = time.monotonic(), decoder.latents_are_noise
    if scorer is not None:
        x, own = draw_labelled(scorer, max_train_samples, seed, progress)
        labels, evaluator = own.labels, scorer if evaluator is None else evaluator
    else:
        x, labels = read_labelled(
            decoder, data, names, image_column, transform, max_train_samples, seed, progress
        )
        if decoder.can_encode and not noise:
            x, own = reconstruct(decoder, x, labels, names, progress)
        else:
            own = None
    assert labels is not None
    count = min(MOST_HELD_OUT, max(1, round(held_out * len(x))))
    if count >= len(x):
        raise InputError(f"{len(x)} images are too few to hold any out. Give more.")
    resumed = options.pop("resume_from_checkpoint", None)
    shared: dict[str, Any] = {"seed": seed, "progress": progress, "accelerator": accelerator}
    networks = fit_networks(
        (as_bytes(x[count:], decoder), labels[count:], names),
        teachers,
        evaluator is None,
        fit=network,
        folder=output_dir,
        resumed=bool(resumed),
        passes=passes,
        max_train_seconds=max_train_seconds,
        **shared,
    )
    given = evaluator is not None
    if evaluator is None:
        evaluator = PixelCritic(decoder, networks.pop(), names=names)
        evaluator.calibrate(x[:count].to(decoder.device), labels[:count])
    taught = PixelCritic(decoder, *networks, names=names) if networks else None
    critic: Critic
    if noise and taught is not None:
        critic = taught
        critic.ties = find_ties(labels[count:][:MOST_HELD_OUT], names)
    else:
        if latents is None and own is not None:  # what is held out serves the threshold
            latents = own[count:]
        elif latents is None and taught is not None:
            latents = prior_labels(taught, max_train_samples, seed=seed, progress=progress)
        assert latents is not None
        shared |= {} if max_train_steps is None else {"max_train_steps": max_train_steps}
        shared |= {"resume_from_checkpoint": resumed} if resumed else {}
        critic = _latent_critic(latents.select(names), taught, output_dir, shared, options)
    if not given:
        z = decoder.prior.sample(count, seed=~seed) if own is None else own.mean[:count]
        faces = condition(decoder, critic, evaluator=evaluator)
        edits = FEW_EDITS if noise else MOST_EDITS
        evaluator.threshold = choose_threshold(faces, Latents(z), rate=rate, edits=edits, seed=seed)
    logger.info("teach: done in %.0f s", time.monotonic() - started)
    return Taught(critic, evaluator)


def _latent_critic(
    latents: Latents,
    taught: PixelCritic | None,
    folder: str | Path | None,
    shared: dict[str, Any],
    options: dict[str, Any],
) -> AttributeCritic:
    """A critic of labels, distilled together with networks if there are any."""
    if shared["accelerator"] is None:
        shared = {key: value for key, value in shared.items() if key != "accelerator"}
    sizes = {key: options[key] for key in ("width", "depth") if key in options}
    critic = AttributeCritic.fit(latents, output_dir=inside(folder, "labels"), **sizes, **shared)
    if taught is None:
        return critic
    return distill(
        MeanCritic(taught, critic),
        latents,
        prior=taught.decoder.prior,
        output_dir=inside(folder, "distillation"),
        **shared,
        **options,
    )


def _check(
    decoder: Decoder,
    sources: dict[str, Any],
    teachers: int,
    held_out: float,
    options: Iterable[str],
) -> tuple[str, ...]:
    """The names of the attributes; raises an `InputError` if the arguments do not fit together."""
    shape, noise = decoder.sample_shape, decoder.latents_are_noise
    data, scorer, latents = (sources[key] for key in ("data", "scorer", "latents"))
    if len(shape) != 3 or shape[0] not in (1, 3) or shape[1] != shape[2]:
        raise InputError(
            f"teach trains networks on square images (C, h, h), and {decoder.name} decodes "
            f"{tuple(shape)}. Fit a critic to encodings (AttributeCritic.fit), or distil a network "
            f"of your own (latentctl.distill)."
        )
    if (data is None) == (scorer is None):
        raise InputError(
            "teach learns from labelled images, teach(decoder, data, [...]), or from what a scorer "
            f"says of the generator's samples, teach(decoder, scorer=...); "
            f"{'neither' if data is None else 'both'} were given."
        )
    if scorer is not None and scorer.decoder.fingerprint() != decoder.fingerprint():
        raise InputError("The scorer is of another decoder: PixelCritic(decoder, network).")
    if noise and latents is not None:
        raise InputError(
            f"The latents of {decoder.name} are noise, and no critic of latents is trained. Leave "
            f"out latents=."
        )
    if not 0 <= teachers <= len(TEACHERS):
        raise InputError(f"teachers is 0 to {len(TEACHERS)}, it was given as {teachers}.")
    labelled = decoder.can_encode or scorer is not None or latents is not None
    if not teachers and (noise or not labelled):
        why = "has latents that are noise" if noise else "has no encoder"
        raise InputError(
            f"{decoder.name} {why}: labels reach its latents through networks. teachers is at "
            f"least 1, it was given as 0."
        )
    unused = sorted({*options} - {"width", "depth", "resume_from_checkpoint"})
    if (noise or not teachers) and unused:
        why = f"{decoder.name}, whose latents are noise," if noise else "teachers=0"
        raise InputError(
            f"With {why} nothing is distilled, and {', '.join(unused)} would not be used. Leave "
            f"them out."
        )
    if not 0 < held_out < 1:
        raise InputError(f"held_out is a share in (0, 1), it was given as {held_out:g}.")
    names = sources["attributes"] or getattr(latents, "names", None) or getattr(scorer, "names", ())
    if not names:
        raise InputError("teach needs the attributes: attributes=[...], names of label columns.")
    if scorer is not None and tuple(names) != scorer.names:
        raise InputError(
            f"The attributes are those of the scorer, {', '.join(scorer.names)}. Leave out "
            f"attributes=."
        )
    return tuple(names)
