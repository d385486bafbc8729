"""How a scan is shown on a page, as the reader chooses it: the plane, the slice, the window, the masks over it.

display = choose_display(cache, scan, masked=True)
frames = scan_frames(cache, scan, display, True, masks)
"""

from __future__ import annotations

import streamlit as st

from medssl.preprocessing.cache import Cache
from medssl.reporting import controls
from medssl.reporting.dashboard import session, viewer
from medssl.reporting.dashboard.cases import Display


def choose_display(cache: Cache, scan: str, masked: bool, outlined: bool = False) -> Display:
    """Show the controls of the plane, the slice, the window, and of how masks are shown; return what is chosen.

    Args:
        cache: The cache that holds the scan.
        scan: The id of the scan.
        masked: Whether masks are drawn over it; it opens at the slice with most of the reference, where it has one.
        outlined: Whether there is a switch for the outline of the reference.
    """
    shape, plane, index = cache.shape(scan), "axial", 0
    volume = len(shape) == 3
    columns = iter(
        st.container(key="pairs-of-display").columns(
            [1.2, 1.5, 2.2, 1.5, 1.8] if volume else [2.4, 1.6, 1.7, 1.6], vertical_alignment="bottom"
        )
    )
    if volume:
        plane, slice_column = controls.selectbox(next(columns), "plane", "Plane", list(viewer.PLANES)), next(columns)
        last, index = viewer.slice_count(shape, plane) - 1, session.fullest_slices(cache, scan, masked)[plane]
        if last:
            index = controls.slider(slice_column, "slice", "Slice", last, index, 1)
    presets = viewer.windows(cache.modality)
    window = presets[controls.selectbox(next(columns), "window", "Window", list(presets))]
    if not masked:
        return Display(plane, index, window)
    opacity = controls.slider(next(columns), "opacity", "Overlay opacity", 1.0, 0.35, 0.05)
    if not outlined:
        return Display(plane, index, window, opacity)
    outline = controls.toggle(next(columns), "outline", "Outline", "The outline of the reference over the predictions")
    return Display(plane, index, window, opacity, outline)
