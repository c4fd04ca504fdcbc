"""Stable Diffusion's autoencoder as a decoder: shapes, seconds, peak memory, and the laws it obeys.

    OMP_NUM_THREADS=1 python -m benchmarks.systems.diffusers_kl

The configuration is the published one (83.7 million weights, images of 512 pixels, latents of
4 x 64 x 64 scaled by 0.18215), the weights are random: time, memory and laws do not depend on them.
They are saved once and loaded like any others; a real autoencoder is measured in the same way by

    python -m benchmarks.systems.diffusers_kl --model stabilityai/sd-vae-ft-mse

Each figure comes from a process of its own, so that its peak is its own: of the resident set on a
CPU, of the allocator on a GPU. A tile is `--tile` pixels wide where tiling is on; the published 512
would leave images of 512 pixels whole.
"""

from __future__ import annotations

import itertools
import resource
import tempfile
import time
from dataclasses import dataclass
from typing import Any

from benchmarks.shared.run import Row, in_process, report, table

# torch is imported by the measuring processes only: a child's peak counts its parent's pages
MIB = 2**20
PUBLISHED = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}


@dataclass
class Flags:
    model: str = ""
    """Folder or id of an autoencoder; the published configuration at random weights if empty."""
    subfolder: str = ""  # Folder within it.
    sizes: tuple[int, ...] = (256, 512)  # Height and width of the images in pixels.
    batch_size: int = 2  # Images at a time.
    tile: int = 256  # Width of a tile in pixels, where tiling is on.
    device: str = "cpu"  # `cpu` or `cuda`.
    dtype: str = "float32"  # Dtype of the weights.


def main(flags: Flags) -> None:
    """Prints one row for each size, mode and direction, and the laws."""
    with tempfile.TemporaryDirectory() as folder:
        if not flags.model:
            flags.model = folder
            in_process(make, folder)
        modes = itertools.product(flags.sizes, ("plain", "slicing", "tiling"), ("encode", "decode"))
        rows = [report(in_process(measure, flags, *mode)) for mode in modes]
        print(table(rows))
        for law, found in in_process(laws, flags, min(flags.sizes)).items():
            print(f"{law}: {found}")


def make(folder: str) -> None:
    """Saves an autoencoder of the published configuration at random weights."""
    import diffusers

    from latentctl.random import seeded

    with seeded(0):
        model = diffusers.AutoencoderKL(**PUBLISHED)
    model.save_pretrained(folder)


def load(flags: Flags, size: int, mode: str = "plain") -> Any:
    """The decoder, on its device."""
    import torch

    import latentctl

    decoder = latentctl.load(
        "diffusers-vae",
        pretrained_model_name_or_path=flags.model,
        subfolder=flags.subfolder or None,
        torch_dtype=getattr(torch, flags.dtype),
        resolution=size,
        slicing=mode == "slicing",
        tiling=mode == "tiling",
    )
    if mode == "tiling":
        factor = decoder.sample_shape[-1] // decoder.latent_shape[-1]
        decoder.model.tile_sample_min_size = flags.tile
        decoder.model.tile_latent_min_size = flags.tile // factor
    return decoder.to(flags.device)


def measure(flags: Flags, size: int, mode: str, direction: str) -> Row:
    """Shapes and dtypes in and out, seconds, peak, and peak above the start in MiB."""
    import torch

    from latentctl.random import noise

    decoder = load(flags, size, mode)
    shape = decoder.sample_shape if direction == "encode" else decoder.latent_shape
    x = noise(0, flags.batch_size, shape, seed=0, purpose="input").clamp(-1, 1).to(flags.device)
    before, start = peak(flags.device), time.perf_counter()
    with torch.no_grad():
        out = decoder.encode(x).mean if direction == "encode" else decoder.decode(x)
    if flags.device != "cpu":
        torch.cuda.synchronize()
    seconds, after = time.perf_counter() - start, peak(flags.device)
    ends = (
        f"{'x'.join(map(str, end.shape))} {str(end.dtype).removeprefix('torch.')}"
        for end in (x, out)
    )
    row = {"px": size, "mode": mode, "direction": direction}
    row |= dict(zip(("from", "to"), ends, strict=True))
    return {**row, "seconds": seconds, "peak MiB": after, "above the start MiB": after - before}


def peak(device: str) -> float:
    """Peak memory in MiB, of this process or of the GPU's allocator."""
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated() / MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def laws(flags: Flags, size: int) -> dict[str, Any]:
    """Whether two decodings agree bit for bit, and whether a gradient leaves the weights alone."""
    import torch

    from latentctl.random import noise

    decoder = load(flags, size)
    before = decoder.fingerprint()
    z = noise(0, 1, decoder.latent_shape, seed=0, purpose="laws").to(flags.device).requires_grad_()
    x = decoder.decode(z)
    with torch.no_grad():
        again = decoder.decode(z)
    x.square().mean().backward()
    return {
        "weights": sum(p.numel() for p in decoder.parameters()),
        "decoded twice, equal bit for bit": torch.equal(x.detach(), again),
        "gradient to z is finite and not 0": bool(z.grad.isfinite().all() and z.grad.any()),
        "weights with a gradient": sum(p.grad is not None for p in decoder.parameters()),
        "fingerprint after the gradient is the one before": decoder.fingerprint() == before,
        "decode with its gradient, peak MiB": round(peak(flags.device)),
    }


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Flags))
