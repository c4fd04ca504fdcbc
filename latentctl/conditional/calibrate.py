"""`calibrate`: a `Guarantee` of verdicts from calibration edits and a judge that no method uses."""

from __future__ import annotations

__all__ = ["bounds", "calibrate"]

import logging
from typing import Any

import torch
from torch import Tensor

from ..controllers import Controller, Refined
from ..controllers.request import flips
from ..critics import PixelCritic
from ..critics.log_odds import cross_entropy
from ..errors import InputError, check_kind
from ..latents import Latents
from ..random import permutation
from ..storage import fingerprint
from .bound import Bound
from .conditional import Conditional
from .guarantee import Guarantee, features, networks, whole
from .inputs import read_inputs
from .request import least_likely

logger = logging.getLogger(__name__)

BATCH = 64
LEARNED = 3  # one in so many edits teaches the probability of reaching a request
RIDGE = 0.5  # penalty of its weights: a normal prior of variance 1


def calibrate(
    faces: Conditional,
    x: Any,
    judge: PixelCritic,
    *,
    alpha: float = 0.05,
    delta: float = 0.05,
    leakage: float = 0.5,
    strength: float = 1.0,
    seed: int = 0,
    **request: Any,
) -> Guarantee:
    """Edits validation samples, asks the judge about them, and chooses the thresholds.

    `faces.guarantee = calibrate(...)` makes later edits say what is guaranteed. Every sample is
    edited once. The thresholds of "satisfied" and "clean" are chosen on all edits; one in three
    teaches the probability of reaching a request, and the others choose that of "unreachable".

    Arguments:
        faces: With an evaluator.
        x: Samples that no network was trained on, as `Conditional.edit` takes them: several
            hundred. With fewer than 90 nothing can be promised.
        judge: Networks of the same attributes that no method and no evaluator uses.
        alpha: Largest share of wrong verdicts.
        delta: Probability that a promise does not hold.
        leakage: Change of a held attribute's probability that is still called clean.
        strength: As in `Conditional.edit`.
        seed: Decides which attribute of which sample is turned over.
        request: Requests like those that will be made, `y`, `hold` and attributes as in
            `Conditional.edit`; by default one attribute of each sample is turned over.

    Raises:
        InputError: If there is no evaluator, the judge has other attributes or is the evaluator,
            or a probability between 0 and 1 is asked for.

    Example:
        >>> import latentctl
        >>> from latentctl.random import noise
        >>> decoder = latentctl.wrap(torch.nn.Linear(4, 12), decode="forward")
        >>> critic = latentctl.AttributeCritic((4,), ["Smiling"], width=16)
        >>> networks = lambda x: x.mean(1, keepdim=True), lambda x: x[:, :1]
        >>> evaluator, judge = (PixelCritic(decoder, n, names=["Smiling"]) for n in networks)
        >>> faces = latentctl.condition(decoder, critic, evaluator=evaluator)
        >>> faces.guarantee = calibrate(faces, Latents(noise(0, 40, (4,), seed=0)), judge)
        >>> faces.guarantee.satisfied.threshold is None  # 40 edits are too few
        True
    """
    evaluator = faces.evaluator
    if evaluator is None:
        raise InputError("A guarantee is about an evaluator: condition(..., evaluator=...).")
    _check_judge(judge, evaluator, faces.editor)
    some = read_inputs(x, faces.decoder)
    if not isinstance(some, Latents):
        some = Latents(faces.decoder.encode(some, batch_size=BATCH).mean)
    order = permutation(len(some), seed=seed, epoch=0, purpose="calibrate")
    z = some.mean.to(faces.decoder.device)
    if not request.keys() - {"hold"}:
        request["y"] = flips(evaluator.score(z).sigmoid(), order % len(faces.names)).target
    out = faces.edit(some, strength=strength, seed=seed, **request)
    if not bool(whole(out.target).all()) or bool(out.target.isnan().all(1).any()):
        raise InputError("Calibration requests ask for attributes that are present or absent.")
    seen, before = judge.score_samples(out.x).sigmoid(), judge.score(z).sigmoid()
    chosen = out[order]
    found = bounds(
        *(chosen.target, chosen.probability, chosen.leakage, seen[order], before[order]),
        threshold=faces.threshold,
        limit=leakage,
        alpha=alpha,
        delta=delta,
    )
    if found["satisfied"].threshold is None:
        logger.warning(
            "No edit can be called satisfied: of %d calibration edits too many were denied by the "
            "judge, or they are too few. Give several hundred samples.",
            len(some),
        )
    return Guarantee(
        **found,
        leakage=float(leakage),
        asked=tuple((~out.target.isnan()).sum(1).unique().tolist()),
        strength=float(strength),
        edits=len(some),
        networks=networks(evaluator, faces.editor),
    )


