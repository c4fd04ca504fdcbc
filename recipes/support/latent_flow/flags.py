"""The flags of `latent_flow`, and a check of their combinations."""

from __future__ import annotations

__all__ = ["TRAINING", "AutoencoderFlags", "EvaluationFlags", "Flags", "FlowFlags", "check"]

from dataclasses import dataclass, field

from latentctl.errors import InputError, UnknownNameError

from ..images import ImageFlags
from ..models import DecoderFlags
from ..run import RunFlags

TRAINING = ("post-hoc", "joint", "regularised", "vae-flow")


@dataclass
class AutoencoderFlags(DecoderFlags):
    """The autoencoder; trained here if none is given, which only post-hoc allows."""

    autoencoder: str | None = None  # ae or vae, for post-hoc; ae by default.
    latent_size: int = 20  # Dimensions of the latent.
    width: int = 16  # Channels of the first layer.
    sigma_x: float = 0.1  # Standard deviation of a VAE's pixel likelihood, for post-hoc.
    perceptual: str | None = None  # A timm network for a perceptual loss (L1 of its features).
    perceptual_weights: str | None = None  # A local file of its weights; else from the hub.
    max_train_steps: int = 1500  # Steps of the autoencoder, and of a flow that is trained jointly.
    train_batch_size: int = 128  # Images in a step of one process.
    autoencoder_learning_rate: float = 1e-3  # Peak learning rate.


@dataclass
class FlowFlags:
    """The flow."""

    training: str = "post-hoc"  # post-hoc, joint, regularised or vae-flow.
    kind: str = "coupling"  # coupling, spline or, post-hoc only, matching.
    flow_width: int = 256  # Units of each layer of the flow's networks.
    blocks: int = 4  # Blocks of two couplings.
    beta: float = 400.0  # Weight of the reconstruction error, in regularised and vae-flow.
    flow_train_steps: int = 1500  # Steps of the flow, for post-hoc.
    flow_batch_size: int = 256  # Latents in a step of one process, for post-hoc.
    flow_learning_rate: float = 1e-3  # Peak learning rate.


@dataclass
class EvaluationFlags:
    """The evaluation."""

    judge: str | None = None
    """A folder of a network on pixels (PixelClassifier), in whose features the Frechet distance is
    computed; in the pixels of thumbnails if not given."""


@dataclass
class Flags:
    """A flow as the prior of an autoencoder."""

    run: RunFlags = field(default_factory=lambda: RunFlags(output_dir="outputs/latent_flow"))
    data: ImageFlags = field(default_factory=ImageFlags)
    base: AutoencoderFlags = field(default_factory=AutoencoderFlags)
    flow: FlowFlags = field(default_factory=FlowFlags)
    evaluation: EvaluationFlags = field(default_factory=EvaluationFlags)


def check(flags: Flags) -> None:
    """Raises an `InputError` if flags contradict each other."""
    base, training = flags.base, flags.flow.training
    if training not in TRAINING:
        raise UnknownNameError("--training", training, TRAINING)
    if base.autoencoder not in (None, "ae", "vae"):
        raise UnknownNameError("--autoencoder", base.autoencoder, ("ae", "vae"))
    if base.perceptual_weights and not base.perceptual:
        raise InputError("--perceptual_weights needs a network: name it with --perceptual.")
    if training == "post-hoc":
        return
    if base.decoder or base.pretrained_model_name_or_path or base.autoencoder:
        raise InputError(
            f"--training {training} trains its own autoencoder together with the flow: leave out "
            f"--autoencoder, --decoder and --pretrained_model_name_or_path."
        )
    if flags.flow.kind == "matching":
        raise InputError(
            f"--training {training} evaluates the density at every step, which is too slow for a "
            f"matching flow: use --kind coupling or spline, or --training post-hoc."
        )
