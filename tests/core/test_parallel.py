"""Workers that share their work: one that is killed is reported and does not take the others along."""

import os
import signal
import time
from pathlib import Path

import pytest

from medssl.core.errors import MedsslError
from medssl.core.parallel import run_parallel, run_workers

pytestmark = pytest.mark.long


def take_one(folder: str, killed: bool) -> None:
    for name in ("first", "second"):
        try:
            (Path(folder) / name).touch(exist_ok=False)
        except FileExistsError:
            continue
        if name == "first" and killed:
            os.kill(os.getpid(), signal.SIGKILL)
        while not (Path(folder) / "polled").exists():
            time.sleep(0.05)
        (Path(folder) / f"{name} done").touch()
        return


def refuse(folder: str) -> None:
    raise MedsslError("the crop is 3: expected 4")


def test_each_process_works_once_and_the_caller_is_polled(tmp_path: Path) -> None:
    run_workers(take_one, (str(tmp_path), False), 2, (tmp_path / "polled").touch)
    assert {path.name for path in tmp_path.glob("* done")} == {"first done", "second done"}


def test_a_killed_worker_is_reported_and_the_others_end_their_work(tmp_path: Path) -> None:
    with pytest.raises(MedsslError, match="a worker process was killed before it was done.*run the same command again"):
        run_workers(take_one, (str(tmp_path), True), 2, (tmp_path / "polled").touch)
    assert (tmp_path / "second done").exists()
    assert not (tmp_path / "first done").exists()


def test_what_a_worker_raises_reaches_the_caller(tmp_path: Path) -> None:
    with pytest.raises(MedsslError, match="the crop is 3: expected 4"):
        run_workers(refuse, (str(tmp_path),), 2, lambda: None)


def test_no_jobs_are_refused() -> None:
    with pytest.raises(MedsslError, match="jobs is 0: expected a number of processes, or -1"):
        list(run_parallel(abs, range(3), 0, "x"))
