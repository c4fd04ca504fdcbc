r"""`teach`: from labelled images to a critic that edits can follow, and an evaluator of them.

A critic that edits ascend is exploited by them. Critics of two kinds make it harder together than
each alone: one of latents that is trained on labels against adversarial moves (`AttributeCritic`),
and networks on images through the decoder, which are trained on reconstructions, since what the
decoder draws is all that they will see. Their mean is distilled into a fast critic of latents
(`latentctl.distill`). One more network, of another architecture, becomes the evaluator: no edit
ascends it, it is calibrated on reconstructions of images that no network was trained on, and its
threshold is chosen on edits of them.
"""

from __future__ import annotations

__all__ = ["Taught", "teach"]

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from ..controllers import distill
from ..critics import AttributeCritic, MeanCritic, PixelCritic
from ..decoder import Decoder
from ..errors import AdapterError, InputError
from ..latents import Latents
from .condition import condition
from .reconstructions import as_bytes, read_labelled, reconstruct
from .threshold import RATE, choose_threshold

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)

GROUP = "latentctl.networks"  # entry points of classes that can be fitted to images
DEFAULT_NETWORK = "pixel-classifier"
MOST_HELD_OUT = 2000
# plain stems: the deep stems of other small networks double the cost at 64 pixels
EVALUATOR: dict[str, Any] = {
    "model_name": "resnet18",
    "model_options": {"channels": (24, 48, 80, 112), "act_layer": "relu"},
}
TEACHERS: tuple[dict[str, Any], ...] = (
    {
        "model_name": "resnet18",
        "model_options": {"channels": (16, 32, 64, 128), "act_layer": "silu"},
    },
    {
        "model_name": "resnet18d",
        "model_options": {"channels": (16, 32, 64, 96), "act_layer": "gelu"},
    },
    {
        "model_name": "resnet10t",
        "model_options": {"channels": (32, 64, 96, 128), "act_layer": "relu"},
    },
)


class Taught(NamedTuple):
    """What `teach` returns."""

    critic: AttributeCritic
    """A fast critic of latents, for `condition(decoder, critic, evaluator=evaluator)`."""

    evaluator: PixelCritic
    """A calibrated network on images through the decoder, which no edit ascends."""


