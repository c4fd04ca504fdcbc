r"""The LSTM melody VAE of the latent-constraints paper: monophonic melodies of 2 or of 16 bars.

.. math::
    q(z \mid x) = \mathcal{N}(\mu(x), \mathrm{diag}(\sigma(x)^2)), \quad
    p(x \mid z) = \prod_t p(x_t \mid x_{<t}, z), \quad p(z) = \mathcal{N}(0, I)

A melody is a grid of sixteenths. Each step holds one of 130 symbols: 0 to 127 start a note of that
MIDI pitch, 128 holds the note, 129 is a rest. The networks are in `.melody_lstm`. A melody is
decoded greedily, so that a latent has one melody. This choice of symbols has no gradient
(`differentiable=False`): gradient-based controllers use a critic fitted on labels of decoded
melodies.

Training weights the KL by :math:`\beta`, with :math:`b` free bits for each melody,

.. math:: L = -\log p(x \mid z) + \beta \max(0, \mathrm{KL}(q(z \mid x) \| p(z)) - b \ln 2)

which prevents posterior collapse of the autoregressive decoder.

References:
    | Latent Constraints: Learning to Generate Conditionally from Unconditional Generative Models
      (Engel et al., 2017)
    | https://arxiv.org/abs/1711.05772
    | A Hierarchical Latent Vector Model for Learning Long-Term Structure in Music (Roberts et al.,
      2018)
    | https://arxiv.org/abs/1803.05428
    | Generating Sentences from a Continuous Space (Bowman et al., 2016), for dropped tokens
    | https://arxiv.org/abs/1511.06349
"""

from __future__ import annotations

__all__ = ["HOLD", "REST", "MelodyVAE", "accepts", "load", "wrap"]

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

from latentctl.decoder import Decoder
from latentctl.errors import AdapterError, InputError, ShapeError
from latentctl.nn.precision import double_precision
from latentctl.random import noise
from latentctl.storage import register_to_config

from .melody_lstm import START, SYMBOLS, SegmentDecoder, SequenceEncoder
from .melody_rewards import HOLD, REST, onsets
from .piano_roll import piano_roll
from .wrapping.outputs import decode_view, encode_view
from .wrapping.pretrained import Pretrained, loader

if TYPE_CHECKING:
    from typing_extensions import Self

STEPS_PER_BAR = 16
STD_FLOOR = 1e-4  # keeps the KL finite where softplus underflows
STD_START = -2.0  # a posterior of width 0.13, so that reconstruction is learned before noise


