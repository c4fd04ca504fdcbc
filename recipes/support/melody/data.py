"""Melodies for the recipes: from parquet files, from a folder of MIDI files, or from music21.

The source is the first of: `--train_data_dir`, a folder that `datasets.load_dataset` reads (its
column `tokens` has one number for each sixteenth) or one with MIDI files at any depth; and tunes of
music21's corpus, where that package is installed. The log names the source, and which files were
left out and why. Melodies are taken from notes in `latentctl_adapters.melody_midi`. Duplicates are
removed, and each file or tune is in one split only.
"""

from __future__ import annotations

__all__ = ["Melodies", "MelodyDataFlags", "load_melodies"]

import importlib.util
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from latentctl_adapters.melody_midi import Tune, monophonic, read_midi, windows
from latentctl_adapters.melody_rewards import BAR, HOLD, REST
from torch import Tensor
from torch.utils.data import Dataset

from latentctl.errors import InputError
from latentctl.random import permutation
from latentctl.storage import digest

logger = logging.getLogger(__name__)

MIDI_SUFFIXES = (".mid", ".midi")
COLLECTIONS = ("oneills1850", "ryansMammoth", "essenFolksong")
SPLITS = ("train", "validation", "test")
SHOWN = 5  # files that the log names for each reason to leave files out


@dataclass
class MelodyDataFlags:
    """The melodies."""

    train_data_dir: str | None = None  # A folder of parquet files by split, or of MIDI files.
    bars: int = 2  # Bars of a melody.
    max_train_samples: int | None = None  # Largest number of training melodies, drawn at random.
    max_tunes: int = 500  # Tunes taken from music21, without --train_data_dir.


class Melodies(Dataset[Tensor]):
    """Melodies in memory, `(N, steps)` bytes; items are int64."""

    def __init__(self, tokens: Tensor) -> None:
        self.tokens = tokens.to(torch.uint8)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int | slice | Tensor) -> Tensor:
        return self.tokens[index].long()

    def identity(self) -> dict[str, str]:
        """A hash of the melodies, which a resumed run must have in common."""
        return {"melodies": digest({"melodies": [self.tokens]})}

    def pitch_range(self) -> tuple[int, int]:
        """The lowest and the highest pitch."""
        notes = self.tokens[self.tokens < HOLD]
        return int(notes.min()), int(notes.max())


def load_melodies(flags: MelodyDataFlags, seed: int = 0) -> dict[str, Melodies]:
    """The splits `train`, `validation` and `test`; each file or tune is in one of them.

    Raises:
        InputError: If there is no such folder, nothing in it can be used, or no folder is named and
            music21 is not installed.
    """
    if flags.train_data_dir is None:
        splits = _split(_music21(flags.max_tunes), flags.bars, seed)
    else:
        folder = Path(flags.train_data_dir)
        if not folder.is_dir():
            raise InputError(f"--train_data_dir {folder} is not a folder.")
        files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in MIDI_SUFFIXES)
        splits = _split(_midi(files), flags.bars, seed) if files else _parquet(folder, flags.bars)
    train = splits["train"]
    if flags.max_train_samples is not None and flags.max_train_samples < len(train):
        rows = permutation(len(train), seed=seed, epoch=0, purpose="max_train_samples")
        splits["train"] = Melodies(train.tokens[rows[: flags.max_train_samples]])
    sizes = ", ".join(f"{len(melodies)} {name}" for name, melodies in splits.items())
    logger.warning("Melodies of %d bars: %s.", flags.bars, sizes)
    return splits


def _parquet(folder: Path, bars: int) -> dict[str, Melodies]:
    import datasets

    try:
        loaded = datasets.load_dataset(str(folder))
    except Exception as error:  # of many kinds
        raise InputError(
            f"--train_data_dir {folder} holds neither MIDI files nor parquet files that can be "
            f"read ({type(error).__name__}: {str(error).splitlines()[0]})."
        ) from error
    splits = {}
    for name in SPLITS:
        if name not in loaded or "tokens" not in loaded[name].column_names:
            raise InputError(
                f"{folder} needs the splits {', '.join(SPLITS)} with a column 'tokens'; it has "
                f"{ {key: split.column_names for key, split in loaded.items()} }."
            )
        rows = loaded[name].with_format("numpy")["tokens"][:]
        lengths = {len(row) for row in rows}
        if lengths != {bars * BAR}:
            raise InputError(
                f"--bars {bars} needs {bars * BAR} tokens a melody, the split {name} of {folder} "
                f"has {sorted(lengths)[:5]}. {BAR} tokens are a bar."
            )
        tokens = torch.as_tensor(rows)
        if bool(((tokens < 0) | (tokens > REST)).any()):
            raise InputError(f"The split {name} of {folder} has tokens outside 0 to {REST}.")
        splits[name] = Melodies(tokens)
    return splits


