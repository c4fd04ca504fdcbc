r"""The image tasks of `cgml_modes`: their data, their measures, and the baselines.

The known answers :math:`m_0, m_1` to an input are at :math:`t = 0` and :math:`t = 1` of

.. math:: t = \langle y - m_0, m_1 - m_0 \rangle / \|m_1 - m_0\|^2,

in the task with the bar its brightness above the image below it. An answer is of the second mode
where :math:`t > 1/2`, and spurious (between the modes) where :math:`1/4 < t < 3/4`. Errors are mean
absolute differences of pixels in [0, 1] to the nearer mode, over the hidden part.
"""

from __future__ import annotations

__all__ = ["Pairs", "drawn_digits", "drawn_faces", "measure", "pairs", "run_images"]

import colorsys
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from latentctl_adapters.embedded.drawn_faces import ProceduralFaces
from torch import Tensor
from torch.utils.data import TensorDataset

from latentctl import OneToMany
from latentctl.errors import InputError
from latentctl.random import generator, seeded

from ..figures import face_sheet
from ..images import Images, load_images
from .flags import Flags
from .networks import FEATURES, Baseline, Encoder, Generator
from .training import train_cgml

logger = logging.getLogger(__name__)

SECOND = {"mnist-bar": 0.3, "colour": 0.5}  # share of the second mode, where one is known
BAR = slice(6, 9)  # rows of the hidden half
SEGMENTS = ("abcdef", "bc", "abged", "abgcd", "fgbc", "afgcd", "afgedc", "abc", "abcdefg", "abfgcd")
# rows and columns of the segments a to g, in units of half a digit's height
STROKES = ((0, 0, 0, 1), (0, 1, 1, 1), (1, 2, 1, 1), (2, 2, 0, 1), (1, 2, 0, 0), (0, 1, 0, 0))
STROKES += ((1, 1, 0, 1),)
WATCHED, EVERY = 100, 100  # held-out inputs that are evaluated in training, and how often


@dataclass
class Pairs:
    """Inputs `(N, C, S, S)`, known answers `(N, K, C, R, S)`, and the training target `(N,)`."""

    x: Tensor
    modes: Tensor
    target: Tensor

    @property
    def y(self) -> Tensor:
        return self.modes[torch.arange(len(self.x)), self.target]


def drawn_digits(count: int, seed: int) -> Images:
    """Digits of seven segments, 28 x 28, of random place, size and stroke."""
    draw = generator(seed, purpose="drawn digits")
    label = torch.randint(10, (count,), generator=draw)
    half = torch.randint(8, 11, (count,), generator=draw).tolist()
    top, left = torch.randint(1, 6, (2, count), generator=draw).tolist()
    stroke = torch.randint(2, 4, (count,), generator=draw).tolist()
    x = torch.zeros(count, 1, 28, 28, dtype=torch.uint8)
    for i, digit in enumerate(label.tolist()):
        for segment in SEGMENTS[digit]:
            stroke_of = STROKES["abcdefg".index(segment)]
            rows = [top[i] + half[i] * n for n in stroke_of[:2]]
            columns = [left[i] + 2 + half[i] * n for n in stroke_of[2:]]
            x[i, 0, rows[0] : rows[1] + stroke[i], columns[0] : columns[1] + stroke[i]] = 255
    return Images(x, label)


def drawn_faces(count: int, seed: int) -> Images:
    """Procedural faces, 32 x 32."""
    faces = ProceduralFaces(count, seed=seed, size=32)
    return Images(faces.tensors()[0], torch.full((count,), -1))


def pairs(task: str, images: Images, seed: int) -> Pairs:
    """The inputs of a task, and their known answers.

    Raises:
        InputError: If the task is `colour` and the images have no classes.
    """
    x = images.pixels()
    if not task.startswith("faces"):
        x = x.mean(1, keepdim=True)
    if task == "faces-colour":
        x, modes = x.mean(1, keepdim=True), x[:, None]
    elif task == "colour":
        if (images.labels < 0).any():
            raise InputError("The colours depend on the class: name a --label_column.")
        # two opposite hues for each class, so that there are exactly two answers
        hues = [[colorsys.hsv_to_rgb(n / 10 + far, 1, 1) for far in (0, 0.5)] for n in range(10)]
        colours = torch.tensor(hues)[images.labels]
        modes = x[:, None] * colours[..., None, None]
    else:
        hidden = x.shape[-2] // 2
        modes = x[:, None, :, hidden:].repeat(1, 2 if task == "mnist-bar" else 1, 1, 1, 1)
        if task == "mnist-bar":
            modes[:, 1, :, BAR] = 1
        x = x.clone()
        x[:, :, hidden:] = 0
    chance = torch.rand(len(x), generator=generator(seed, purpose="modes"))
    return Pairs(x, modes, (chance < SECOND.get(task, 0.0)).long())


