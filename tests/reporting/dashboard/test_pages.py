"""A page of the dashboard is one file."""

from pathlib import Path

import pytest

from medssl.core.errors import MedsslError
from medssl.reporting.dashboard.pages import pages
from medssl.reporting.dashboard.server import app


def test_a_page_is_one_file_that_states_its_title_and_order(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("")
    (tmp_path / "b.py").write_text('"""Second."""\nTITLE = "Beta"\nORDER = 2\n1 / 0')
    (tmp_path / "a.py").write_text('TITLE = "Omega"\nORDER = 10\n')
    (tmp_path / "c.py").write_text('TITLE = "Alpha"\nORDER = 1\n')
    assert [(page.title, page.path.name) for page in pages(tmp_path)] == [
        ("Alpha", "c.py"),
        ("Beta", "b.py"),
        ("Omega", "a.py"),
    ]
    (tmp_path / "d.py").write_text('TITLE = "No order"\n')
    with pytest.raises(MedsslError, match="d.py states no title or no order"):
        pages(tmp_path)


def test_the_pages_of_the_app_are_the_files_of_its_folder() -> None:
    found = pages(app().parent)
    assert len(found) == len(list(app().parent.glob("*.py"))) - 1  # all but app.py
    assert len({page.title for page in found}) == len(found)
    assert [page.title for page in found][:3] == ["Label efficiency", "Compare", "Cases"]
