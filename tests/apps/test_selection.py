"""What a reader chooses is kept by name in the address: it survives another page, a link, and a run that appears."""

import shutil
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from medssl.reporting.dashboard.selection import Selection
from tests.apps.reading import html_of, table_of, text_of
from tests.reporting.test_report import record

CHOSEN = Selection("a/b", "knn", "1%", 3, ("x: y|z", "linear"), ("scratch", "finetune"), "s01", "coronal", 7, "bone")


@pytest.mark.parametrize(
    "selection",
    [
        Selection(),
        CHOSEN,
        Selection(opacity=0.35, outline=False, runs=("a", "b,c"), kinds=("cell",), voxel=(0, 7, 300), stills=True),
    ],
)
def test_an_address_states_the_selection_and_is_read_back(selection: Selection) -> None:
    assert Selection.from_query(selection.to_query()) == (selection, [])


@pytest.mark.parametrize(
    "query",
    [
        {"draw": "x"},
        {"slice": "1.5"},
        {"a": "scratch"},
        {"opacity": "2"},
        {"outline": ""},
        {"voxel": "1-2"},
        {"voxel": "1--2-3"},
    ],
)
def test_what_cannot_be_read_is_left_out_and_named(query: dict[str, str]) -> None:
    assert Selection.from_query({name: [value] for name, value in query.items()}) == (Selection(), [*query])


def test_a_choice_drops_those_that_it_ends() -> None:
    assert CHOSEN.changed(case="s02").slice is None
    assert CHOSEN.changed(voxel=(1, 2, 3)).changed(case="s02").voxel is None
    assert CHOSEN.changed(case="s02").plane == "coronal"
    assert CHOSEN.changed(study="c", runs=("r",)) == Selection(study="c", plane="coronal", runs=("r",))


def test_ticked_runs_stay_the_same_runs_when_others_move_up(studied: Path, opened) -> None:
    ticked = ["hippo/cells/scratch-1p-0", "hippo/cells/simmim-1p-1"]
    dashboard = opened(studied, "runs", run=ticked)
    compared = table_of(dashboard.table[0])
    assert list(compared.columns) == ticked
    record(studied / "newest", "pretrain", {"steps": 1}, started=2e9)
    dashboard.run()
    assert table_of(dashboard.table[0]).equals(compared)
    rows = dashboard.session_state["selection runs"]["selection"]["rows"]
    assert dashboard.dataframe[0].value["run"].iloc[rows].tolist() == ticked
    shutil.rmtree(studied / ticked[0])
    dashboard.run()
    assert f"No longer in this folder: {ticked[0]}" in text_of(dashboard)


def test_choices_go_into_the_address_and_along_to_every_page(studied: Path, opened) -> None:
    dashboard = opened(studied, "cases", study="hippo", case="s07", run=["hippo"])
    assert "**Scan s07**" in text_of(dashboard)
    (budget,) = [box for box in dashboard.selectbox if box.label == "Budget"]
    budget.set_value("10%").run()
    assert "**Scan s07**" in text_of(dashboard)
    address = {"study": ["hippo"], "budget": ["10%"], "case": ["s07"], "run": ["hippo"]}
    assert {name: value if isinstance(value, list) else [value] for name, value in dashboard.query_params.items()} == (
        address
    )
    links = [link.proto.query_string for link in dashboard.get("page_link")]
    assert len(links) >= 3
    assert all(parse_qs(link) == address for link in links)
    (marked,) = dashboard.session_state["selection case"]["selection"]["rows"]
    assert dashboard.dataframe[0].value["scan"].iloc[marked] == "s07"


def test_a_choice_that_is_not_offered_is_said_to_be_replaced(studied: Path, opened) -> None:
    dashboard = opened(studied, "cases", study="hippo", case="nowhere", budget="77%", draw="x", a="finetune:<b>")
    text = text_of(dashboard)
    assert "Scan nowhere of the address is no case of these arms: the worst is shown." in text
    assert "Budget 77% of the address is not here: 1p is shown." in text
    assert "Arm A <b>, fine-tuned of the address is not here: scratch, fine-tuned is shown." in text
    assert "The address states draw in a way that cannot be read" in text
    assert "".join(html_of(dashboard)).count("<img") == 6


@pytest.mark.parametrize("name", ["nowhere", "hippo\0", "../x"])
def test_a_wrong_study_is_refused_with_links_to_those_there_are(studied: Path, opened, name: str) -> None:
    dashboard = opened(studied, "cases", study=name, window="bone")
    assert len(dashboard.error) == 1
    assert "malformed" not in text_of(dashboard)
    links = [(link.label, parse_qs(link.proto.query_string)) for link in dashboard.main.get("page_link")]
    assert [label for label, _ in links] == ["hippo", r"two\/hippo"]
    assert links[0][1] == {"study": ["hippo"]}
