"""The public names, and the rule that reading order is import order; both are read from the tree itself."""

import subprocess
import sys

import networkx
import pytest

import medssl
from tests.import_graph import PACKAGE, circles, imports, modules, reading_order, upward

MOST_ROOMS = 14


@pytest.mark.long
def test_public_names_are_functions_or_classes_whatever_was_imported_before() -> None:
    code = (
        "import medssl, medssl.training.pretrain, medssl.studies.study, medssl.reporting.html.report\n"
        "from medssl import pretrain\n"
        "assert medssl.pretrain is pretrain\n"
        "print([callable(getattr(medssl, n)) for n in medssl.__all__])"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert "False" not in done.stdout
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = medssl.nothing


def test_a_public_name_is_never_also_a_room() -> None:
    assert not set(medssl.__all__) & set(reading_order(PACKAGE))


def test_the_docstring_lists_every_room_and_there_are_few() -> None:
    rooms = {name.split(".")[0] for name in modules(PACKAGE) if name}
    assert rooms == set(reading_order(PACKAGE))
    assert len(rooms) <= MOST_ROOMS


def test_a_room_imports_only_from_those_above_it() -> None:
    assert upward(imports(PACKAGE), reading_order(PACKAGE)) == []


def test_no_files_and_no_folders_import_each_other() -> None:
    assert circles(imports(PACKAGE)) == []


def test_data_is_read_without_what_presents_it() -> None:
    graph = imports(PACKAGE)
    names = ("figures", "style", "tables", "record_tables", "findings", "widgets", "controls", "navigation")
    names += ("display", "downloads", "reading_form", "reading_tables", "sign_in", "cohort_tables")
    names += ("embedding_map", "run_curves")
    names += ("report_files", "report_view", "html.report", "latex", "bibtex", "shown")
    presentation = {f"reporting.{name}" for name in names}
    readers = [name for name in graph if name.startswith(("studies.", "reporting.dashboard."))]
    assert presentation <= set(graph)
    assert len(readers) > 10
    assert {(name, used) for name in readers for used in networkx.descendants(graph, name) & presentation} == set()
