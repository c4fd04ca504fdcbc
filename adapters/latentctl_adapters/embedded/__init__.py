"""What ships with the package: drawn faces, and a trained generator of them with its controls.

- `drawn_faces`: the data set, drawn by formulas;
- `decoder()`: a VAE of these faces, also `latentctl.load("drawn-faces")`;
- `pack()`: that decoder with a critic, controllers and an evaluator, ready to sample and edit;
- `judge()`: a network on images that none of them was trained with, for measurements.

`weights/README.md` has the commands, seeds and figures. The weights are under the licence of the
package, since the data are drawn by its own code.

Example:
    >>> faces = pack()
    >>> faces.sample(2, Smiling=True, seed=0).x.shape
    torch.Size([2, 3, 64, 64])
"""

from __future__ import annotations

__all__ = ["accepts", "decoder", "evaluator", "judge", "load", "pack", "wrap"]

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latentctl import Conditional, Decoder, PixelCritic
from latentctl.errors import AdapterError

from .. import residual_vae

WEIGHTS = Path(__file__).parent / "weights"


def decoder() -> Decoder:
    """The frozen generator of drawn faces: latents `(128,)`, samples `(3, 64, 64)` in [0, 1]."""
    return residual_vae.load(pretrained_model_name_or_path=WEIGHTS / "generator")


def judge() -> Any:
    """A `PixelClassifier` of the 15 attributes, for measurements alone. It needs timm."""
    from ..pixels.classifier import PixelClassifier

    return PixelClassifier.from_pretrained(WEIGHTS / "judge")


def evaluator(of: Decoder | None = None, names: Sequence[str] | None = None) -> PixelCritic:
    """A calibrated network on images through the decoder, for receipts. It needs timm.

    Arguments:
        of: The decoder; `decoder()` if not given.
        names: Which of the attributes, all 15 if not given.
    """
    from ..pixels.classifier import PixelClassifier

    network = PixelClassifier.from_pretrained(WEIGHTS / "evaluator")
    return PixelCritic(of or decoder(), network, names=names or network.names)


def pack(of: Decoder | None = None, *, evaluated: bool = True) -> Conditional:
    """The generator with its critic, controllers and evaluator: `sample` and `edit` at once.

    Arguments:
        of: The decoder; `decoder()` if not given.
        evaluated: Whether it has the evaluator, for which timm is imported: some seconds.
    """
    own = of or decoder()
    judged = evaluator(own) if evaluated else None
    return Conditional.from_pretrained(WEIGHTS / "pack", own, evaluator=judged)


def accepts(model: object) -> bool:
    """False: there is nothing to wrap."""
    return False


def wrap(model: object, **options: Any) -> Decoder:
    """Raises: the generator is loaded, not wrapped."""
    raise AdapterError('The drawn faces are loaded: latentctl.load("drawn-faces").')


def load(**options: Any) -> Decoder:
    """`decoder()`; there are no options."""
    if options:
        raise AdapterError(
            f'latentctl.load("drawn-faces") takes no options, found {", ".join(options)}.'
        )
    return decoder()
