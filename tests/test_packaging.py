"""What is shipped, and what an import costs."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torchvision", "timm", "diffusers", "datasets", "matplotlib", "onnxruntime", "cv2")
FIRST_PARTY = {"latentctl", "latentctl_adapters"}


def run(*command, cwd, **environment):
    done = subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def files_in(folder):
    files = {p.relative_to(ROOT).as_posix() for p in (ROOT / folder).rglob("*") if p.is_file()}
    return {f for f in files if "__pycache__" not in f}


def test_adapters_is_a_folder_and_no_package():
    assert not (ROOT / "adapters" / "__init__.py").exists()
    spec = importlib.util.find_spec("adapters")  # AdapterHub's, if it is installed
    assert spec is None or spec.origin is None or ROOT not in Path(spec.origin).parents


def test_the_wheel_holds_the_two_packages_and_nothing_else(tmp_path):
    pytest.importorskip("hatchling", reason="the build backend is not installed")
    code = f"import hatchling.build as b; b.build_wheel({str(tmp_path)!r})"
    run(sys.executable, "-c", code, cwd=ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 25e6  # bytes, the weights of drawn faces included
    names = zipfile.ZipFile(wheel).namelist()
    packaged = {n for n in names if ".dist-info/" not in n}
    assert {n.split("/")[0] for n in packaged} == FIRST_PARTY
    expected = files_in("latentctl") | {
        name.removeprefix("adapters/") for name in files_in("adapters/latentctl_adapters")
    }
    assert packaged == expected
    assert {"latentctl/py.typed", "latentctl_adapters/py.typed"} <= packaged
    (points,) = [n for n in names if n.endswith("entry_points.txt")]
    assert "[latentctl.adapters]" in zipfile.ZipFile(wheel).read(points).decode()


def test_importing_the_library_is_light(tmp_path):
    code = f"""
import sys
import torch  # what torch itself imports is not ours
before = set(sys.modules)
import latentctl, latentctl.decoder.registry, latentctl.evaluation.laws
latentctl.decoder.registry.available()
print(sorted({{m.split(".")[0] for m in set(sys.modules) - before}} & set({HEAVY!r})))
"""
    assert run(sys.executable, "-c", code, cwd=tmp_path).strip() == "[]"


def test_every_entry_point_is_an_adapter():
    from importlib.metadata import entry_points

    points = [p for p in entry_points(group="latentctl.adapters") if p.dist.name == "latentctl"]
    assert {"conv-vae", "torch-module"} <= {p.name for p in points}
    for point in points:
        if importlib.util.find_spec(point.value) is None:
            pytest.fail(f"{point.name} names {point.value}, which is not there")
