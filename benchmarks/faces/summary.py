"""The Markdown tables of several seeds of `benchmarks/faces.py`: the mean, with the range."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

SAMPLES = {
    "fid": "Frechet distance",
    "accuracy": "accuracy",
    "f1": "macro F1",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "faces": "faces found",
    "shift": "shift",
    "weighted_shift": "weighted shift",
}
EDITS = {
    "success": "success",
    "leakage": "leakage",
    "identity": "identity",
    "faces": "faces found",
    "shift": "shift",
    "evaluations": "evaluations",
    "satisfied": "called satisfied",
}


def table(runs: list[dict[str, Any]], part: str, columns: dict[str, str]) -> str:
    """One row for each name, in the order of the first run."""
    lines = ["| " + " | ".join(["", *columns.values()]) + " |", "|---" * (len(columns) + 1) + "|"]
    for first in runs[0][part]:
        name = first["name"]
        rows = [next(r for r in run[part] if r["name"] == name) for run in runs]
        cells = [cell([row.get(key) for row in rows]) for key in columns]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


def cell(values: list[float | None]) -> str:
    known = [v for v in values if v is not None]
    if not known:
        return ""
    mean = sum(known) / len(known)
    digits = 3 if abs(mean) < 10 else 1
    if max(known) - min(known) < 10**-digits:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ({min(known):.{digits}f}-{max(known):.{digits}f})"


def main(folder: Path) -> None:
    runs = [json.loads(file.read_text()) for file in sorted(folder.glob("faces-*.json"))]
    if not runs:
        sys.exit(f"There is no faces-*.json in {folder}; run benchmarks/faces.py first.")
    print(f"Seeds {', '.join(str(run['seed']) for run in runs)}.\n")
    print(table(runs, "samples", SAMPLES), end="\n\n")
    print(table(runs, "edits", EDITS), end="\n\n")
    same = [run["already_satisfied_identical"] for run in runs]
    print(f"Edits already satisfied that come back bit-identical: {cell(same)}\n")
    costs = [{"cpu": [{"name": k, "s": v} for k, v in run["cpu_seconds"].items()]} for run in runs]
    print(table(costs, "cpu", {"s": "CPU seconds"}))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/faces"))
