"""The dashboard in a real browser, on a study of the phantom cohort: what it draws, what it requests, whom it admits."""

import base64
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medssl.core import runs
from medssl.preprocessing.cache import Cache
from medssl.reporting.dashboard.cases import worst_first
from medssl.reporting.findings import findings
from medssl.reporting.html.report import report
from medssl.reporting.style import interval, scoped_arm
from medssl.reporting.widgets import WORD_JOINER
from medssl.studies.settings import StudyDesign
from medssl.studies.study import study
from medssl.training.config import FinetuneConfig
from tests.apps.hostile import HOSTILE, rename_arm
from tests.reporting.test_report import make_study, record

CHROMIUM = next((path for path in ("/usr/bin/chromium", "/usr/bin/chromium-browser") if Path(path).exists()), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium: apt-get install chromium"),
    pytest.mark.skipif(
        importlib.util.find_spec("playwright") is None, reason="needs playwright: pip install playwright"
    ),
]
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--use-angle=swiftshader",
    "--disable-background-networking",
    "--host-resolver-rules=MAP foreign.example 127.0.0.1",
]
PATIENCE_MS = 60_000
VIEWER = ".viewer[data-opened]"  # has fetched the scan and drawn it
STILLS = "cases?study=seg&stills=yes"
A4_PX = round((210 - 2 * 12) / 25.4 * 96)  # the width of a page between its margins
# Writes down every address that the server process connects to or resolves.
WATCH = """
import os, sys
def watch(event, details):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        with open(os.environ["MEDSSL_WATCH"], "a") as file:
            print(event, details[1] if event != "socket.getaddrinfo" else details[:2], file=file)
sys.addaudithook(watch)
"""


# A table is drawn on a canvas; the cells for screen readers lie beneath it: one list a row.
GRID = (
    "[...document.querySelectorAll('[data-testid=stDataFrame] canvas tr')].map(r => [...r.cells].map(c => c.innerText))"
)

NUMBERS = {
    "score": "metrics.dice",
    "draw": "config.draw",
    "seconds": "cost.seconds",
    "peak memory, MiB": "cost.peak_memory_mib",
    "samples/s": "cost.samples_per_s",
}


@dataclass
class Dashboard:
    """A page of the dashboard, with every request it made and every error on its console.

    Streamlit's client looks for its server below a page's own address first, so that it also runs below a prefix. Behind
    an address such as /cases the server answers 404 to that, and the browser logs it: this is no error of the dashboard.
    """

    page: object
    url: str
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def open(self, address: str, wait_for: str):
        self.page.goto(f"{self.url}/{address}")
        self.page.wait_for_selector(wait_for)
        self.settle()
        return self.page

    def note(self, line) -> None:
        """Keep a line of the console if it is an error."""
        address = line.location["url"]
        probe = "404" in line.text and re.fullmatch(rf"{self.url}/[a-z_]+/_stcore/(health|host-config)", address)
        if line.type == "error" and not probe:
            self.errors.append(f"{line.text} {address}")

    def settle(self) -> None:
        """Until the app has run to its end."""
        self.page.wait_for_timeout(300)
        self.page.wait_for_selector("[data-testid=stStatusWidget]", state="detached")
        self.page.wait_for_timeout(200)

    @property
    def outside(self) -> list[str]:
        return [
            url
            for url in self.requests
            if not url.startswith((self.url, "data:", "blob:", self.url.replace("http", "ws")))
        ]


