"""Milliseconds from a slider to the picture in the studio, its first page, and several visitors.

Starts `latentctl studio` on the drawn faces, and drives it in headless Chromium, which needs
`pip install playwright` and `apt-get install chromium`.

    python -m benchmarks.systems.studio
    python -m benchmarks.systems.studio --visitors 8 --seconds 120

Prints a JSON object. Of a move, `total` is from the event of the slider until the frame after the
picture is decoded; `ours` is the edit, the receipt and the PNG files; `gradio` the rest of the
request, and `browser` everything outside the request. `server_cpu` is the CPU time of the server,
which does not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from playwright.sync_api import Page, sync_playwright

PORT = 7950
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
MOVED = ("Smiling", "Eyeglasses", "Male", "Bangs", "Young", "Wearing_Hat")
MOVE = """async ([name, value]) => {
  const slider = document.querySelector(`#attributes .row[data-name=${name}] input`);
  const stage = document.querySelector('.stage');
  const picture = stage.querySelector('[data-of=after]');
  performance.clearResourceTimings();
  const shown = new Promise((done) => stage.addEventListener('shown', done, {once: true}));
  const late = new Promise((_, fail) => setTimeout(() => fail(new Error('no picture')), 30000));
  const began = performance.now();
  slider.value = value;
  slider.dispatchEvent(new Event('input', {bubbles: true}));
  await Promise.race([shown, late]);
  await picture.decode();
  await new Promise((done) => requestAnimationFrame(done));
  const total = performance.now() - began;
  const asked = performance.getEntriesByType('resource').filter((e) => e.name.includes('/run/'));
  const request = asked.reduce((sum, e) => sum + e.responseEnd - e.startTime, 0);
  const ours = 1000 * Number(stage.dataset.seconds);
  return {total, ours, gradio: request - ours, browser: total - request, requests: asked.length};
}"""


@contextlib.contextmanager
def served() -> Iterator[tuple[int, dict[str, float]]]:
    """The process of a studio, and the seconds until its pages answered."""
    began, seconds = time.perf_counter(), {}
    command = [sys.executable, "-m", "latentctl.cli", "studio", "--no_browser"]
    process = subprocess.Popen([*command, "--port", str(PORT)], stdout=subprocess.DEVNULL)
    try:
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                answer = urllib.request.urlopen(address(), timeout=5)
                page = "waiting_page" if "X-Waiting" in answer.headers else "controls"
                seconds.setdefault(page, round(time.perf_counter() - began, 2))
                if page == "controls":
                    break
            if process.poll() is not None:
                raise SystemExit("the studio ended")
            time.sleep(0.05)
        yield process.pid, seconds
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def address() -> str:
    return f"http://127.0.0.1:{PORT}/"


def opened(page: Page) -> Page:
    """The page, once its sliders and its picture are there."""
    page.set_default_timeout(300_000)
    page.goto(address())
    page.wait_for_selector("#attributes .row")
    page.wait_for_selector("[data-of=after][src^=data]")
    return page


def spread(values: list[float]) -> dict[str, float]:
    parts = quantiles(values, n=20)
    return {"median": round(median(values), 1), "p95": round(parts[-1], 1)}


def cpu(pid: int) -> float:
    """Milliseconds of CPU that a process has spent."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return 1000 * (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def moves(page: Page, count: int, pid: int) -> dict[str, Any]:
    """The times of `count` moves of sliders, one after the other."""
    choice = random.Random(0)
    rows = []
    for number in range(count + 5):
        spent = cpu(pid)
        found = page.evaluate(MOVE, [choice.choice(MOVED), round(choice.random(), 2)])
        found["server_cpu"] = cpu(pid) - spent
        if number >= 5:  # the first ones warm up
            rows.append(found)
        if number % 10 == 9:  # another face, no attribute requested
            place = number // 10 % 24
            page.locator("#gallery button").nth(place).click()
            page.locator("#stage-box", has_text=f"picture {place + 1}").first.wait_for()
            page.wait_for_timeout(300)
    return {part: spread([row[part] for row in rows]) for part in rows[0]}


def resident(pid: int) -> float:
    """Resident memory of a process in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def visitors(browser: Any, pid: int, count: int, seconds: float) -> dict[str, Any]:
    """Several visitors, each on a picture of their own: errors, mixed-up pages and memory."""
    first = opened(browser.new_page())
    moves(first, 20, pid)
    first.close()
    time.sleep(5)
    before = resident(pid)
    pages = [opened(browser.new_page()) for _ in range(count)]
    broken: list[str] = []
    for place, page in enumerate(pages):
        page.on("pageerror", lambda error: broken.append(str(error)))
        page.locator("#gallery button").nth(place).click()
        page.locator("#stage-box", has_text=f"picture {place + 1}").first.wait_for()
    choice, made, wrong, peak = random.Random(1), 0, 0, before
    end = time.monotonic() + seconds
    drag = f"(moves) => Promise.all(moves.map(({MOVE})))"
    while time.monotonic() < end:
        for place, page in enumerate(pages):
            request = [[choice.choice(MOVED), round(choice.random(), 2)]]
            page.evaluate(drag, request)
            made += 1
            wrong += not page.locator("#stage-box").inner_text().count(f"picture {place + 1}\n")
            wrong += page.locator("[role=alert]").count()
        peak = max(peak, resident(pid))
    for page in pages:
        page.close()
    time.sleep(90)  # gradio drops the states of closed tabs
    memory = {"before": before, "peak": peak, "after": resident(pid)}
    rounded = {key: round(value) for key, value in memory.items()}
    return {"moves": made, "wrong": wrong, "errors": broken, "memory_MiB": rounded}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moves", type=int, default=60)
    parser.add_argument("--visitors", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=120)
    flags = parser.parse_args()
    with served() as (pid, answered), sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        began = time.perf_counter()
        page = opened(chromium.new_page(viewport={"width": 1280, "height": 900}))
        found: dict[str, Any] = {
            "load": os.getloadavg()[0],
            "seconds_after_the_command": answered,
            "seconds_of_the_page_in_the_browser": round(time.perf_counter() - began, 2),
        }
        if flags.visitors:
            page.close()
            found |= visitors(chromium, pid, flags.visitors, flags.seconds)
        else:
            found |= {"milliseconds": moves(page, flags.moves, pid)}
        chromium.close()
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
