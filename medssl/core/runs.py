"""The run record: settings, data, parent run, versions, results and cost of one run, in the run's own folder.

`run.json` has the status: running (with a heartbeat), finished, stopped by hand, or failed (with the reason). It is
replaced atomically, so a reader never sees half a record. `table` reads all records below a folder into a DataFrame.

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

STALE_S = 120.0  # the process of a running record whose heartbeat is older than this has died
FORMAT = 2  # of run.json; records of format 1 have no such field, and name a class by the path of its file
CLASS_OF_FORMAT_1 = re.compile(r"medssl\.(?:\w+\.)+(\w+)")
ARGUMENTS_OF_FORMAT_1 = {"most_width": "max_width", "code": "latent"}
CODE_OR_ADDRESS = re.compile(r"medssl(\.\w+)+(:\w+)?|(tcp|tls|ucx|inproc|wss?)://.*", re.DOTALL)
WITH_ENCODER = ("pretrain", "import")  # kinds of runs that hold an encoder to start from
PACKAGES = ("medssl", "torch", "monai", "lightly", "pytorch-lightning", "numpy", "blosc2")


@dataclass(frozen=True)
class Run:
    """The content of a `run.json`; see `read` and `table`.

    Attributes:
        id: Hash of everything the run depends on; see `identity`.
        kind: The command that made the run, such as "pretrain".
        config: The settings, with the class and arguments of each encoder and method.
        data: Digest of the scans that the run used.
        seed: Seed of all random choices.
        parent: Id of the run that the weights come from.
        commit: Commit of the code that ran.
        status: "running", "finished", "stopped" or "failed".
        reason: Why a run failed or was stopped.
        started: Time of the start, in seconds since 1970.
        heartbeat: Time of the latest write of the record, in seconds since 1970.
        metrics: Results.
        cost: Seconds, peak memory, samples per second.
        versions: Versions of Python and the packages that results depend on.
        protocol: How a study was made, point by point, for its report.
        pseudonym_key: Fingerprint of the key that the patients' pseudonyms were made with; no part of the id.
        format: Format of the record; see `FORMAT`.
    """

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
    pseudonym_key: str | None = None
    format: int = FORMAT

    @property
    def writer(self) -> str:
        """The version of medssl that wrote the record, to be named in messages."""
        return f"medssl {self.versions.get('medssl', 'of an unknown version')} (record format {self.format})"

    @property
    def is_start(self) -> bool:
        """Whether it is finished and holds an encoder to start from: pretrained here, or imported."""
        return self.kind in WITH_ENCODER and self.status == "finished"

    @property
    def stale(self) -> bool:
        """Whether the status is "running" although the last heartbeat is over two minutes old."""
        return self.status == "running" and time.time() - self.heartbeat > STALE_S


def identity(**parts: Any) -> str:
    """Twelve hex digits, the hash of everything that a run depends on, in any order.

    >>> identity(arm="scratch", draw=0) == identity(draw=0, arm="scratch")
    True
    """
    return hashlib.sha256(_json(parts).encode()).hexdigest()[:12]


def read(folder: Path | str) -> Run:
    """The record of the run in `folder`.

    A record of format 1 is converted: classes and arguments have their present names, and `format` stays 1.

    Raises:
        MedsslError: There is no record, it is broken, a newer medssl wrote it, or it names code or an address.
    """
    path = Path(folder) / "run.json"
    if not path.exists():
        raise MedsslError(f"{folder} holds no run.json: expected the folder of a medssl run")
    try:
        stored = json.loads(path.read_text())
        run = Run(**{"format": 1} | {k: v for k, v in stored.items() if k in Run.__dataclass_fields__})
        _check_field_types(run)
        if run.format < 2:
            run = replace(run, config=_convert_format_1(run.config))
        _check_format(run)
        check_is_data(asdict(run))
        return run
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise MedsslError(f"the run.json in {folder} is broken ({type(error).__name__}): run the job again") from error


def finished_run(folder: Path, run_id: str, resume: bool = False) -> Run | None:
    """The run in `folder` if it has this id and is finished, else None.

    Args:
        folder: Folder of a run, or of none yet.
        run_id: Id of the run that is about to start.
        resume: Whether an unfinished run with a checkpoint may be continued, so that it must not be replaced either.

    Raises:
        MedsslError: The folder holds a run with other settings or data, which this one would overwrite.
    """
    if not (folder / "run.json").exists():
        return None
    present = read(folder)
    _check_can_be_continued(folder, present)
    finished = present.status == "finished"
    if present.id != run_id and (finished or (resume and (folder / "last.ckpt").exists())):
        start_over = "" if finished else ", or --resume false to start over"
        raise MedsslError(
            f"{folder.name} holds the {present.status} run {present.id}, made with other settings or data than this one "
            f"({run_id}): nothing was changed; give another --out, or the settings of the run that it holds{start_over}"
        )
    return present if finished else None


def has_id(folder: Path, run_id: str) -> bool:
    """Whether `folder` holds the record of the run with this id.

    Args:
        folder: Folder of a run, or of none yet.
        run_id: The id to compare with, see `identity`.
    """
    return (folder / "run.json").exists() and read(folder).id == run_id


def table(root: Path | str) -> pd.DataFrame:
    """All runs below a folder, whole or broken.

    Args:
        root: Folder of runs, at any depth.

    Returns:
        One row for each run, with nested fields as columns `config.*`, `metrics.*`, `cost.*`. The status of a record
        that cannot be read is "broken", that of a running one with an old heartbeat "stale".
    """
    return as_table([row(Path(root), path.parent) for path in sorted(Path(root).glob("**/run.json"))])


def as_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The table that `table` returns, from the rows that `row` makes."""
    return pd.DataFrame(rows, columns=None if rows else ["folder", "id", "kind", "status"])