def bounds(
    target: Tensor,
    probability: Tensor,
    leakage: Tensor,
    seen: Tensor,
    before: Tensor,
    *,
    threshold: float,
    limit: float,
    alpha: float,
    delta: float,
) -> dict[str, Any]:
    """The three bounds of a `Guarantee`, and the weights of the probability of reaching a request.

    Arguments:
        target: What calibration edits asked, in random order, `(N, K)`.
        probability: After the edits, by the evaluator, `(N, K)`.
        leakage: Change of held attributes by the evaluator, NaN for the others, `(N, K)`.
        seen: Probabilities after the edits by the judge, `(N, K)`.
        before: The same before the edits.
        threshold: The evaluator's threshold.
        limit: Change of a held attribute that is still clean.
        alpha: Largest share of wrong verdicts.
        delta: Probability that a bound does not hold.
    """
    least, reached = _least(target, probability), _least(target, seen) >= 0.5
    dirty = ((seen - before).abs() * ~leakage.isnan()).amax(1) > limit
    inputs, learned = features(target, least), len(target) // LEARNED
    weights = _logistic(inputs[:learned], reached[:learned])
    missed = 1 - (inputs[learned:] @ weights).sigmoid()
    levels = {"alpha": alpha, "delta": delta}
    clean = 1 - leakage.nan_to_num(0).amax(1)
    return {
        "satisfied": Bound.fit(least, ~reached, least=threshold, **levels),
        "clean": Bound.fit(clean, dirty, least=1 - limit, **levels),
        "unreachable": Bound.fit(missed, reached[learned:], least=0.5, **levels),
        "reach": tuple(weights.tolist()),
    }


def _least(target: Tensor, probability: Tensor) -> Tensor:
    return least_likely(target, probability, target, None)


def _check_judge(judge: PixelCritic, evaluator: PixelCritic, editor: Controller) -> None:
    check_kind(judge, PixelCritic, "judge=", "Wrap a network: PixelCritic(decoder, network).")
    if judge.names != evaluator.names:
        raise InputError(
            f"The judge has the attributes {', '.join(judge.names)}, the evaluator "
            f"{', '.join(evaluator.names)}. Pass names= to its PixelCritic."
        )
    used = [evaluator, *([editor.attributes] if isinstance(editor, Refined) else [])]
    if any(judge is one or _views(judge) & _views(one) for one in used):
        raise InputError(
            "The judge shares a network with the evaluator or with the refinement, which it cannot "
            "deny. Take one that was trained on its own."
        )


def _views(critic: Any) -> set[str]:
    """Fingerprints of the networks that have weights."""
    views = [view for part in critic.modules() for view in getattr(part, "views", ())]
    return {fingerprint(view) for view in views if view.state_dict()}


def _logistic(x: Tensor, y: Tensor) -> Tensor:
    """Weights of a logistic regression of y `(N,)` on x `(N, F)`, whose last column is constant."""
    weights = x.new_zeros(x.shape[1], requires_grad=True)
    search = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        entropy = cross_entropy((x @ weights)[:, None], y[:, None].to(x)).sum()
        total: Tensor = entropy + RIDGE * weights[:-1].square().sum()
        total.backward()
        return total

    with torch.enable_grad():
        search.step(loss)
    return weights.detach()
