"""A result in words, as rows for the page, and as files."""

from __future__ import annotations

__all__ = ["LEAK", "evaluator_words", "files", "move", "rows", "sentences", "words"]

import math
import tempfile
from pathlib import Path
from typing import Any

import torch

from ..conditional import Conditional, Outcome
from ..conditional.dose import tolerance
from ..conditional.receipt import sidecar
from .session import Result

LEAK = 0.1  # change of a probability that is marked
UNSEEN = 1e-3  # difference of pictures of one latent, which rounding and the batch make


def rows(result: Result) -> list[dict[str, Any]]:
    """A row for each attribute: `name`, `was`, `now`, `wanted`, `held`, `tied` and a `mark`.

    The mark is "reached", "beyond" or "missed" for what is wanted, "leaked" for a held attribute
    whose probability changed by more than `LEAK`, "changed" for another one, and otherwise "".
    """
    outcome, wanted = result.outcome, dict(result.demand.wanted)
    columns = (result.before, outcome.probability[0], outcome.leakage[0], outcome.tied[0])
    parts = zip(outcome.names, *(column.tolist() for column in columns), strict=True)
    found = []
    for name, was, after, leak, tied in parts:
        held = not math.isnan(leak)
        if result.demand.is_empty:
            held = result.demand.hold is None or name in result.demand.hold
        row = {"name": name, "was": was, "now": after, "wanted": wanted.get(name), "held": held}
        row["tied"] = not math.isnan(tied) and not result.demand.is_empty
        found.append({**row, "mark": _mark(row, result)})
    return found


def _mark(row: dict[str, Any], result: Result) -> str:
    if row["wanted"] is not None:
        wanted, threshold = row["wanted"], result.faces.threshold
        left, graded = wanted - row["now"], 0 < wanted < 1
        if abs(left) <= (tolerance(threshold) if graded else 1 - threshold) + 1e-6:
            return "reached"
        return "beyond" if left * (wanted - row["was"]) < 0 else "missed"
    if abs(row["now"] - row["was"]) <= LEAK:
        return ""
    return "leaked" if row["held"] and not result.demand.is_empty else "changed"


def evaluator_words(faces: Conditional) -> str:
    """Who measured the probabilities of a receipt."""
    if faces.evaluator is None:
        return (
            f"Measured by the {type(faces.critic).__name__} that the edit itself follows. There is "
            f"no independent evaluator, so these figures are optimistic."
        )
    networks = ", ".join(type(network).__name__ for network in faces.evaluator.networks)
    return (
        f"Measured on the picture by an independent evaluator ({networks}), which the edit does "
        f"not follow."
    )


def sentences(result: Result) -> list[str]:
    """The receipt in words; the last sentence names the evaluator."""
    outcome, demand = result.outcome, result.demand
    if demand.is_empty:
        found = ["Nothing is changed yet. Move a slider."]
        if not torch.allclose(result.start.x.cpu(), outcome.x.cpu(), rtol=0, atol=UNSEEN):
            found.append("The second picture is what the generator makes of the first.")
        return [*found, evaluator_words(result.faces)]
    marked = rows(result)
    found = [_reached(row) for row in marked if row["wanted"] is not None]
    if demand.where:
        found.append(f"The whole request, with {demand.where}, {holds(outcome)}.")
    leaked = [row for row in marked if row["mark"] == "leaked"]
    if leaked:
        found.append(f"Held, but changed: {'; '.join(map(move, leaked))}.")
    elif held := sum(row["held"] and row["wanted"] is None for row in marked):
        every = f"All {held} held attributes stay" if held > 1 else "The held attribute stays"
        found.append(f"{every} within {LEAK:g}.")
    for tied, role in ((True, "Tied to the request, and changed"), (False, "Free, and changed")):
        if changed := [r for r in marked if r["mark"] == "changed" and r["tied"] == tied]:
            found.append(f"{role}: {'; '.join(map(move, changed))}.")
    if outcome.guarantee is not None and outcome.clean is not None:
        clean = " and clean" if bool(outcome.clean[0]) else ""
        state = "undecided" if bool(outcome.undecided[0]) else "satisfied"
        state = "unreachable" if bool(outcome.unreachable[0]) else state
        found.append(f"By its guarantee {state}{clean}: {outcome.guarantee.promise}.")
    if demand.region:
        cells = "".join(demand.region)
        found.append(f"Only {cells.count('1')} of {len(cells)} cells of the latent may change.")
    if bool(outcome.unreachable[0]):
        found.append("The request is out of reach from this start.")
    found.append(
        f"The latent moved by {float(outcome.shift[0]):.2f} (root mean square), in "
        f"{_count(int(outcome.evaluations[0]), 'evaluation')} and {1000 * result.seconds:.0f} ms."
    )
    return [*found, evaluator_words(result.faces)]


def holds(outcome: Outcome) -> str:
    """Whether the request of the first sample holds, in words."""
    if bool(outcome.undecided[0]):
        return "is undecided"
    return "holds" if bool(outcome.satisfied[0]) else "does not hold"


def files(outcome: Outcome) -> tuple[bytes, bytes]:
    """The picture with its receipt, and the receipt alone, as `Outcome.save` writes them."""
    with tempfile.TemporaryDirectory() as folder:
        path = outcome.save(Path(folder) / "edited.png", margin=0)
        return path.read_bytes(), sidecar(path).read_bytes()


def words(name: str) -> str:
    """The name of an attribute for a reader.

    Example:
        >>> words("Wearing_Hat")
        'Wearing hat'
    """
    plain = name.replace("_", " ").strip()
    return plain[:1].upper() + plain[1:].lower()


def _reached(row: dict[str, Any]) -> str:
    verdicts = {
        "reached": "as wanted",
        "beyond": f"further than the wanted {row['wanted']:.2f}",
        "missed": f"not the wanted {row['wanted']:.2f}",
    }
    return f"{move(row)}, {verdicts[row['mark']]}."


def move(row: dict[str, Any]) -> str:
    """An attribute of `rows`, before and after."""
    return f"{words(row['name'])} {row['was']:.2f} → {row['now']:.2f}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
