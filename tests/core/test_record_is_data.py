"""A record is data: nothing in it is ever called, imported or connected to, whatever command reads it."""

from __future__ import annotations

import copy
import json
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import medssl
from medssl.core import runs
from medssl.core.errors import MedsslError
from medssl.preprocessing.cache import Cache
from medssl.reporting.dashboard.folder import runs_below

pytestmark = pytest.mark.long

CALL = {"init_args": {"arguments": ["--version"]}}
CODE: dict[str, Any] = {
    "a dotted path": "medssl.cli.main.main",
    "a module": "medssl.cli.main",
    "a target as an entry point writes it": "medssl.cli.main:main",
    "a call": {"class_path": "medssl.cli.main.main"} | CALL,
    "a call as an entry point writes it": {"class_path": "medssl.cli.main:main"} | CALL,
    "a dask scheduler": "tcp://127.0.0.1:8786",
    "a dask scheduler with TLS": "tls://scheduler.example:8786",
}
RECORD: dict[str, Any] = {  # written by medssl 0.1.0, record format 1
    "commit": "ebd9ca808ae0",
    "config": {
        "accumulate": 1,
        "batch_size": 2,
        "channels": 1,
        "cohort": "e6d0da31907c",
        "crop": [16, 16, 16],
        "devices": 1,
        "dims": 3,
        "encoder": {
            "class_path": "medssl.encoders.unet.ResidualUNet",
            "init_args": {"blocks": [1, 1, 1], "dims": 3, "in_channels": 1, "most_width": 320, "width": 4},
        },
        "lr": 0.001,
        "method": {
            "class_path": "medssl.methods.joint.Joint",
            "init_args": {
                "parts": [
                    {"class_path": "medssl.methods.simmim.SimMIM", "init_args": {"mask_block": 8, "mask_ratio": 0.6}},
                    {"class_path": "medssl.methods.simclr.SimCLR", "init_args": {"temperature": 0.5}},
                ],
                "weights": [1.0, 1.0],
            },
            "views": "ModuleList()",
        },
        "modality": "CT",
        "precision": "32-true",
        "scans": 8,
        "size": None,
        "spacing_mm": [10.0, 10.0, 10.0],
        "split_column": None,
        "split_seed": 0,
        "steps": 1,
        "transductive": False,
        "warmup": 50,
        "weight_decay": 0.05,
    },
    "cost": {"device": "cpu", "device_memory_mib": None, "devices": 1, "peak_memory_mib": 1101, "seconds": 10.78},
    "data": "9fb494876bd2b23022c4ceb70196ac963050284151db4f2f7530f77c227a3fa4",
    "heartbeat": 1795539634.575773,
    "id": "970ca80bbfca",
    "kind": "pretrain",
    "metrics": {"effective_rank": 6.187346935272217, "loss": 1.2484804391860962},
    "parent": None,
    "protocol": {},
    "reason": None,
    "seed": 0,
    "started": 1795539623.7946727,
    "status": "finished",
    "versions": {"medssl": "0.1.0", "python": "3.11.7", "torch": "2.15.0"},
}


def places(value: Any, at: tuple = ()) -> Iterator[tuple]:
    """Where a value stands in a record, for every value of every depth."""
    if at:
        yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from places(item, (*at, key))


PLACES = list(places(RECORD))


def forged(at: tuple, content: Any, record: dict[str, Any] = RECORD) -> dict[str, Any]:
    made = copy.deepcopy(record)
    holder = made
    for key in at[:-1]:
        holder = holder[key]
    holder[at[-1]] = content
    return made


def write(folder: Path, record: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(record))
    return folder


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails the test if the command line's main function was called or a socket connected."""
    called: list[Any] = []

    def note(*given: Any, **named: Any) -> None:
        called.append((given, named))
        raise RuntimeError("a record had something called")

    monkeypatch.setattr("medssl.cli.main.main", note)
    monkeypatch.setattr(socket.socket, "connect", note)
    monkeypatch.setattr(socket.socket, "connect_ex", note)
    yield
    assert called == []


@pytest.mark.parametrize("what", CODE)
@pytest.mark.parametrize("at", PLACES, ids=lambda at: ".".join(map(str, at)))
def test_code_or_an_address_is_refused_in_every_field(at: tuple, what: str, tmp_path: Path, nothing_runs: None) -> None:
    write(tmp_path / "run", forged(at, CODE[what]))
    with pytest.raises(MedsslError, match="the record names|is broken"):
        runs.read(tmp_path / "run")
    assert list(runs.table(tmp_path)["status"]) == ["broken"]
    with pytest.raises(MedsslError, match="the record names|is broken"):
        runs.read(write(tmp_path / "run", forged(at, [{"deeper": CODE[what]}])))


@pytest.mark.parametrize("at", PLACES, ids=lambda at: ".".join(map(str, at)))
def test_code_is_refused_as_the_name_of_a_field(at: tuple, tmp_path: Path, nothing_runs: None) -> None:
    with pytest.raises(MedsslError, match="the record names|is broken"):
        runs.read(write(tmp_path / "run", forged(at, {"medssl.cli.main:main": 1})))


