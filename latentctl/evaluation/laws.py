r"""The laws of decoders, critics and controllers, as checks for implementations of your own.

A frozen decoder :math:`g` keeps every tensor, draws no random numbers, and its gradient agrees with
finite differences: for a random direction :math:`v` and random output weights :math:`w`,

.. math::
    \Big\langle v, \nabla_z \langle w, g(z) \rangle \Big\rangle
    = \lim_{h \to 0} \frac{\langle w, g(z + h v) - g(z - h v) \rangle}{2 h}

Critics obey the algebra of independent events; controllers with strength 0 move nothing.
"""

from __future__ import annotations

__all__ = ["check_controller", "check_critic", "check_decoder", "decoder_laws"]

import copy
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ..controllers import Controller
from ..controllers.request import Request
from ..critics import Critic
from ..decoder import Decoder
from ..errors import InputError, LawError, NonFiniteError, ShapeError
from ..nn.precision import double_precision
from ..random import noise

COUNT = 4
BATCHES = (1, 2, 3, 5)  # a decoder may drop the axis of one, or rows of odd batches
SCALES = (1e-6, 1e-3, 1.0, 1e3, 1e6)
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
    for law in decoder_laws(decoder, seed=seed).values():
        law()


def decoder_laws(decoder: Decoder, *, seed: int = 0) -> dict[str, Callable[[], None]]:
    """The laws of `check_decoder` by name, each a check that raises a `LawError`.

    Example:
        >>> decoder = Decoder(torch.nn.Linear(2, 3), lambda m, z: m(z), latent_shape=(2,),
        ...                   sample_shape=(3,), value_range=None)
        >>> for name in decoder_laws(decoder):
        ...     print(name)
        stays in evaluation mode
        has a prior over its latents
        decodes to the shape it states
        decodes a latent to one sample
        refuses what does not fit
        has the gradient it states
        changes none of its tensors
    """
    laws: dict[str, Callable[..., None]] = {
        "stays in evaluation mode": _check_mode,
        "has a prior over its latents": _check_prior,
        "decodes to the shape it states": _check_shape,
        "decodes a latent to one sample": _check_repeatable,
        "refuses what does not fit": _check_refusal,
    }
    if decoder.can_encode:
        laws["encodes to the shape of its latents"] = _check_encoder
    if decoder.differentiable:
        laws["has the gradient it states"] = _check_gradient
    laws["changes none of its tensors"] = _check_frozen
    return {name: partial(_hold, law, decoder, seed) for name, law in laws.items()}


def _hold(law: Callable[..., None], decoder: Decoder, seed: int) -> None:
    """Checks one law; what `decode` and `encode` refuse to return breaks it, too."""
    try:
        law(decoder, seed)
    except (ShapeError, NonFiniteError) as error:
        raise LawError(f"A law does not hold: {error}") from error


def check_critic(critic: Critic, z: Tensor) -> None:
    """Check that a critic gives finite, differentiable log-odds `(B, K)`, and obeys the algebra.

    Arguments:
        critic: The critic.
        z: Latents, `(B, *latent_shape)`.

    Raises:
        LawError: If a law does not hold, and which.

    Example:
        >>> from latentctl.critics import AttributeCritic
        >>> check_critic(AttributeCritic((3,), ["Smiling", "Male"]), torch.zeros(2, 3))
    """
    z = z.detach().clone().requires_grad_()
    logits = critic(z)
    shape = (len(z), max(1, len(critic.names)))
    _require(tuple(logits.shape) == shape, f"log-odds {tuple(logits.shape)}, not {shape}")
    _require(bool(torch.isfinite(logits).all()), "log-odds are not finite")
    _require(logits.requires_grad, "no gradient reaches z")
    (gradient,) = torch.autograd.grad(logits.sum(), z)
    _require(bool(torch.isfinite(gradient).all()), "the gradient is not finite")
    with torch.no_grad():
        for column, name in enumerate(critic.names):
            same = torch.equal(critic[name](z), logits[:, column : column + 1])
            _require(same, f"critic[{name!r}] is not column {column}")
        for a in [critic[name] for name in critic.names] or [critic]:
            _check_algebra(a, z)


