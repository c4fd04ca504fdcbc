r"""The laws, as checks that anyone can run on their own decoder, critic or controller.

A frozen decoder :math:`g` keeps every tensor, draws no random numbers, and is honest about its
gradient: for a random direction :math:`v` and a random read-out :math:`w`,

.. math::
    \Big\langle v, \nabla_z \langle w, g(z) \rangle \Big\rangle
    = \lim_{h \to 0} \frac{\langle w, g(z + h v) - g(z - h v) \rangle}{2 h}

Critics obey the algebra of independent events; controllers with strength 0 move nothing.
"""

from __future__ import annotations

__all__ = ["check_controller", "check_critic", "check_decoder"]

import copy
import math

import torch
from torch import Tensor

from .controllers import Controller
from .critics import Critic
from .decoder import Decoder
from .errors import InputError, LawError, ShapeError
from .random import noise

COUNT = 4
SCALES = (1e-3, 1.0, 1e3)
STEPS = {torch.float64: (1e-5, 1e-3), torch.float32: (1e-2, 1e-1)}  # of z, and tolerance


def check_decoder(decoder: Decoder, *, seed: int = 0) -> None:
    """Check that a decoder is frozen, repeatable, of the shapes it states, and differentiable.

    Arguments:
        decoder: The decoder. Nothing about it is changed.
        seed: Seed of the latents that it is tried on.

    Raises:
        LawError: If a law does not hold, and which.

    Example:
        >>> decoder = Decoder(torch.nn.Linear(2, 3), lambda m, z: m(z), latent_shape=(2,),
        ...                   sample_shape=(3,), value_range=None)
        >>> check_decoder(decoder)
    """
    fingerprint = decoder.fingerprint()
    before = {name: value.clone() for name, value in _tensors(decoder).items()}
    decoder.train()
    _require(not any(m.training for m in decoder.modules()), "train() left evaluation mode")
    _require(not any(p.requires_grad for p in decoder.parameters()), "a weight asks for a gradient")
    z = decoder.prior.sample(COUNT, seed=seed).to(decoder.device)
    _require(tuple(z.shape) == (COUNT, *decoder.latent_shape), "the prior has another shape")
    _require(bool(torch.isfinite(decoder.prior.log_prob(z)).all()), "log_prob is not finite")
    with torch.no_grad():
        x = decoder.decode(z)
        _require(
            tuple(x.shape) == (COUNT, *decoder.sample_shape),
            f"decode gave {tuple(x.shape)}, not {(COUNT, *decoder.sample_shape)}",
        )
        _require(bool(torch.isfinite(x).all()), "decode gave a NaN or an infinity")
        _require(torch.equal(x, decoder.decode(z)), "decode gave two results for one latent")
        _require(
            bool(torch.isclose(decoder.decode(z[:1]), x[:1], rtol=1e-3, atol=1e-3).all()),
            "a sample depends on the batch that it is decoded in",
        )
    _refuses(decoder, z, x)
    if decoder.can_encode:
        posterior = decoder.encode(x)
        _require(posterior.mean.shape == z.shape, "encode gave a mean of another shape")
        if posterior.std is not None:
            _require(posterior.std.shape == z.shape, "encode gave a std of another shape")
            _require(bool((posterior.std > 0).all()), "encode gave a std that is not positive")
        again = decoder.encode(x)
        _require(torch.equal(posterior.mean, again.mean), "encode gave two results for one sample")
    if decoder.differentiable:
        _check_gradient(decoder, z, seed)
    _require(decoder.fingerprint() == fingerprint, "the fingerprint changed")
    after = _tensors(decoder)
    _require(after.keys() == before.keys(), "tensors were added or removed")
    changed = [name for name, value in after.items() if not torch.equal(value, before[name])]
    _require(not changed, f"tensors changed: {changed[:8]}")


