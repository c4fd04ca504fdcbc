"""A nonlinear teacher over eight dimensions, and students at equal budgets."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from conftest import STD, ToyVAE, toy_decoder

from latentctl import AttributeCritic, Latents, PixelCritic, distill
from latentctl.critics import Critic
from latentctl.errors import InputError
from latentctl.random import noise

NAMES = ("Wave", "Ring")
SMALL = {
    "samples": 128,
    "samples_per_round": 64,
    "max_train_steps": 250,
    "batch_size": 64,
    "learning_rate": 3e-3,
    "width": 64,
    "depth": 2,
}


class Truth(Critic):
    """Two smooth attributes whose gradients depend on the latent."""

    def __init__(self):
        super().__init__()
        self.names, self.latent_shape = NAMES, (8,)
        self.register_buffer("posterior_std", STD)
        self.places = []

    def forward(self, z):
        self.places.append(z.detach())
        wave = 3 * torch.sin(1.5 * z[:, 0] + z[:, 1]) + z[:, 2] * z[:, 3]
        ring = z[:, 2:6].square().sum(1) - 3
        return torch.stack([wave, ring], 1)


def encodings(count, seed=0, labels=None):
    mean = noise(0, count, (8,), seed=seed, purpose="encodings")
    names = NAMES if labels is not None else ()
    return Latents(mean, STD.expand_as(mean).clone(), labels, names)


def gradients(critic, z):
    z = z.clone().requires_grad_()
    logits = critic(z)
    each = [torch.autograd.grad(c.sum(), z, retain_graph=True)[0] for c in logits.unbind(1)]
    return logits.detach(), torch.stack(each, 1)


def agreement(student, count=400):
    """On held-out latents: cosine of gradients, correlation of log-odds."""
    z = encodings(count, seed=9).mean
    (logits, gradient), (truth, true_gradient) = gradients(student, z), gradients(Truth(), z)
    cosine = torch.cosine_similarity(gradient, true_gradient, dim=2).mean().item()
    pairs = zip(logits.T, truth.T, strict=True)
    return cosine, min(torch.corrcoef(torch.stack(p))[0, 1].item() for p in pairs)


@pytest.fixture(scope="module")
def student():
    return distill(Truth(), encodings(600), **SMALL)


def test_gradients_improve_the_student_at_an_equal_budget(student):
    baseline = distill(Truth(), encodings(600), gradient_weight=0, **SMALL)
    cosine, correlation = agreement(student)
    baseline_cosine, baseline_correlation = agreement(baseline)
    assert 1 - cosine < 0.5 * (1 - baseline_cosine)
    assert correlation > baseline_correlation > 0.3  # the baseline is trained, too
    fresh = AttributeCritic((8,), NAMES, width=64, depth=2)
    assert abs(agreement(fresh)[0]) < 0.3


def test_a_student_is_a_critic_of_the_same_attributes(student):
    assert isinstance(student, AttributeCritic) and not student.training
    assert student.names == NAMES and student.latent_shape == (8,)
    torch.testing.assert_close(student.posterior_std, STD)


def test_the_seed_decides_every_number_without_the_global_generator(student):
    state = torch.get_rng_state()
    same, other = (distill(Truth(), encodings(600), seed=s, **SMALL) for s in (0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    z = encodings(5, seed=3).mean
    assert torch.equal(same(z), student(z))
    assert not torch.equal(other(z), student(z))


def test_labels_are_not_used(student):
    wrong = encodings(600, labels=torch.full((600, 2), torch.nan))
    z = encodings(5, seed=3).mean
    assert torch.equal(distill(Truth(), wrong, **SMALL)(z), student(z))


def test_rounds_add_samples_where_the_edits_of_the_student_go():
    quick = {**SMALL, "max_train_steps": 20}
    seen = {}
    for rounds in (0, 2):
        teacher = Truth()
        distill(teacher, encodings(600), rounds=rounds, **quick)
        seen[rounds] = torch.cat(teacher.places)
    first, extra = seen[0], seen[2][len(seen[0]) :]
    assert torch.equal(seen[2][: len(first)], first)
    assert len(extra) == 2 * SMALL["samples_per_round"]
    assert len(extra.unique(dim=0)) == len(extra)  # every sample is new


def test_each_round_has_its_own_folder_and_resumes(tmp_path):
    quick = {**SMALL, "max_train_steps": 20, "checkpointing_steps": 10}
    distill(Truth(), encodings(600), rounds=1, output_dir=tmp_path / "a", **quick)
    for number in (0, 1):
        lines = (tmp_path / "a" / f"round-{number}" / "metrics.jsonl").read_text().splitlines()
        assert lines and any("gradient" in key for key in json.loads(lines[-1]))
    whole = distill(Truth(), encodings(600), rounds=1, output_dir=tmp_path / "b", **quick)
    shutil.rmtree(tmp_path / "a" / "round-1")  # as if stopped within the first round
    shutil.rmtree(tmp_path / "a" / "round-0" / "step-000020")
    resume = {"output_dir": tmp_path / "a", "resume_from_checkpoint": "latest", **quick}
    again = distill(Truth(), encodings(600), rounds=1, **resume)
    z = encodings(5, seed=3).mean
    assert torch.equal(again(z), whole(z))


def test_a_network_on_images_is_distilled_through_the_decoder():
    decoder = toy_decoder(ToyVAE())
    edge = lambda x: 20 * (x[:, 0, :, 0].mean(1) - x[:, 1, :, 0].mean(1))[:, None]  # noqa: E731
    teacher = PixelCritic(decoder, edge, names=["Edge"])
    before = decoder.fingerprint()
    student = distill(teacher, encodings(600), **{**SMALL, "samples": 512})
    z = encodings(300, seed=9).mean
    logits, truth = student(z)[:, 0], teacher(z)[:, 0]
    assert torch.corrcoef(torch.stack([logits, truth]).detach())[0, 1] > 0.9
    assert decoder.fingerprint() == before


def test_a_teacher_without_a_gradient_is_refused():
    decoder = toy_decoder(ToyVAE())
    steps = PixelCritic(
        decoder, lambda x: (x.mean((1, 2, 3)) > 0.5).float()[:, None], names=["Bright"]
    )
    with pytest.raises(InputError, match=r"PixelCritic is not differentiable.*prior_rewards"):
        distill(steps, encodings(50), **SMALL)


def test_a_teacher_of_other_latents_is_refused():
    latents = Latents(torch.randn(50, 6))
    with pytest.raises(InputError):
        distill(PixelCritic(toy_decoder(ToyVAE()), lambda x: x[:, :1, 0, 0], names=["a"]), latents)
