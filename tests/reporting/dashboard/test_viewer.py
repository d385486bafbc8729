"""The dashboard's pictures: how a slice lies, its spacing, window, overlay and choice."""

import numpy as np
import pytest

from medssl.reporting.dashboard import viewer
from medssl.reporting.dashboard.viewer import Overlay, Plane


def test_a_slice_lies_as_radiologists_look_at_it() -> None:
    volume = np.zeros((4, 5, 6))
    volume[3, 4, 5] = 1  # the right, front, upper corner
    affine = np.diag([2.0, 3.0, 5.0, 1.0])
    axial = viewer.slice_of(volume, affine, "axial", 5)
    assert (axial.left, axial.right, axial.top, axial.bottom) == ("R", "L", "A", "P")
    assert axial.pixels.shape == (5, 4)
    assert axial.pixels[0, 0] == 1
    assert (axial.row_mm, axial.column_mm) == (3.0, 2.0)
    coronal = viewer.slice_of(volume, affine, "coronal", 4)
    assert (coronal.left, coronal.right, coronal.top, coronal.bottom) == ("R", "L", "S", "I")
    assert (coronal.row_mm, coronal.column_mm, coronal.pixels[0, 0]) == (5.0, 2.0, 1)
    sagittal = viewer.slice_of(volume, affine, "sagittal", 3)
    assert (sagittal.left, sagittal.right, sagittal.top, sagittal.bottom) == ("A", "P", "S", "I")
    turned = viewer.slice_of(volume, np.diag([-2.0, 3.0, 5.0, 1.0]), "axial", 5)
    assert (turned.left, turned.right) == ("L", "R")  # the letters follow the affine, not an assumption


def test_a_picture_is_true_to_the_spacing_and_the_window() -> None:
    plane = Plane(np.array([[-1000, -160], [40, 3000]], dtype=np.int16), row_mm=3.0, column_mm=1.0)
    drawn = viewer.picture(plane, viewer.windows("CT")["soft tissue (40/400)"])
    assert drawn.shape[0] == pytest.approx(3 * drawn.shape[1], abs=2)
    assert drawn[0, 0].tolist() == [0, 0, 0]
    assert drawn[-1, 0].tolist() == pytest.approx([127, 127, 127], abs=1)
    assert drawn[-1, -1].tolist() == [255, 255, 255]


def test_overlays_mix_with_the_image_as_their_opacity_says() -> None:
    plane = Plane(np.zeros((20, 20)), 1.0, 1.0)
    mask = np.zeros((20, 20))
    mask[5:15, 5:15] = 2
    colour = [int(viewer.structure_colour(2)[i : i + 2], 16) for i in (1, 3, 5)]
    for opacity in (0.0, 0.5, 1.0):
        drawn = viewer.picture(plane, (0, 1), [Overlay(mask, opacity)])
        middle = drawn[drawn.shape[0] // 2, drawn.shape[1] // 2]
        assert middle.tolist() == pytest.approx([opacity * c for c in colour], abs=1)
        assert not drawn[0, 0].any()
    line = viewer.picture(plane, (0, 1), [Overlay(mask, 1.0, outline=True)])
    assert not line[line.shape[0] // 2, line.shape[1] // 2].any()
    assert line.any()


def test_windows_suit_the_modality() -> None:
    assert viewer.windows("CT")["lung (-600/1500)"] == (-1350, 150)
    assert not set(viewer.windows("MR")) & set(viewer.windows("CT"))
    assert viewer.windows("DX")["full range"] == (0.0, 1.0)


def test_the_fullest_slice_and_the_middle_one() -> None:
    mask = np.zeros((6, 7, 8), dtype=np.uint8)
    mask[2:4, 3, 5] = 1
    assert viewer.fullest_slices(mask, mask.shape) == {"axial": 5, "coronal": 3, "sagittal": 2}
    assert viewer.fullest_slices(None, mask.shape) == {"axial": 4, "coronal": 3, "sagittal": 3}
