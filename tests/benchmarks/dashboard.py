"""How long the dashboard's viewer takes to open a CT in a browser, and how fast it goes through the slices.

python -m tests.benchmarks.dashboard --quick      # 256 x 256 x 150 voxels; without: 512 x 512 x 300

The browser is headless Chromium, mostly with WebGL in software (SwiftShader), which a graphics card does many times as fast.
A picture counts as drawn when a pixel of it was read back. The last line is JSON: ratios to the goals (at most 1 is wanted),
the goals themselves, and whether all were met.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import urllib.request
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
from playwright.sync_api import sync_playwright

from medssl.datasets.index import index
from medssl.preprocessing.cache import Cache, prepare
from medssl.studies import masks
from tests.apps.reading import use_scans
from tests.apps.test_browser import CHROMIUM, FLAGS, VIEWER, Dashboard, serve, tick
from tests.reporting.test_report import make_study

SHAPE, QUICK_SHAPE = (512, 512, 300), (256, 256, 150)
GOALS = {"open a CT, s": 3.0, "a slice, s": 1 / 20}
SLICES = 40
# The pictures of all views, once they are drawn: reading a pixel waits for it.
DRAWN = """root => {
  for (const canvas of root.querySelectorAll('.frame canvas:not(.lines)')) {
    const gl = canvas.getContext('webgl2');
    gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
  }
}"""
SCROLLED = f"""async (root, [slices, key]) => {{
  const drawn = {DRAWN};
  const started = performance.now();
  for (let n = 0; n < slices; n++) {{
    root.dispatchEvent(new KeyboardEvent('keydown', {{ key, bubbles: true, composed: true }}));
    drawn(root);
    await new Promise(requestAnimationFrame);
  }}
  return (performance.now() - started) / slices / 1000;
}}"""


def body(shape: tuple[int, int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A noisy cylinder of soft tissue with a ball in it, in HU, and the mask of the ball."""
    x, y, z = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    across = x[:, None, None] ** 2 + y[None, :, None] ** 2
    ball = across + (z**2)[None, None, :] < 0.1
    noise = np.random.default_rng(seed).integers(-25, 25, shape, dtype=np.int16)
    return np.where(across < 0.7, 40 + noise + 60 * ball, -1000).astype(np.int16), ball.astype(np.uint8)


def make(folder: Path, shape: tuple[int, int, int]) -> Cache:
    """A study of two such scans, of which one arm saved masks, and the cache of the scans."""
    affine = np.diag([350 / shape[0], 350 / shape[1], 300 / shape[2], 1])
    (folder / "scans").mkdir()
    (folder / "masks").mkdir()
    names = ["a", "b"]
    for seed, name in enumerate(names):
        for kind, array in zip(("scans", "masks"), body(shape, seed), strict=True):
            nibabel.save(nibabel.Nifti1Image(array, affine), folder / kind / f"{name}.nii")
    labels = folder / "labels.csv"
    pd.DataFrame({"file": [f"{name}.nii" for name in names], "patient": names}).to_csv(labels, index=False)
    about = {"labels": labels, "patient": "patient", "mask": "../masks/{name}", "modality": "CT"}
    index([folder / "scans"], folder / "manifest", **about)
    cache = prepare(folder / "manifest", folder / "cache", spacing_mm=tuple(np.diag(affine)[:3]))
    scans = use_scans(make_study(folder / "runs"), cache)
    for scan in scans:
        masks.write(folder / "runs/hippo/cells/scratch-1p-0", {scan: np.roll(cache.read_mask(scan), 4, axis=0)})
    return cache


def measure(folder: Path, cache: Cache) -> dict[str, float]:
    """Open one case, then the other, and go through its slices."""
    (folder / "watch").mkdir()
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = chromium.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(300_000)
        for url, _ in serve(folder / "runs", cache.path, folder / "watch"):
            opened = Dashboard(page, url)
            page.on("request", lambda request, kept=opened.requests: kept.append(request.url))
            opened.open("cases?study=hippo&budget=1p", VIEWER)
            before = page.locator(VIEWER).get_attribute("data-opened-of")
            started = time.perf_counter()
            tick(page, 1)
            page.locator(f'{VIEWER}:not([data-opened-of="{before}"])').evaluate(DRAWN)
            times = {"open a CT, s": time.perf_counter() - started}
            root = page.locator(VIEWER)
            for name, layout in (("a slice, s", "axial"), ("a slice in three planes, s", "planes")):
                root.locator("select").first.select_option(layout)
                root.evaluate(SCROLLED, [3, "ArrowDown"])
                times[name] = root.evaluate(SCROLLED, [SLICES, "ArrowUp"])
            times["another window, s"] = root.evaluate(SCROLLED, [2, "2"])
            (first, *_) = [address for address in opened.requests if "/volumes/" in address]
            started = time.perf_counter()
            urllib.request.urlopen(first).read()
            times["the bytes of a CT alone, s"] = time.perf_counter() - started
        chromium.close()
    return times


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    shape = QUICK_SHAPE if parser.parse_args().quick else SHAPE
    with tempfile.TemporaryDirectory() as folder:
        times = measure(Path(folder), make(Path(folder), shape))
    print(f"{' x '.join(map(str, shape))} voxels: " + ", ".join(f"{name} {value:.3f}" for name, value in times.items()))
    ratios = {name: round(times[name] / goal, 3) for name, goal in GOALS.items()}
    met = all(ratio <= 1 for ratio in ratios.values())
    print(json.dumps({"ratios": ratios, "goals": GOALS, "met": met}))


if __name__ == "__main__":
    main()
