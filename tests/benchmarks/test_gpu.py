"""The benchmark of a GPU runs on a CPU, too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.systems import gpu


def test_every_part_is_measured_and_a_failure_stops_no_other(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    small = {"seconds": 0.02, "images": 8, "batch_size": 4, "resolution": 16, "attributes": 2}
    small |= {"latent_size": 8, "width": 8, "grid_sides": (8,), "grid_batch_size": 1}
    flags = gpu.Flags(**small, paper_latent=8, paper_width=8, output_dir=Path(tmp_path))
    monkeypatch.setitem(gpu.PARTS, "editing", lambda flags: [][0])
    gpu.main(flags)
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    failed = [row["of"] for row in rows if "a second" not in row]
    assert failed == ["failed: IndexError: list index out of range"]
    assert len(rows) == 16 and all(row["a second"] > 0 for row in rows if "a second" in row)
    assert rows[-1]["hours of 200,000 steps"] == pytest.approx(2e5 / rows[-1]["a second"] / 3600)
    assert "| `Conditional.sample` by an actor, batch 4 |" in capsys.readouterr().out
