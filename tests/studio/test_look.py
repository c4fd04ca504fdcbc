"""The colours of the studio: contrast by WCAG 2.1, AA."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import latentctl.studio

CSS = (Path(latentctl.studio.__file__).parent / "web" / "studio.css").read_text()
COLOURS = dict(re.findall(r"--studio-([\w-]+): (#[0-9a-f]{6});", CSS))


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("text", ["ink", "soft", "accent", "good", "bad"])
@pytest.mark.parametrize("ground", ["paper", "ground"])
def test_text_can_be_read(text, ground):
    assert contrast(COLOURS[text], COLOURS[ground]) >= 4.5


def test_marks_and_thumbs_can_be_seen():
    assert contrast(COLOURS["warn"], COLOURS["warn-soft"]) >= 4.5
    for thumb in re.findall(r"border: 2px solid (#[0-9a-f]{6})", CSS):
        assert contrast(thumb, COLOURS["paper"]) >= 3
