"""Every command on folders that cannot be read or written: a message without a traceback and exit code 2, no bug of medssl."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torchvision

from medssl.cli.main import main
from medssl.core.atomic import exclusive
from medssl.core.errors import MedsslError
from medssl.datasets.index import index
from medssl.datasets.phantom.cohort import phantom
from medssl.preprocessing.cache import Cache, prepare
from medssl.training.config import FinetuneConfig
from medssl.training.finetune import finetune
from tests.cli import permissions
from tests.scans.scan_makers import tree

SMALL = ["--steps", "1", "--crop", "16", "16", "16", "--batch-size", "2"]
WRITING = {  # command -> its words, with what it reads in capitals
    "demo": ["--patients", "8"],
    "index": ["SCANS"],
    "prepare": ["MANIFEST"],
    "pretrain": ["--data", "CACHE", *SMALL],
    "finetune": ["--data", "CACHE", "--task", "segmentation", *SMALL],
    "predict": ["MODEL", "CACHE"],
    "embed": ["RUN", "CACHE"],
    "views": ["--data", "CACHE", "--recipe", "contrastive"],
    "compare": ["--data", "CACHE", "--label", "lesion", "--methods", "SimCLR", "--steps", "1"],
    "study": ["--data", "CACHE", "--task", "segmentation", "--arms", "scratch", "--budgets", "1.0", *SMALL],
}
READING = {
    "index": ["SCANS", "--out", "OUT"],
    "prepare": ["MANIFEST", "--out", "OUT"],
    "fingerprint": ["MANIFEST"],
    "plan": ["--data", "CACHE"],
    "pretrain": ["--data", "CACHE", "--out", "OUT", *SMALL],
    "predict": ["MODEL", "CACHE", "--out", "OUT"],
    "embed": ["RUN", "CACHE", "--out", "OUT"],
    "report": ["RUN"],
    "where": ["MANIFEST", "0123456789ab"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, cache: Cache, pretrained: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("made")
    scans = tree(folder / "scans", 2, mask=False)
    index([scans], folder / "manifest", modality="CT")
    train = FinetuneConfig(steps=1, batch_size=2)
    finetune(cache.path, folder / "model", "segmentation", crop=(16, 16, 16), train=train)
    return {
        "SCANS": scans,
        "MANIFEST": folder / "manifest",
        "CACHE": cache.path,
        "RUN": pretrained,
        "MODEL": folder / "model",
    }


def closed_folder(place: Path) -> Path:
    place.mkdir(mode=0o500)
    return place


def below_a_closed_folder(place: Path) -> Path:
    return closed_folder(place) / "a" / "out"


def below_a_file(place: Path) -> Path:
    place.touch()
    return place / "out"


def a_long_name(place: Path) -> Path:
    return place / ("x" * 300)


@pytest.mark.parametrize("make", [closed_folder, below_a_closed_folder, below_a_file, a_long_name])
@pytest.mark.parametrize("command", WRITING)
def test_a_folder_that_cannot_be_written_is_named_and_nothing_is_a_bug(
    made: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture, command: str, make: Callable[[Path], Path]
) -> None:
    out = make(tmp_path / "place")
    words = [str(made.get(word, word)) for word in WRITING[command]]
    if command == "views":
        out = out / "views.png"
    with permissions.obeyed():
        assert main([command, *words, "--out", str(out)]) == 2
    shown = capsys.readouterr().err
    assert "error: " in shown
    assert "bug" not in shown
    assert not any(os.scandir(tmp_path / "place")) if (tmp_path / "place").is_dir() else True


@pytest.mark.parametrize(
    "command", [pytest.param(c, marks=[pytest.mark.slow] if c in ("predict", "pretrain") else []) for c in READING]
)
def test_a_folder_that_cannot_be_read_is_named_and_nothing_is_a_bug(
    made: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture, command: str
) -> None:
    read = next(word for word in READING[command] if word in made)
    copy = tmp_path / "copy"
    shutil.copytree(made[read], copy)
    for number, path in enumerate([*{path.suffix or path: path for path in copy.rglob("*")}.values(), copy]):
        outcome = {read: str(copy), "OUT": str(tmp_path / f"out{number}")}
        words = [outcome.get(word, str(made.get(word, word))) for word in READING[command]]
        path.chmod(0)
        with permissions.obeyed():
            code = main([command, *words])
        path.chmod(0o700)
        shown = capsys.readouterr().err
        assert code in (0, 2, 3), shown
        assert "bug" not in shown
    assert code == 2
    assert str(copy) in shown


@pytest.mark.parametrize("number", sorted(set(errno.errorcode) - {errno.ENOSPC, errno.EDQUOT}))
def test_any_error_of_the_system_is_a_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path, number: int
) -> None:
    def fail() -> None:
        raise OSError(number, os.strerror(number), str(tmp_path / "of_a_patient"))

    monkeypatch.setattr("medssl.cli.doctor.doctor", fail)
    assert main(["doctor"]) == 2
    shown = capsys.readouterr().err
    assert errno.errorcode[number] in shown
    assert "patient" not in shown
    assert shown.count("\n") == 1


def test_a_full_memory_is_a_message(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def fail() -> None:
        raise MemoryError

    monkeypatch.setattr("medssl.cli.doctor.doctor", fail)
    assert main(["doctor"]) == 2
    assert "memory is full" in capsys.readouterr().err


def test_output_that_nobody_reads_is_no_bug() -> None:
    command = f"{sys.executable} -m medssl.cli.main --help | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert "bug" not in done.stderr
    assert "Traceback" not in done.stderr


def test_leftovers_of_a_killed_process_are_removed_and_those_that_cannot_be_stop_nothing(tmp_path: Path) -> None:
    scans = tree(tmp_path / "scans", 2, mask=False)
    for folder in ("m", "c"):
        (tmp_path / folder / ".manifest.parquet.abc.tmp").mkdir(parents=True)
        (tmp_path / folder / ".manifest.parquet.xyz.tmp").write_bytes(b"cut short")
    index([scans], tmp_path / "m", modality="CT")
    prepare(tmp_path / "m", tmp_path / "c")
    for folder in ("m", "c"):
        assert [path.name for path in (tmp_path / folder).glob(".*.tmp")] == [".manifest.parquet.abc.tmp"]


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Path]:
    """A folder that another process writes to."""
    context = multiprocessing.get_context("fork")
    begun, done = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path / "held", begun, done))
    process.start()
    begun.wait(10)
    yield tmp_path / "held"
    done.set()
    process.join()


def _hold(folder: Path, begun, done) -> None:
    with exclusive(folder):
        begun.set()
        done.wait(60)


@pytest.mark.parametrize("command", [c for c in WRITING if c not in ("views", "prepare", "study")])
def test_one_process_writes_to_a_folder(
    made: dict[str, Path], held: Path, capsys: pytest.CaptureFixture, command: str
) -> None:
    if command == "demo":
        (held / ".medssl-demo").touch()
    before = sorted(held.rglob("*"))
    words = [str(made.get(word, word)) for word in WRITING[command]]
    assert main([command, *words, "--out", str(held)]) == 2
    assert "another process is writing to held: expected this one alone" in capsys.readouterr().err
    assert sorted(held.rglob("*")) == before


def test_a_cohort_is_made_by_one_process(held: Path) -> None:
    with pytest.raises(MedsslError, match="another process is writing to held"):
        phantom(held, patients=8, shape=(16, 16, 16), spacing_mm=(20, 20, 20))


def test_public_weights_are_imported_by_one_process(tmp_path: Path, held: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "weights.pth")
    before = sorted(held.rglob("*"))
    assert main(["import", str(tmp_path / "weights.pth"), "--as", "torchvision", "--out", str(held)]) == 2
    assert "another process is writing to held: expected this one alone" in capsys.readouterr().err
    assert sorted(held.rglob("*")) == before