def measure(answers: Tensor, modes: Tensor) -> dict[str, float]:
    """Errors and shares of answers `(B, n, ...)` against all modes `(B, K, ...)`."""
    answers, first, last = answers.clamp(0, 1), modes[:, :1], modes[:, -1:]
    apart = (last - first).flatten(2)
    t = ((answers - first).flatten(2) * apart).sum(2)
    t = t / apart.square().sum(2).clamp_min(1e-6)
    second = t > 0.5
    both = torch.stack([(answers - mode).abs().flatten(2).mean(2) for mode in (first, last)])
    error = torch.where(second, both[1], both[0])
    result = {
        "error": error.mean().item(),
        "best": error.amin(1).mean().item(),
        "diversity": answers.std(1).mean().item() if answers.shape[1] > 1 else 0.0,
    }
    if modes.shape[1] > 1:
        result["second"] = second.float().mean().item()
        result["both"] = (second.any(1) & ~second.all(1)).float().mean().item()
        result["spurious"] = ((t > 0.25) & (t < 0.75)).float().mean().item()
    return result


def train(kind: str, flags: Flags, data: Pairs, on_step: Callable[[Any, int], None]) -> Any:
    """cGML, or the baseline of that kind."""
    own: Any = flags.model
    if kind == "cgml":
        with seeded(flags.seed, "images"):
            encoder = Encoder(data.x.shape[1], own.width)
            encoder(data.x[:1])
            channels, rows = data.modes.shape[2:4]
            size = data.x.shape[-1]
            maker = Generator(own.latent_size, channels, own.width, size=size, rows=rows)
        sets = TensorDataset(data.x, data.y)
        return train_cgml(own, encoder, maker, FEATURES, sets, seed=flags.seed, on_step=on_step)
    with seeded(flags.seed, "told" if kind == "oracle" else kind):
        model = Baseline(kind, data.x[:1], data.y[:1], own.baseline_latent_size, own.width)
    return model.fit(
        TensorDataset(data.x, data.y, data.target),
        max_train_steps=own.baseline_train_steps or own.max_train_steps,
        batch_size=own.train_batch_size,
        learning_rate=own.learning_rate,
        seed=flags.seed,
        on_step=lambda step: on_step(model, step),
    )


class Watch:
    """Records the first step that reaches a held-out error, and the time of its evaluations."""

    def __init__(self, test: Pairs, goal: float) -> None:
        self.test, self.goal = test, goal
        self.reached, self.seconds = -1, 0.0

    def __call__(self, model: OneToMany | Baseline, step: int) -> None:
        if step % EVERY or self.reached >= 0:
            return
        began = time.monotonic()
        answers = model.predict(self.test.x[:WATCHED], 4, seed=1)
        if measure(answers, self.test.modes[:WATCHED])["error"] <= self.goal:
            self.reached = step
        self.seconds += time.monotonic() - began


def load(flags: Flags) -> tuple[Pairs, Pairs]:
    """The pairs for training and for the test; images are drawn if no source is named."""
    if flags.data.train_data_dir or flags.data.dataset_name:
        images = load_images(flags.data, flags.seed)
    else:
        faces = flags.task.startswith("faces")
        what = "faces" if faces else "digits of seven segments"
        logger.warning("No data set is named: %s are drawn.", what)
        count, draw = flags.data.max_train_samples or 8000, drawn_faces if faces else drawn_digits
        images = {"train": draw(count, flags.seed), "test": draw(500, ~flags.seed)}
    kept = slice(flags.test_inputs // 2)
    test = Images(images["test"].images[kept], images["test"].labels[kept])
    return pairs(flags.task, images["train"], flags.seed), pairs(flags.task, test, ~flags.seed)


def picture(test: Pairs, answers: dict[str, Tensor]) -> bytes:
    """Ten inputs, their known answers, and some answers of each network."""
    rows, labels = [test.x[:10].expand(-1, 3, -1, -1)], ["input"]
    for name, images in {"known": test.modes[:10], **answers}.items():
        for k in range(min(images.shape[1], 4 if name == "cgml" else 2)):
            whole = test.x[: len(images)].expand(-1, images.shape[2], -1, -1).clone()
            whole[:, :, -images.shape[3] :] = images[:, k].clamp(0, 1)
            rows.append(whole.expand(-1, 3, -1, -1))
            labels.append(name)
    return face_sheet(torch.stack(rows), row_labels=labels)


def run_images(flags: Flags, folder: Path) -> dict[str, Any]:
    """Trains cGML and the baselines on a task, and evaluates all on the same inputs."""
    data, test = load(flags)
    results: dict[str, Any] = {}
    shown: dict[str, Tensor] = {}
    for kind in ("cgml", *flags.baselines):
        if kind == "oracle" and test.modes.shape[1] == 1:
            continue  # there is one mode only
        watch, began = Watch(test, flags.target_error), time.monotonic()
        model = train(kind, flags, data, watch)
        seconds = time.monotonic() - began - watch.seconds
        answers = model.predict(test.x, flags.answers or 20, seed=flags.seed)
        found = measure(answers, test.modes)
        results[kind] = {**found, "reached": watch.reached, "seconds": seconds}
        shown[kind] = answers[:10]
    (folder / "answers.png").write_bytes(picture(test, shown))
    return results
