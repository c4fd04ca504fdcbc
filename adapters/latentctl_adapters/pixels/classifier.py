r"""A timm network over pixels with named binary attributes: an outside judge, or a teacher.

The network gives one logit an attribute, and is trained by the masked binary cross-entropy

    L = mean over known (n, k) of  softplus(l_nk) - y_nk l_nk,      y = NaN means unknown.

What autoencoders return is smoother than what cameras give, so a network trained on sharp pixels
alone reads reconstructions badly (Hendrycks and Dietterich, 2019, for blur and noise in
general). `augment_images` therefore shows every image at a random sharpness, noise, colour and
position, and the same network then judges both.
"""

from __future__ import annotations

__all__ = ["PixelClassifier", "augment_images"]

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latentctl.errors import AdapterError, CheckpointError, InputError, ShapeError
from latentctl.random import generator, permutation

from .augment import augment_images

Augmentation = Callable[[Tensor, torch.Generator], Tensor]
SMALL_RESNET = {"channels": (48, 96, 192, 320)}  # half the cost of a full ResNet-18
FORMAT = 1


class PixelClassifier(nn.Module):
    """Attributes of an image, `logits = net((x - mean) / std)`.

    Arguments:
        names: Name of each attribute, K of them.
        model_name: A timm architecture.
        model_options: Its keyword arguments; by default a narrower ResNet for `resnet18`, and
            nothing for any other architecture.
        channels: Channels of the images.
        resolution: Height and width of the images in pixels.
        mean: Mean of each channel, in the images' [0, 1].
        std: Standard deviation of each channel.

    Raises:
        AdapterError: timm is not installed.

    Example:
        >>> judge = PixelClassifier(["Smiling", "Male"], resolution=32).eval()
        >>> judge(torch.rand(4, 3, 32, 32)).shape, judge.features(torch.rand(4, 3, 32, 32)).shape
        (torch.Size([4, 2]), torch.Size([4, 320]))
    """

    mean: Tensor
    std: Tensor

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
        self.names = tuple(names)
        self.scores: dict[str, float] = {}
        self.config = {
            "model_name": model_name,
            "model_options": dict(model_options),
            "channels": channels,
            "resolution": resolution,
            "mean": list(mean or [0.5] * channels),
            "std": list(std or [0.5] * channels),
        }
        self.net = timm.create_model(
            model_name,
            pretrained=False,
            num_classes=len(self.names),
            in_chans=channels,
            **model_options,
        ).to(memory_format=torch.channels_last)
        for key in ("mean", "std"):
            value = torch.tensor(self.config[key], dtype=torch.float32).view(1, -1, 1, 1)
            self.register_buffer(key, value, persistent=False)

    def _prepare(self, x: Tensor) -> Tensor:
        expected = (self.config["channels"], self.config["resolution"], self.config["resolution"])
        if x.ndim != 4 or tuple(x.shape[1:]) != expected:
            raise ShapeError(
                f"PixelClassifier takes images (B, {', '.join(map(str, expected))}) in [0, 1], "
                f"found {tuple(x.shape)}. Resize the images or fit a classifier for their size."
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
        device: torch.device | str = "cpu",
        progress: bool = False,
    ) -> PixelClassifier:
        """Train a network on labelled images with AdamW and one cosine cycle.

        Arguments:
            images: uint8 pixels `(N, C, H, W)`, square.
            labels: `(N, K)` in [0, 1], NaN where unknown.
            names: Name of each attribute, K of them.
            model_name: A timm architecture.
            model_options: Its keyword arguments.
            epochs: Passes over the images at most.
            max_train_seconds: Seconds of training at most. The cosine cycle then ends with the
                time, so that the run is annealed, but no longer repeatable bit for bit.
            batch_size: Images in a step.
            learning_rate: Peak learning rate, after a warm-up over the first twentieth.
            weight_decay: Decoupled weight decay of the weight matrices.
            augment: Called as `augment(x, generator)` on each batch; `augment_images` by default,
                `lambda x, generator: x` for none.
            seed: Seed of the initial weights, the order and the augmentation.
            device: Where to train; the result is there too.
            progress: Show a progress bar.

        Returns:
            The trained classifier in eval mode.

        Raises:
            InputError: An attribute without both classes, a wrong dtype or a wrong length.
        """
        from tqdm.auto import tqdm

        _check(images, labels, names)
        unit = images.float().flatten(2) / 255
        # timm draws initial weights from the global generator: restore it for the caller
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator(seed, purpose="pixel-classifier").initial_seed())
            judge = cls(
                names,
                model_name=model_name,
                model_options=model_options,
                channels=images.shape[1],
                resolution=images.shape[2],
                mean=unit.mean((0, 2)).tolist(),
                std=unit.std((0, 2)).clamp_min(1e-3).tolist(),
            ).to(device)
        del unit
        optimizer = torch.optim.AdamW(_groups(judge.net, weight_decay), lr=learning_rate)
        augment = augment or augment_images
        batch_size = min(batch_size, len(images))
        per_epoch = len(images) // batch_size
        steps = epochs * per_epoch
        start = time.monotonic()
        bar = tqdm(total=steps, disable=not progress, desc="pixel classifier")
        judge.train()
        for step in range(steps):
            spent = 0.0
            if max_train_seconds is not None:
                spent = (time.monotonic() - start) / max_train_seconds
            part = max(step / steps, spent)
            if part >= 1:
                break
            warm = min(1.0, part / 0.05 + 1e-2)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * warm * 0.5 * (1 + math.cos(math.pi * part))
            epoch, k = divmod(step, per_epoch)
            if k == 0:
                order = permutation(len(images), seed=seed, epoch=epoch, purpose="pixels")
            rows = order[k * batch_size : (k + 1) * batch_size]
            x = augment(images[rows].to(device).float() / 255, generator(seed, step, device=device))
            y = labels[rows].to(device).float()
            with torch.autocast(x.device.type, torch.bfloat16, enabled=_fast_bfloat16(x.device)):
                logits = judge(x)
            known = ~y.isnan()
            loss = F.binary_cross_entropy_with_logits(logits.float()[known], y[known])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            bar.update()
            if step % 20 == 0:
                bar.set_postfix(loss=f"{loss.item():.3f}", epoch=epoch)
        bar.close()
        return judge.eval()

    def save(self, path: str | Path) -> None:
        """Write `model.safetensors` and `config.json` (with `scores`) into a folder."""
        from safetensors.torch import save_file

        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        state = {k: v.detach().cpu().contiguous() for k, v in self.net.state_dict().items()}
        save_file(state, str(folder / "model.safetensors"))
        config = {"format": FORMAT, "names": self.names, **self.config, "scores": self.scores}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> PixelClassifier:
        """Read a folder that `save` wrote; the classifier is in eval mode.

        Raises:
            CheckpointError: A file is missing, damaged or of a later format.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = Path(path)
        try:
            config = json.loads((folder / "config.json").read_text())
            state = load_file(str(folder / "model.safetensors"))
            if config.pop("format") > FORMAT:
                raise CheckpointError(f"{folder} is of a later format: update latentctl.")
            scores = config.pop("scores")
            judge = cls(config.pop("names"), **config)
            judge.net.load_state_dict(state, strict=True)
        except FileNotFoundError as error:
            raise CheckpointError(
                f"No pixel classifier in {folder}: {Path(str(error.filename)).name} is missing. "
                "Fit one and save() it there, or give the folder that has both files."
            ) from error
        except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(
                f"The pixel classifier in {folder} cannot be read ({error}). Save it again."
            ) from error
        judge.scores = scores
        return judge.to(device).eval()


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
                f"{name!r} has one class only in the labels: nothing can be learned of it. "
                "Leave it out, or add images of the other class."
            )