def _check_algebra(a: Critic, z: Tensor) -> None:
    b = a * -0.5
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
        z: Latents, `(B, *latent_shape)`; tried at 1e-6 to 1e6 times their scale.
        y: Targets, `(B, K)` or `(1, K)` in [0, 1], NaN = free, or None.

    Raises:
        LawError: If a law does not hold, and which.
    """
    given, request = z.clone(), Request(target=y)
    _require(torch.equal(controller(z, y, strength=0), given), "strength 0 moved a latent")
    move = controller.move(z, request)
    _require(move.z.shape == z.shape, f"latents {tuple(z.shape)} became {tuple(move.z.shape)}")
    _require(tuple(move.evaluations.shape) == (len(z),), "a move has no count for each latent")
    _require(torch.equal(move.z, controller(z, y)), "one seed gave two results")
    for scale in SCALES:
        finite = bool(torch.isfinite(controller.move(scale * given, request).z).all())
        _require(finite, f"latents at {scale:g} times their scale became NaN or infinite")
    _require(torch.equal(z, given), "the latents were changed in place")


def _latents(decoder: Decoder, seed: int) -> Tensor:
    return decoder.prior.sample(COUNT, seed=seed).to(decoder.device)


def _check_mode(decoder: Decoder, seed: int) -> None:
    decoder.train()
    _require(not any(m.training for m in decoder.modules()), "train() left evaluation mode")
    _require(not any(p.requires_grad for p in decoder.parameters()), "a weight asks for a gradient")


def _check_prior(decoder: Decoder, seed: int) -> None:
    z = decoder.prior.sample(COUNT, seed=seed)  # may be on another device than the decoder
    _require(tuple(z.shape) == (COUNT, *decoder.latent_shape), "the prior has another shape")
    _require(bool(torch.isfinite(decoder.prior.log_prob(z)).all()), "log_prob is not finite")


@torch.no_grad()
def _check_shape(decoder: Decoder, seed: int) -> None:
    for count in BATCHES:  # decode() itself compares the shape, and refuses what is not finite
        decoder.decode(decoder.prior.sample(count, seed=seed).to(decoder.device))


@torch.no_grad()
def _check_repeatable(decoder: Decoder, seed: int) -> None:
    z = _latents(decoder, seed)
    given = z.clone()
    x = decoder.decode(z)
    _require(torch.equal(x, decoder.decode(z)), "decode gave two results for one latent")
    _require(torch.equal(z, given), "decode changed the latents that it was given")
    _require(
        bool(torch.isclose(decoder.decode(z[:1]), x[:1], rtol=1e-3, atol=1e-3).all()),
        "a sample depends on the batch that it is decoded in",
    )


@torch.no_grad()
def _check_refusal(decoder: Decoder, seed: int) -> None:
    z = _latents(decoder, seed)
    try:
        decoder.decode(torch.cat([z, z], dim=-1))
    except ShapeError:
        pass
    else:
        raise LawError("decode took latents of a wrong shape")
    if not decoder.can_encode:
        return
    x = decoder.decode(z)
    wrong = [(torch.cat([x, x], dim=-1), "samples of a wrong shape")]
    if x.is_floating_point():
        wrong.append((torch.full_like(x, math.nan), "samples that are NaN"))
    for sample, what in wrong:
        try:
            decoder.encode(sample)
        except InputError:
            continue
        raise LawError(f"encode took {what}")


@torch.no_grad()
def _check_encoder(decoder: Decoder, seed: int) -> None:
    z = _latents(decoder, seed)
    x = decoder.decode(z)
    given = x.clone()
    posterior = decoder.encode(x)
    decoder.encode(x[:1])
    if posterior.std is not None:
        _require(bool((posterior.std > 0).all()), "encode gave a std that is not positive")
    _require(torch.equal(x, given), "encode changed the samples that it was given")
    again = decoder.encode(x)
    _require(torch.equal(posterior.mean, again.mean), "encode gave two results for one sample")


def _check_frozen(decoder: Decoder, seed: int) -> None:
    fingerprint = decoder.fingerprint()
    before = {name: value.clone() for name, value in _tensors(decoder).items()}
    z = _latents(decoder, seed).requires_grad_(decoder.differentiable)
    decoder.train()
    x = decoder.decode(z)
    if x.requires_grad:
        x.square().mean().backward()
    if decoder.can_encode:
        decoder.encode(x.detach())
    _require(decoder.fingerprint() == fingerprint, "the fingerprint changed")
    after = _tensors(decoder)
    _require(after.keys() == before.keys(), "tensors were added or removed")
    changed = [name for name, value in after.items() if not torch.equal(value, before[name])]
    _require(not changed, f"tensors changed: {changed[:8]}")


def _check_gradient(decoder: Decoder, seed: int) -> None:
    z = _latents(decoder, seed).requires_grad_()
    loss = decoder.decode(z).square().mean()
    _require(loss.requires_grad, "no gradient reaches z; state differentiable=False")
    loss.backward()
    _require(z.grad is not None, "no gradient reaches z; state differentiable=False")
    _require(all(p.grad is None for p in decoder.parameters()), "a weight got a gradient")
    z = double_precision(z.detach())
    exact = copy.deepcopy(decoder).to(z.device).double()

    def read(latents: Tensor) -> Tensor:
        x = exact.decode_fn(exact.model, latents)  # decode() itself rounds to float32
        w = noise(0, len(x), decoder.sample_shape, seed=seed, purpose="read-out")
        return (x * w.to(x)).sum()

    z = z.requires_grad_()
    (gradient,) = torch.autograd.grad(read(z), z)
    direction = noise(0, len(z), decoder.latent_shape, seed=seed, purpose="direction").to(z)
    direction = direction / direction.norm()
    with torch.no_grad():
        h, tolerance = STEPS.get(exact.decode_fn(exact.model, z).dtype, (3e-2, 0.5))
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
