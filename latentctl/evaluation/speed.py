"""Speed and memory of a decoder: encoding, decoding and gradients."""

from __future__ import annotations

__all__ = ["calls_per_second", "measure_speed"]

import time
from collections.abc import Callable

import torch
from torch import Tensor

from ..decoder import Decoder

SECONDS = 0.3  # of each measurement, or one call if that is longer
MIB = 2**20


def measure_speed(
    decoder: Decoder, batch_size: int = 16, *, seconds: float = SECONDS
) -> dict[str, float]:
    """Speed in samples a second, memory in MiB.

    Returns:
        `decode_per_second`, `encode_per_second` where there is an encoder,
        `decode_and_backward_per_second` and `backward_mib_per_sample` (activations saved for the
        gradient) where gradients reach the latents, `weights_mib`, and `peak_mib` on a GPU.

    Example:
        >>> import latentctl
        >>> decoder = latentctl.wrap(torch.nn.Linear(2, 12), decode="forward")
        >>> sorted(measure_speed(decoder, seconds=0.01))
        ['backward_mib_per_sample', 'decode_and_backward_per_second', 'decode_per_second',
         'weights_mib']
    """
    tensors = [*decoder.model.parameters(), *decoder.model.buffers()]
    found = {"weights_mib": sum(t.numel() * t.element_size() for t in tensors) / MIB}
    cuda = decoder.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(decoder.device)
    z = decoder.prior.sample(batch_size).to(decoder.device)
    with torch.no_grad():
        x = decoder.decode(z)
        rate = calls_per_second(lambda: decoder.decode(z), decoder.device, seconds)
    found["decode_per_second"] = batch_size * rate
    if decoder.can_encode:
        rate = calls_per_second(lambda: decoder.encode(x), decoder.device, seconds)
        found["encode_per_second"] = batch_size * rate
    if decoder.differentiable:
        z = z.clone().requires_grad_()

        def climb() -> None:
            torch.autograd.grad(decoder.decode(z).square().mean(), z)

        rate = calls_per_second(climb, decoder.device, seconds)
        found["decode_and_backward_per_second"] = batch_size * rate
        found["backward_mib_per_sample"] = _kept(decoder, z, tensors) / batch_size
    if cuda:
        found["peak_mib"] = torch.cuda.max_memory_allocated(decoder.device) / MIB
    return found


def calls_per_second(call: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Calls a second, after one call to warm up; `device` is waited for after each call.

    Arguments:
        call: What is called, until `seconds` have passed, at least once.
        device: Where it works.
        seconds: Length of the measurement.

    Example:
        >>> calls_per_second(lambda: None, torch.device("cpu"), 0.01) > 100
        True
    """

    def synchronise() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    call()
    synchronise()
    calls, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds or not calls:
        call()
        synchronise()
        calls += 1
    return calls / max(spent, 1e-9)


def _kept(decoder: Decoder, z: Tensor, weights: list[Tensor]) -> float:
    """MiB of the tensors that autograd saves in a decoding, without the weights."""
    known = {t.untyped_storage().data_ptr() for t in weights}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        x = decoder.decode(z)  # held until the sizes are read, so that no storage is used twice
    size = sum(kept.values()) / MIB
    del x
    return size
