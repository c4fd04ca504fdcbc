"""Samples of any data set, as a decoder's encoder takes them.

A row may be a mapping (as in `datasets`), a pair `(x, labels)`, or `x` alone; `x` is what
`latentctl.decoder.samples` reads: a path, a PIL image, an array, a tensor or a list. A sample that
cannot be read, or does not fit, is a `BadSample`.
"""

from __future__ import annotations

__all__ = ["BadSample", "Sample", "SampleReader", "Source"]

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from ..errors import InputError, UnknownNameError
from ..random import seeded
from .decoder import Decoder
from .pictures import file_of, is_picture, read_picture, with_bytes
from .samples import picture_mode, sample_of

CONTENT = 16  # bytes of a hash
FILE_COLUMNS = ("file_name", "filename", "path", "file", "image_path")


@dataclass(frozen=True)
class Sample:
    """One usable sample: `x (*sample_shape)`, `labels (K,)`, and a hash of its content `(16,)`."""

    index: int
    file: str | None
    x: Tensor
    labels: Tensor
    content: Tensor


class BadSample(InputError):
    """A sample that cannot be used, with its index, file and the reason."""

    def __init__(self, index: int, file: str | None, reason: str, part: int | None = None) -> None:
        where = f"Sample {index} ({file})" if file else f"Sample {index}"
        whole = "the data set" if part is None else f"part {part} of the stream"
        super().__init__(
            f"{where} of {whole} cannot be used: {reason} "
            f'Repair or remove it, or pass on_bad_sample="skip" to leave it out.'
        )
        self.record = {"index": index, "file": file, "reason": reason}


class Source:
    """Rows by index, of a map-style data set or of a stream, which is read forwards.

    `length` is None for a stream until its end is reached. A stream of several files, as
    `datasets` has them, consists of `parts` that can be read by themselves and follow each other.
    """

    def __init__(self, dataset: Any, image_column: str) -> None:
        dataset = _undecoded(dataset, image_column)
        indexable = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
        indexable &= not isinstance(dataset, IterableDataset)  # has a __getitem__ that only raises
        self.length: int | None = len(dataset) if indexable else None
        self.streaming = not indexable
        self._dataset = dataset
        if self.streaming and not hasattr(dataset, "__iter__"):
            raise InputError(
                f"A data set needs __getitem__ and __len__, or __iter__; {type(dataset).__name__} "
                f"has neither."
            )
        self.parts = _parts(dataset) if self.streaming else 1
        self._column = image_column
        self._rows = iter(dataset) if self.streaming else iter(())
        self._next = 0

    def part(self, number: int) -> Source:
        """Part `number` by itself, from its beginning; a stream that cannot begin anew goes on."""
        if self.parts > 1:
            return Source(self._dataset.shard(self.parts, number), self._column)
        if not self.streaming:
            return self
        if self._rows is self._dataset:
            if self._next > 1:  # the first row was read for its hash
                raise InputError(
                    f"This stream can be read once, and it was read to sample {self._next}. Run "
                    f"the same call again with a new one: finished shards are kept."
                )
            return self
        return Source(self._dataset, self._column)

    def has(self, index: int) -> bool:
        """Whether there is a row `index`; a stream is read up to it."""
        if self.length is not None:
            return index < self.length
        while self._next <= index:
            try:
                self._row = next(self._rows)
            except StopIteration:
                self.length = self._next
                return False
            except Exception as error:
                # most iterators end after an error: continuing would drop the rest silently
                raise InputError(
                    f"The stream failed at sample {self._next}: {type(error).__name__}: {error}. "
                    f"It cannot be continued, even with on_bad_sample='skip'. Let it return the "
                    f"raw data, and decode that in `transform`."
                ) from error
            self._next += 1
        return True

    def __getitem__(self, index: int) -> Any:
        if not self.streaming:
            return self._dataset[index]
        if not self.has(index) or index != self._next - 1:
            raise IndexError(f"A stream is read forwards; it is past sample {index}.")
        return self._row


