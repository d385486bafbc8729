"""The run record: what was done, with what, from what, and what came out. Imports no torch.

One folder a run. `run.json` in it carries the status (running with a heartbeat, finished, stopped by hand, failed with
the reason)
and is replaced atomically, so a reader never sees half a record. `table` is a glob into a DataFrame.

    from medssl.core import runs
    runs.table("runs")[["kind", "status", "metrics.auroc", "cost.seconds"]]
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import math
import platform
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from medssl.core.atomic import write_atomically
from medssl.core.errors import MedsslError, Stopped
from medssl.core.resources import CHECKOUT

STALE_S = 120.0  # a running record whose heartbeat is older than this belongs to a process that died
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
    """The record in `folder`; raises MedsslError where there is none or it is broken."""
    path = Path(folder) / "run.json"
    if not path.exists():
        raise MedsslError(f"{folder} holds no run.json: expected the folder of a medssl run")
    try:
        known = json.loads(path.read_text())
        run = Run(**{k: v for k, v in known.items() if k in Run.__dataclass_fields__})
        _check_kinds(run)
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
        why = type(error.__cause__).__name__ if isinstance(error.__cause__, OSError) else error.__cause__
        return about | {"id": folder.name, "status": "broken", "reason": str(why or "unreadable")}
    return about | flatten(asdict(run)) | ({"status": "stale"} if run.stale else {})


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
    folder.mkdir(parents=True, exist_ok=True)
    name = identity(kind=kind, config=config, data=data, seed=seed, parent=parent)
    before = read(folder) if (folder / "run.json").exists() else None
    if before is not None and before.kind != kind:
        raise MedsslError(
            f"{folder.name} holds a {before.kind} run: expected a new folder or one of a {kind} run; give another --out"
        )
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
        told = str(error) if isinstance(error, MedsslError) else type(error).__name__
        status = {"status": "stopped" if isinstance(error, (KeyboardInterrupt, Stopped)) else "failed", "reason": told}
        raise
    finally:
        recorder.close()
        seconds = round(spent + time.time() - begun, 2)  # of all attempts at this very run
        recorder.update(**status, cost={"seconds": seconds, "peak_memory_mib": recorder.peak_rss >> 20})


def describe(thing: Any) -> dict:
    """The class path and arguments an object was built with, so that a record can rebuild it.

    Holds for any class whose attributes are named as the parameters of its `__init__` (scikit-learn's convention).
    """
    names = [n for n in inspect.signature(type(thing).__init__).parameters if n != "self"]
    missing = [n for n in names if not hasattr(thing, n)]
    if missing:
        raise MedsslError(
            f"{type(thing).__name__} does not keep its parameter {missing[0]!r}: expected an attribute of that name; "
            f"set self.{missing[0]} = {missing[0]} in __init__"
        )
    kept = {n: getattr(thing, n) for n in names}
    path = f"{type(thing).__module__}.{type(thing).__qualname__}"
    plain = {
        n: list(v) if isinstance(v, tuple) else v for n, v in kept.items() if _is_plain(v)
    }  # as JSON gives it back
    nested = {n: [describe(part) for part in v] for n, v in kept.items() if n not in plain and _is_list_of_parts(v)}
    return {"class_path": path, "init_args": plain | nested}


def rebuild(spec: dict, **more: Any) -> Any:
    """The object `describe` described, with `more` arguments that a record cannot hold. It only names medssl's classes."""
    path = spec["class_path"]
    module, _, name = path.rpartition(".")
    if not module.startswith("medssl."):
        raise MedsslError(
            f"the record names the class {path}, which is outside medssl, and a record is never allowed to import code: "
            f"name it yourself, with --encoder {path}"
        )
    parts = {n: [_later(v) for v in vs] for n, vs in spec["init_args"].items() if _are_specs(vs)}
    return getattr(importlib.import_module(module), name)(**spec["init_args"] | parts, **more)


def _are_specs(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) and "class_path" in v for v in value)


def _later(spec: dict) -> Callable[[Any], Any]:
    """A part of a Joint, to be built when its encoder is there."""
    return lambda encoder: rebuild(spec, encoder=encoder)


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


def _check_kinds(run: Run) -> None:
    """Raises TypeError for a record whose fields are not what their readers count on."""
    wanted: dict[str, Any] = dict.fromkeys(("id", "kind", "data", "commit", "status"), str)
    wanted |= dict.fromkeys(("config", "metrics", "cost", "versions", "protocol"), dict)
    wanted |= dict.fromkeys(("started", "heartbeat"), (int, float))
    for name, kind in wanted.items():
        if not isinstance(getattr(run, name), kind):
            raise TypeError(f"{name} is of another kind than expected")


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(v) for v in value)
    return value is None or isinstance(value, (str, int, float, bool))


def _is_list_of_parts(value: Any) -> bool:
    """A list, or torch's ModuleList, of objects that are themselves built from their arguments (the parts of a Joint)."""
    return isinstance(value, Iterable) and not isinstance(value, (str, dict)) and type(value).__name__ != "Tensor"


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
