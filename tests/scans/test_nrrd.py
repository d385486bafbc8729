"""NRRD: what its header says of places, units and bytes is believed, or refused in words."""

from __future__ import annotations

import os

import numpy as np
import pytest

from medssl.core.errors import ScanError
from medssl.scans.formats.nrrd import nrrd_header, read_nrrd

VOXELS = np.arange(24, dtype="<i2").reshape(2, 3, 4)
BASIC = {"type": "short", "dimension": "3", "sizes": "2 3 4", "encoding": "raw", "endian": "little"}
SPACE = {"space": "ras", "space directions": "(1,0,0) (0,1,0) (0,0,2)", "space origin": "(1,2,3)"}


def written(path, behind=b"", before=b"", **fields):
    header = BASIC | {name.replace("_", " "): value for name, value in fields.items()}
    lines = [f"{name}: {value}" for name, value in header.items() if value is not None]
    path.write_bytes("\n".join(["NRRD0005", *lines, "", ""]).encode() + before + VOXELS.tobytes("F") + behind)
    return path


def test_voxels_follow_the_header(tmp_path):
    assert (read_nrrd(written(tmp_path / "a.nrrd"))[0][0] == VOXELS).all()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"byte_skip": "4", "before": b"1234"}, "byte skip of the NRRD is 4"),  # every voxel was two places off
        ({"byte_skip": "-1", "before": b"1234"}, "byte skip of the NRRD is -1"),
        ({"line_skip": "1", "before": b"a line\n"}, "line skip of the NRRD is 1"),
        ({"behind": b"1234"}, "claims 48 bytes of voxels, 52 are there"),
        ({"endian": None}, "in which order its bytes stand"),
        ({"spacings": "1 1 1", "units": '"mm" "mm" "s"'}, "are not one length"),
        ({"dimension": "2"}, "dimension is 2, sizes are"),
        (SPACE | {"space": "ras-time", "space directions": "(1,0,0,0) (0,1,0,0) (0,0,2,0)"}, "three axes in space"),
        (SPACE | {"space origin": "(1,2)"}, "three axes in space"),
        (SPACE | {"spacings": "1 1 3"}, "spacing 3 and a direction of length 2"),
    ],
)
def test_what_would_move_or_change_voxels_is_refused(tmp_path, fields, words):
    with pytest.raises(ScanError, match=words):
        read_nrrd(written(tmp_path / "a.nrrd", **fields))


def test_units_are_turned_into_mm(tmp_path):
    """They were taken for mm, whatever they were."""
    header = nrrd_header(written(tmp_path / "a.nrrd", spacings="1 1 2", units='"cm" "cm" "cm"'))
    assert header.spacing_mm == (10, 10, 20)
    assert "units turned into mm (times 10)" in header.notes
    header = nrrd_header(written(tmp_path / "a.nrrd", **SPACE, **{"space units": '"um" "um" "um"'}))
    np.testing.assert_allclose(header.affine[:3], np.array([[1, 0, 0, 1], [0, 1, 0, 2], [0, 0, 2, 3]]) / 1000)


@pytest.mark.parametrize("space", ["scanner-xyz", "3D-left-handed"])
def test_a_space_that_is_not_the_patients_is_noted(tmp_path, space):
    header = nrrd_header(written(tmp_path / "a.nrrd", **SPACE | {"space": space, "spacings": "1 1 2"}))
    assert header.notes == ("the space is not one of the patient's axes: left and right are not known",)


def test_a_header_without_end_is_not_read_to_its_end(tmp_path):
    """5 GB of zeros behind the first line took 5 GB of memory."""
    path = tmp_path / "a.nrrd"
    path.write_bytes(b"NRRD0004\n")
    os.truncate(path, 5 << 30)
    with pytest.raises(ScanError, match="no end of the NRRD header"):
        nrrd_header(path)