@dataclass(frozen=True)
class SampleReader:
    """Converts row `index` of a source to a `Sample`.

    Raises:
        BadSample: If the row cannot be read, or does not fit the decoder.
        UnknownNameError: If the row has no such column.
    """

    decoder: Decoder
    source: Source
    names: tuple[str, ...]
    image_column: str
    transform: Callable[[Any], Any] | None
    seed: int
    part: int | None = None  # of a stream that has several

    def of_part(self, number: int) -> SampleReader:
        """The reader of one part of the source, whose indices begin at 0."""
        several = self.source.parts > 1
        return replace(self, source=self.source.part(number), part=number if several else None)

    def __call__(self, index: int) -> Sample:
        try:
            row = self.source[index]
        except Exception as error:  # of the data set
            raise self._bad(index, None, error) from error
        return self.read(index, row)

    def read(self, index: int, row: Any) -> Sample:
        """The sample of row `index`, which was read."""
        file = None
        try:
            value, labels = self._split(row)
            file = _file(row, value)
            value = with_bytes(value)
            x = self._sample(index, value)
            return Sample(index, file, x, self._labels(labels), _content(value, x))
        except UnknownNameError:
            raise
        except Exception as error:  # of an image file or a transform
            raise self._bad(index, file, error) from error

    def _bad(self, index: int, file: str | None, error: Exception) -> BadSample:
        reason = f"{type(error).__name__}: {error}."
        reason = str(error) if isinstance(error, InputError) else reason
        return BadSample(index, file, reason, self.part)

    def _split(self, row: Any) -> tuple[Any, Any]:
        if isinstance(row, Mapping):
            if self.image_column not in row:
                raise UnknownNameError("column", self.image_column, map(str, row))
            return row[self.image_column], row
        if not isinstance(row, (tuple, list)) or all(isinstance(v, (int, float)) for v in row):
            return row, None
        return row[0], row[1] if len(row) > 1 else None

    def _sample(self, index: int, value: Any) -> Tensor:
        if self.transform is None:
            return sample_of(value, self.decoder)
        if is_picture(value):
            value = read_picture(value, picture_mode(self.decoder))
        place = index if self.part is None else f"{self.part}/{index}"
        with seeded(self.seed, f"transform {place}"):
            value = self.transform(value)
        return sample_of(value, self.decoder)

    def _labels(self, labels: Any) -> Tensor:
        if not self.names:
            return torch.empty(0)
        if isinstance(labels, Mapping):
            for name in self.names:
                if name not in labels:
                    raise UnknownNameError("label", name, map(str, labels))
            values = [labels[name] for name in self.names]
        else:
            values = [] if labels is None else torch.as_tensor(labels).reshape(-1).tolist()
        if len(values) != len(self.names):
            raise InputError(
                f"it has {len(values)} labels, and there are {len(self.names)} attributes. Give "
                f"one name for each label, or rows as mappings."
            )
        found = [math.nan if value is None else float(value) for value in values]
        for name, value in zip(self.names, found, strict=True):
            if not (math.isnan(value) or 0 <= value <= 1):
                raise InputError(
                    f"its label {name!r} is {value:g}; labels are in [0, 1], None or NaN if "
                    f"unknown. Map -1 to 0, or to None if it means unknown."
                )
        return torch.tensor(found)


# of `datasets`: those of one row or batch at a time, which parts of a stream leave as they are
ROW_BY_ROW = {
    f"{name}Iterable"
    for name in (
        *("Examples", "ArrowExamples", "RebatchedArrowExamples", "FormattedExamples"),
        *("MappedExamples", "FilteredExamples", "SelectColumns", "TypedExamples"),
    )
}


def _parts(dataset: Any) -> int:
    """The number of files of a stream of `datasets`, if its rows are theirs one after the other.

    One for a stream that was shuffled, shortened or mixed: its parts would have other rows.
    """
    examples, count = getattr(dataset, "_ex_iterable", None), getattr(dataset, "num_shards", 1)
    if not type(dataset).__module__.startswith("datasets.") or examples is None:
        return 1
    while examples is not None:
        across = getattr(examples, "with_indices", False) or getattr(examples, "batched", False)
        if across or type(examples).__name__ not in ROW_BY_ROW:
            return 1
        examples = getattr(examples, "ex_iterable", None)
    shuffled = getattr(dataset, "_shuffling", None) is not None
    return 1 if shuffled or getattr(dataset, "_distributed", None) is not None else int(count)


def _undecoded(dataset: Any, column: str) -> Any:
    """A `datasets` set that gives images as bytes and path: a corrupted file is one bad sample."""
    features = getattr(dataset, "features", None)
    if not type(dataset).__module__.startswith("datasets.") or not features:
        return dataset
    if (getattr(dataset, "format", None) or {}).get("type") is not None:
        return dataset  # the user chose the format of the rows
    import datasets

    if not isinstance(features.get(column), datasets.Image):
        return dataset
    return dataset.cast_column(column, datasets.Image(decode=False))


def _content(value: Any, x: Tensor) -> Tensor:
    """A hash of the bytes of a file, or of the numbers of an array, or else of a sample."""
    found = hashlib.blake2b(digest_size=CONTENT)
    if isinstance(value, Mapping):
        found.update(value["bytes"])
    else:
        array = hasattr(value, "__array_interface__") and not is_picture(value)
        array |= isinstance(value, Tensor)
        numbers = torch.as_tensor(value) if array else x
        found.update(f"{numbers.dtype}{tuple(numbers.shape)}".encode())
        found.update(numbers.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return torch.frombuffer(bytearray(found.digest()), dtype=torch.uint8)


def _file(row: Any, value: Any) -> str | None:
    if file := file_of(value):
        return file
    if isinstance(row, Mapping):
        return next((str(row[key]) for key in FILE_COLUMNS if row.get(key)), None)
    return None
