"""The helpers that every benchmark prints and writes its results with."""

from __future__ import annotations

import sys

import pytest
import torch
from accelerate.utils import parse_flag_from_env

from benchmarks.shared.run import BaseFlags, by_name, in_turns, read, run, table, write


def test_benchmarks_fit_on_the_cpu_beside_a_device_too(monkeypatch, tmp_path):
    pytest.importorskip("tyro")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "false")  # restored afterwards
    monkeypatch.setattr(sys, "argv", ["bench", "--output_dir", str(tmp_path)])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    found = []
    run(lambda flags: found.append(parse_flag_from_env("ACCELERATE_USE_CPU")), BaseFlags)
    assert found == [True]


def test_a_table_of_several_seeds_has_means_and_ranges():
    runs = [[{"name": "ours", "fid": fid, "f1": None}] for fid in (1.0, 2.0)]
    assert by_name(runs) == [{"name": "ours", "fid": [1.0, 2.0], "f1": [None, None]}]
    assert table(by_name(runs), {"name": "", "fid": "Frechet", "f1": "F1"}).splitlines() == [
        "|  | Frechet | F1 |",
        "|---|---|---|",
        "| ours | 1.500 (1.000-2.000) |  |",
    ]


def test_numbers_keep_their_leading_digits():
    row = {"name": "a", "small": 1.25e-7, "unit": 0.5, "large": 123.456, "count": 3}
    assert table([row]).splitlines()[-1] == "| a | 1.2e-07 | 0.500 | 123.5 | 3 |"


def test_files_are_read_in_the_order_of_their_names(tmp_path):
    for seed in (1, 0):
        write(tmp_path / "runs" / f"faces-{seed}.json", {"seed": seed})
    assert [run["seed"] for run in read(tmp_path / "runs", "faces-*.json")] == [0, 1]


def test_contenders_run_in_turns():
    calls: list[str] = []
    contenders = {name: lambda name=name: calls.append(name) or name for name in "ab"}
    results, seconds = in_turns(contenders, rounds=3)
    assert results == {"a": "a", "b": "b"} and len(seconds["a"]) == 3
    assert sorted(calls) == 4 * ["a"] + 4 * ["b"] and calls[2:4] != calls[4:6]
