"""Adapters are found by entry points, and a broken one is skipped."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

import latentctl.decoder.registry as registry
from latentctl.errors import AdapterError, UnknownNameError


def distribution(folder, name, points, **modules):
    """A folder on the path in the form of an installed distribution."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = "\n".join(f"{point} = {module}" for point, module in points.items())
    (info / "entry_points.txt").write_text(f"[latentctl.adapters]\n{lines}\n")
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(textwrap.dedent(text))
    return folder


@pytest.fixture
def broken(tmp_path, monkeypatch):
    folder = distribution(
        tmp_path,
        "somebodys-plugin",
        {"somebodys-vae": "somebodys_broken_adapter"},
        somebodys_broken_adapter="import a_library_that_is_not_there\n",
    )
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_a_broken_adapter_is_listed_and_loading_it_names_the_cause(broken):
    assert registry.available()["somebodys-vae"] == "somebodys-plugin"
    assert registry.available()["torch-module"] == "latentctl"
    with pytest.raises(AdapterError) as caught:
        registry.load("somebodys-vae")
    for word in ("somebodys-plugin", "'somebodys-vae'", "a_library_that_is_not_there"):
        assert word in str(caught.value)


def test_a_broken_adapter_is_skipped_by_wrap_with_a_warning(broken, caplog):
    with caplog.at_level(logging.WARNING):
        decoder = registry.wrap(nn.Linear(2, 3))
    assert decoder.decode(torch.zeros(1, 2)).shape == (1, 3)
    assert "somebodys-vae" in caplog.text and "a_library_that_is_not_there" in caplog.text


def test_a_broken_adapter_does_not_stop_the_import(broken):
    code = (
        "import latentctl, latentctl.decoder.registry as r; print(r.available()['somebodys-vae'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(broken)!r}); {code}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "somebodys-plugin"


def test_a_third_party_adapter_comes_before_the_general_one(tmp_path, monkeypatch):
    folder = distribution(
        tmp_path,
        "good-plugin",
        {"z-special": "a_good_adapter"},
        a_good_adapter="""
            from latentctl.decoder import Decoder

            def accepts(model):
                return hasattr(model, "special")

            def wrap(model, **options):
                return Decoder(model, lambda m, z: m(z), latent_shape=(2,), sample_shape=(3,),
                               value_range=None, name="special", **options)

            def load(*, size):
                return size
            """,
    )
    monkeypatch.syspath_prepend(str(folder))
    model = nn.Linear(2, 3)
    assert registry.wrap(model).name == "Linear"
    model.special = True
    assert registry.wrap(model).name == "special"
    assert registry.load("z-special", size=7) == 7


def test_an_unknown_adapter_names_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'conv-vae'"):
        registry.load("conv-vea")


def test_what_no_adapter_accepts_is_refused():
    for thing in (3, "a name", nn.Linear, (1, 2)):
        with pytest.raises(AdapterError, match="No adapter accepts"):
            registry.wrap(thing)


def test_an_arbitrary_module_has_no_name_to_load_by():
    with pytest.raises(AdapterError, match=r"latentctl\.wrap"):
        registry.load("torch-module", pretrained_model_name_or_path="somewhere")
