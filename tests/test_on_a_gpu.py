"""The tests of `test_devices` on a real CUDA device, by `pytest -m gpu`; skipped without one."""

from __future__ import annotations

import pytest
import test_devices
import torch
from conftest import toy_latents

from latentctl import LatentFlow

if not torch.cuda.is_available():
    pytest.skip("there is no CUDA device here", allow_module_level=True)

pytestmark = pytest.mark.gpu
EMULATED = "test_double_precision_is_computed_where_there_is_some"
FIXTURES = {"latents", "decoder", "critic", "photos"}
globals().update(
    {
        name: value
        for name, value in vars(test_devices).items()
        if name in FIXTURES or (name.startswith("test_") and name != EMULATED)
    }
)


@pytest.fixture
def device():
    return "cuda"


def test_a_density_by_forward_mode(device):
    z = toy_latents(200, 0)
    flow = LatentFlow.fit(z, "matching", max_train_steps=20, batch_size=32, width=16)
    z = z.mean[:4].to(device)
    found = flow.log_prob(z)
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), flow.cpu().log_prob(z.cpu()), rtol=1e-3, atol=1e-3)
