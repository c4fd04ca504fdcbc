"""The report of `cgml_modes` as one HTML file."""

from __future__ import annotations

__all__ = ["write_report"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..report import Report

TOY = (
    "Shares over held-out x, where |x| is above 0.05 and for all of them. **Near**: answers within "
    "5 % of the distance between the two modes from one of them. **Both**: inputs with an answer "
    "near each mode. **Spurious**: answers within 10 % of that distance from the midpoint of the "
    "modes. **Positive**: answers that are nearer to the positive mode."
)
IMAGES = (
    "On held-out inputs. **Error**: mean absolute difference of pixels in [0, 1] to the nearer "
    "known answer, over the hidden part. **Best**: of the best answer to each input. "
    "**Diversity**: standard deviation over the answers to an input. **Second**: share of answers "
    "of the second mode. **Both**: inputs with answers of both modes. **Spurious**: answers "
    "between the modes. **Reached**: the first step whose held-out error is below the target; -1 "
    "if none is. **Seconds**: of training."
)
PICTURES = {
    "landscape.png": "The error to the nearest mode over x and z, with the starts by their shares.",
    "answers.png": "Ten inputs, their known answers, and some answers of each network.",
}


def write_report(folder: Path, config: Mapping[str, Any], results: Mapping[str, Any]) -> Path:
    """Writes `report.html`; the pictures of the run are in the folder already."""
    toy = config["task"] == "toy"
    report = Report(
        "One-to-many prediction by cGML",
        f"Task `{config['task']}`: an encoder, a generator and a gate, trained together.",
    )
    rows = {name: row for name, row in results.items() if isinstance(row, Mapping)}
    columns = dict.fromkeys(key for row in rows.values() for key in row)
    report.section("Results", TOY if toy else IMAGES)
    report.table(
        ["variant" if toy else "network", *columns],
        [[name, *(row.get(key) for key in columns)] for name, row in rows.items()],
        caption=f"The whole run took {results['seconds']:.0f} s.",
    )
    report.section("Pictures")
    for name, caption in PICTURES.items():
        if (folder / name).exists():
            report.picture(folder / name, caption)
    report.section("Settings")
    report.settings(config)
    return report.save(folder / "report.html")