def check_critic(critic: Critic, z: Tensor) -> None:
    """Check that a critic gives finite, differentiable log-odds, and obeys the algebra.

    Arguments:
        critic: The critic.
        z: Latents, `(B, *latent_shape)`.

    Raises:
        LawError: If a law does not hold, and which.

    Example:
        >>> from latentctl.critics import AttributeCritic
        >>> check_critic(AttributeCritic((3,), ["Smiling"])["Smiling"], torch.zeros(2, 3))
    """
    z = z.detach().clone().requires_grad_()
    logits = critic(z)
    _require(tuple(logits.shape) == (len(z),), f"log-odds {tuple(logits.shape)}, not ({len(z)},)")
    _require(bool(torch.isfinite(logits).all()), "log-odds are not finite")
    _require(logits.requires_grad, "no gradient reaches z")
    (gradient,) = torch.autograd.grad(logits.sum(), z)
    _require(bool(torch.isfinite(gradient).all()), "the gradient is not finite")
    a, b = critic, critic * -0.5
    with torch.no_grad():
        _require(torch.equal((~~a)(z), a(z)), "~~a is not a")
        _require(torch.equal((a * 1.0)(z), a(z)), "a * 1 is not a")
        p, q = a.probability(z), b.probability(z)
        for law, one, other in (
            ("P(~a) = 1 - P(a)", (~a).probability(z), 1 - p),
            ("P(a & b) = P(a) P(b)", (a & b).probability(z), p * q),
            ("P(a | b) = 1 - (1 - P(a)) (1 - P(b))", (a | b).probability(z), p + q - p * q),
            ("a & b = b & a", (a & b)(z), (b & a)(z)),
            ("a | b = b | a", (a | b)(z), (b | a)(z)),
            ("~(a & b) = ~a | ~b", (~(a & b))(z), (~a | ~b)(z)),
            ("~(a | b) = ~a & ~b", (~(a | b))(z), (~a & ~b)(z)),
        ):
            _require(torch.allclose(one, other, rtol=1e-4, atol=1e-5), f"{law} does not hold")


def check_controller(controller: Controller, z: Tensor, y: Tensor | None = None) -> None:
    """Check that a controller moves nothing at strength 0, stays finite, and is repeatable.

    Arguments:
        controller: The controller.
        z: Latents, `(B, *latent_shape)`; tried at 1e-3, 1 and 1e3 times their scale.
        y: Targets, `(B, K)` in [0, 1], NaN = free, or None.

    Raises:
        LawError: If a law does not hold, and which.
    """
    given = z.clone()
    _require(torch.equal(controller(z, y, strength=0), given), "strength 0 moved a latent")
    moved = controller(z, y)
    _require(moved.shape == z.shape, f"latents {tuple(z.shape)} became {tuple(moved.shape)}")
    _require(torch.equal(moved, controller(z, y)), "one seed gave two results")
    for scale in SCALES:
        moved = controller(scale * given, y)
        finite = bool(torch.isfinite(moved).all())
        _require(finite, f"latents at {scale:g} times their scale became NaN or infinite")
    _require(torch.equal(z, given), "the latents were changed in place")


def _refuses(decoder: Decoder, z: Tensor, x: Tensor) -> None:
    try:
        decoder.decode(torch.cat([z, z], dim=-1))
    except ShapeError:
        pass
    else:
        raise LawError("decode took latents of a wrong shape")
    if not decoder.can_encode:
        return
    wrong = [(torch.cat([x, x], dim=-1), "samples of a wrong shape")]
    if x.is_floating_point():
        wrong.append((torch.full_like(x, math.nan), "samples that are NaN"))
    for sample, what in wrong:
        try:
            decoder.encode(sample)
        except InputError:
            continue
        raise LawError(f"encode took {what}")


def _check_gradient(decoder: Decoder, z: Tensor, seed: int) -> None:
    z = z.detach().clone().requires_grad_()
    decoder.decode(z).square().mean().backward()
    _require(z.grad is not None, "no gradient reaches z; state differentiable=False")
    _require(all(p.grad is None for p in decoder.parameters()), "a weight got a gradient")
    exact = copy.deepcopy(decoder).double()

    def read(latents: Tensor) -> Tensor:
        x = exact._decode(exact.model, latents)  # decode() itself rounds to float32
        w = noise(0, len(x), decoder.sample_shape, seed=seed, purpose="read-out")
        return (x * w.to(x)).sum()

    z = z.detach().double().requires_grad_()
    (gradient,) = torch.autograd.grad(read(z), z)
    direction = noise(0, len(z), decoder.latent_shape, seed=seed, purpose="direction").to(z)
    direction = direction / direction.norm()
    with torch.no_grad():
        h, tolerance = STEPS.get(exact._decode(exact.model, z).dtype, (3e-2, 0.5))
        slope = (read(z + h * direction) - read(z - h * direction)) / (2 * h)
    stated = (gradient * direction).sum()
    size = gradient.norm() / math.sqrt(gradient.numel())
    _require(
        bool((slope - stated).abs() <= tolerance * size + 1e-9),
        f"the gradient to z is {stated:g} along a direction in which finite differences give "
        f"{slope:g}",
    )


def _tensors(decoder: Decoder) -> dict[str, Tensor]:
    return {**dict(decoder.named_parameters()), **dict(decoder.named_buffers())}


def _require(holds: bool, law: str) -> None:
    if not holds:
        raise LawError(f"A law does not hold: {law}.")
