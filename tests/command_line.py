"""Recipes run by their command lines, in this process or in one of their own."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from support.run import run as command

RECIPES = Path(__file__).parents[1] / "recipes"


def words_of(flags):
    """The words of a command: lists are taken as they are, anything else is split. One thread."""
    parts = [f if isinstance(f, list) else str(f).split() for f in (*flags, "--num_threads 1")]
    return [str(word) for part in parts for word in part]


def run(recipe, *flags, cwd):
    """A recipe in this process: what its command line prints, and how it ends."""
    module = importlib.import_module(recipe.removesuffix(".py"))
    AcceleratorState._reset_state(reset_partial_state=True)
    words, root, code = [recipe, *words_of(flags)], logging.getLogger(), 0
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.chdir(cwd)
        patch.setattr(sys, "argv", words)
        patch.setenv("COLUMNS", "100")
        patch.setattr(root, "handlers", [])
        patch.setattr(root, "level", root.level)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                command(module.main, module.Flags)
            except SystemExit as end:
                code = end.code or 0
    if isinstance(code, str):  # Python prints it
        err.write(code)
        code = 1
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def launch(recipe, *flags, cwd, by=("-m", "accelerate.commands.launch", "--cpu")):
    """A recipe in a process of its own, with nothing from the network and one thread."""
    by = [*by, "--num_processes", "1"] if by else []
    return subprocess.run(
        [sys.executable, *by, str(RECIPES / recipe), *words_of(flags)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def done(result):
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout + result.stderr


def refused(result, *parts):
    """The run ends with an error, and its last words say what was wrong and what to do."""
    assert result.returncode != 0
    last = result.stderr.strip()[-1500:]
    for part in parts:
        assert part in last, last
