from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentctl import evaluation as metrics
from latentctl.errors import InputError, ShapeError
from latentctl.random import generator

FREE = float("nan")


def normal(n: int, f: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, f, generator=generator(seed))


class TestFrechetDistance:
    def test_agrees_with_the_textbook_formula(self) -> None:
        linalg = pytest.importorskip("scipy.linalg")
        a = normal(300, 12) @ normal(12, 12, 1)
        b = normal(200, 12, 2) @ normal(12, 12, 3) + 0.7
        cov_a, cov_b = (torch.cov(x.double().T).numpy() for x in (a, b))
        root = linalg.sqrtm(cov_a @ cov_b).real
        gap = (a.double().mean(0) - b.double().mean(0)).square().sum().item()
        expected = gap + cov_a.trace() + cov_b.trace() - 2 * root.trace()
        assert metrics.frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)

    def test_known_gaussians(self) -> None:
        a = normal(500, 6)
        assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
        assert metrics.frechet_distance(a, a + 2) == pytest.approx(6 * 4, rel=1e-6)
        spread = torch.cov(a.double().T).trace().item()
        assert metrics.frechet_distance(a, a.mean(0) + 3 * (a - a.mean(0))) == pytest.approx(
            4 * spread, rel=1e-5
        )

    @settings(max_examples=20, deadline=None)
    @given(st.integers(0, 10_000), st.integers(2, 30), st.integers(1, 12))
    def test_symmetric_and_never_negative_even_with_few_samples(self, seed, n, f) -> None:
        a, b = normal(n, f, seed), 1.5 * normal(n + 3, f, seed + 1)
        there, back = metrics.frechet_distance(a, b), metrics.frechet_distance(b, a)
        assert there >= 0 and there == pytest.approx(back, rel=1e-6, abs=1e-9)

    def test_bad_features(self) -> None:
        with pytest.raises(ShapeError, match="\\(3, 2\\) and \\(3, 4\\)"):
            metrics.frechet_distance(normal(3, 2), normal(3, 4))
        with pytest.raises(InputError, match="NaN"):
            metrics.frechet_distance(torch.full((3, 2), FREE), normal(3, 2))


class TestNeighbours:
    real = torch.arange(8.0)[:, None]  # 0 ... 7 on a line: with k = 1 every ball has radius 1

    def test_balls_counted_by_hand(self) -> None:
        fake = torch.tensor([[0.4], [0.6], [20.0], [30.0]])
        pr = metrics.precision_recall(self.real, fake, k=1)
        assert pr.precision == 0.5  # 0.4 and 0.6 lie in balls, 20 and 30 in none
        # fake balls: 0.4 +- 0.2, 0.6 +- 0.2, 20 +- 10, 30 +- 10: none holds a real sample
        assert pr.recall == 0
        dc = metrics.density_coverage(self.real, fake, k=1)
        assert dc.density == pytest.approx(4 / 4)  # 0.4 and 0.6 are each in the balls of 0 and 1
        assert dc.coverage == 2 / 8

    def test_the_same_distribution_against_lost_modes_and_against_noise(self) -> None:
        real = torch.cat([normal(300, 4), normal(300, 4, 1) + 10])
        same = torch.cat([normal(300, 4, 2), normal(300, 4, 3) + 10])
        one_mode, far = normal(600, 4, 4), 40 + normal(600, 4, 5)
        pr, dc = metrics.precision_recall(real, same), metrics.density_coverage(real, same)
        assert pr.precision > 0.85 and pr.recall > 0.85 and dc.coverage > 0.9
        assert 0.85 < dc.density < 1.15
        pr, dc = metrics.precision_recall(real, one_mode), metrics.density_coverage(real, one_mode)
        assert pr.precision > 0.85 and 0.4 < pr.recall < 0.55 and 0.4 < dc.coverage < 0.55
        pr, dc = metrics.precision_recall(real, far), metrics.density_coverage(real, far)
        assert (pr.precision, pr.recall, dc.density, dc.coverage) == (0, 0, 0, 0)

    def test_precision_and_recall_swap_with_the_sets(self) -> None:
        a, b = normal(100, 3), 0.5 * normal(120, 3, 1)
        one, other = metrics.precision_recall(a, b, k=3), metrics.precision_recall(b, a, k=3)
        assert (one.precision, one.recall) == (other.recall, other.precision)
        assert one.precision > one.recall  # the narrow set is realistic and covers little

    def test_chunks_do_not_change_the_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real, fake = normal(90, 3), normal(70, 3, 1) + 0.5
        whole = metrics.precision_recall(real, fake), metrics.density_coverage(real, fake)
        monkeypatch.setattr("latentctl.evaluation.diversity.CHUNK", 16)
        assert (
            metrics.precision_recall(real, fake),
            metrics.density_coverage(real, fake),
        ) == whole

    def test_too_few_samples(self) -> None:
        for measure in (metrics.precision_recall, metrics.density_coverage):
            with pytest.raises(ShapeError, match="k = 5 neighbours"):
                measure(normal(5, 2), normal(20, 2))
            with pytest.raises(ShapeError, match="found \\(9, 2\\) and \\(9, 3\\)"):
                measure(normal(9, 2), normal(9, 3))


