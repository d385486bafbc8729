"""The run record: what was done, with what, from what, and what came out. Imports no torch.

One folder a run. `run.json` in it carries the status (running with a heartbeat, finished, stopped by hand, failed with
the reason)
and is replaced atomically, so a reader never sees half a record. `table` is a glob into a DataFrame.

    from medssl.core import runs
    runs.table("runs")[["kind", "status", "metrics.auroc", "cost.seconds"]]
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from medssl.core import registry
from medssl.core.atomic import write_atomically
from medssl.core.errors import MedsslError, Stopped
from medssl.core.resources import CHECKOUT
from medssl.core.spec import plain

STALE_S = 120.0  # a running record whose heartbeat is older than this belongs to a process that died
FORMAT = 2  # of run.json; format 1 had no number, and named a class by the path of its file
CLASS_OF_FORMAT_1 = re.compile(r"medssl\.(?:\w+\.)+(\w+)")
ARGUMENTS_OF_FORMAT_1 = {"most_width": "max_width"}
NOT_DATA = re.compile(r"medssl(\.\w+)+(:\w+)?|(tcp|tls|ucx|inproc|wss?)://.*", re.DOTALL)
PACKAGES = ("medssl", "torch", "monai", "lightly", "pytorch-lightning", "numpy", "blosc2")


@dataclass(frozen=True)
class Run:
    """A record as it stands in `run.json`; see `read` and `table`."""

    id: str
    kind: str
    config: dict
    data: str
    seed: int
    parent: str | None = None
    commit: str = ""
    status: str = "running"
    reason: str | None = None
    started: float = 0.0
    heartbeat: float = 0.0
    metrics: dict = field(default_factory=dict)
    cost: dict = field(default_factory=dict)
    versions: dict = field(default_factory=dict)
    protocol: dict = field(default_factory=dict)
    format: int = FORMAT

    @property
    def writer(self) -> str:
        """The version of medssl that wrote the record, for messages."""
        return f"medssl {self.versions.get('medssl', 'of an unknown version')} (record format {self.format})"

    @property
    def stale(self) -> bool:
        """Says it is running, but its process has not been heard of for two minutes."""
        return self.status == "running" and time.time() - self.heartbeat > STALE_S


def identity(**parts: Any) -> str:
    """Twelve hex digits that name a run by everything it depends on.

    >>> identity(arm="scratch", draw=0) == identity(draw=0, arm="scratch")
    True
    """
    return hashlib.sha256(_json(parts).encode()).hexdigest()[:12]


def read(folder: Path | str) -> Run:
    """The record in `folder`; one of an older format is given in today's, with its `format` as it was.

    Raises:
        MedsslError: There is no record, it is broken, a newer medssl wrote it, or it holds more than data.
    """
    path = Path(folder) / "run.json"
    if not path.exists():
        raise MedsslError(f"{folder} holds no run.json: expected the folder of a medssl run")
    try:
        stored = json.loads(path.read_text())
        run = Run(**{"format": 1} | {k: v for k, v in stored.items() if k in Run.__dataclass_fields__})
        _check_kinds(run)
        if run.format < 2:
            run = replace(run, config=_with_bare_class_names(run.config))
        _check_format(run)
        check_is_data(asdict(run))
        return run
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise MedsslError(f"the run.json in {folder} is broken ({type(error).__name__}): run the job again") from error


def finished(folder: Path, name: str, resume: bool = False) -> Run | None:
    """The run in this folder if it is done and the very one called `name`, else None.

    Raises MedsslError where a run of other settings would be overwritten: a finished one, and one that can be gone on
    with (`resume`).
    """
    if not (folder / "run.json").exists():
        return None
    before = read(folder)
    _check_can_go_on(folder, before)
    if before.id != name and (before.status == "finished" or (resume and (folder / "last.ckpt").exists())):
        raise MedsslError(
            f"{folder.name} holds the {before.status} run {before.id}, made with other settings or data than this one "
            f"({name}): nothing was changed; give another --out, or the settings of the first"
            f"{'' if before.status == 'finished' else ', or --resume false to start over'}"
        )
    return before if before.status == "finished" else None


def holds(folder: Path, name: str) -> bool:
    """Whether the folder's record is that of the run called `name`."""
    return (folder / "run.json").exists() and read(folder).id == name


def table(root: Path | str) -> pd.DataFrame:
    """All runs below `root`, one row each, nested fields as `config.*`, `metrics.*`, `cost.*`.

    A broken record is a row with status "broken"; a running one without a heartbeat is "stale".
    """
    return as_table([row(Path(root), path.parent) for path in sorted(Path(root).glob("**/run.json"))])


def as_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows of `row` as `table` returns them."""
    return pd.DataFrame(rows, columns=None if rows else ["folder", "id", "kind", "status"])


def row(root: Path, folder: Path) -> dict[str, Any]:
    """The row of one run's folder below `root`; see `table`."""
    about: dict[str, Any] = {"folder": str(folder.relative_to(root))}
    try:
        run = read(folder)
    except MedsslError as error:
        why = type(error.__cause__).__name__ if isinstance(error.__cause__, OSError) else error.__cause__ or error
        return about | {"id": folder.name, "status": "broken", "reason": str(why)}
    return about | flatten(plain(asdict(run))) | ({"status": "stale"} if run.stale else {})


