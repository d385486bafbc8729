"""The same work on processes of this machine (joblib) or on a cluster that the user runs (dask.distributed).

    for header in run_parallel(read_header, paths, jobs=-1, title="headers", batch=64): ...
    run_workers(work_on_study, (settings,), jobs=2, poll=show_progress)

The address of a cluster comes from the user's own command, never from a record or a file.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from medssl.core.errors import MedsslError
from medssl.core.progress import track

CONNECT_S = 20  # how long a scheduler may take to answer
POLL_S = 1.0


def run_parallel(
    work: Callable[[Any], Any],
    items: Iterable[Any],
    jobs: int,
    title: str,
    total: int | None = None,
    batch: int = 1,
    scheduler: str | None = None,
) -> Iterator[Any]:
    """`work(item)` for each item of a stream, in its order, with a progress bar.

    Args:
        work: A function that can be pickled.
        items: The stream; only a few items more than are worked on are taken from it.
        jobs: Processes, -1 for one for each core.
        title: What the progress bar calls the items.
        total: How many items there are, if that is known.
        batch: Items that are sent at once, for work that takes milliseconds.
        scheduler: Address of a dask.distributed cluster whose workers see the same files; it takes the place of `jobs`.

    Raises:
        MedsslError: `jobs` is 0, or the cluster cannot be reached.
    """
    alone = jobs == 1 and scheduler is None
    results = map(work, items) if alone else _distribute(work, items, jobs, batch, scheduler)
    yield from track(results, title, total)


def run_workers(work: Callable[..., None], arguments: tuple, jobs: int, poll: Callable[[], None]) -> None:
    """Call `work(*arguments)` once in each of several processes, which share their work among themselves.

    Args:
        work: A function that can be pickled; it returns when nothing is left to do.
        arguments: What each process calls it with.
        jobs: Number of processes.
        poll: Called every second in this process until all have returned.

    Raises:
        MedsslError: A process was killed. The others have gone on to their end.
        Exception: Whatever `work` raised.
    """
    from joblib.externals.loky import ProcessPoolExecutor, wait
    from joblib.externals.loky.process_executor import BrokenProcessPool

    quiet = {"PYTHONWARNINGS": "ignore::FutureWarning"}  # torch's, once for each process that imports it
    pools = [ProcessPoolExecutor(1, env=quiet) for _ in range(jobs)]  # one each: a pool ends with any of its processes
    try:
        calls = [pool.submit(work, *arguments) for pool in pools]
        while wait(calls, timeout=POLL_S).not_done:
            poll()
        for call in calls:
            call.result()
    except BrokenProcessPool as error:
        raise MedsslError(
            "a worker process was killed before it was done: expected enough memory for all of them; run the same command "
            "again to go on, with fewer --jobs if memory is short"
        ) from error
    finally:
        for pool in pools:
            pool.shutdown(kill_workers=True)


def _distribute(
    work: Callable[[Any], Any], items: Iterable[Any], jobs: int, batch: int, scheduler: str | None
) -> Iterator[Any]:
    from joblib import delayed

    if jobs == 0:
        raise MedsslError("jobs is 0: expected a number of processes, or -1 for one for each core")
    stream = iter(items)
    batches = iter(lambda: list(itertools.islice(stream, batch)), [])
    first = next(batches, None)
    if first is None:
        return
    calls = (delayed(_call_each)(work, part) for part in itertools.chain([first], batches))
    with _pool(jobs, scheduler) as pool:
        for results in pool(calls):
            yield from results


def _call_each(work: Callable[[Any], Any], items: list[Any]) -> list[Any]:
    return [work(item) for item in items]


@contextlib.contextmanager
def _pool(jobs: int, scheduler: str | None) -> Iterator[Any]:
    """joblib's Parallel, on processes of this machine or on the dask cluster at an address."""
    import joblib

    options: dict[str, Any] = {"return_as": "generator", "batch_size": 1, "pre_dispatch": "4 * n_jobs"}
    if scheduler is None:
        yield joblib.Parallel(jobs, **options)
        return
    with _client(scheduler) as client:
        with joblib.parallel_config("dask", client=client, wait_for_workers_timeout=CONNECT_S):
            pool = joblib.Parallel(-1, **options)
        yield pool


def _client(scheduler: str) -> Any:
    try:
        from dask.distributed import Client
    except ImportError:
        raise MedsslError(
            "--scheduler needs dask.distributed, which is not installed: pip install 'medssl[cluster]'"
        ) from None
    try:
        return Client(scheduler, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise MedsslError(
            f"no dask scheduler answers at {scheduler!r} ({type(error).__name__}): expected tcp://HOST:PORT or tls://HOST:PORT"
        ) from None
