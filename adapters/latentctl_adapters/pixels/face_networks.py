"""Two independent evaluators of faces, pretrained ONNX networks on the CPU.

`FaceEmbedder` (MobileFaceNet, trained with an angular margin on identities) compares the persons of
two pictures, `FaceDetector` (YuNet) detects faces. Both take 64x64 crops of CelebA's alignment. The
files are not part of this project.

References:
    | MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification on Mobile Devices
      (Chen et al., 2018)
    | https://arxiv.org/abs/1804.07573
    | YuNet: A Tiny Millisecond-level Face Detector (Wu, Peng and Yu, 2023)
    | https://doi.org/10.1007/s11633-023-1423-y
"""

from __future__ import annotations

__all__ = ["FaceDetector", "FaceEmbedder"]

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from latentctl.errors import AdapterError, ShapeError

SIDE = 64  # pixels of an aligned crop
# from the aligned crop to the alignment of the training data, in pixels: (x, y, 1) -> (x', y')
TO_112 = ((2.0787, -0.0044, -10.64), (0.0044, 2.0787, -17.98))


class FaceEmbedder:
    """Identity of aligned faces as unit vectors, compared by cosine.

    Arguments:
        path: `MobileFaceNet.onnx` (input 1x3x112x112, RGB in [-1, 1]).
        threads: CPU threads.

    Raises:
        AdapterError: onnxruntime is not installed, or the file is missing or not readable.
    """

    def __init__(self, path: str | Path, *, threads: int = 1) -> None:
        path = _existing(path, "face embedding network")
        try:
            import onnxruntime
        except ImportError as error:
            raise AdapterError(_missing("FaceEmbedder", "onnxruntime")) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own exceptions have no public base
            raise AdapterError(f"{path} is not a readable ONNX file: {error}") from error
        self.input_name = self.session.get_inputs()[0].name
        # inverse map in the [-1, 1] coordinates of grid_sample, pixel centres at half-integers
        forward = torch.eye(3, dtype=torch.float64)
        forward[:2] = torch.tensor(TO_112, dtype=torch.float64)
        self.theta = (_normalised(SIDE) @ forward.inverse() @ _normalised(112).inverse())[:2]

    def __call__(self, images: Tensor) -> Tensor:
        """Embeddings `(B, 128)` of length one.

        Arguments:
            images: `(B, 3, 64, 64)` in [0, 1], CelebA's alignment.
        """
        aligned = 2 * self.align(images) - 1
        rows = [
            self.session.run(None, {self.input_name: x.numpy()})[0] for x in torch.split(aligned, 1)
        ]
        return F.normalize(torch.cat([torch.from_numpy(row) for row in rows]), dim=1)

    def align(self, images: Tensor) -> Tensor:
        """The `(B, 3, 112, 112)` input of the network, in [0, 1]."""
        x = _faces(images)
        theta = self.theta.float().expand(len(x), 2, 3)
        grid = F.affine_grid(theta, [len(x), 3, 112, 112], align_corners=False)
        moved = F.grid_sample(x, grid, "bicubic", padding_mode="border", align_corners=False)
        return moved.clamp(0, 1)


class FaceDetector:
    """Whether a face is found in an aligned crop, with its score.

    Arguments:
        path: `yunet_n_320_320.onnx`.
        threshold: Score from which `found` is true.
        threads: OpenCV's CPU threads, a setting of the whole process.

    Raises:
        AdapterError: OpenCV is not installed, or the file is missing or not readable.
    """

    def __init__(self, path: str | Path, *, threshold: float = 0.6, threads: int = 1) -> None:
        path = _existing(path, "face detector")
        try:
            import cv2
        except ImportError as error:
            raise AdapterError(_missing("FaceDetector", "opencv-python-headless")) from error
        cv2.setNumThreads(threads)
        self.threshold = threshold
        try:
            self.detector: Any = cv2.FaceDetectorYN.create(str(path), "", (320, 320), 0.1)
        except cv2.error as error:
            raise AdapterError(f"{path} is not a readable YuNet file: {error}") from error

    def __call__(self, images: Tensor) -> Tensor:
        """Score `(B,)` in [0, 1] of the best face in each image, 0 where there is none.

        Arguments:
            images: `(B, 3, 64, 64)` in [0, 1].
        """
        x = F.interpolate(_faces(images), size=(224, 224), mode="bicubic").clamp(0, 1)
        canvas = F.pad(x, (48, 48, 48, 48)).flip(1)  # black border; BGR
        pixels = (canvas * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
        scores = torch.zeros(len(pixels))
        for i, picture in enumerate(pixels):
            faces = self.detector.detect(picture)[1]
            if faces is not None:
                scores[i] = float(faces[:, -1].max())
        return scores

    def found(self, images: Tensor) -> Tensor:
        """Boolean `(B,)`: a face of at least `threshold` is there."""
        return self(images) >= self.threshold


def _faces(images: Tensor) -> Tensor:
    if images.ndim != 4 or tuple(images.shape[1:]) != (3, SIDE, SIDE):
        raise ShapeError(
            f"Face networks take aligned crops (B, 3, {SIDE}, {SIDE}) in [0, 1], found "
            f"{tuple(images.shape)}. Resize the images first."
        )
    if not images.is_floating_point():
        raise ShapeError(f"Face networks take floats in [0, 1], found {images.dtype}; use x / 255.")
    return images.detach().float().cpu()


def _normalised(side: int) -> Tensor:
    """Homogeneous map from pixel indices `0 ... side - 1` to grid_sample's [-1, 1]."""
    scale, offset = 2 / side, 1 / side - 1
    return torch.tensor([[scale, 0, offset], [0, scale, offset], [0, 0, 1]], dtype=torch.float64)


def _existing(path: str | Path, kind: str) -> Path:
    path = Path(path)
    if not path.is_file():
        raise AdapterError(f"No {kind} at {path}: give the path of its ONNX file.")
    return path


def _missing(network: str, package: str) -> str:
    return f"{network} needs {package}, which is not installed: pip install 'latentctl[metrics]'."
