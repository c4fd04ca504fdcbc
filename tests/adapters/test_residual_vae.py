"""The residual VAE, and its frozen decoder."""

import pytest
import torch
from latentctl_adapters.residual_vae import ResidualVAE

import latentctl
from latentctl.errors import InputError
from latentctl.evaluation.laws import check_decoder


def little(**options):
    torch.manual_seed(0)
    sizes = {"latent_size": 4, "widths": (4, 6), "encoder_widths": (4, 6), **options}
    return ResidualVAE(16, **sizes)


def test_its_decoder_obeys_the_laws():
    model = little()
    decoder = latentctl.wrap(model)
    assert (decoder.latent_shape, decoder.sample_shape) == ((4,), (3, 16, 16))
    assert decoder.value_range == (0.0, 1.0)
    check_decoder(decoder)


def test_the_loss_is_the_bound_and_falls():
    model = little(sigma_x=0.2)
    x = torch.rand(8, 3, 16, 16)
    eps = torch.randn(8, 4)
    q = model.encode(x)
    loss, parts = model.loss(x, eps)
    error = (model.decode(q.mean + q.stddev * eps) - x).square().flatten(1).sum(1).mean()
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(1).mean()
    assert torch.allclose(loss, error / (2 * 0.2**2) + kl, rtol=1e-5)
    assert torch.allclose(parts["mse"], error / x[0].numel())
    optimizer = torch.optim.Adam(model.parameters(), 3e-2)
    for _ in range(30):
        optimizer.zero_grad()
        model.loss(x, eps)[0].backward()
        optimizer.step()
    assert model.loss(x, eps)[0] < 0.9 * loss


def test_half_precision_is_loaded_as_floats(tmp_path):
    model = little()
    model.half().save_pretrained(tmp_path / "model")
    decoder = latentctl.load("residual-vae", pretrained_model_name_or_path=tmp_path / "model")
    assert decoder.dtype == torch.float32
    z = torch.randn(2, 4)
    assert torch.equal(decoder.decode(z), latentctl.wrap(model.float()).decode(z))


@pytest.mark.parametrize(
    "options", [{"widths": (4, 6, 8)}, {"widths": (), "encoder_widths": ()}, {"sigma_x": 0.0}]
)
def test_sizes_that_do_not_fit_are_refused(options):
    with pytest.raises(InputError, match=r"widths|positive"):
        little(**options)
