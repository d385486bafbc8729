"""Two readers in a real browser: a case read by keys alone, verdicts that survive a restart, a list worked off, a proxy's names."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pandas as pd
import pytest

from medssl.preprocessing.cache import Cache
from medssl.reporting.verdicts import choices, database, readings
from tests.apps.readable import CASES, readable_study
from tests.apps.test_browser import CHROMIUM, PATIENCE_MS, Dashboard, browser, outside_connections, raw_answer, serve

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium: apt-get install chromium"),
    pytest.mark.skipif(
        importlib.util.find_spec("playwright") is None, reason="needs playwright: pip install playwright"
    ),
]
__all__ = ["browser"]  # the fixture


@pytest.fixture(scope="module")
def root(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("readings")
    readable_study(root, cache)
    table = cache.manifest[["patient", "scan"]].copy()
    table.insert(0, "rank", pd.factorize(table["patient"])[0] + 1)
    table.to_csv(root / "to_label.csv", index=False)
    return root


def signed_in(browser, url: str, address: str, name: str) -> Dashboard:
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(PATIENCE_MS)
    opened = Dashboard(page, url)
    page.on("request", lambda request: opened.requests.append(request.url))
    page.on("console", opened.note)
    page.on("pageerror", lambda error: opened.errors.append(str(error)))
    opened.open(address, "input[aria-label='Your name']")
    page.get_by_label("Your name").fill(name)
    page.get_by_label("Your name").press("Enter")
    page.get_by_text(f"Signed in as {name}.").wait_for()
    page.wait_for_selector(".case img")
    opened.settle()
    return opened


def read_by_keys(opened: Dashboard, preferred: str, count: int) -> None:
    opened.page.keyboard.press(preferred)
    opened.page.locator("[data-testid=stBaseButton-primary]", has_text="better").wait_for()
    opened.settle()
    opened.page.keyboard.press("s")
    opened.page.get_by_text(f"You have read {count} of {CASES} cases.").wait_for()
    opened.settle()


def test_two_readers_lose_nothing_and_their_verdicts_survive_a_restart(
    browser, root: Path, cache: Cache, tmp_path: Path
) -> None:
    for url, connections in serve(root, cache.path, tmp_path):
        ann, bob = (signed_in(browser, url, "reading?study=segmentation", name) for name in ("Ann", "Bob"))
        for count in (1, 2):
            read_by_keys(ann, "a", count)
            read_by_keys(bob, "b", count)
        bob.page.locator("textarea").fill("one comment, and then Save without leaving the box")
        bob.page.get_by_role("button", name="Save and go on").click()
        bob.page.get_by_text(f"You have read 3 of {CASES} cases.").wait_for()
        ann.page.keyboard.press("u")
        ann.page.get_by_text("is taken back").wait_for()
        ann.page.get_by_text(f"You have read 1 of {CASES} cases.").wait_for()
        for opened in (ann, bob):
            assert (opened.outside, opened.errors) == ([], [])
            assert "Ann" not in opened.page.url
            opened.page.close()
        assert outside_connections(connections) == []
    kept = readings.readings(database.open_file(root / "segmentation"), "segmentation")
    assert sorted((r.reader, r.undone_at is None) for r in kept) == [
        *[("Ann", False), ("Ann", True)],
        *[("Bob", True)] * 3,
    ]
    assert any(answer.value.startswith("one comment") for r in kept for answer in r.answers)
    for url, _ in serve(root, cache.path, tmp_path):
        bob = signed_in(browser, url, "reading?study=segmentation", "Bob")
        bob.page.get_by_text(f"You have read 3 of {CASES} cases.").wait_for()
        bob.page.close()


def test_a_list_is_worked_off_by_keys_and_fits_a_phone(browser, root: Path, cache: Cache, tmp_path: Path) -> None:
    for url, _ in serve(root, cache.path, tmp_path):
        ann = signed_in(browser, url, "label_next?label=kind", "Ann")
        for key, decided in (("a", "1 accepted, 0 skipped"), ("k", "1 accepted, 1 skipped"), ("d", "1 deferred")):
            ann.page.keyboard.press(key)
            ann.page.get_by_text(decided).wait_for()
            ann.settle()
        assert ann.errors == []
        ann.page.set_viewport_size({"width": 390, "height": 844})
        ann.settle()
        assert ann.page.evaluate("document.documentElement.scrollWidth") <= 390
        accept, skip = (ann.page.get_by_role("button", name=name).bounding_box() for name in ("Accept", "Skip"))
        assert accept["y"] == skip["y"]  # two in a row
        ann.page.close()
    (list_id,) = {row.list_id for row in _all_choices(root)}
    found = choices.latest(choices.choices(database.open_file(root), list_id, "kind"))
    assert sorted(choice.decision for choice in found.values()) == ["accept", "defer", "skip"]


def test_behind_a_proxy_only_its_requests_with_a_name_are_answered(root: Path, cache: Cache, tmp_path: Path) -> None:
    for url, _ in serve(root, cache.path, tmp_path, "--user-header", "X-Forwarded-User", "--admins", "ann"):
        assert raw_answer(url, "/").startswith("HTTP/1.1 401")
        named = {"X-Forwarded-User": "ann", "X-Forwarded-For": "10.9.9.9"}
        assert raw_answer(url, "/", named).startswith("HTTP/1.1 200")
    for url, _ in serve(
        root, cache.path, tmp_path, "--user-header", "X-Forwarded-User", "--proxies", "10.0.0.2", "--admins", "ann"
    ):
        spoofed = {"X-Forwarded-User": "ann", "X-Forwarded-For": "10.0.0.2"}
        assert raw_answer(url, "/", spoofed).startswith("HTTP/1.1 403")


def _all_choices(root: Path) -> list[choices.ChoiceRow]:
    from sqlalchemy import select

    with database.transaction(database.open_file(root)) as session:
        return list(session.scalars(select(choices.ChoiceRow)))
