"""A recipe as a command: it holds its folder, says when a disk is full, and quotes formulas."""

from __future__ import annotations

import csv
import errno
import json
import os
import sys
from dataclasses import dataclass, field

import pytest
from faults import draws
from support.edit_identity.receipts import write_receipts
from support.run import OutputFlags, RunFlags, run

from latentctl.errors import InputError
from latentctl.storage.lock import held


@dataclass
class Flags:
    """A recipe with a run."""

    run: RunFlags = field(default_factory=lambda: RunFlags(output_dir="out"))


@pytest.fixture(params=[Flags, OutputFlags])
def command(request, tmp_path, monkeypatch):
    """A call of a recipe in a folder."""
    monkeypatch.setattr(sys, "argv", ["recipe", "--output_dir", str(tmp_path / "out")])
    monkeypatch.delenv("RANK", raising=False)
    return lambda main: run(main, request.param)


def test_a_recipe_holds_its_folder(command, tmp_path):
    def main(flags):
        with pytest.raises(SystemExit, match=f"in use: process {os.getpid()} on"):
            command(lambda flags: pytest.fail("two runs in one folder"))
        (tmp_path / "out" / "result").touch()

    command(main)
    assert os.listdir(tmp_path / "out") == ["result"]
    with held(tmp_path / "out"):
        pass


def test_what_ends_a_recipe_is_one_sentence_and_an_empty_folder_is_removed(command, tmp_path):
    def full(flags):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "report.html")

    def wrong(flags):
        raise InputError("A flag is wrong.")

    def bug(flags):
        raise FileNotFoundError(errno.ENOENT, "of our own making")

    with pytest.raises(SystemExit, match=r"not written: .*report.html.*--output_dir"):
        command(full)
    with pytest.raises(SystemExit, match=r"InputError: A flag is wrong"):
        command(wrong)
    with pytest.raises(FileNotFoundError):
        command(bug)
    assert os.listdir(tmp_path) == []


FORMULAS = (
    *('=HYPERLINK("http://example.org","x")', "=1+1", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1"),
    *(" =1+1", "\n=1", "＝1+1", '=cmd|"/c calc"!A0', "-Smiling"),
)


def test_formulas_in_receipts_are_neutralised(tmp_path):
    draw, tried = draws("receipts"), 0
    for number in range(40):
        names = draw.sample(FORMULAS, 3)
        rows = [
            {
                "face": names[0],
                "request": names[1],
                f"after_{number}": -0.5,
                names[2]: 1.5,
                "n": None,
            }
            for _ in range(2)
        ]
        write_receipts(tmp_path, rows)
        with open(tmp_path / "receipts.csv", newline="", encoding="utf-8") as file:
            table = list(csv.reader(file))
        for cell in (cell for row in table for cell in row):
            number_like = cell in ("-0.5", "1.5", "")
            assert number_like or cell.startswith("'") or cell.lstrip()[:1] not in "=+-@＝"
        assert [row[2] for row in table[1:]] == ["-0.5", "-0.5"] and table[1][0] == f"'{names[0]}"
        assert json.loads((tmp_path / "receipts.json").read_text()) == rows
        tried += len(names)
    print(f"{tried} formulas")
    assert tried == 120
