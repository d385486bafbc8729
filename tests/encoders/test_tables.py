"""The page on encoders has a line for every family and every method, and says what they say."""

from __future__ import annotations

import pytest

from medssl.core.registry import METHODS
from tests.encoders.tables import COLUMNS, EQUAL, MEMBERS, PAGE, columns, page, runs

MASKED = ("AIM", "IBOT", "MAE", "SimMIM", "SparK")


def lines() -> dict[str, list[str]]:
    """The rows of both tables by their first cell."""
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in ([cell.strip() for cell in line.strip("|").split(" | ")] for line in rows)}


def test_the_page_has_every_encoder_and_every_method() -> None:
    found = lines()
    assert found["method"] == columns()
    assert found["encoder"] == list(COLUMNS)
    assert {*columns(), *METHODS.names()} <= set(found)
    assert {name.partition(":")[0] for name in columns()} == set(EQUAL)
    assert not any("no:" in cell for name in columns() for cell in found[name])


@pytest.mark.parametrize("method", MASKED)
def test_what_masked_methods_say_before_the_first_step_is_on_the_page(method: str) -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name, cell in zip(columns(), lines()[method], strict=True):
        if name in ("ResNet", "ViT", "SwinUNETR", "EfficientNet", *MEMBERS):
            answer = runs(method, name, 2, try_it=False)
            number = cell.strip("[]")
            assert cell == "runs" if answer == "runs" else f"\n{number}. {answer}\n" in text, (method, name)


@pytest.mark.slow
def test_the_whole_page_is_what_happens() -> None:
    assert page() == PAGE.read_text(encoding="utf-8")