class Recorder:
    """The open record of a run in progress; made by `recording`."""

    def __init__(self, folder: Path, run: Run):
        self.folder, self.run, self.peak_rss = folder, run, 0
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self.update()
        self._thread.start()

    def update(self, **changes: Any) -> None:
        """Replace fields of the record on disk (dicts are merged), with a fresh heartbeat."""
        with self._lock:
            merged: dict[str, Any] = {
                k: {**getattr(self.run, k), **v} if isinstance(v, dict) else v for k, v in changes.items()
            }
            self.run = replace(self.run, heartbeat=time.time(), **merged)
            write_atomically(self.folder / "run.json", (_json(asdict(self.run), indent=1) + "\n").encode())

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _beat(self) -> None:
        process, last = psutil.Process(), time.time()
        while not self._stop.wait(0.5):
            self.peak_rss = max(self.peak_rss, process.memory_info().rss)
            if time.time() - last > STALE_S / 8:
                last = time.time()
                with suppress(MedsslError):  # a full disk costs a heartbeat, and is said where a result is written
                    self.update()


@contextmanager
def recording(
    folder: Path, kind: str, config: dict, data: str, seed: int, parent: str | None = None
) -> Iterator[Recorder]:
    """Keep a run's record while the block runs: finished at its end, failed with the reason if it raises.

    Time and peak memory are measured here, so every kind of run has them under `cost`.
    """
    check_is_data(config)
    folder.mkdir(parents=True, exist_ok=True)
    name = identity(kind=kind, config=config, data=data, seed=seed, parent=parent)
    before = read(folder) if (folder / "run.json").exists() else None
    if before is not None and before.kind != kind:
        raise MedsslError(
            f"{folder.name} holds a {before.kind} run: expected a new folder or one of a {kind} run; give another --out"
        )
    if before is not None:
        _check_can_go_on(folder, before)
    same = before is not None and before.id == name
    spent = float(before.cost.get("seconds") or 0.0) if same and before else 0.0
    begun = time.time()
    started = before.started if same and before else begun
    run = Run(name, kind, config, data, seed, parent, commit(), started=started, versions=versions())
    recorder = Recorder(folder, run)
    try:
        yield recorder
        status: dict[str, Any] = {"status": "finished"}
    except BaseException as error:
        reason = str(error) if isinstance(error, MedsslError) else type(error).__name__
        status = {
            "status": "stopped" if isinstance(error, (KeyboardInterrupt, Stopped)) else "failed",
            "reason": reason,
        }
        raise
    finally:
        recorder.close()
        seconds = round(spent + time.time() - begun, 2)  # of all attempts at this very run
        recorder.update(**status, cost={"seconds": seconds, "peak_memory_mib": recorder.peak_rss >> 20})


def commit() -> str:
    """The commit the running code comes from, `+` if it was changed since; the version where there is no git."""
    if not (CHECKOUT / ".git").exists():
        return f"medssl {version('medssl')}"
    git = ["git", "-C", str(CHECKOUT)]
    head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    dirty = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=False)
    return (head.stdout.strip() or "uncommitted") + ("+" if dirty.stdout.strip() else "")


def versions() -> dict[str, str]:
    """Of Python and the packages a result depends on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def check_is_data(value: Any) -> None:
    """Raise MedsslError where a record, at any depth, names code of medssl or the address of a machine.

    A class stands in a record by its bare name, so nothing in it has a reason to look like either.
    """
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple):
        for item in value:
            check_is_data(item)
    elif isinstance(value, str) and NOT_DATA.fullmatch(value):
        raise MedsslError(
            f"the record names {value!r}: expected data, and classes by the bare names of encoders, methods and views that "
            f"this version has; a record that names code or an address is never used"
        )


def _with_bare_class_names(value: Any) -> Any:
    """Part of a record of format 1 with `ResNet` in place of `medssl.encoders.resnet.ResNet`, wherever the file lay, and
    with today's names of arguments."""
    if isinstance(value, dict):
        return {ARGUMENTS_OF_FORMAT_1.get(key, key): _with_bare_class_names(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_bare_class_names(item) for item in value]
    named = CLASS_OF_FORMAT_1.fullmatch(value) if isinstance(value, str) else None
    return named[1] if named and registry.holds(named[1]) else value


def _check_format(run: Run) -> None:
    if run.format > FORMAT:
        raise MedsslError(
            f"the record of run {run.id} was written by {run.writer}: expected record format {FORMAT} or older; install "
            f"that version of medssl, or a newer one"
        )


def _check_can_go_on(folder: Path, before: Run) -> None:
    """A run of an older format is read and used, but neither continued nor replaced: its parts were identified otherwise."""
    if before.format < FORMAT:
        raise MedsslError(
            f"{folder.name} holds a {before.kind} run written by {before.writer}: it can be read and reported, but this "
            f"version (record format {FORMAT}) cannot continue it; give another --out, or install that version of medssl "
            f"to continue it"
        )


def _check_kinds(run: Run) -> None:
    """Raises TypeError for a record whose fields are not what their readers count on."""
    wanted: dict[str, Any] = dict.fromkeys(("id", "kind", "data", "commit", "status"), str)
    wanted |= dict.fromkeys(("config", "metrics", "cost", "versions", "protocol"), dict)
    wanted |= dict.fromkeys(("started", "heartbeat"), (int, float)) | dict.fromkeys(("seed", "format"), int)
    wanted |= dict.fromkeys(("parent", "reason"), (str, type(None)))
    for name, kind in wanted.items():
        if not isinstance(getattr(run, name), kind):
            raise TypeError(f"{name} is of another kind than expected")


def flatten(record: dict, prefix: str = "") -> dict:
    """Nested dicts as one, with dotted names.

    >>> flatten({"cost": {"seconds": 2.0}, "seed": 0})
    {'cost.seconds': 2.0, 'seed': 0}
    """
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(_clean(value), indent=indent, sort_keys=True, default=str)


def _clean(value: Any) -> Any:
    """JSON has no NaN: write null."""
    if isinstance(value, dict):
        return {str(k): _clean(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.item() if hasattr(value, "item") else value