def teach(
    decoder: Decoder,
    data: Any,
    attributes: Sequence[str] | None = None,
    *,
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
    """A critic and an evaluator from labelled images, in one call: minutes on a CPU.

    Arguments:
        decoder: A decoder of images with an encoder.
        data: Labelled images, a map-style data set as `latentctl.encode_dataset` reads it.
        attributes: Names of the label columns, K of them; those of `latents` if not given.
        latents: Labelled encodings that the critic is trained on, such as those of more data; by
            default those of the images that are not held out.
        teachers: Networks that the critic is distilled from beside the labels, 0 to 3, each of
            another architecture.
        passes: Passes of each network over the reconstructions; by default as many as make 60,000
            images, and 3 to 30.
        max_train_samples: Most images that are read; a random part of a larger data set.
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
        AdapterError: If the decoder has no encoder, or timm is missing.
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
    _check(decoder, teachers, held_out, options)
    if latents is not None and attributes is None:
        attributes = latents.names
    if not attributes:
        raise InputError("teach needs the attributes: attributes=[...], names of label columns.")
    names = tuple(attributes)
    started = time.monotonic()
    x, labels = read_labelled(
        decoder, data, names, image_column, transform, max_train_samples, seed, progress
    )
    mean, std, reconstructed = reconstruct(decoder, x, progress)
    count = min(MOST_HELD_OUT, max(1, round(held_out * len(x))))
    if count >= len(x):
        raise InputError(f"{len(x)} images are too few to hold any out. Give more.")
    if latents is None:  # of the images that are not held out
        latents = Latents(mean, std, labels, names)[count:]
    images = as_bytes(reconstructed[count:], decoder)
    epochs = _epochs(passes, len(images))
    fit = network or _class().fit
    networks: list[Any] = []
    resumed = options.pop("resume_from_checkpoint", None)
    wanted = [(f"teacher-{number}", TEACHERS[number]) for number in range(teachers)]
    if evaluator is None:
        wanted.append(("evaluator", EVALUATOR))
    for number, (what, architecture) in enumerate(wanted):
        folder = _inside(output_dir, what)
        if resumed and folder is not None and folder.exists() and network is None:
            networks.append(_class().from_pretrained(folder))
            continue
        logger.info("teach: network %d of %d (%s)", number + 1, len(wanted), what)
        made: Any = fit(
            images,
            labels[count:],
            names,
            seed=seed + 1 + number,
            epochs=epochs,
            max_train_seconds=max_train_seconds,
            accelerator=accelerator,
            progress=progress,
            **architecture,
        )
        main_process = accelerator is None or accelerator.is_main_process
        if folder is not None and main_process and hasattr(made, "save_pretrained"):
            made.save_pretrained(folder)
        networks.append(made)
    given = evaluator is not None
    if evaluator is None:
        evaluator = PixelCritic(decoder, networks.pop(), names=names)
        evaluator.calibrate(reconstructed[:count].to(decoder.device), labels[:count])
    shared: dict[str, Any] = {"seed": seed, "progress": progress}
    shared |= {} if accelerator is None else {"accelerator": accelerator}
    shared |= {} if max_train_steps is None else {"max_train_steps": max_train_steps}
    shared |= {"resume_from_checkpoint": resumed} if resumed else {}
    sizes = {key: options[key] for key in ("width", "depth") if key in options}
    critic = AttributeCritic.fit(
        latents.select(names), output_dir=_inside(output_dir, "labels"), **sizes, **shared
    )
    if networks:
        critic = distill(
            MeanCritic(PixelCritic(decoder, *networks, names=names), critic),
            latents,
            prior=decoder.prior,
            output_dir=_inside(output_dir, "distillation"),
            **shared,
            **options,
        )
    if not given:
        faces = condition(decoder, critic, evaluator=evaluator)
        evaluator.threshold = choose_threshold(faces, Latents(mean[:count]), rate=rate, seed=seed)
    logger.info("teach: done in %.0f s", time.monotonic() - started)
    return Taught(critic, evaluator)


def _check(decoder: Decoder, teachers: int, held_out: float, options: Iterable[str]) -> None:
    shape = decoder.sample_shape
    if len(shape) != 3 or shape[0] not in (1, 3) or shape[1] != shape[2]:
        raise InputError(
            f"teach trains networks on square images (C, h, h), and {decoder.name} decodes "
            f"{tuple(shape)}. Fit a critic to encodings (AttributeCritic.fit), or distil a network "
            f"of your own (latentctl.distill)."
        )
    if not 0 <= teachers <= len(TEACHERS):
        raise InputError(f"teachers is 0 to {len(TEACHERS)}, it was given as {teachers}.")
    unused = sorted({*options} - {"width", "depth", "resume_from_checkpoint"})
    if not teachers and unused:
        raise InputError(
            f"With teachers=0 nothing is distilled, and {', '.join(unused)} would not be used. "
            f"Leave them out, or ask for teachers."
        )
    if not 0 < held_out < 1:
        raise InputError(f"held_out is a share in (0, 1), it was given as {held_out:g}.")


def _inside(folder: str | Path | None, name: str) -> Path | None:
    return None if folder is None else Path(folder) / name


def _epochs(passes: int | None, images: int) -> int:
    if passes is None:
        return min(30, max(3, round(60_000 / images)))
    if passes < 1:
        raise InputError(f"passes is at least 1, it was given as {passes}.")
    return passes


def _class() -> Any:
    points = {point.name: point for point in entry_points(group=GROUP)}
    if DEFAULT_NETWORK not in points:
        raise AdapterError(
            f"No network {DEFAULT_NETWORK!r} is installed. Pass network=, a function that trains "
            f"one, or install latentctl with its adapters."
        )
    return points[DEFAULT_NETWORK].load()
