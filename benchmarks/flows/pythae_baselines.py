"""The samplers of pythae on given latents.

pythae fits a sampler on images in [0, 1] that its own model encodes. So latents are scaled into
[0, 1], passed as the images, and scaled back by a model that does nothing else: the sampler gets
the same latents as all others in the benchmark, to float precision. Its networks have pythae's
default sizes.

    pip install pythae

References:
    | Pythae: Unifying Generative Autoencoders in Python (Chadebec et al., 2022)
    | https://arxiv.org/abs/2206.08309
"""

from __future__ import annotations

import io
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch import Tensor

from latentctl.random import seeded

BATCH = 256


def pythae_samples(name: str, z: Tensor, count: int, *, train_steps: int, seed: int) -> Tensor:
    """Latents `(count, D)` of pythae's sampler `name`, fitted on latents `z (N, D)`."""
    log = io.StringIO()
    with redirect_stdout(log), redirect_stderr(log), seeded(seed, f"pythae {name}"):
        from pythae import samplers
        from pythae.trainers import BaseTrainerConfig

        low, span = z.amin(0), z.amax(0) - z.amin(0)
        model = _carrier(low, span)
        if name == "GMM":
            sampler: Any = samplers.GaussianMixtureSampler(model)
            sampler.fit((z - low) / span)
        else:
            kind = {
                "MAF": samplers.MAFSampler,
                "IAF": samplers.IAFSampler,
                "TwoStage": samplers.TwoStageVAESampler,
            }[name]
            with tempfile.TemporaryDirectory() as folder:
                config = BaseTrainerConfig(
                    output_dir=folder,
                    num_epochs=max(1, round(train_steps * BATCH / len(z))),
                    per_device_train_batch_size=BATCH,
                    learning_rate=1e-3,
                    seed=seed,
                    no_cuda=True,
                )
                sampler = kind(model)
                sampler.fit((z - low) / span, training_config=config)
        with torch.no_grad():
            drawn: Tensor = sampler.sample(count)
    return drawn


def _carrier(low: Tensor, span: Tensor) -> Any:
    """A pythae VAE whose latents are its inputs, scaled back; its decoder returns them."""
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Scale(BaseEncoder):
        def forward(self, x: Tensor) -> Any:
            return ModelOutput(embedding=low + span * x)

    class Same(BaseDecoder):
        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=z)

    class Carrier(VAE):
        def forward(self, inputs: Any, **options: Any) -> Any:
            return ModelOutput(z=self.encoder(inputs["data"]).embedding)

    config = VAEConfig(input_dim=tuple(low.shape), latent_dim=low.numel())
    return Carrier(config, encoder=Scale(), decoder=Same())
