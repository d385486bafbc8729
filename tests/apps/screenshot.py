"""The picture of the dashboard in the README: its first page on the demo's study.

make screenshot
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.apps.test_browser import CHROMIUM, FLAGS, Dashboard, serve


def screenshot(study: Path, cache: Path, out: Path) -> None:
    """Write the first page, as a browser draws it, as a PNG of 256 colours."""
    with tempfile.TemporaryDirectory() as watch, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = chromium.new_page(viewport={"width": 1180, "height": 860})
        for url, _ in serve(study, cache, Path(watch)):
            Dashboard(page, url).open("", ".js-plotly-plot .point")
            page.screenshot(path=out)
        chromium.close()
    Image.open(out).convert("RGB").quantize(256).save(out, optimize=True)


if __name__ == "__main__":
    screenshot(*(Path(name) for name in sys.argv[1:]))
