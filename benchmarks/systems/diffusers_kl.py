"""Stable Diffusion's autoencoder as a decoder: shapes, seconds, peak memory, and what it promises.

    OMP_NUM_THREADS=1 python benchmarks/diffusers_kl.py

The configuration is the published one (83.7 million weights, images of 512 pixels, latents of
4 x 64 x 64 scaled by 0.18215), the weights are random: time, memory and laws do not depend on them.
They are saved once and loaded as everybody's are, so that with a real autoencoder at hand

    python benchmarks/diffusers_kl.py --model stabilityai/sd-vae-ft-mse

goes the same way. Each figure comes from a process of its own, so that its peak is its own: of the
resident set on a CPU, of what the allocator has handed out on a GPU. A tile is `--tile` pixels wide
where tiling is on; the published 512 would leave images of 512 pixels whole.
"""

from __future__ import annotations

__all__ = ["Flags", "main"]

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from typing import Any

# torch is imported by the measuring processes only: a child's peak counts its parent's pages
MIB = 2**20
MODES = ("plain", "slicing", "tiling")
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
    """What is measured."""

    model: str = ""
    """Folder or id of an autoencoder; the published configuration at random weights if empty."""
    subfolder: str = ""
    """Folder within it."""
    sizes: tuple[int, ...] = (256, 512)
    """Height and width of the images in pixels."""
    batch_size: int = 2
    """Images at a time."""
    tile: int = 256
    """Width of a tile in pixels, where tiling is on."""
    device: str = "cpu"
    """`cpu` or `cuda`."""
    dtype: str = "float32"
    """Dtype of the weights."""
    task: str = ""
    """Used between processes."""


def main(flags: Flags) -> None:
    """Print one line for each size, mode and direction, and the laws."""
    if flags.task:
        print(json.dumps(TASKS[flags.task.split()[0]](flags, *flags.task.split()[1:])))
        return
    with tempfile.TemporaryDirectory() as folder:
        if not flags.model:
            flags.model = folder
            call(flags, "make")
        print("| px | mode | direction | from | to | seconds | peak MiB | above the start MiB |")
        print("|---|---|---|---|---|---|---|---|")
        for size in flags.sizes:
            for mode in MODES:
                for direction in ("encode", "decode"):
                    row = call(flags, f"measure {size} {mode} {direction}")
                    print("| " + " | ".join(map(str, [size, mode, direction, *row])) + " |")
        for law, found in call(flags, f"laws {min(flags.sizes)}").items():
            print(f"{law}: {found}")


def call(flags: Flags, task: str) -> Any:
    """The result of one task in a process of its own."""
    given = {**asdict(flags), "task": task, "sizes": list(flags.sizes)}
    command = [sys.executable, __file__, "--json", json.dumps(given)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def make(flags: Flags) -> int:
    """Save an autoencoder of the published configuration at random weights."""
    import diffusers

    from latentctl.random import seeded

    with seeded(0):
        model = diffusers.AutoencoderKL(**PUBLISHED)
    model.save_pretrained(flags.model)
    return sum(p.numel() for p in model.parameters())


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


def measure(flags: Flags, size: str, mode: str, direction: str) -> list[Any]:
    """Shapes and dtypes in and out, seconds, peak, and peak above the start in MiB."""
    import torch

    from latentctl.random import noise

    decoder = load(flags, int(size), mode)
    shape = decoder.sample_shape if direction == "encode" else decoder.latent_shape
    x = noise(0, flags.batch_size, shape, seed=0, purpose="input").clamp(-1, 1).to(flags.device)
    gpu = torch.device(flags.device).type == "cuda"
    before, start = peak(gpu), time.perf_counter()
    with torch.no_grad():
        out = decoder.encode(x).mean if direction == "encode" else decoder.decode(x)
    if gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    after = peak(gpu)
    return [words(x), words(out), f"{seconds:.1f}", f"{after:.0f}", f"{after - before:.0f}"]


def words(x: Any) -> str:
    """Shape and dtype."""
    return f"{'x'.join(map(str, x.shape))} {str(x.dtype).removeprefix('torch.')}"


def peak(gpu: bool) -> float:
    """Peak memory in MiB, of this process or of the GPU's allocator."""
    if gpu:
        import torch

        return torch.cuda.max_memory_allocated() / MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def laws(flags: Flags, size: str) -> dict[str, Any]:
    """Whether two decodings agree bit for bit, and whether a gradient leaves the weights alone."""
    import torch

    from latentctl.random import noise

    decoder = load(flags, int(size))
    weights = sum(p.numel() for p in decoder.parameters())
    before = decoder.fingerprint()
    z = noise(0, 1, decoder.latent_shape, seed=0, purpose="laws").to(flags.device).requires_grad_()
    x = decoder.decode(z)
    with torch.no_grad():
        again = decoder.decode(z)
    x.square().mean().backward()
    return {
        "weights": weights,
        "decoded twice, equal bit for bit": torch.equal(x.detach(), again),
        "gradient to z is finite and not 0": bool(z.grad.isfinite().all() and z.grad.any()),
        "weights with a gradient": sum(p.grad is not None for p in decoder.parameters()),
        "fingerprint after the gradient is the one before": decoder.fingerprint() == before,
        "decode with its gradient, peak MiB": round(peak(flags.device != "cpu")),
    }


TASKS = {"make": make, "measure": measure, "laws": laws}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--json"]:
        given = json.loads(sys.argv[2])
        main(Flags(**{**given, "sizes": tuple(given["sizes"])}))
    else:
        import tyro

        main(tyro.cli(Flags))