def row(root: Path, folder: Path) -> dict[str, Any]:
    """The row of one run in the table of `table`.

    Args:
        root: Folder that the column `folder` is relative to.
        folder: Folder of the run, below `root`.
    """
    place: dict[str, Any] = {"folder": str(folder.relative_to(root))}
    try:
        run = read(folder)
    except MedsslError as error:
        cause = error.__cause__ or error
        reason = type(cause).__name__ if isinstance(cause, OSError) else str(cause)  # an OSError's text has a path
        return place | {"id": folder.name, "status": "broken", "reason": reason}
    return place | flatten(plain(asdict(run))) | ({"status": "stale"} if run.stale else {})


class Recorder:
    """The record of a run in progress, made by `recording`; a thread keeps its heartbeat fresh.

    Args:
        folder: Folder of the run.
        run: The record to start with; it is written at once.

    Attributes:
        folder: Folder of the run.
        run: The record as last written.
        peak_memory_bytes: Highest memory use of this process so far.
    """

    def __init__(self, folder: Path, run: Run):
        self.folder, self.run, self.peak_memory_bytes = folder, run, 0
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self.update()
        self._thread.start()

    def update(self, **changes: Any) -> None:
        """Write the record with a new heartbeat.

        Args:
            changes: Fields with their new values; a dict is merged into the field's present one.
        """
        with self._lock:
            merged: dict[str, Any] = {
                name: {**getattr(self.run, name), **value} if isinstance(value, dict) else value
                for name, value in changes.items()
            }
            self.run = replace(self.run, heartbeat=time.time(), **merged)
            write_atomically(self.folder / "run.json", (_json(asdict(self.run), indent=1) + "\n").encode())

    def close(self) -> None:
        """End the heartbeat."""
        self._stop.set()
        self._thread.join()

    def _beat(self) -> None:
        process, last = psutil.Process(), time.time()
        while not self._stop.wait(0.5):
            self.peak_memory_bytes = max(self.peak_memory_bytes, process.memory_info().rss)
            if time.time() - last > STALE_S / 8:
                last = time.time()
                with suppress(MedsslError):  # one missed heartbeat is harmless: writing a result reports a full disk
                    self.update()


@contextmanager
def recording(
    folder: Path,
    kind: str,
    config: dict,
    data: str,
    seed: int,
    parent: str | None = None,
    pseudonym_key: str | None = None,
) -> Iterator[Recorder]:
    """Record a run while the block runs: finished at its end, failed with the reason if it raises.

    Time and peak memory are measured here, so that every kind of run has them under `cost`.

    Args:
        folder: Folder of the run; made if it is missing.
        kind: The command, such as "pretrain".
        config: The settings.
        data: Digest of the scans.
        seed: Seed of all random choices.
        parent: Id of the run that the weights come from.
        pseudonym_key: Fingerprint of the key of the patients' pseudonyms.

    Raises:
        MedsslError: The folder holds another kind of run or one of an older version, or the settings name code.
    """
    check_is_data(config)
    folder.mkdir(parents=True, exist_ok=True)
    run_id = identity(kind=kind, config=config, data=data, seed=seed, parent=parent)
    present = _present_run(folder, kind)
    continued = present if present is not None and present.id == run_id else None
    start = time.time()
    started = continued.started if continued else start
    earlier_seconds = float(continued.cost.get("seconds") or 0.0) if continued else 0.0
    about: dict[str, Any] = {"started": started, "versions": versions(), "pseudonym_key": pseudonym_key}
    run = Run(run_id, kind, config, data, seed, parent, commit(), **about)
    recorder = Recorder(folder, run)
    outcome: dict[str, Any] = {"status": "finished"}
    try:
        yield recorder
    except BaseException as error:
        stopped = isinstance(error, (KeyboardInterrupt, Stopped))
        reason = str(error) if isinstance(error, MedsslError) else type(error).__name__
        outcome = {"status": "stopped" if stopped else "failed", "reason": reason}
        raise
    finally:
        recorder.close()
        seconds = round(earlier_seconds + time.time() - start, 2)  # of all attempts at this run
        recorder.update(**outcome, cost={"seconds": seconds, "peak_memory_mib": recorder.peak_memory_bytes >> 20})