class MelodyVAE(Pretrained, kind="melody-vae"):
    """A variational autoencoder of melodies on a grid of sixteenths.

    Arguments:
        bars: Bars of 16 steps.
        latent_size: Dimensions of the latent vector.
        embedding: Dimensions of a token's embedding, and of the code that each step sees.
        encoder_size: Units of the encoder's LSTM in each direction.
        encoder_layers: Layers of it.
        conductor_size: Units of the LSTM that emits a code for each bar; 0 for a flat decoder of
            all bars.
        conductor_layers: Layers of it.
        decoder_size: Units of the LSTM that emits notes.
        decoder_layers: Layers of it.
        by_position: Give each step weights of its own between latent and LSTM, which the paper
            does not. Learns faster.

    Raises:
        InputError: If a size is not positive.

    Example:
        >>> model = MelodyVAE(bars=2, latent_size=8, embedding=4, encoder_size=8, decoder_size=8)
        >>> x = torch.full((3, 32), HOLD)
        >>> x[:, 0] = torch.tensor([60, 62, 64])
        >>> model.encode(x).mean.shape
        torch.Size([3, 8])
        >>> model.decode(torch.zeros(5, 8)).shape
        torch.Size([5, 32])
        >>> model.log_prob(x, torch.zeros(3, 8)).shape
        torch.Size([3])
    """

    @register_to_config
    def __init__(
        self,
        bars: int = 2,
        latent_size: int = 256,
        embedding: int = 64,
        encoder_size: int = 256,
        encoder_layers: int = 1,
        conductor_size: int = 0,
        conductor_layers: int = 2,
        decoder_size: int = 512,
        decoder_layers: int = 1,
        by_position: bool = True,
    ) -> None:
        super().__init__()
        lowest = {"by_position": False, "conductor_size": 0}
        if wrong := {k: v for k, v in self.config.items() if v < lowest.get(k, 1)}:
            raise InputError(f"Sizes must be at least 1 (conductor_size may be 0), found {wrong}.")
        self.steps = bars * STEPS_PER_BAR
        segments = bars if conductor_size else 1
        length = self.steps // segments
        self.encoder = SequenceEncoder(
            segments, length, embedding, encoder_size, encoder_layers, by_position
        )
        self.to_latent = nn.Linear(self.encoder.features, 2 * latent_size)
        nn.init.constant_(self.to_latent.bias[latent_size:], STD_START)
        names = ("embedding", "conductor_size", "conductor_layers", "by_position")
        self.decoder = SegmentDecoder(
            latent_size,
            segments,
            length,
            width=decoder_size,
            layers=decoder_layers,
            **{name: self.config[name] for name in names},
        )

    @classmethod
    def paper(cls, **options: Any) -> Self:
        """The size of the paper: 16 bars, latent 512, encoder 2048, conductor and decoder 2 x 1024.

        Tokens are embedded in 512 dimensions, as the bars are; the paper gives them one-hot.
        """
        sizes = {"latent_size": 512, "embedding": 512, "encoder_size": 2048, "decoder_layers": 2}
        sizes |= {"bars": 16, "conductor_size": 1024, "decoder_size": 1024}
        return cls(**{**sizes, "by_position": False, **options})

    def check(self, x: Tensor) -> None:
        """Raises a `ShapeError` or `InputError` unless `x (B, steps)` are integers 0 ... 129."""
        if x.ndim != 2 or x.shape[1] != self.steps:
            raise ShapeError(
                f"This MelodyVAE takes melodies (B, {self.steps}), {self.config['bars']} bars of "
                f"{STEPS_PER_BAR} sixteenths; it was given {tuple(x.shape)}. Cut or pad them."
            )
        onsets(x)

    def encode(self, x: Tensor) -> Normal:
        """The posterior `q(z | x)`, a Normal over `(B, latent_size)`, of melodies `(B, steps)`.

        Raises:
            ShapeError: If the melodies have another length.
            InputError: If a token is none of the 130.
        """
        self.check(x)
        mean, raw = self.to_latent(self.encoder(x.long())).float().chunk(2, dim=1)
        return Normal(mean, F.softplus(raw) + STD_FLOOR, validate_args=False)

    def decode(self, z: Tensor) -> Tensor:
        """The melodies `(B, steps)`, int64, of `z (B, latent_size)`: at each step the likeliest."""
        return self.decoder.write(z, _likeliest)

    def sample(
        self, z: Tensor, *, temperature: float = 1.0, seed: int = 0, start: int = 0
    ) -> Tensor:
        r"""Melodies drawn from :math:`p(x \mid z)^{1/T}`, step by step.

        Row `i` uses the random numbers of sample `start + i` of `seed`, whatever the batch.

        Arguments:
            z: Latents, `(B, latent_size)`.
            temperature: `T`, positive. 1 samples the model, near 0 is `decode`.
            seed: Decides every random number.
            start: Index of the first row in the sequence of samples.

        Returns:
            Tokens `(B, steps)`, int64.

        Raises:
            InputError: If the temperature is not positive.
        """
        if not 0 < temperature < math.inf:
            raise InputError(f"The temperature must be positive and finite, not {temperature}.")
        u = noise(start, len(z), (self.steps,), seed=seed, purpose="melody", uniform=True)
        u = double_precision(u.view(-1, self.decoder.length).to(z.device))

        def choose(logits: Tensor, *, first: int, step: int) -> Tensor:
            below = torch.softmax(double_precision(logits) / temperature, 1).cumsum(1)
            place = u[first : first + len(logits), step, None] * below[:, -1:]
            drawn = torch.searchsorted(below, place, right=True).squeeze(1)
            return drawn.clamp_(max=SYMBOLS - 1).to(z.device)  # a draw may round to the whole mass

        return self.decoder.write(z, choose)

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction of melodies `x (B, steps)`, from the posterior's mean."""
        return self.decode(self.encode(x).mean)

    def logits(self, x: Tensor, z: Tensor, keep: Tensor | None = None) -> Tensor:
        """Teacher-forced logits `(B, steps, 130)`: the inputs of a step are the tokens before it.

        Arguments:
            x: Tokens `(B, steps)`.
            z: Latents `(B, latent_size)`.
            keep: Which of the tokens are inputs, bool `(B, steps)`; all by default. The others are
                replaced by START.
        """
        before = torch.where(keep, x, START) if keep is not None else x
        before = before.reshape(-1, self.decoder.length)
        first = torch.full_like(before[:, :1], START)
        before = torch.cat([first, before[:, :-1]], dim=1).view(x.shape)
        logits: Tensor = self.decoder(z, before)
        return logits.float()

    def log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        r"""The likelihood :math:`\log p(x \mid z)` in nats, `(B,)`.

        Arguments:
            x: Melodies, tokens `(B, steps)`.
            z: Latents, `(B, latent_size)`.
        """
        self.check(x)
        x = x.long()
        return -F.cross_entropy(self.logits(x, z).mT, x, reduction="none").sum(1)

    def loss(
        self,
        x: Tensor,
        eps: Tensor,
        *,
        keep: Tensor | None = None,
        beta: float = 1.0,
        free_bits: float = 0.0,
        inputs: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        r"""The mean negative bound in nats per melody, and its parts by name, detached.

        .. math:: L = -\log p(x \mid z) + \beta \max(0, \mathrm{KL} - b \ln 2), \quad
            z = \mu + \sigma \epsilon

        Arguments:
            x: Melodies, tokens `(B, steps)`.
            eps: Standard normal noise, `(B, latent_size)`.
            keep: Which tokens are inputs of the decoder, bool `(B, steps)`; all by default.
            beta: Weight of the KL, at least 0; 1 is the bound itself.
            free_bits: Bits `b` of the KL of each melody without a penalty.
            inputs: Tokens that the decoder sees in place of `x`, for scheduled sampling.
        """
        q = self.encode(x)
        x = x.long()
        logits = self.logits(x if inputs is None else inputs, q.mean + q.stddev * eps, keep)
        nll = F.cross_entropy(logits.flatten(0, 1), x.flatten(), reduction="sum") / len(x)
        kl = (0.5 * (q.mean**2 + q.stddev**2 - 1) - q.stddev.log()).sum(1)
        paid = (kl - free_bits * math.log(2)).clamp(min=0).mean()
        right = (logits.detach().argmax(2) == x).float().mean()
        parts = {"nll": nll.detach(), "kl": kl.detach().mean(), "accuracy": right}
        return nll + beta * paid, parts


def _likeliest(logits: Tensor, *, first: int, step: int) -> Tensor:
    return logits.argmax(1)


def accepts(model: object) -> bool:
    """Whether `model` is a `MelodyVAE`."""
    return isinstance(model, MelodyVAE)


def wrap(model: MelodyVAE, **options: Any) -> Decoder:
    """The frozen decoder of `model`, with the options `prior` and `decode` of `latentctl.wrap`.

    To sample notes at a temperature: `decode=lambda z: model.sample(z, temperature=0.5)`.

    Raises:
        AdapterError: If another option is given.
    """
    if others := ", ".join(sorted(options.keys() - {"prior", "decode"})):
        raise AdapterError(
            f"A MelodyVAE takes prior and decode, its shapes are known: not {others}."
        )
    return Decoder(
        model,
        partial(_write, write=options["decode"]) if "decode" in options else decode_view,
        encode_view,
        latent_shape=(int(model.config["latent_size"]),),
        sample_shape=(model.steps,),
        value_range=None,
        prior=options.get("prior"),
        differentiable=False,
        show=piano_roll,
    )


def _write(view: MelodyVAE, z: Tensor, write: Any) -> Any:
    return getattr(view, write)(z) if isinstance(write, str) else write(z)


load = loader(wrap, MelodyVAE)
