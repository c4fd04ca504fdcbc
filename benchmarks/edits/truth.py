"""Edits of drawn faces beside the counterfactual that the renderer draws.

Of a picture `x` with the reconstruction `r`, the counterfactual `t` and the edit `e`, norms are L2
over the values of the pixels:

- `share`: `1 - |e - t| / |r - t|`, the share of the way to the truth; 0 for no edit at all.
- `inside`: the same over the region in which `t` differs from `x`.
- `outside`: `|e - r|` outside of the region over `|t - x|`, the change that nobody asked for.
- `decoded`: the share with the reconstruction of `t` in the place of `t`, so that 1 can be reached.
- `factors`, `attributes`: mean absolute change, from `r` to `e`, of the identity factors and of the
  attributes that stay, as a regressor reads them off the pictures, over its error on `r`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from latentctl_adapters.embedded.counterfactuals import Pairs
from latentctl_adapters.embedded.drawn_faces import ATTRIBUTES, FACTORS
from torch import Tensor

from benchmarks.edits.setting import Asked
from benchmarks.shared.base import BATCH, decode, encode, pixels
from benchmarks.shared.run import Row, report
from latentctl import AttributeCritic, Decoder

MEASURES = ("share", "inside", "outside", "decoded", "factors", "attributes")


class FactorReader:
    """Identity factors and attributes of pictures, by a regressor on their encodings.

    No method uses it. Pictures of edits are encoded anew, so that an edit cannot mislead it by
    directions of the latents that the decoder ignores.

    Arguments:
        decoder: The decoder, with its encoder.
        images: Pictures of bytes, `(N, 3, h, w)`.
        truth: Their factors, then their attributes, `(N, 46 + 15)` in [0, 1].
        seed: Decides every random number.
        options: Of `AttributeCritic.fit`.
    """

    def __init__(
        self, decoder: Decoder, images: Tensor, truth: Tensor, seed: int, **options: int
    ) -> None:
        latents = encode(decoder, images, truth, (*FACTORS, *ATTRIBUTES))
        self.decoder = decoder
        self.net = AttributeCritic.fit(
            latents, width=512, depth=3, robustness=0, seed=seed, **options
        )

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Estimates in [0, 1], `(B, 46 + 15)`."""
        return self.net.probability(encode(self.decoder, images).mean)


class Truth(Asked):
    """Counterfactual pairs as requests to flip an attribute, and the measures of their edits.

    Arguments:
        decoder: The decoder, with its encoder.
        pairs: The pairs of each attribute that is flipped.
        names: The attributes of the requests; all but the flipped one are held.
        read: Reads factors off pictures; without it they are not measured.
    """

    def __init__(
        self,
        decoder: Decoder,
        pairs: Sequence[Pairs],
        names: Sequence[str],
        read: FactorReader | None = None,
    ) -> None:
        self.decoder, self.read = decoder, read
        self.names = [part.attribute for part in pairs]
        self.image = torch.cat([part.image for part in pairs])
        self.truth = torch.cat([part.truth for part in pairs])
        self.region = torch.cat([part.region for part in pairs])
        self.value = torch.cat([part.value for part in pairs])
        rows, place = torch.cat([part.rows for part in pairs]).unique(return_inverse=True)
        first = torch.empty_like(rows).scatter_(0, place, torch.arange(len(place)))
        self.faces = encode(decoder, self.image[first]).mean  # one person, many pairs
        self.redrawn, self.place = decode(decoder, self.faces), place
        self.number = torch.cat([torch.full((len(p),), i) for i, p in enumerate(pairs)])
        column = torch.tensor([list(names).index(name) for name in self.names])[self.number]
        super().__init__(self.faces[place], column, self.value.float(), len(names))
        self.bound = encode(decoder, self.truth).mean
        self.best = decode(decoder, self.bound)
        before, after = (torch.cat([getattr(p, x) for p in pairs]) for x in ("before", "after"))
        self.stays = torch.cat([torch.ones(len(before), len(FACTORS)).bool(), before == after], 1)
        if read is not None:
            known = torch.cat([torch.cat([p.identity for p in pairs]), before], 1)
            self.estimate = read(self.redrawn)
            self.error = (self.estimate[place] - known).abs().mean(0)  # of each factor

    def measure(self, name: str, z: Tensor) -> Row:
        """The measures of edited latents, averaged over pairs, then over attributes.

        `by` has those of each attribute and, under `on` and `off`, the share by direction.
        """
        parts = [self._measured(z, rows) for rows in torch.arange(len(z)).split(BATCH)]
        found = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        by = {}
        for i, attribute in enumerate(self.names):
            mine = self.number == i
            by[attribute] = {key: value[mine].mean().item() for key, value in found.items()}
            for key, way in (("on", mine & self.value), ("off", mine & ~self.value)):
                if bool(way.any()):
                    by[attribute][key] = found["share"][way].mean().item()
            by[attribute]["pairs"] = int(mine.sum())
        mean = {key: sum(row[key] for row in by.values()) / len(by) for key in found}
        return report({"name": name, **mean, "by": by})

    def _measured(self, z: Tensor, rows: Tensor) -> dict[str, Tensor]:
        edit, best = decode(self.decoder, z[rows]), self.best[rows]
        redrawn, region = self.redrawn[self.place[rows]], self.region[rows]
        image, truth = pixels(self.image[rows]), pixels(self.truth[rows])
        asked = _norm(truth - image)
        found = {
            "share": 1 - _norm(edit - truth) / _norm(redrawn - truth),
            "inside": 1 - _norm((edit - truth) * region) / _norm((redrawn - truth) * region),
            "outside": _norm((edit - redrawn) * ~region) / asked,
            "decoded": 1 - _norm(edit - best) / _norm(redrawn - best),
        }
        if self.read is not None:
            moved = (self.read(edit) - self.estimate[self.place[rows]]).abs()
            stays, count = self.stays[rows], len(FACTORS)
            for key, part in (("factors", slice(count)), ("attributes", slice(count, None))):
                moves = (moved * stays)[:, part].sum(1)
                found[key] = moves / (self.error * stays)[:, part].sum(1)
        return found


def _norm(difference: Tensor) -> Tensor:
    return difference.flatten(1).norm(dim=1)
