from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
import torch

from latentctl.errors import AdapterError, ShapeError

pytest.importorskip("onnxruntime")
pytest.importorskip("cv2")
from latentctl_adapters.pixels.face_networks import FaceDetector, FaceEmbedder

needs_data = [
    pytest.mark.data,
    pytest.mark.skipif(
        "LATENTCTL_DATA" not in os.environ,
        reason="LATENTCTL_DATA is not set: real faces and the judges' weights are needed",
    ),
]


def weights(name: str) -> Path:
    return Path(os.environ["LATENTCTL_DATA"]).parent / "weights" / name


@pytest.fixture(scope="module")
def faces() -> tuple[torch.Tensor, torch.Tensor]:
    """240 real faces `(N, 3, 64, 64)` in [0, 1] with their identity numbers, in file order."""
    import numpy as np
    import pyarrow.parquet as pq
    from PIL import Image

    folder = Path(os.environ["LATENTCTL_DATA"]) / "celeba64_realigned_test"
    table = pq.read_table(next(folder.glob("*.parquet")), columns=["image", "identity"])
    table = table.sort_by("identity").slice(0, 240)
    cells = table.column("image").to_pylist()
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(c["bytes"]))) for c in cells])
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return x, torch.tensor(table.column("identity").to_pylist())


@pytest.fixture(scope="module")
def embedder() -> FaceEmbedder:
    return FaceEmbedder(weights("mobilefacenet/MobileFaceNet.onnx"))


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector(weights("yunet/yunet_n_320_320.onnx"))


class TestOnRealFaces:
    pytestmark = needs_data

    def test_one_person_is_nearer_than_two(self, embedder, faces) -> None:
        x, person = faces
        vectors = embedder(x)
        assert vectors.shape == (240, 128)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(240))
        cosine = vectors @ vectors.T
        same = person[:, None] == person[None]
        others = ~torch.eye(len(x), dtype=torch.bool)
        assert len(person.unique()) >= 10
        assert cosine[same & others].mean() > 0.42
        assert cosine[~same].mean().abs() < 0.08

    def test_identity_outlives_a_mirror_and_not_a_scramble(self, embedder, faces) -> None:
        x = faces[0][:24]
        vectors = embedder(x)
        mirrored = (vectors * embedder(x.flip(-1))).sum(1).mean()
        turned = (vectors * embedder(x.flip(-2))).sum(1).mean()
        assert mirrored > 0.75
        assert turned < 0.5

    def test_answers_do_not_depend_on_the_batch(self, embedder, detector, faces) -> None:
        x = faces[0][:6]
        torch.testing.assert_close(embedder(x)[2:4], embedder(x[2:4]))
        torch.testing.assert_close(detector(x)[2:4], detector(x[2:4]))

    def test_alignment_puts_a_pixel_where_the_map_says(self, embedder) -> None:
        x = torch.zeros(1, 3, 64, 64)
        x[..., 40, 30] = 1  # row 40, column 30
        peak = embedder.align(x)[0, 0].argmax().item()
        row, column = divmod(int(peak), 112)
        assert abs(column - (2.0787 * 30 - 0.0044 * 40 - 10.64)) <= 1
        assert abs(row - (0.0044 * 30 + 2.0787 * 40 - 17.98)) <= 1

    def test_faces_are_found_and_noise_is_not(self, detector, faces) -> None:
        x = faces[0][:100]
        assert detector.found(x).float().mean() >= 0.97
        noise = torch.rand(20, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        assert detector.found(noise).float().mean() <= 0.05
        blocks = x.reshape(100, 3, 4, 16, 4, 16).flip(2, 4).reshape(100, 3, 64, 64)
        assert detector.found(blocks).float().mean() < 0.5  # the same pixels, no longer a face

    def test_wrong_input_is_named(self, embedder, detector) -> None:
        for judge in (embedder, detector):
            with pytest.raises(ShapeError, match="found \\(2, 3, 32, 32\\)"):
                judge(torch.rand(2, 3, 32, 32))
            with pytest.raises(ShapeError, match="use x / 255"):
                judge(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))


@pytest.mark.parametrize("judge", [FaceEmbedder, FaceDetector])
def test_missing_or_unreadable_file_is_named(judge, tmp_path) -> None:
    with pytest.raises(AdapterError, match=r"nothing.onnx"):
        judge(tmp_path / "nothing.onnx")
    (tmp_path / "text.onnx").write_text("this is no network")
    with pytest.raises(AdapterError, match="not a readable"):
        judge(tmp_path / "text.onnx")
