"""Modules that save themselves: their parts, what is shared, what is given, what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from latentctl.errors import CheckpointError, FingerprintError, InputError
from latentctl.storage import Saved, load_folder, pack_modules, save_folder, unpack_modules


class Layer(Saved, kind="test-layer"):
    def __init__(self, size, kind="plain"):
        super().__init__()
        self.config = {"size": size, "kind": kind}
        self.kind = kind  # an attribute of this name is free
        self.linear = nn.Linear(size, size)


class Pair(Saved, kind="test-pair"):
    """Two parts, which may be one, and a weight of its own."""

    def __init__(self, first, second=None):
        super().__init__()
        self.config = {}
        self.first, self.second = first, second
        self.own = nn.Parameter(torch.randn(3))

    def parts(self):
        return {"first": self.first, "second": self.second}


@pytest.mark.parametrize("shared", [False, True])
def test_a_module_is_restored_with_its_parts_and_a_shared_one_once(tmp_path, shared):
    first = Layer(2)
    pair = Pair(first, first if shared else Layer(2, "other"))
    folder = pair.save(tmp_path / "pair")
    again = Pair.load(folder)
    assert not again.training and (again.first is again.second) == shared
    assert again.second.kind == ("plain" if shared else "other")
    assert all(
        torch.equal(a, b) for a, b in zip(pair.parameters(), again.parameters(), strict=True)
    )
    tensors, _ = load_folder(folder)
    assert len(tensors) == (2 if shared else 3)


def test_a_part_may_be_absent(tmp_path):
    again = Pair.load(Pair(Layer(2)).save(tmp_path / "pair"))
    assert again.second is None


def test_what_is_given_again_must_be_the_same(tmp_path):
    prior = nn.Linear(2, 2)
    folder = tmp_path / "pair"
    save_folder(folder, *pack_modules({"pair": Pair(Layer(2), prior)}, {"prior": prior}))
    found = unpack_modules(*load_folder(folder), {"prior": prior})
    assert found["pair"].second is prior
    for given in ({}, {"prior": nn.Linear(2, 2)}):
        with pytest.raises(FingerprintError, match="Pass the same one as prior="):
            unpack_modules(*load_folder(folder), given)


def test_what_cannot_be_saved_or_is_of_another_kind_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"Linear cannot be saved as 'test-pair.second'"):
        Pair(Layer(2), nn.Linear(2, 2)).save(tmp_path / "pair")

    class Mine(Layer):
        pass

    with pytest.raises(InputError, match="Mine cannot be saved"):  # it would be loaded as a Layer
        Mine(2).save(tmp_path / "mine")
    folder = Layer(2).save(tmp_path / "layer")
    with pytest.raises(CheckpointError, match="holds Layer, not a Pair"):
        Pair.load(folder)
    save_folder(folder, {}, {"names": []})
    with pytest.raises(CheckpointError, match="no modules"):
        Layer.load(folder)
