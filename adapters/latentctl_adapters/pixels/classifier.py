r"""A timm network over pixels with named binary attributes: an independent evaluator, or a teacher.

The network gives one logit an attribute, and is trained by the masked binary cross-entropy

    L = mean over known (n, k) of  softplus(l_nk) - y_nk l_nk,      y = NaN means unknown.

Reconstructions of autoencoders are blurrier than photographs, and a network trained on sharp pixels
alone misclassifies them (Hendrycks and Dietterich, 2019, for blur and noise in general).
`augment_images` therefore varies sharpness, noise, colour and position, so that one network can
classify both.
"""

from __future__ import annotations

__all__ = ["PixelClassifier", "augment_images"]

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from latentctl.critics.log_odds import cross_entropy
from latentctl.errors import AdapterError, InputError, ShapeError, UnknownNameError
from latentctl.random import seeded
from latentctl.storage import register_to_config
from latentctl.training import Step, train

from ..wrapping.pretrained import Pretrained
from .architecture import check_architecture
from .augment import augment_images

if TYPE_CHECKING:
    from accelerate import Accelerator

Augmentation = Callable[[Tensor, Step], Tensor]
SMALL_RESNET = {"channels": (48, 96, 192, 320)}  # half the cost of a full ResNet-18
WARMUP = 5  # steps; few, since a time limit may end the run after some dozens


