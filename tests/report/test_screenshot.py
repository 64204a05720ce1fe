"""The page in a real browser: laid out, readable on a phone, dark where the reader wants dark.

`GGSURGERY_SCREENSHOTS=folder` keeps the pictures for a person to look at.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest

from ggsurgery.report.compute import compute_report
from ggsurgery.report.html import render_html
from tests._needs import needs_program
from tests.report.samples import figures, three_models

BROWSER = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]

#: Tells the widths of the page, written into its title by the browser itself.
PROBE = """
<script>addEventListener("load", () => {
  const small = [...document.querySelectorAll("svg text")]
    .map(t => t.getBoundingClientRect().height);
  document.title = JSON.stringify({page: document.documentElement.scrollWidth,
    window: innerWidth, text: Math.min(...small),
    ground: getComputedStyle(document.body).backgroundColor,
    ink: getComputedStyle(document.body).color});
});</script>
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render_html(compute_report(three_models(), plots=[*figures()])))
    return path


def browse(page: Path, *options: str) -> str:
    chromium = needs_program("chromium")
    profile = page.parent / "profile"
    done = subprocess.run(
        [chromium, *BROWSER, f"--user-data-dir={profile}", *options, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    return done.stdout


def picture(path: Path) -> np.ndarray:
    """Pixels [height, width, 3 or 4] of an 8-bit PNG."""
    raw = path.read_bytes()
    at, data, width, height, channels = 8, b"", 0, 0, 3
    while at < len(raw):
        size, kind = struct.unpack(">I4s", raw[at : at + 8])
        body = raw[at + 8 : at + 8 + size]
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack(">IIBB", body[:10])
            assert depth == 8
            channels = {2: 3, 6: 4}[colour]
        elif kind == b"IDAT":
            data += body
        at += size + 12
    lines = np.frombuffer(zlib.decompress(data), np.uint8).reshape(height, 1 + width * channels)
    out = np.zeros((height, width * channels), np.uint8)
    for y, line in enumerate(lines):  # undo the line filters of PNG
        out[y] = unfilter(int(line[0]), line[1:], out[y - 1] if y else out[0] * 0, channels)
    return out.reshape(height, width, channels)


def unfilter(kind: int, line: np.ndarray, above: np.ndarray, step: int) -> np.ndarray:
    if kind == 0:
        return line
    if kind == 2:
        return line + above
    out = line.astype(int)
    up = above.astype(int)
    for i in range(len(out)):
        left = out[i - step] if i >= step else 0
        corner = up[i - step] if i >= step else 0
        if kind == 1:
            guess = left
        elif kind == 3:
            guess = (left + up[i]) // 2
        else:
            p = left + up[i] - corner
            guess = min((left, up[i], corner), key=lambda v: abs(p - v))
        out[i] = (out[i] + guess) & 255
    return out.astype(np.uint8)


@pytest.mark.parametrize(("name", "width", "dark"), [("desk", 1100, False), ("phone", 390, True)])
def test_page_in_a_browser(page, tmp_path, name, width, dark):
    probed = page.with_name(f"{name}.html")
    # the browser's own switch for a dark page; the window of a headless Chromium has no phone
    # mode, so the phone is an inner frame of its width
    inner = page.read_text().replace("</body>", PROBE + "</body>")
    probed.write_text(inner)
    options = ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if dark else []
    frame = page.with_name(f"{name}-frame.html")
    frame.write_text(
        f'<body style="margin:0"><iframe src="{probed.name}" width="{width}" height="3000" '
        'style="border:0" onload="setTimeout(() => document.title = '
        'this.contentDocument.title)"></iframe>'
    )
    told = browse(
        frame,
        *options,
        "--allow-file-access-from-files",
        "--virtual-time-budget=3000",
        "--dump-dom",
    )
    found = re.search(r"<title>(.*?)</title>", told)
    assert found is not None, told[:500]
    facts = json.loads(html.unescape(found.group(1)))
    assert facts["page"] <= facts["window"] == width  # nothing sticks out sideways
    assert facts["text"] >= 9  # px: the plots' text stays legible
    ground, ink = (sum(map(int, re.findall(r"\d+", facts[k])[:3])) for k in ("ground", "ink"))
    assert (ground < ink) is dark
    assert abs(ground - ink) > 400  # contrast of 765 at most

    shot = tmp_path / f"{name}.png"
    browse(
        frame,
        *options,
        "--allow-file-access-from-files",
        f"--window-size={width},3000",
        f"--screenshot={shot}",
        "--virtual-time-budget=3000",
    )
    pixels = picture(shot)[..., :3].astype(int)
    assert pixels.shape[1] == width
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20  # something is drawn
    assert bool(pixels[20:40].mean() < 128) is dark
    if folder := os.environ.get("GGSURGERY_SCREENSHOTS"):
        shutil.copy(shot, folder)
