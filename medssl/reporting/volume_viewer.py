"""The viewer of volumes on a page: niivue in the browser, in linked views of one scan with a mask each.

    state = volume_viewer.show(scene)      # Scene: what to show; the voxel in view and whether the browser can show it

The browser fetches each volume once from the dashboard (`dashboard/volume_route.py`). Scrolling, windows, opacity, outlines and
linking stay in the browser. niivue and the component's own files lie in `dashboard/niivue`; nothing is loaded from elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.components.v2.get_bidi_component_manager import get_bidi_component_manager
from streamlit.components.v2.manifest_scanner import ComponentConfig, ComponentManifest

from medssl.reporting.dashboard import viewer
from medssl.reporting.dashboard.volumes import OFFERED, Volume

NAME = "viewer"
FILES = "niivue"  # beside the pages' data
KEY = "volume viewer"


@dataclass(frozen=True)
class View:
    """One view of a scan.

    Attributes:
        name: What stands below it.
        short: Its name among the values of a voxel.
        note: What stands after the name.
        mask: What is drawn over the scan; None where there is nothing.
        outlined: Whether the outline of the reference is drawn over it.
    """

    name: str
    short: str
    note: str = ""
    mask: Volume | None = None
    outlined: bool = False


@dataclass(frozen=True)
class Scene:
    """A scan as it is shown.

    Attributes:
        scan: Its voxels.
        views: One or several views of it.
        modality: DICOM's code; CT has its presets in HU.
        reference: Its reference mask; None where it has none.
        structures: Value -> name of the structures of all masks.
        voxel: The voxel in view at first.
    """

    scan: Volume
    views: Sequence[View]
    modality: str
    reference: Volume | None = None
    structures: dict[int, str] = field(default_factory=dict)
    voxel: tuple[int, int, int] = (0, 0, 0)


def show(scene: Scene, moved: Callable[[], None]) -> bool:
    """Show a scan.

    Args:
        scene: What to show.
        moved: Called when another voxel came into view; `voxel()` says which.

    Returns:
        Whether the browser has the WebGL that it needs; where it has none, nothing is shown.
    """
    state = _component()(
        key=KEY, data=_data(scene), on_voxel_change=moved, on_webgl_change=lambda: None, default={"webgl": True}
    )
    return bool(state["webgl"])


def voxel() -> tuple[int, ...]:
    """Return the voxel that came into view, as the browser reported it."""
    return tuple(int(place) for place in st.session_state[KEY]["voxel"])


def _component() -> Callable[..., Any]:
    """The component, registered with the server that runs; its files are read from the package, installed or not."""
    manager, package = get_bidi_component_manager(), "medssl"
    name = f"{package}.{NAME}"
    if manager.get_component_path(name) is None:
        manifest = ComponentManifest(package, version(package), [ComponentConfig(NAME, FILES)])
        manager.register_from_manifest(manifest, Path(viewer.__file__).parent)
    return st.components.v2.component(name, js="viewer.js", css="viewer.css")


def _data(scene: Scene) -> dict[str, Any]:
    def address(volume: Volume | None) -> str | None:
        return OFFERED.offer(volume) if volume else None

    presets = viewer.windows(scene.modality) if scene.modality == "CT" else {}
    return {
        "image": address(scene.scan),
        "frames": scene.scan.frames,
        "reference": address(scene.reference),
        "views": [
            {"name": v.name, "short": v.short, "note": v.note, "mask": address(v.mask), "outlined": v.outlined}
            for v in scene.views
        ],
        "unit": " HU" if scene.modality == "CT" else "",
        "presets": [{"name": name, "low": low, "high": high} for name, (low, high) in presets.items()],
        "structures": [
            {"value": value, "name": name, "colour": viewer.structure_colour(value)}
            for value, name in scene.structures.items()
        ],
        "outline": viewer.OUTLINE_COLOUR,
        "voxel": list(scene.voxel),
    }