COMMANDS: dict[str, Callable[[Path, Path, Path], Any]] = {
    "predict": lambda run, cache, out: medssl.predict(run, cache, out),
    "embed": lambda run, cache, out: medssl.embed(run, cache, out),
    "finetune --init": lambda run, cache, out: medssl.finetune(cache, out, "segmentation", init=run),
    "study --arms": lambda run, cache, out: medssl.study(cache, out, "segmentation", ["scratch", str(run)], ["1p"]),
    "sample": lambda run, cache, out: medssl.sample(run, out),
    "probe": lambda run, cache, out: medssl.probe(run, cache, ["knn"], "lesion"),
    "report": lambda run, cache, out: medssl.report(run, out / "report.html"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_uses_a_record_that_holds_code(
    command: str, pretrained: Path, cache: Cache, tmp_path: Path, nothing_runs: None
) -> None:
    """Every field of a record whose weights are there and fit, so that only the record can be what is refused."""
    run = tmp_path / "run"
    shutil.copytree(pretrained, run)
    record = json.loads((pretrained / "run.json").read_text())
    record["kind"] = "finetune" if command == "predict" else "pretrain"
    for at in places(record):
        write(run, forged(at, CODE["a call"], record))
        with pytest.raises(MedsslError, match="the record names|is broken"):
            COMMANDS[command](run, cache.path, tmp_path / "out")
    assert not (tmp_path / "out" / "run.json").exists()


WRONG_CLASSES = {  # names that are not registered, code outside medssl, and classes of another kind than the field's
    "encoder": ("main", "os.system", "SimMIM", "Gamma"),
    "method": ("main", "os.system", "ResNet", "Gamma"),
}
READ_FIELDS = {command: ("encoder",) for command in ("predict", "embed", "finetune --init", "study --arms")} | {
    "sample": ("encoder", "method")
}


@pytest.mark.parametrize(
    ("command", "field", "name"),
    [
        (command, field, name)
        for command in READ_FIELDS
        for field in READ_FIELDS[command]
        for name in WRONG_CLASSES[field]
    ],
)
def test_a_record_names_a_registered_class_of_the_right_kind(
    command: str, field: str, name: str, pretrained: Path, cache: Cache, tmp_path: Path, nothing_runs: None
) -> None:
    run = tmp_path / "run"
    shutil.copytree(pretrained, run)
    record = json.loads((run / "run.json").read_text())
    if command == "sample":
        record = forged(("config", "method", "class_path"), "VAE", record)
    kind = "finetune" if command == "predict" else "pretrain"
    forgery = forged(("config", field), {"class_path": name, "init_args": {}}, record | {"kind": kind})
    forgery["config"] |= {"task": "segmentation", "classes": ["1"]}
    write(run, forgery)
    with pytest.raises(MedsslError, match="the record names|outside medssl|no scan can be drawn"):
        COMMANDS[command](run, cache.path, tmp_path / "out")


def test_the_dashboard_shows_such_a_record_as_broken(tmp_path: Path, nothing_runs: None) -> None:
    for n, at in enumerate(PLACES):
        write(tmp_path / str(n), forged(at, CODE["a target as an entry point writes it"]))
    assert set(runs_below(tmp_path)["status"]) == {"broken"}


def test_a_run_with_a_record_that_would_be_refused_does_not_start(tmp_path: Path) -> None:
    with (
        pytest.raises(MedsslError, match=r"the record names 'medssl\.cli\.main'"),
        runs.recording(tmp_path / "run", "pretrain", {"label": ["medssl.cli.main"]}, "data", 0),
    ):
        pass
    assert not (tmp_path / "run").exists()


def test_a_record_of_the_first_format_is_read_with_todays_class_names(tmp_path: Path) -> None:
    run = runs.read(write(tmp_path, RECORD))
    assert run.format == 1
    assert run.config["encoder"]["class_path"] == "ResidualUNet"  # its file has moved since
    assert [part["class_path"] for part in run.config["method"]["init_args"]["parts"]] == ["SimMIM", "SimCLR"]
    assert run.config | {"encoder": 0, "method": 0} == RECORD["config"] | {"encoder": 0, "method": 0}


def test_what_a_first_format_record_describes_is_built(tmp_path: Path) -> None:
    from medssl.core.spec import rebuild
    from medssl.methods import Method
    from medssl.training.models import fresh_encoder, load_method, save_weights

    run = runs.read(write(tmp_path, RECORD))
    encoder = fresh_encoder(run.config["encoder"], 0)
    assert len(encoder.channels) == 3
    save_weights(rebuild(run.config["method"], Method, encoder=encoder), tmp_path / "method.safetensors")
    method, _ = load_method(tmp_path)
    assert [type(part).__name__ for part in method.methods] == ["SimMIM", "SimCLR"]  # type: ignore[operator]
    assert method.methods[1].temperature == 0.5  # type: ignore[index]


def test_a_run_of_an_older_format_is_neither_continued_nor_replaced(tmp_path: Path) -> None:
    written = (write(tmp_path, RECORD) / "run.json").read_text()
    expected = r"holds a pretrain run written by medssl 0\.1\.0 \(record format 1\).*give another --out"
    with pytest.raises(MedsslError, match=expected), runs.recording(tmp_path, "pretrain", {}, "data", 0):
        pass
    with pytest.raises(MedsslError, match=expected):
        runs.finished_run(tmp_path, "abc")
    assert (tmp_path / "run.json").read_text() == written


def test_a_record_of_a_newer_format_is_refused_with_its_version(tmp_path: Path) -> None:
    newer = RECORD | {"format": runs.FORMAT + 1, "versions": {"medssl": "9.1"}}
    with pytest.raises(
        MedsslError, match=r"written by medssl 9\.1 \(record format \d+\): expected record format \d+ or older"
    ):
        runs.read(write(tmp_path, newer))
