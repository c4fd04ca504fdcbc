"""The emulated device computes as the CPU, and raises where a real one would."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from emulated_device import emulated_device
from torch import nn

from latentctl.training import train

META = torch.empty(6, device="meta")
TABLE = torch.arange(24.0).view(4, 6)
INDICES = {
    "rows": [3, 1],
    "columns": (slice(None), [0, 2]),
    "booleans": [True, False, True, False],
    "none of the rows": [],
    "array": np.array([1, 2]),
    "range": (slice(None), range(2)),
    "pairs": ([0, 1], [2, 3]),
    "nested": ([[0], [1]], [2, 3]),
    "with a tensor": (torch.tensor([0, 1]), [2, 3]),
    "with an ellipsis": (..., [1]),
    "with a new axis": (None, [1]),
    "mask": (slice(None), TABLE[0] > 2),
}


@pytest.mark.parametrize("name", INDICES)
def test_an_index_of_a_list_reads_and_writes_as_on_the_cpu(name):
    index = INDICES[name]
    expected = TABLE[index]
    with emulated_device():
        x = TABLE.to("cuda")
        assert x[index].is_cuda and torch.equal(x[index].cpu(), expected)
        for value in (7.0, torch.full_like(expected, 3.0)):
            plain, written = TABLE.clone(), x.clone()
            plain[index] = value
            written[index] = value.to("cuda") if isinstance(value, torch.Tensor) else value
            assert torch.equal(written.cpu(), plain)


def test_new_tensors_have_data():
    with emulated_device():
        x = TABLE.to("cuda")
        for made in (x.new_tensor([1, 2]), torch.tensor([1.0, 2.0], device="cuda")):
            assert made.is_cuda and made.dtype == torch.float32 and made.tolist() == [1, 2]
        assert x.new_tensor([1, 2], dtype=torch.long).dtype == torch.long


def test_mixed_devices_raise():
    with emulated_device():
        x = TABLE.to("cuda")
        for operator in (torch.add, torch.maximum, lambda a, b: torch.cat([a, b])):
            with pytest.raises(RuntimeError, match="are mixed"):
                operator(x, TABLE)
        with pytest.raises(RuntimeError, match="without data"):
            torch.add(x, META)
        with pytest.raises(TypeError, match="numpy"):
            x.numpy()


def test_a_tensor_that_a_loss_makes_on_the_cpu_is_caught():
    line = nn.Linear(6, 1)

    def loss(batch, step, device):
        return (line(batch)[:, 0] - torch.arange(len(batch), device=device)).square().mean(), {}

    quick = {"name": "line", "learning_rate": 0.1, "max_train_steps": 2, "batch_size": 2}
    with emulated_device():
        train(line, lambda *b: loss(*b, device="cuda"), TABLE, **quick)
        with pytest.raises(RuntimeError, match="are mixed"):
            train(line, lambda *b: loss(*b, device="cpu"), TABLE, **quick)


def test_a_device_without_float64_refuses_it():
    made = [
        lambda: TABLE.to("cuda").double(),
        lambda: TABLE.double().to("cuda"),
        lambda: torch.zeros(2, dtype=torch.float64, device="cuda"),
        lambda: torch.tensor([2.0], dtype=torch.float64, device="cuda"),
    ]
    with emulated_device():
        assert all(make().dtype == torch.float64 for make in made)
    with emulated_device(float64=False):
        for make in made:
            with pytest.raises(TypeError, match="float64"):
                make()
        assert TABLE.to("cuda").cpu().double().dtype == torch.float64
