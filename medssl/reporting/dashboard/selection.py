"""What a reader has chosen in the dashboard, as the address of the page states it.

    chosen, ignored = Selection.from_query({"study": ["hippo"], "draw": ["0"], "run": ["hippo", "runs/simclr"]})
    chosen.changed(case="4f1c").to_query()      # what the address is then

Runs, cases and arms are chosen by their names, never by their place in a table, which changes when a run appears. Nothing
else keeps a choice, so that a link, the browser's Back and another page show the same. Imports neither torch nor Streamlit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

Arm = tuple[str, str]  # name and mode
ENDED_BY = {  # what another choice makes meaningless
    "study": (
        *("mode", "budget", "draw", "a", "b", "case", "slice", "voxel", "window", "by"),
        *("arms", "budgets", "metrics", "figure", "table"),
    ),
    "to_label": ("case", "slice", "voxel", "window", "label"),
    "cohort": ("column", "value", "label", "sheet", "window"),
    "column": ("value", "sheet"),
    "value": ("sheet",),
    "features": ("case", "slice", "voxel", "colour", "read_off"),
    "case": ("slice", "voxel"),
    "plane": ("slice",),
}


@dataclass(frozen=True)
class Selection:
    """A reader's choices; None or empty where nothing was chosen, so that the page takes its default.

    Attributes:
        study: Folder of the study.
        mode: How encoders are used, of the curves shown.
        budget: Name of the label budget.
        draw: Number of the draw.
        a: Arm A of the cases.
        b: Arm B of the cases.
        case: Id of the scan.
        plane: Plane of the slices.
        slice: Index of the slice.
        window: Name of the grey-value window.
        opacity: Opacity of masks, 0 to 1.
        outline: Whether the reference is outlined over the predictions.
        by: Column of the manifest by which differences are shown.
        voxel: Voxel in view, along (X, Y, Z).
        stills: Whether slices are drawn as still pictures, not in the viewer.
        view: Part of the page that is shown.
        to_label: File of the list of scans to label, below the folder.
        label: Label that is to be completed, or whose classes are counted.
        cohort: Manifest or cache whose scans are counted.
        column: Column of the manifest by which they are counted.
        value: Value of this column, of the scans on the contact sheet.
        sheet: Number of the contact sheet, from 1 on.
        features: File of the features, below the folder.
        projection: How features are drawn in the plane.
        colour: What the points are coloured by.
        read_off: Column of the manifest that is read off the features.
        figure: Figure of the report that is shown.
        table: Table of the report that is shown.
        arms: Arms in the report; all where it is empty, as of the next two.
        budgets: Budgets in the report.
        metrics: Metrics in the report, beside the primary one.
        runs: Folders of the runs to compare.
        kinds: Kinds of runs that are listed.
        statuses: Statuses of runs that are listed.
    """

    study: str | None = None
    mode: str | None = None
    budget: str | None = None
    draw: int | None = None
    a: Arm | None = None
    b: Arm | None = None
    case: str | None = None
    plane: str | None = None
    slice: int | None = None
    window: str | None = None
    opacity: float | None = None
    outline: bool | None = None
    by: str | None = None
    voxel: tuple[int, ...] | None = None
    stills: bool | None = None
    view: str | None = None
    to_label: str | None = None
    label: str | None = None
    cohort: str | None = None
    column: str | None = None
    value: str | None = None
    sheet: int | None = None
    features: str | None = None
    projection: str | None = None
    colour: str | None = None
    read_off: str | None = None
    figure: str | None = None
    table: str | None = None
    arms: tuple[str, ...] = ()
    budgets: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    statuses: tuple[str, ...] = ()

    @classmethod
    def from_query(cls, query: Mapping[str, Sequence[str]]) -> tuple[Self, list[str]]:
        """Read the parameters of an address.

        Args:
            query: Name -> values, as they stand in the address.

        Returns:
            The choices, and the names of parameters whose values are not of their kind, which are left out.
        """
        values: dict[str, Any] = {}
        ignored: list[str] = []
        for field in fields(cls):
            given = query.get(NAMES.get(field.name, field.name))
            if not given:
                continue
            try:
                values[field.name] = tuple(given) if field.name in NAMES else READ.get(field.name, str)(given[-1])
            except ValueError:
                ignored.append(field.name)
        return cls(**values), ignored

    def to_query(self) -> dict[str, list[str]]:
        """Return the parameters of the address that states these choices."""
        query = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in NAMES:
                query[NAMES[field.name]] = list(value)
            elif value is not None:
                query[field.name] = [WRITTEN.get(field.name, str)(value)]
        return {name: values for name, values in query.items() if values}

    def changed(self, **choices: Any) -> Self:
        """Return the choices after a further one; those that it makes meaningless are dropped."""
        ended = {name: getattr(type(self), name) for choice in choices for name in ENDED_BY.get(choice, ())}
        return replace(self, **(ended | choices))


def _arm(text: str) -> Arm:
    mode, colon, name = text.partition(":")
    if not (mode and colon and name):
        raise ValueError(text)
    return name, mode


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError(text)
    return value


def _yes_or_no(text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError(text)
    return text == "yes"


def _voxel(text: str) -> tuple[int, ...]:
    place = tuple(int(number) for number in text.split("-"))
    if len(place) != 3:
        raise ValueError(text)
    return place


# Parameters that are repeated, one for each value.
NAMES = {"runs": "run", "kinds": "kind", "statuses": "status", "arms": "arm", "budgets": "budgets", "metrics": "metric"}
READ: dict[str, Callable[[str], Any]] = {"draw": int, "slice": int, "sheet": int, "a": _arm, "b": _arm}
READ |= {"opacity": _share, "outline": _yes_or_no, "stills": _yes_or_no, "voxel": _voxel}
WRITTEN: dict[str, Callable[[Any], str]] = {
    "a": lambda arm: f"{arm[1]}:{arm[0]}",
    "b": lambda arm: f"{arm[1]}:{arm[0]}",
    "opacity": "{:g}".format,
    "outline": lambda value: "yes" if value else "no",
    "stills": lambda value: "yes" if value else "no",
    "voxel": lambda place: "-".join(map(str, place)),
}
