"""Melodies from files: what is taken, what is left out and logged, and the recipe itself."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from pathlib import Path

import pytest
import torch
from command_line import run
from latentctl_adapters.melody_midi import monophonic, read_midi, windows, write_midi
from latentctl_adapters.melody_rewards import HOLD, REST

from latentctl.decoder.registry import load
from latentctl.errors import InputError

symusic = pytest.importorskip("symusic")

from pretrain_melody_vae import MelodyVAEFlags, build, loss_of, transposed
from support.melody.data import Melodies, MelodyDataFlags, load_melodies
from support.melody.evaluation import reconstruction_scores

STEP = 120  # ticks of a sixteenth


def tune(seed=0, bars=4):
    """A melody of quarters and eighths, other ones for each seed."""
    x = torch.full((16 * bars,), HOLD)
    for k, t in enumerate(range(0, 16 * bars, 2 if seed % 2 else 4)):
        x[t] = 60 + (3 * k * (seed + 1) + seed) % 12
    return x


def midi(path, notes=(), signs=((0, 4, 4),), drums=False):
    score = symusic.Score(4 * STEP)
    for sign in signs:
        score.time_signatures.append(symusic.TimeSignature(*sign))
    track = symusic.Track(is_drum=drums)
    for start, end, pitch in notes:
        track.notes.append(symusic.Note(start * STEP, (end - start) * STEP, pitch, 80))
    score.tracks.append(track)
    score.dump_midi(str(path))
    return path


SCALE = [(4 * k, 4 * k + 4, 60 + k) for k in range(16)]


def test_what_is_written_is_read_again(tmp_path):
    x = tune(1, bars=2)
    x[12:16] = REST
    write_midi(x, tmp_path / "a.mid", qpm=90)
    (found,) = read_midi(tmp_path / "a.mid")
    assert not found.polyphonic
    (again,) = windows(found.notes[0], 2)
    assert torch.equal(again, x)
    assert len(list(windows(found.notes[0], 1))) == 2 and not list(windows(found.notes[0], 3))


def test_a_hold_of_nothing_is_a_rest(tmp_path):
    x = torch.tensor([HOLD, HOLD, 60, HOLD, REST, HOLD, 62, 64, *[HOLD] * 8])
    write_midi(x, tmp_path / "a.mid")
    (found,) = read_midi(tmp_path / "a.mid")
    expected = torch.tensor([REST, REST, 60, HOLD, REST, REST, 62, 64, *[HOLD] * 8])
    (again,) = windows(found.notes[0], 1)
    assert torch.equal(again, expected)
    for wrong in (torch.full((4,), 130), torch.zeros(2, 4, dtype=torch.long), torch.zeros(4)):
        with pytest.raises(InputError, match="row of tokens"):
            write_midi(wrong, tmp_path / "b.mid")


def test_the_highest_of_several_notes_stays():
    chord = [(0, 4, 60), (0, 4, 64), (0, 4, 67), (4, 6, 60)]
    assert monophonic(chord) == ([(0, 4, 67), (4, 6, 60)], True)
    # a lower note under one that sounds is dropped, a higher one ends it
    assert monophonic([(0, 8, 60), (2, 4, 55)]) == ([(0, 8, 60)], True)
    assert monophonic([(0, 8, 60), (4, 6, 65)]) == ([(0, 4, 60), (4, 6, 65)], True)
    assert monophonic([(4, 8, 60), (0, 4, 65)]) == ([(0, 4, 65), (4, 8, 60)], False)
    assert monophonic([(3, 3, 60)]) == ([(3, 4, 60)], False)


def test_windows_are_a_bar_apart_and_strike_what_sounds():
    line = [(0, 12, 60), (12, 20, 62), (20, 24, 64), (24, 32, 65), (32, 48, 67)]
    first, second = windows(line, 2)
    assert first[16] == HOLD and first[12] == 62
    assert second[0] == 62 and second[1] == HOLD and second[4] == 64
    assert (second[17:] == HOLD).all() and second[16] == 67


@pytest.mark.parametrize(
    "line",
    [
        [],
        [(0, 16, 60), (16, 32, 62)],  # two notes
        [(0, 8, 60), (8, 16, 60), (16, 32, 60)],  # one pitch
        [(0, 4, 60), (4, 8, 62), (26, 32, 64)],  # a rest of more than a bar
    ],
)
def test_windows_without_a_melody_are_left_out(line):
    assert not list(windows(line, 2))


def test_only_the_bars_in_four_four_are_read(tmp_path):
    waltz = ((0, 3, 4),)
    with pytest.raises(InputError, match="no 4/4: it is in 3/4"):
        read_midi(midi(tmp_path / "waltz.mid", SCALE, waltz))
    # a bar of 3/4 first: bar lines are counted from where 4/4 starts
    (late,) = read_midi(midi(tmp_path / "late.mid", SCALE, (*waltz, (12 * STEP, 4, 4))))
    assert late.notes == [[(s - 12, e - 12, p) for s, e, p in SCALE if s >= 12]]
    assert read_midi(midi(tmp_path / "none.mid", SCALE, ()))[0].notes == [SCALE]


def folder_of_midi(path, good=6):
    for seed in range(good):
        write_midi(tune(seed), path / f"tune{seed}.mid")
    midi(path / "empty.mid")
    midi(path / "drums.mid", SCALE, drums=True)
    midi(path / "waltz.MID", SCALE, ((0, 3, 4),))
    (path / "corrupt.mid").write_bytes(b"MThd nothing of the kind")
    (path / "deeper").mkdir()
    midi(path / "deeper" / "chords.midi", [*SCALE, *((s, e, p - 7) for s, e, p in SCALE)])
    (path / "readme.txt").write_text("not music")
    return path


def test_a_folder_of_midi_files_is_read_and_what_is_left_out_is_logged(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        splits = load_melodies(MelodyDataFlags(str(folder_of_midi(tmp_path))))
    log = caplog.text
    assert "7 of 11 files are used" in log
    for words in ("2 files left out: empty", "1 files left out: corrupt", "left out: no 4/4"):
        assert words in log
    assert "waltz.MID: no 4/4: it is in 3/4" in log and "corrupt.mid" in log
    assert "1 of 7 tracks are polyphonic" in log
    assert {name: len(part) > 0 for name, part in splits.items()} == dict.fromkeys(splits, True)
    rows = [tuple(row) for part in splits.values() for row in part[:].tolist()]
    assert len(rows) == len(set(rows)), "no duplicates, in no split"
    again = load_melodies(MelodyDataFlags(str(tmp_path)))
    assert all(torch.equal(splits[name][:], again[name][:]) for name in splits)
    other = load_melodies(MelodyDataFlags(str(tmp_path)), seed=1)
    assert any(not torch.equal(splits[name][:], other[name][:]) for name in splits)
    few = load_melodies(MelodyDataFlags(str(tmp_path), max_train_samples=2))
    assert len(few["train"]) == 2 and len(few["test"]) == len(splits["test"])


def test_too_few_tunes_are_refused(tmp_path):
    midi(tmp_path / "one.mid", SCALE)
    midi(tmp_path / "empty.mid")
    with pytest.raises(InputError, match=r"1 of 1 tunes.*at least 3"):
        load_melodies(MelodyDataFlags(str(tmp_path)))


def test_a_folder_with_nothing_in_it_is_refused(tmp_path):
    with pytest.raises(InputError, match="neither MIDI files nor parquet"):
        load_melodies(MelodyDataFlags(str(tmp_path)))
    with pytest.raises(InputError, match="is not a folder"):
        load_melodies(MelodyDataFlags(str(tmp_path / "nowhere")))


def parquet(folder, rows, column="tokens", splits=("train", "validation", "test")):
    datasets = pytest.importorskip("datasets")
    for name in splits:
        datasets.Dataset.from_dict({column: rows}).to_parquet(
            str(folder / f"{name}-00000-of-00001.parquet")
        )
    return str(folder)


def test_parquet_files_are_read(tmp_path):
    rows = [tune(seed, 2).tolist() for seed in range(4)]
    splits = load_melodies(MelodyDataFlags(parquet(tmp_path, rows)))
    assert splits["test"][:].tolist() == rows and splits["train"][:].dtype == torch.int64
    with pytest.raises(InputError, match=r"--bars 16 needs 256 tokens.*\[32\]"):
        load_melodies(MelodyDataFlags(str(tmp_path), bars=16))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rows": [[130] * 32]}, "tokens outside 0 to 129"),
        ({"rows": [[60] * 32, [60] * 31]}, "31, 32"),
        ({"column": "notes"}, "column 'tokens'"),
        ({"splits": ("train",)}, "the splits train, validation, test"),
    ],
)
def test_parquet_files_of_another_kind_are_refused(change, words, tmp_path):
    options = {"rows": [tune(0, 2).tolist()] * 2, **change}
    with pytest.raises(InputError, match=words):
        load_melodies(MelodyDataFlags(parquet(tmp_path, **options)))


@pytest.mark.skipif(
    importlib.util.find_spec("music21") is not None, reason="music21 is here, so there are tunes"
)
def test_without_data_and_music21_the_message_says_what_to_give():
    with pytest.raises(InputError, match=r"--train_data_dir.*pip install music21"):
        load_melodies(MelodyDataFlags())


def test_shifts_stay_within_the_pitches():
    x = torch.stack([tune(seed, 2) for seed in range(12)])
    x[5] = REST
    u = torch.linspace(0, 0.999, 12).unsqueeze(1)
    notes = x < HOLD
    low, high = int(x.min()), int(x[notes].max())
    y = transposed(x, u, 5, (low, high + 2))
    assert torch.equal(y[~notes], x[~notes]) and torch.equal(y[5], x[5])
    assert int(y.min()) >= low and int(y[notes].max()) <= high + 2
    shifts = (y - x)[notes].unique()
    assert len(shifts) > 3 and shifts.abs().max() <= 5
    one = (y - x)[0][notes[0]].unique()
    assert len(one) == 1, "a melody is shifted as a whole"
    assert torch.equal(transposed(x, u, 0, (0, 127)), x)
    free = transposed(x, u, 5, (0, 127))
    assert {-5, 5} <= set((free - x)[notes].tolist())


def test_wrong_shares_are_refused():
    for wrong in ({"token_dropout": 1.2}, {"beta": -1.0}, {"scheduled_sampling": float("nan")}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            MelodyVAEFlags(**wrong).check()


def test_schedules_reach_the_loss():
    from latentctl.training import Step

    flags = MelodyVAEFlags(latent_size=8, encoder_size=8, decoder_size=8, embedding=8)
    flags.vae_train_steps, flags.transpose, flags.scheduled_sampling = 100, 3, 1.0
    model = build(flags, 2)
    loss = loss_of(model, flags, (40, 90))
    x = torch.stack([tune(seed, 2) for seed in range(4)])

    def at(index):
        value, parts = loss(x, Step(seed=0, index=index, start=0, count=4, total=4))
        return value.item() - parts["nll"].item(), parts["kl"].item()

    for index, beta in ((0, 0.0), (15, 0.075), (30, 0.15), (90, 0.15)):
        paid, kl = at(index)
        assert paid == pytest.approx(beta * kl, rel=1e-3, abs=1e-4)


def test_more_bars_have_a_conductor():
    assert build(MelodyVAEFlags(), 2).decoder.conductor is None
    assert build(MelodyVAEFlags(), 4).decoder.segments == 4
    assert build(MelodyVAEFlags(conductor_size=0), 4).decoder.segments == 1


def test_the_recipe_trains_saves_and_prints_its_scores(tmp_path):
    data = tmp_path / "midi"
    data.mkdir()
    folder_of_midi(data, good=10)
    out = tmp_path / "out"
    sizes = "--latent_size 8 --embedding 8 --encoder_size 8 --decoder_size 8 --vae_batch_size 4"
    steps = "--vae_train_steps 6 --validation_steps 3 --transpose 2"
    place = ["--train_data_dir", data, "--output_dir", out]
    done = run("pretrain_melody_vae.py", place, sizes, steps, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "held-out melodies" in done.stdout and "are polyphonic" in done.stderr
    results = json.loads((out / "results.json").read_text())
    assert 0 <= results["greedy"] <= 1 and results["nll"] > 0
    assert json.loads((out / "flags.json").read_text())["vae"]["transpose"] == 2
    lines = (out / "training" / "validation.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3, 6]
    assert (out / "training" / "metrics.jsonl").is_file()
    decoder = load("melody-vae", pretrained_model_name_or_path=out / "model")
    assert decoder.sample_shape == (32,) and decoder.latent_shape == (8,)


def test_the_recipe_goes_on_from_a_saved_model(tmp_path):
    from latentctl_adapters.melody_vae import MelodyVAE
    from pretrain_melody_vae import Flags, main
    from support.run import RunFlags

    for seed in range(4):
        write_midi(tune(seed), tmp_path / f"{seed}.mid")
    small = {"latent_size": 8, "encoder_size": 8, "decoder_size": 8, "embedding": 8}
    first = build(MelodyVAEFlags(**small), 2)
    first.save_pretrained(tmp_path / "first")
    flags = Flags(
        RunFlags(output_dir=str(tmp_path / "out"), num_threads=1),
        MelodyDataFlags(str(tmp_path)),
        MelodyVAEFlags(
            pretrained_model_name_or_path=str(tmp_path / "first"),
            vae_train_steps=1,
            vae_learning_rate=1e-5,
            vae_batch_size=2,
        ),
    )
    assert 0 <= main(flags)["greedy"] <= 1
    second = MelodyVAE.from_pretrained(tmp_path / "out" / "model")
    assert second.config == first.config
    a, b = first.decoder.head.weight, second.decoder.head.weight
    assert not torch.equal(a, b) and torch.allclose(a, b, atol=1e-4)
    flags.data.bars = 4
    with pytest.raises(InputError, match="2 bars"):
        main(flags)


def test_measures_are_those_of_the_melodies():
    flags = MelodyVAEFlags(latent_size=8, encoder_size=8, decoder_size=8, embedding=8)
    model = build(flags, 2).eval()
    x = Melodies(torch.stack([tune(seed, 2) for seed in range(5)]))[:]
    found = reconstruction_scores(model, x)
    with torch.no_grad():
        assert found["greedy"] == pytest.approx((model(x) == x).float().mean().item())
    assert found["exact"] == 0 and found["teacher_forced"] < 1
    same = reconstruction_scores(model, model(x).detach())
    assert same["nll"] < found["nll"]


@pytest.mark.data
@pytest.mark.skipif("LATENTCTL_DATA" not in os.environ, reason="LATENTCTL_DATA is not set")
@pytest.mark.parametrize("bars", [2, 16])
def test_the_real_melodies_are_read(bars):
    pytest.importorskip("datasets")
    source = Path(os.environ["LATENTCTL_DATA"]) / f"melody{bars}bar"
    splits = load_melodies(MelodyDataFlags(str(source), bars=bars, max_train_samples=100))
    assert len(splits["train"]) == 100 and len(splits["test"]) > 2000
    x = splits["test"][:]
    assert x.shape[1] == 16 * bars
    after_rest = (x[:, 1:] == HOLD) & (x[:, :-1] == REST)
    assert not after_rest.any() and (x < HOLD).any(1).all()