class TestMultilabelScores:
    def test_agrees_with_torchmetrics(self) -> None:
        classification = pytest.importorskip("torchmetrics.functional.classification")
        p = torch.rand(200, 5, generator=generator(0))
        y = (torch.rand(200, 5, generator=generator(1)) < p).float()
        ours = metrics.multilabel_scores(p, y)
        for name in ("accuracy", "precision", "recall", "f1_score"):
            theirs = getattr(classification, f"multilabel_{name}")(p, y.long(), num_labels=5)
            assert getattr(ours, name.removesuffix("_score")) == pytest.approx(theirs.item())

    def test_free_targets_are_not_counted(self) -> None:
        p = torch.tensor([[0.9, 0.9], [0.1, 0.9], [0.9, 0.1]])
        y = torch.tensor([[1.0, FREE], [1.0, FREE], [FREE, FREE]])
        scores = metrics.multilabel_scores(p, y, names=["Male", "Bald"])
        assert scores.accuracy == 0.5 and list(scores.per_attribute) == ["Male"]
        assert scores.per_attribute["Male"].count == 2
        assert scores.f1 == pytest.approx(2 / 3)

    def test_calling_nothing_scores_zero_not_nan(self) -> None:
        scores = metrics.multilabel_scores(torch.zeros(4, 1), torch.ones(4, 1))
        assert (scores.precision, scores.recall, scores.f1) == (0, 0, 0)

    def test_bad_input(self) -> None:
        with pytest.raises(ShapeError):
            metrics.multilabel_scores(torch.zeros(4, 2), torch.zeros(4, 1))
        with pytest.raises(ShapeError, match="as many names"):
            metrics.multilabel_scores(torch.zeros(4, 2), torch.zeros(4, 2), names=["Male"])
        with pytest.raises(InputError, match="NaN"):
            metrics.multilabel_scores(torch.full((4, 2), FREE), torch.zeros(4, 2))
        with pytest.raises(InputError, match="nothing to score"):
            metrics.multilabel_scores(torch.zeros(4, 2), torch.full((4, 2), FREE))


class TestEdits:
    def test_an_edit_that_does_nothing(self) -> None:
        p = torch.rand(50, 3, generator=generator(0))
        asked = torch.full((50, 3), FREE)
        asked[:, 0] = (p[:, 0] <= 0.5).float()  # the opposite of what is there
        scores = metrics.edit_scores(p, p, asked)
        assert (scores.success, scores.leakage, scores.drift) == (0, 0, 0)
        assert math.isnan(scores.success_of["1"]) and math.isnan(scores.leakage_of["0"])

    def test_success_and_leakage_are_counted_apart(self) -> None:
        before = torch.tensor([[0.1, 0.2, 0.9], [0.1, 0.2, 0.9]])
        after = torch.tensor([[0.9, 0.7, 0.9], [0.9, 0.2, 0.6]])
        asked = torch.tensor([[1.0, FREE, FREE], [FREE, 1.0, FREE]])
        scores = metrics.edit_scores(before, after, asked, names=["a", "b", "c"])
        assert scores.success_of["a"] == 1 and scores.success_of["b"] == 0
        assert scores.success == 0.5
        assert scores.leakage_of == {"a": 1.0, "b": 1.0, "c": 0.0}
        assert scores.leakage == 0.5
        assert scores.drift == pytest.approx((0.5 + 0.0 + 0.8 + 0.3) / 4)

    def test_bad_input(self) -> None:
        p = torch.rand(3, 2, generator=generator(0))
        with pytest.raises(InputError, match="No attribute is requested"):
            metrics.edit_scores(p, p, torch.full((3, 2), FREE))
        with pytest.raises(ShapeError):
            metrics.edit_scores(p, p, torch.zeros(3, 1))

    def test_identity_is_the_cosine(self) -> None:
        a = normal(20, 8)
        torch.testing.assert_close(metrics.identity(a, 3 * a), torch.ones(20))
        torch.testing.assert_close(metrics.identity(a, -a), -torch.ones(20))
        assert metrics.identity(a, normal(20, 8, 1)).abs().mean() < 0.6
        with pytest.raises(ShapeError):
            metrics.identity(a, a[:3])