class PixelClassifier(Pretrained, kind="pixel-classifier"):
    """Attributes of an image, `logits = net((x - mean) / std)`.

    Arguments:
        names: Name of each attribute, K of them.
        model_name: A timm architecture, as in `timm.list_models()`.
        model_options: Its keyword arguments, those that state sizes (`architecture.OPTIONS`):
            numbers, lists of numbers and names. By default a narrower ResNet for `resnet18`, and
            nothing for any other architecture.
        channels: Channels of the images.
        resolution: Height and width of the images in pixels.
        mean: Mean of each channel, in the images' [0, 1].
        std: Standard deviation of each channel.
        scores: Figures of held-out images, which are saved with the network.

    Raises:
        AdapterError: timm is not installed.
        InputError: timm has no such architecture, or an option is not one of these.

    Example:
        >>> network = PixelClassifier(["Smiling", "Male"], resolution=32).eval()
        >>> x = torch.rand(4, 3, 32, 32)
        >>> network(x).shape, network.features(x).shape
        (torch.Size([4, 2]), torch.Size([4, 320]))
    """

    mean: Tensor
    std: Tensor

    @register_to_config
    def __init__(
        self,
        names: Sequence[str],
        *,
        model_name: str = "resnet18",
        model_options: Mapping[str, Any] | None = None,
        channels: int = 3,
        resolution: int = 64,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        scores: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        try:
            import timm
        except ImportError as error:
            raise AdapterError(
                "PixelClassifier needs timm, which is not installed: pip install 'latentctl[timm]'."
            ) from error
        if model_options is None:
            model_options = SMALL_RESNET if model_name == "resnet18" else {}
        check_architecture(timm, model_name, model_options)
        self.names, self.scores = tuple(names), dict(scores or {})
        if len(set(self.names)) < len(self.names):
            raise InputError(f"The names of attributes must be unique: {', '.join(self.names)}.")
        self.config |= {"model_options": dict(model_options), "scores": self.scores}
        self.net = timm.create_model(
            model_name,
            pretrained=False,
            num_classes=len(self.names),
            in_chans=channels,
            **model_options,
        ).to(memory_format=torch.channels_last)
        for key, value in (("mean", mean), ("std", std)):
            stated = torch.tensor(value or [0.5] * channels, dtype=torch.float32)
            self.register_buffer(key, stated.view(1, -1, 1, 1), persistent=False)

    def _prepare(self, x: Tensor) -> Tensor:
        expected = (self.config["channels"], self.config["resolution"], self.config["resolution"])
        if x.ndim != 4 or tuple(x.shape[1:]) != expected:
            raise ShapeError(
                f"PixelClassifier takes images (B, {', '.join(map(str, expected))}) in [0, 1], "
                f"found {tuple(x.shape)}. Resize the images, or fit a classifier for their size."
            )
        return ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, K)` of images `(B, C, H, W)` in [0, 1]."""
        logits: Tensor = self.net(self._prepare(x))
        return logits

    def probability(self, x: Tensor) -> Tensor:
        """Probability `(B, K)` of each attribute; 0.5 is the threshold of every decision."""
        return self.forward(x).sigmoid()

    def features(self, x: Tensor) -> Tensor:
        """Pooled features `(B, F)` that the last linear layer reads."""
        maps = self.net.forward_features(self._prepare(x))
        features: Tensor = self.net.forward_head(maps, pre_logits=True)
        return features

    def select(self, names: Sequence[str]) -> PixelClassifier:
        """A copy with these outputs alone, in this order.

        Raises:
            UnknownNameError: If it has no output of such a name.
        """
        for name in names:
            if name not in self.names:
                raise UnknownNameError("output of the network", name, self.names)
        rows = [self.names.index(name) for name in names]
        copy = PixelClassifier(**{**self.config, "names": list(names)})
        last = {
            f"net.{self.net.pretrained_cfg['classifier']}.{part}" for part in ("weight", "bias")
        }
        weights = {k: v[rows] if k in last else v for k, v in self.state_dict().items()}
        copy.load_state_dict(weights)
        for key in ("mean", "std"):
            getattr(copy, key).copy_(getattr(self, key))
        return copy.train(self.training)

    @classmethod
    def fit(
        cls,
        images: Tensor,
        labels: Tensor,
        names: Sequence[str],
        *,
        model_name: str = "resnet18",
        model_options: Mapping[str, Any] | None = None,
        epochs: int = 30,
        max_train_seconds: float | None = None,
        batch_size: int = 128,
        learning_rate: float = 2e-3,
        weight_decay: float = 0.05,
        augment: Augmentation | None = None,
        seed: int = 0,
        accelerator: Accelerator | None = None,
        progress: bool = True,
    ) -> PixelClassifier:
        """Train a network on labelled images with AdamW and one cosine cycle.

        Under `accelerate launch` all processes must call it, and all get the same network.

        Arguments:
            images: uint8 pixels `(N, C, H, W)`, square.
            labels: `(N, K)` in [0, 1], NaN where unknown.
            names: Name of each attribute, K of them.
            model_name: A timm architecture.
            model_options: Its keyword arguments.
            epochs: Passes over the images at most.
            max_train_seconds: Seconds of training at most. The cosine cycle then ends with the
                time: the run is annealed, but not repeatable bit for bit.
            batch_size: Images in a step, over all processes.
            learning_rate: Peak learning rate.
            weight_decay: Decoupled weight decay of the weight matrices.
            augment: Called as `augment(x, step)` on each batch with its `latentctl.training.Step`,
                from which it draws; `augment_images` by default, `lambda x, step: x` for none.
            seed: Seed of the initial weights, the order and the augmentation.
            accelerator: Where to train; `Accelerator()` by default.
            progress: Show a bar on the main process.

        Returns:
            The trained classifier in eval mode, on the CPU.

        Raises:
            InputError: An attribute without both classes, a wrong dtype or a wrong length.
        """
        _check(images, labels, names)
        unit = images.float().flatten(2) / 255
        with seeded(seed, "pixel-classifier"):
            network = cls(
                list(names),
                model_name=model_name,
                model_options=model_options,
                channels=images.shape[1],
                resolution=images.shape[2],
                mean=unit.mean((0, 2)).tolist(),
                std=unit.std((0, 2)).clamp_min(1e-3).tolist(),
            )
        del unit
        view = augment or augment_images

        def loss(batch: Sequence[Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
            x, y = batch[0].float() / 255, batch[1].float()
            x = view(x, step)
            fast = _fast_bfloat16(x.device)
            with torch.autocast(x.device.type, torch.bfloat16) if fast else nullcontext():
                logits = network(x)
            return cross_entropy(logits.float(), y).mean(), {}

        batch_size = min(batch_size, len(images))
        steps = epochs * (len(images) // batch_size)
        train(
            network,
            loss,
            TensorDataset(images, labels),
            name="classifier",
            parameters=_groups(network.net, weight_decay),
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            max_train_steps=steps,
            max_train_seconds=max_train_seconds,
            batch_size=batch_size,
            lr_scheduler="cosine",
            lr_warmup_steps=min(WARMUP, steps // 20),
            seed=seed,
            accelerator=accelerator,
            progress=progress,
        )
        return network.cpu()


def _groups(net: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters with and without weight decay (biases and normalisation have none)."""
    weights = [p for p in net.parameters() if p.ndim > 1]
    vectors = [p for p in net.parameters() if p.ndim <= 1]
    return [
        {"params": weights, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]


def _fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 has instructions of its own here; emulated, it is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # no public query exists
    return device.type == "cpu" and probe is not None and bool(probe())


def _check(images: Tensor, labels: Tensor, names: Sequence[str]) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[2] != images.shape[3]:
        raise InputError(
            f"images must be uint8 (N, C, H, W) with H = W, found {images.dtype} "
            f"{tuple(images.shape)}. Multiply images in [0, 1] by 255 and cast them."
        )
    if tuple(labels.shape) != (len(images), len(names)):
        raise ShapeError(
            f"{len(images)} images and {len(names)} names need labels "
            f"({len(images)}, {len(names)}), found {tuple(labels.shape)}."
        )
    for name, column in zip(names, labels.float().unbind(1), strict=True):
        if not (bool((column > 0.5).any()) and bool((column < 0.5).any())):
            raise InputError(
                f"{name!r} has one class only in the labels and cannot be learned. Leave it out, "
                "or add images of the other class."
            )