def _present_run(folder: Path, kind: str) -> Run | None:
    """The run that a new one of this kind continues or replaces; raises MedsslError if it must do neither."""
    if not (folder / "run.json").exists():
        return None
    present = read(folder)
    if present.kind != kind:
        raise MedsslError(
            f"{folder.name} holds a {present.kind} run: expected a new folder or one of a {kind} run; give another --out"
        )
    _check_can_be_continued(folder, present)
    return present


def commit() -> str:
    """The commit of the running code, with `+` if files were changed since; the version where there is no git."""
    if not (CHECKOUT / ".git").exists():
        return f"medssl {version('medssl')}"
    git = ["git", "-C", str(CHECKOUT)]
    head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=False)
    return (head.stdout.strip() or "uncommitted") + ("+" if changes.stdout.strip() else "")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def check_is_data(value: Any) -> None:
    """Reject a record that names code of medssl or the address of a machine, at any depth.

    A record names a class by its bare name, so it never needs a dotted path or an address.

    Raises:
        MedsslError: A text in `value`, or a key, is one of these.
    """
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple):
        for item in value:
            check_is_data(item)
    elif isinstance(value, str) and CODE_OR_ADDRESS.fullmatch(value):
        raise MedsslError(
            f"the record names {value!r}, which is code or an address: expected data alone, with classes by the bare names "
            f"of encoders, methods and views; restore the record from a copy, or run the job again"
        )


def _convert_format_1(value: Any) -> Any:
    """Part of a record of format 1 with today's names: `ResNet` for `medssl.encoders.resnet.ResNet`, and so on."""
    if isinstance(value, dict):
        return {ARGUMENTS_OF_FORMAT_1.get(key, key): _convert_format_1(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_convert_format_1(item) for item in value]
    match = CLASS_OF_FORMAT_1.fullmatch(value) if isinstance(value, str) else None
    return match[1] if match and registry.is_registered(match[1]) else value


def _check_format(run: Run) -> None:
    if run.format > FORMAT:
        raise MedsslError(
            f"the record of run {run.id} was written by {run.writer}: expected record format {FORMAT} or older; install "
            f"that version of medssl, or a newer one"
        )


def _check_can_be_continued(folder: Path, run: Run) -> None:
    """Raise MedsslError for a run of an older format: its id was made in another way, so it cannot be recognised."""
    if run.format < FORMAT:
        raise MedsslError(
            f"{folder.name} holds a {run.kind} run written by {run.writer}: it can be read and reported, but this "
            f"version (record format {FORMAT}) cannot continue it; give another --out, or install that version of medssl "
            f"to continue it"
        )


def _check_field_types(run: Run) -> None:
    """Raise TypeError for a record with a field of the wrong type."""
    types: dict[str, Any] = dict.fromkeys(("id", "kind", "data", "commit", "status"), str)
    types |= dict.fromkeys(("config", "metrics", "cost", "versions", "protocol"), dict)
    types |= dict.fromkeys(("started", "heartbeat"), (int, float)) | dict.fromkeys(("seed", "format"), int)
    types |= dict.fromkeys(("parent", "reason", "pseudonym_key"), (str, type(None)))
    for name, expected in types.items():
        if not isinstance(getattr(run, name), expected):
            raise TypeError(f"the field {name} has the wrong type")


def flatten(record: dict, prefix: str = "") -> dict:
    """Nested dicts as one dict with dotted names.

    Args:
        record: A dict of values and dicts, at any depth.
        prefix: Written before each name.

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
    """A value that JSON can hold; NaN and infinity, which it lacks, become null."""
    if isinstance(value, dict):
        return {str(key): _clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.item() if hasattr(value, "item") else value