@pytest.fixture(scope="module")
def phantom_study(cache: Cache, pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs: studies of segmentation and of classification of the phantom cohort."""
    root = tmp_path_factory.mktemp("dashboard")
    shared = {"crop": (16, 16, 16), "train": FinetuneConfig(steps=3, batch_size=2), "design": StudyDesign(draws=1)}
    study(cache.path, root / "seg", "segmentation", ["scratch", str(pretrained)], ["1p", "100%"], **shared)
    arms = ["scratch", "random-frozen"]
    study(cache.path, root / "class", "classification", arms, ["3p"], label="lesion", **shared)
    return root


@pytest.fixture(scope="module")
def served(phantom_study: Path, cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    yield from serve(phantom_study, cache.path, tmp_path_factory.mktemp("watch"))


def serve(root: Path, data: Path, watch: Path, *options: str) -> Iterator[tuple[str, Path]]:
    """Run the command in a process of its own; yield its address and the file of its connections."""
    (watch / "sitecustomize.py").write_text(WATCH)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = os.pathsep.join([str(watch), str(Path(__file__).parent.parent.parent)])
    environment = os.environ | {"PYTHONPATH": path, "MEDSSL_WATCH": str(watch / "connections.txt"), "HOME": str(watch)}
    command = [sys.executable, "-W", "ignore", "-m", "medssl.cli.main", "review", str(root)]
    command += ["--data", str(data), "--port", str(port), *options]
    (watch / "connections.txt").touch()
    server = subprocess.Popen(command, cwd=watch, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        wait_for_port(port, server)
        yield f"http://127.0.0.1:{port}", watch / "connections.txt"
    finally:
        server.terminate()
        server.wait(30)


def outside_connections(connections: Path) -> list[str]:
    return [line for line in connections.read_text().splitlines() if "127.0.0.1" not in line]


def wait_for_port(port: int, server: subprocess.Popen) -> None:
    for _ in range(600):
        assert server.poll() is None, server.stdout.read().decode()
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError("the dashboard did not listen within two minutes")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def dashboard(browser, served) -> Iterator[Dashboard]:
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(PATIENCE_MS)
    opened = Dashboard(page, served[0])
    page.on("request", lambda request: opened.requests.append(request.url))
    page.on("websocket", lambda socket: opened.requests.append(socket.url))
    page.on("console", opened.note)
    page.on("pageerror", lambda error: opened.errors.append(str(error)))
    yield opened
    page.close()


def test_every_page_renders_and_requests_nothing_outside(dashboard: Dashboard, served, phantom_study: Path) -> None:
    page = dashboard.open("?study=seg", ".js-plotly-plot .point")
    summary = pd.read_parquet(phantom_study / "seg" / "summary.parquet").query("metric == 'dice'")
    assert page.locator("h4").inner_text() == findings(summary, "Dice")[0]
    traces = page.evaluate("document.querySelector('.js-plotly-plot')._fullData.map(t => [t.name, Array.from(t.y)])")
    means = {
        scoped_arm(arm, "finetune", rows["pretraining_runs"].max()): rows.sort_values("patients")["mean"].tolist()
        for arm, rows in summary.groupby("arm")
    }
    assert {name: pytest.approx(y) for name, y in traces} == means
    text = page.inner_text(".stMain")
    for row in summary.itertuples():
        assert f"{row.mean:.3f}" in text
        assert interval(row.low, row.high) in text
    for name, wait_for in (
        ("Compare", ".js-plotly-plot .point"),
        ("Runs", "[data-testid=stDataFrame]"),
        ("Cases", VIEWER),
        ("Label efficiency", "h4"),
    ):
        page.get_by_role("link", name=name).click()
        page.wait_for_selector(wait_for)
        dashboard.settle()
    page = dashboard.open("cases?study=class", VIEWER)
    page.wait_for_selector(".case .bar")
    assert page.locator(".case .bar").count() == 2 * 2
    print(
        json.dumps({"requests": len(dashboard.requests), "outside": len(dashboard.outside), "errors": dashboard.errors})
    )
    assert dashboard.outside == []
    assert len(dashboard.requests) > 20
    assert dashboard.errors == []
    assert outside_connections(served[1]) == []


def test_the_run_table_and_the_comparison(dashboard: Dashboard, phantom_study: Path) -> None:
    page = dashboard.open("runs", "[data-testid=stDataFrame]")
    table = runs.table(phantom_study)
    assert page.locator("[data-testid=stMetricValue]").first.inner_text() == str(len(table))
    head, *rows = page.evaluate(GRID)
    drawn = pd.DataFrame(rows, columns=head).set_index("run")
    assert sorted(drawn.index) == sorted(table["folder"])
    for run in table.itertuples(index=False):
        assert drawn.loc[run.folder, ["status", "kind"]].tolist() == [run.status, run.kind]
    numbers = drawn[list(NUMBERS)].apply(pd.to_numeric).loc[table["folder"]]
    for shown, name in NUMBERS.items():
        expected = table["metrics.dice"].fillna(table["metrics.auroc"]) if shown == "score" else table[name]
        np.testing.assert_allclose(numbers[shown], expected.astype(float), rtol=1e-12, equal_nan=True)
    for row in (0, 1):
        tick(page, row)
        dashboard.settle()
    shown = page.locator("[data-testid=stTable]").inner_text()
    newest = table.sort_values("started", ascending=False, kind="stable")["folder"].tolist()[:2]
    for name in newest:
        assert name in shown
    first, second = (runs.flatten({"config": runs.read(phantom_study / name).config}) for name in newest)
    for key in (k for k in first if k in second):
        assert (key in shown.split()) == (first[key] != second[key]), key


def test_controls_of_a_case_act(dashboard: Dashboard, phantom_study: Path, cache: Cache) -> None:
    page = dashboard.open(STILLS, ".case img")
    cases = pd.read_parquet(folder_of(phantom_study / "seg", "scratch", "1p") / "predictions.parquet")
    worst = worst_first(cases)["scan"]
    assert f"Scan {worst[0]}" in page.inner_text(".stMain")
    pictures = sources(page)
    assert len(pictures) == 3
    assert page.locator(".case .frame").first.locator("b").all_inner_texts() == ["A", "P", "R", "L"]
    box = page.locator(".case img").first
    sizes = page.evaluate("[...document.querySelectorAll('.case img')].map(i => [i.naturalWidth, i.naturalHeight])")
    shape, steps = cache.shape(worst[0]), cache.spacing_mm
    assert sizes[0][0] / sizes[0][1] == pytest.approx(shape[0] * steps[0] / (shape[1] * steps[1]), rel=0.02)
    assert box.bounding_box()["width"] / box.bounding_box()["height"] == pytest.approx(
        sizes[0][0] / sizes[0][1], rel=0.02
    )
    for change in (slide("Slice"), slide("Overlay opacity"), choose("Window", "bone"), choose("Plane", "coronal")):
        change(page)
        wait_for_other_picture(page, 0, pictures)
        dashboard.settle()
        pictures = sources(page)
    assert page.locator(".case .frame").first.locator("b").all_inner_texts() == ["S", "I", "R", "L"]
    page.get_by_text("Outline", exact=True).click()
    wait_for_other_picture(page, 1, pictures)
    assert sources(page)[0] == pictures[0]
    tick(page, 1)
    page.get_by_text(f"Scan {worst[1]}").wait_for()
    choose("Budget", "100%")(page)
    dashboard.settle()
    assert "A: scratch, fine-tuned" in page.inner_text(".case")
    assert dashboard.errors == []


def test_the_viewer_shows_the_voxels_of_the_cache_and_fetches_each_volume_once(
    dashboard: Dashboard, cache: Cache
) -> None:
    page = dashboard.open("cases?study=seg", VIEWER)
    scan = re.search(r"Scan (\w+)", page.inner_text(".stMain"))[1]
    array, affine, reference = cache.read(scan)[0], cache.affine(scan), cache.read_mask(scan)
    fetched = [url for url in dashboard.requests if "/volumes/" in url]
    assert len(fetched) == len(set(fetched)) == 4  # the scan, its reference, and a mask of each arm

    def in_view() -> list[int]:
        """The voxel that the line of values names, after its value, its structure and its place were compared."""
        text = page.locator(".viewer .status").inner_text()
        value, side, voxel = re.search(r"^(\S+) HU at (.+) mm · voxel (.+?) · (?=reference)", text).groups()
        at = tuple(map(int, voxel.split(", ")))
        assert float(value) == array[at]
        assert f"reference: {f'structure {reference[at]}' if reference[at] else '–'}" in text
        numbers = [float(n) * (-1 if letter in "LPI" else 1) for letter, n in re.findall(r"([LRPAIS]) ([\d.]+)", side)]
        np.testing.assert_allclose(numbers, (affine @ [*at, 1])[:3], atol=0.06)
        return list(at)

    def pictures() -> list[bytes]:
        return [frame.screenshot() for frame in page.locator(".viewer .frame").all()]

    start, drawn = in_view(), pictures()
    assert len(set(drawn)) == 3
    left, top, width, height = page.locator(".viewer .frame").nth(1).bounding_box().values()
    page.mouse.move(left + 0.15 * width, top + height / 2)  # the axial plane of arm A
    page.mouse.wheel(0, -100)
    page.wait_for_url("**voxel=**")
    moved = in_view()
    assert moved == [*start[:2], start[2] + 1]
    assert f"voxel={'-'.join(map(str, moved))}" in page.url
    assert not set(pictures()) & set(drawn)  # all views moved
    sides = []
    for _ in ("radiological", "neurological"):
        page.mouse.click(left + 0.08 * width, top + height / 2)
        page.wait_for_timeout(300)
        sides.append((affine @ [*in_view(), 1])[0] > 0)
        page.keyboard.press("r")
        page.wait_for_timeout(300)
    assert sides == [True, False]  # the patient's right is on the left at first
    before = pictures()
    page.keyboard.press("2")
    page.wait_for_timeout(500)
    assert page.locator(".viewer select").nth(1).input_value() == "lung (-600/1500)"
    assert not set(pictures()) & set(before)
    page.mouse.move(left + 0.15 * width, top + height / 2)
    page.mouse.down(button="right")
    page.mouse.move(left + 0.15 * width + 100, top + height / 2, steps=3)
    page.mouse.up(button="right")
    page.wait_for_timeout(500)
    assert page.locator(".viewer .bar .quiet").first.inner_text() == "-600 / 2250 HU"
    page.keyboard.press("c")
    page.locator(".viewer .structure").first.click()
    page.wait_for_timeout(1000)
    assert page.locator(".viewer .structure").first.get_attribute("title").endswith("is outlined: a click changes it")
    dashboard.settle()
    assert [url for url in dashboard.requests if "/volumes/" in url] == fetched
    assert dashboard.outside == []
    assert dashboard.errors == []


def test_a_browser_without_webgl_gets_stills_and_is_told(browser, served) -> None:
    chromium = browser.browser_type.launch(executable_path=CHROMIUM, args=[*FLAGS, "--disable-3d-apis"])
    opened = Dashboard(chromium.new_page(), served[0])
    page = opened.open("cases?study=seg", ".case img")
    assert "This browser has no WebGL 2" in page.inner_text(".stMain")
    assert page.locator(".viewer").count() == 0
    chromium.close()


def test_choices_survive_back_another_page_and_a_run_that_appears(dashboard: Dashboard, phantom_study: Path) -> None:
    page = dashboard.open(STILLS, ".case img")
    worst = worst_first(pd.read_parquet(folder_of(phantom_study / "seg", "scratch", "1p") / "predictions.parquet"))
    tick(page, 1)
    page.get_by_text(f"Scan {worst['scan'][1]}").wait_for()
    dashboard.settle()
    choose("Plane", "coronal")(page)
    page.wait_for_url("**plane=coronal**")
    dashboard.settle()
    page.get_by_role("link", name="Runs").click()
    page.wait_for_selector("[data-testid=stDataFrame]")
    dashboard.settle()
    for row in (0, 1):
        tick(page, row)
        dashboard.settle()
    page.wait_for_selector("[data-testid=stTable]")
    compared = page.locator("[data-testid=stTable] thead").inner_text()
    late = phantom_study / "late"
    record(late, "pretrain", {"steps": 3}, started=2e9)
    try:
        page.locator("[data-testid=stDataFrame] canvas td", has_text="late").first.wait_for(state="attached")
        dashboard.settle()
        assert page.locator("[data-testid=stTable] thead").inner_text() == compared
    finally:
        shutil.rmtree(late)
    page.get_by_role("link", name="Cases").click()
    page.get_by_text(f"Scan {worst['scan'][1]}").wait_for()
    dashboard.settle()
    wait_for_letters(page, "S", "I", "R", "L")
    choose("Plane", "sagittal")(page)
    wait_for_letters(page, "S", "I", "A", "P")
    assert "plane=sagittal" in page.url
    page.evaluate("history.back()")
    wait_for_letters(page, "S", "I", "R", "L")
    assert "plane=coronal" in page.url
    assert dashboard.errors == []


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_the_page_is_as_dark_as_the_browser_asks_for(browser, served, scheme: str, dark: bool) -> None:
    context = browser.new_context(color_scheme=scheme, viewport={"width": 1400, "height": 1000})
    opened = Dashboard(context.new_page(), served[0])
    page = opened.open(STILLS, ".case img")
    colour = page.evaluate("getComputedStyle(document.querySelector('.stApp')).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", colour)[:3])) < 3 * 128) == dark
    context.close()


def test_pictures_use_the_width_of_a_desktop_and_of_a_phone(browser, served) -> None:
    for width, height, least in ((1400, 1000, 320), (390, 844, 340)):
        context = browser.new_context(viewport={"width": width, "height": height})
        opened = Dashboard(context.new_page(), served[0])
        page = opened.open(STILLS, ".case img")
        assert page.locator(".case .frame").first.bounding_box()["width"] >= least
        header = page.locator("[data-testid=stHeader]").bounding_box()
        first = page.locator(".stMainBlockContainer .stElementContainer:visible").first.bounding_box()
        covered = header["y"] + header["height"] if width < 640 else 0
        assert first["y"] >= covered
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        context.close()


def test_the_tool_bar_of_a_table_covers_no_control(dashboard: Dashboard) -> None:
    page = dashboard.open("runs", "[data-testid=stDataFrame]")
    page.locator("[data-testid=stDataFrame]").hover()
    bar = page.locator(".stElementContainer:has(.stDataFrame) [data-testid=stElementToolbar]").bounding_box()
    table = page.locator("[data-testid=stDataFrame]").bounding_box()
    assert bar["y"] >= table["y"] + table["height"] - 2


def test_hostile_names_are_shown_as_text_and_fetch_nothing(
    dashboard: Dashboard, served, phantom_study: Path, pretrained: Path
) -> None:
    hostile = phantom_study / "hostile"
    shutil.copytree(phantom_study / "seg", hostile)
    rename_arm(hostile, pretrained.name, HOSTILE)
    try:
        for address, wait_for in (
            ("?study=hostile", ".js-plotly-plot .point"),
            ("runs?study=hostile", "[data-testid=stDataFrame]"),
            ("cases?study=hostile", VIEWER),
            ("compare?study=hostile", ".js-plotly-plot .point"),
        ):
            page = dashboard.open(address, wait_for)
            text = page.evaluate("document.querySelector('.stMain').textContent").replace(WORD_JOINER, "")
            assert HOSTILE in text, address
            assert page.locator("img[src=x], .stMain a[href*=foreign], .stMain span[role=img]").count() == 0
    finally:
        shutil.rmtree(hostile)
    assert dashboard.outside == []
    assert dashboard.errors == []
    assert outside_connections(served[1]) == []


def wait_for_letters(page, *letters: str) -> None:
    """Until these stand at the edges of the first picture: they tell the plane."""
    shown = "wanted => [...(document.querySelector('.case .frame')?.querySelectorAll('b') ?? [])].map(b => b.innerText).join() === wanted"
    page.wait_for_function(shown, arg=",".join(letters))


def folder_of(study: Path, arm: str, budget: str) -> Path:
    cells = runs.table(study / "cells")
    mine = cells[(cells["config.arm"] == arm) & (cells["config.budget_name"] == budget) & (cells["config.draw"] == 0)]
    return study / "cells" / mine["folder"].iloc[0]


def tick(page, row: int) -> None:
    """The box of a row: a table is one canvas, whose rows are 35 pixels high, the first of them its head."""
    box = page.locator("[data-testid=stDataFrame] canvas").first.bounding_box()
    page.mouse.click(box["x"] + 18, box["y"] + 35 * (row + 1) + 17)


def sources(page) -> list[str]:
    return page.evaluate("[...document.querySelectorAll('.case img')].map(i => i.src)")


def wait_for_other_picture(page, place: int, pictures: list[str]) -> None:
    changed = "([place, before]) => document.querySelectorAll('.case img')[place]?.src !== before"
    page.wait_for_function(changed, arg=[place, pictures[place]])


def slide(label: str):
    def act(page) -> None:
        page.locator(".stSlider", has_text=label).get_by_role("slider").press("ArrowRight")

    return act


def choose(label: str, option: str):
    def act(page) -> None:
        page.locator(".stSelectbox", has_text=label).first.locator(
            "[data-baseweb=select], [role=combobox]"
        ).first.click()
        page.get_by_role("option").filter(has_text=option).first.click()

    return act


def test_the_page_follows_a_running_study(browser, served, dashboard: Dashboard, phantom_study: Path) -> None:
    page = dashboard.open("runs", "[data-testid=stMetricValue]")
    count = int(page.locator("[data-testid=stMetricValue]").first.inner_text())
    late = phantom_study / "late"
    record(late, "pretrain", {"steps": 3}, status="running", heartbeat=time.time())
    try:
        page.get_by_text(f"{count + 1} runs, 1 running").wait_for()
        dashboard.settle()
        assert page.locator("[data-testid=stMetricValue]").first.inner_text() == str(count + 1)
        (late / "run.json").write_text('{"id": "ha')
        page.get_by_text("record cannot be read").first.wait_for()
    finally:
        shutil.rmtree(late)


def test_a_path_in_the_address_is_refused_in_the_browser(dashboard: Dashboard) -> None:
    for name in ("../..", "/etc", "seg/../../x"):
        page = dashboard.open(f"?study={name}", "[data-testid=stAlert]")
        assert "outside of the one under review" in page.inner_text("[data-testid=stAlert]")
        assert page.locator("h4").count() == 0


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/static/../../../etc/passwd",
        "/media/../../../etc/passwd",
        "/app/static/..%2f..%2fetc/passwd",
    ],
)
def test_no_file_of_the_machine_is_served(served, path: str) -> None:
    answer = raw_answer(served[0], path)
    assert "root:" not in answer
    assert not re.match(r"HTTP/1.1 200.*passwd", answer, re.S)


def test_a_printed_report_fits_a4(browser, tmp_path: Path) -> None:
    page = browser.new_page(viewport={"width": A4_PX, "height": 1000})
    page.goto(report(make_study(tmp_path)).as_uri())
    page.emulate_media(media="print")
    heads = page.locator("th", has_text="p, Holm")
    assert heads.count() >= 1
    assert page.evaluate("document.documentElement.scrollWidth") <= A4_PX
    for table in page.locator("table").all():
        box = table.bounding_box()
        assert box["x"] + box["width"] <= A4_PX + 1
    page.close()


SOCKET = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
SOCKET |= {"Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode()}


@pytest.mark.parametrize(
    ("host", "origin", "let_in"),
    [
        (None, None, True),
        (None, "http://foreign.example", False),
        ("foreign.example", "http://foreign.example", False),
        ("foreign.example", None, False),
        (None, "null", False),
    ],
)
def test_a_foreign_host_or_origin_gets_no_socket_and_nothing_outside_is_requested(
    served, host, origin, let_in: bool
) -> None:
    own = served[0].removeprefix("http://")
    headers = SOCKET | {"Host": host or own, "Origin": origin or served[0]}
    answer = raw_answer(served[0], "/_stcore/stream", headers)
    assert answer.startswith("HTTP/1.1 101" if let_in else "HTTP/1.1 403"), answer[:200]
    assert outside_connections(served[1]) == []


def test_answers_have_a_policy_metrics_are_closed_and_a_foreign_host_gets_no_shell(served) -> None:
    page = raw_answer(served[0], "/")
    assert page.startswith("HTTP/1.1 200")
    for line in (
        "x-frame-options: DENY",
        "content-security-policy: default-src 'self'",
        "x-content-type-options: nosniff",
    ):
        assert line in page
    assert raw_answer(served[0], "/_stcore/metrics").startswith("HTTP/1.1 404")
    foreign = raw_answer(served[0], "/", {"Host": "foreign.example"})
    assert foreign.startswith("HTTP/1.1 403")
    assert "<html" not in foreign


def raw_answer(url: str, path: str, headers: dict[str, str] | None = None) -> str:
    """The start of a raw answer: no client in between that would tidy up the path."""
    host, port = url.removeprefix("http://").split(":")
    lines = "".join(f"{name}: {value}\r\n" for name, value in ({"Host": f"{host}:{port}"} | (headers or {})).items())
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())
        return connection.recv(65536).decode(errors="replace")


def test_a_page_requested_under_a_foreign_name_shows_nothing(browser, served, phantom_study: Path) -> None:
    page = browser.new_page()
    page.goto(served[0].replace("127.0.0.1", "foreign.example"))
    page.wait_for_timeout(4000)
    assert page.locator("h4, .js-plotly-plot, [data-testid=stSidebar]").count() == 0
    assert "seg" not in page.inner_text("body")
    page.close()


def test_the_first_page_comes_within_three_seconds_of_200_runs(
    browser, cache: Cache, phantom_study: Path, tmp_path: Path
) -> None:
    root = tmp_path / "runs"
    shutil.copytree(phantom_study, root)
    for n in range(200 - len(runs.table(root))):
        record(root / f"run{n}", "pretrain", {"steps": n}, cost={"seconds": 1.0})
    assert len(runs.table(root)) == 200
    (tmp_path / "watch").mkdir()
    took = []
    for url, _ in serve(root, cache.path, tmp_path / "watch"):
        context = browser.new_context()
        for _ in range(5):
            page = context.new_page()
            started = time.perf_counter()
            page.goto(f"{url}/?study=seg")
            page.wait_for_selector(".js-plotly-plot .point", timeout=PATIENCE_MS)
            took.append(round(time.perf_counter() - started, 2))
            page.close()
    print(json.dumps({"first page, s": took}))
    assert np.median(took[1:]) < 3
