"""The region of the studio that may change, where latents are grids."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from conftest import toy_decoder

from latentctl.errors import InputError
from latentctl.studio import receipt, script
from latentctl.studio.region import grid_of, mask_of, read_region
from latentctl.studio.session import Demand, Session

LEFT = ("11110000",) * 8


def test_cells_outside_the_region_stay(grids, tmp_path):
    visit = Session(grids)
    visit.begin(visit.sample(0))
    whole = Demand(wanted=(("Bright", 1.0),))
    assert (visit.edit(whole).outcome.z != visit.shown.start.z)[..., 4:].any()
    result = visit.edit(dataclasses.replace(whole, region=LEFT))
    moved = result.outcome.z != result.start.z
    assert moved[..., :4].any() and not moved[..., 4:].any()
    assert "Only 32 of 64 cells of the latent may change." in receipt.sentences(result)
    names = {"faces": grids.faces}
    lines = script.lines(result, grids).replace('"edited.png"', repr(str(tmp_path / "a.png")))
    exec(lines, names)
    assert torch.equal(names["out"].x, result.outcome.x)
    assert torch.equal(dict(visit.strengths())[1.0], result.outcome.x)


def test_what_the_page_sends_is_read(grids, model):
    decoder = grids.decoder
    assert grid_of(decoder) == (8, 8) and grid_of(toy_decoder(model)) is None
    assert read_region(list(LEFT), decoder) == LEFT and read_region(["1" * 8] * 8, decoder) == ()
    assert mask_of(LEFT, decoder).float().mean(0).tolist() == [1.0] * 8 + [0.0] * 8
    with pytest.raises(InputError, match="No cell may change"):
        read_region(["0" * 8] * 8, decoder)
    for wrong in (None, ["1"] * 8, ["1" * 8] * 3, ["1" * 7 + "x"] * 8):
        with pytest.raises(InputError, match="Reload the page"):
            read_region(wrong, decoder)