def _midi(files: Sequence[Path]) -> list[list[Tune]]:
    """The tunes of each file; files that cannot be used are logged and counted."""
    if importlib.util.find_spec("symusic") is None:
        raise InputError("MIDI files are read by symusic: pip install 'latentctl[midi]'.")
    left_out: Counter[str] = Counter()
    tunes = []
    for path in files:
        try:
            tunes.append(read_midi(path))
        except InputError as error:
            reason = str(error).partition(":")[0]
            left_out[reason] += 1
            if left_out[reason] <= SHOWN:
                logger.warning("Left out %s: %s", path, error)
    logger.warning("MIDI: %d of %d files are used.", len(tunes), len(files))
    for reason, count in left_out.items():
        logger.warning("MIDI: %d files left out: %s.", count, reason)
    tracks = [tune for of_file in tunes for tune in of_file]
    many = sum(tune.polyphonic for tune in tracks)
    if many:
        logger.warning("MIDI: %d of %d tracks are polyphonic: highest notes.", many, len(tracks))
    return tunes


def _music21(max_tunes: int) -> list[list[Tune]]:
    """Tunes of music21's corpus, each in 4/4 throughout."""
    if importlib.util.find_spec("music21") is None:
        raise InputError(
            "No melodies are named. Give --train_data_dir, a folder of MIDI or parquet files, or "
            "pip install music21, whose corpus of folk tunes is then used."
        )
    from music21 import corpus

    logger.warning("Melodies: up to %d tunes of music21; reading takes minutes.", max_tunes)
    tunes: list[list[Tune]] = []
    for path in (path for name in COLLECTIONS for path in corpus.getComposer(name)):
        parsed = corpus.parse(path)
        for score in parsed.scores if hasattr(parsed, "scores") else [parsed]:
            if len(tunes) == max_tunes:
                return tunes
            tune = _from_score(score)
            if tune is not None:
                tunes.append([tune])
    return tunes


def _from_score(score: Any) -> Tune | None:
    part = score.parts[0].flatten()
    if {sign.ratioString for sign in part.getElementsByClass("TimeSignature")} != {"4/4"}:
        return None
    # bar lines are a multiple of four quarters after the upbeat
    bars = list(score.parts[0].getElementsByClass("Measure"))
    upbeat = bars[0].duration.quarterLength % 4 if bars else 0
    shift = (4 - upbeat) % 4
    notes = []
    for note in part.notes:
        start = round(float(note.offset + shift) * 4)
        end = round(float(note.offset + shift + note.duration.quarterLength) * 4)
        notes.append((start, end, max(pitch.midi for pitch in note.pitches)))
    line, cut = monophonic(notes)
    return Tune([line], cut)


def _split(tunes: Sequence[Sequence[Tune]], bars: int, seed: int) -> dict[str, Melodies]:
    """Melodies of all tunes; a tenth of the files is for validation, a tenth for the test."""
    seen: set[bytes] = set()
    of_file = []
    for file in tunes:
        found = []
        for window in (w for tune in file for line in tune.notes for w in windows(line, bars)):
            key = window.to(torch.uint8).numpy().tobytes()
            if key not in seen:
                seen.add(key)
                found.append(window)
        if found:
            of_file.append(torch.stack(found))
    held = -(-len(of_file) // 10)
    if len(of_file) < 3:
        raise InputError(
            f"{len(of_file)} of {len(tunes)} tunes have a melody of {bars} bars in 4/4; at least 3 "
            f"are needed, one for each split. Add tunes; the log lists those that were left out."
        )
    order = permutation(len(of_file), seed=seed, epoch=0, purpose="tunes").tolist()
    parts = order[2 * held :], order[:held], order[held : 2 * held]
    files = dict(zip(SPLITS, parts, strict=True))
    return {name: Melodies(torch.cat([of_file[i] for i in rows])) for name, rows in files.items()}
