"""The walk over folders: no single entry stops it, nothing is read twice, and what is left out is reported."""

from __future__ import annotations

import os
import socket

import pytest

from medssl.cli.main import main
from medssl.datasets.index import index
from medssl.scans.paths import walk
from tests.scans.scan_makers import write_nifti, write_series


def hostile(root):
    """A folder with a scan and everything that a file system may hold beside it."""
    write_nifti(root / "a" / "scan.nii.gz")
    os.mkfifo(root / "a" / "pipe.nii.gz")
    (root / "a" / "self.nii").symlink_to("self.nii")
    (root / "a" / "nowhere.dcm").symlink_to(root / "gone")
    (root / "a" / "loop").symlink_to(root)
    (root / "a" / "new\nline.txt").write_text("")
    (root / "a" / ("long" * 60)).write_text("")
    with open(os.fsencode(root / "a") + b"/caf\xe9.nii", "wb"):
        pass
    os.mkdir(os.fsencode(root) + b"/fol\xff")
    (root / "empty").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        before = os.getcwd()
        os.chdir(root / "a")  # the path of a socket is short
        try:
            server.bind("socket")
        finally:
            os.chdir(before)


def test_no_entry_stops_the_others(tmp_path, capsys):
    root = tmp_path / "scans"
    (root / "a").mkdir(parents=True)
    hostile(root)
    assert main(["index", str(root), "--out", str(tmp_path / "m")]) == 0
    said = capsys.readouterr()
    text = said.out + said.err
    for part in (r"caf\xe9.nii", r"fol\xff", "ELOOP", "leads nowhere", "a pipe, a socket or a device"):
        assert part in text


def test_what_is_left_out_is_reported_once_each(tmp_path):
    (tmp_path / "a").mkdir()
    hostile(tmp_path)
    unreachable: list[tuple[str, str]] = []
    files = [path.name for _, path in walk([tmp_path], None, unreachable)]
    assert files == sorted(["scan.nii.gz", "new\nline.txt", "long" * 60])
    assert len(unreachable) == len(set(unreachable)) == 6


def test_a_linked_series_outside_is_read_once(tmp_path):
    write_series(tmp_path / "archive" / "s1", series="1.2.3")
    root = tmp_path / "scans"
    root.mkdir()
    (root / "one").symlink_to(tmp_path / "archive" / "s1")
    (root / "two").symlink_to(tmp_path / "archive" / "s1")
    manifest = index([root], tmp_path / "m")
    assert len(manifest) == 1


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_what_two_links_lead_to_is_read_once(tmp_path, names):
    """A scan was two, of two patients, where one link led into the target of another, or to a folder above the source."""
    outside = write_nifti(tmp_path / "archive" / "inside" / "scan.nii.gz")
    write_nifti(tmp_path / "above" / "root" / "own.nii.gz")
    root = tmp_path / "above" / "root"
    (root / names[0]).symlink_to(outside.parent)
    (root / names[1]).symlink_to(tmp_path / "archive")
    (root / "up").symlink_to("..")
    assert sorted(path.name for _, path in walk([root])) == ["own.nii.gz", "scan.nii.gz"]


def test_a_folder_that_cannot_be_opened_and_a_file_that_vanishes(tmp_path, monkeypatch):
    for name in ("good", "shut"):
        write_nifti(tmp_path / "s" / name / "scan.nii.gz")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("shut"):
            raise PermissionError(13, "no")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    unreachable: list[tuple[str, str]] = []
    assert [path.parent.name for _, path in walk([tmp_path / "s"], None, unreachable)] == ["good"]
    assert unreachable == [(str(tmp_path / "s" / "shut"), "the folder cannot be opened (EACCES)")]


@pytest.mark.parametrize("link", ["folder", "file"])
def test_links_within_the_sources_are_not_second_copies(tmp_path, link):
    path = write_nifti(tmp_path / "s" / "a" / "scan.nii.gz")
    (tmp_path / "s" / "b").symlink_to(path.parent if link == "folder" else path)
    assert len(list(walk([tmp_path / "s"]))) == 1


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="this system has no /proc")
def test_a_link_into_files_that_the_system_makes_up_is_not_followed(tmp_path):
    write_nifti(tmp_path / "scan.nii.gz")
    (tmp_path / "numbers").symlink_to("/proc")
    (tmp_path / "own").symlink_to("/proc/self/fd")
    unreachable: list[tuple[str, str]] = []
    assert [path.name for _, path in walk([tmp_path], None, unreachable)] == ["scan.nii.gz"]
    assert [os.path.basename(path) for path, _ in unreachable] == ["numbers", "own"]
    assert all("a link into /proc" in why for _, why in unreachable)
