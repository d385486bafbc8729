"""What was the pretraining worth? Arms x budgets x draws, paired, scored on patients kept out of all training.

    medssl study --data CACHE --task segmentation --arms scratch runs/simmim --budgets 1p 5% 100% --out studies/hippo

Every cell is a run in `STUDY/cells`, identified by everything it depends on: a study that is started again does only
what is missing, and several processes may work on one study. Arms share subsets, order, augmentation keys and the
head's seed in each draw, so their differences are paired. The test split is read here, once per cell, after training.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import torch

from medssl.core import runs
from medssl.core.atomic import write_atomically
from medssl.core.errors import DiskFull, MedsslError
from medssl.core.parallel import run_workers
from medssl.core.progress import ProgressBar, console
from medssl.datasets.splits import SplitSpec
from medssl.encoders import Encoder
from medssl.studies.cell import is_done, run_cell
from medssl.studies.plan import Cell, Plan, make_plan, pretraining_folders
from medssl.studies.protocol import protocol_points
from medssl.studies.selection_table import FILE as SELECTION_FILE
from medssl.studies.selection_table import compare_selectors
from medssl.studies.settings import StudyDesign, StudySettings
from medssl.studies.summary import summarise
from medssl.studies.trials import FOLDS
from medssl.training.config import FinetuneConfig
from medssl.training.engine import quiet_third_parties
from medssl.training.tasks import TaskName


def study(
    data: Path,
    out: Path,
    task: TaskName,
    arms: list[str],
    budgets: list[str],
    label: str | None = None,
    encoder: Encoder | None = None,
    crop: tuple[int, ...] | None = None,
    train: FinetuneConfig = FinetuneConfig(),
    design: StudyDesign = StudyDesign(),
    split: SplitSpec = SplitSpec(),
    jobs: int = 1,
) -> pd.DataFrame:
    """Run a grid of arms and label budgets, skip the cells that are done, and return the table.

    Args:
        data: Cache made by `medssl prepare`.
        out: Folder of the study.
        task: What to learn: classification or segmentation.
        arms: scratch, scratch-long, random-frozen, folders of pretraining runs, several runs of other seeds as one arm, as 'runs/simclr-{0,1,2}' in quotes, and semi-supervised algorithms on one of these, as mean-teacher(runs/simmim).
        budgets: Shares (5%) or numbers (3p) of the labelled training patients, validation patients included.
        label: Label column to classify.
        encoder: Encoder of the arms that start at random, by default that of the first run; and of runs whose encoder class lies outside medssl.
        crop: Voxels along each axis; by default those of the pretraining run.
        train: The optimisation, the same in every arm.
        design: How the arms are compared.
        split: How the patients are split.
        jobs: Processes that work on the study; they share the cores.

    Returns:
        One row for each arm, mode, budget and metric.

    Raises:
        MedsslError: A setting cannot work (raised before the first training), or a cell failed.
    """
    settings = StudySettings(Path(data), Path(out), task, arms, budgets, label, encoder, crop, train, design, split)
    plan, started = make_plan(settings), time.time()
    key = plan.cache.pseudonym_key
    with runs.recording(plan.out, "study", plan.config, plan.cache.digest, plan.seed, pseudonym_key=key) as record:
        record.update(config={"cell_ids": plan.ids()})
        _copy_pretraining(plan)
        write_atomically(plan.out / "subsets.parquet", plan.subsets.to_parquet())
        _work_all(plan, settings, jobs)
        table = summarise(plan.out, plan.ids(), plan.task.metric)
        write_atomically(plan.out / "summary.parquet", table.to_parquet())
        _write_selection(plan)
        record.update(protocol=protocol_points(plan.config), cost={"wall_s": round(time.time() - started, 1)})
    _check_failures(plan)
    return table


def _write_selection(plan: Plan) -> None:
    """Write which patients the selectors chose, and how they compare with the random draws; nothing without selectors."""
    if "selection" in plan.config:
        write_atomically(plan.out / "selected.parquet", plan.selected.to_parquet())
        table = compare_selectors(plan.out, plan.ids(), plan.task.metric)
        write_atomically(plan.out / SELECTION_FILE, table.to_parquet())


def _check_failures(plan: Plan) -> None:
    folders = [plan.folder(cell) for cell in plan.cells]
    records = [runs.read(folder) for folder in folders if (folder / "run.json").exists()]
    if reasons := [str(record.reason) for record in records if record.status == "failed"]:
        raise MedsslError(
            f"{len(reasons)} of {len(plan.cells)} cells failed, the first with: {reasons[0]}; the others are done, run the "
            "same command again to repeat only the failed ones"
        )


def _copy_pretraining(plan: Plan) -> None:
    """Copy what the report shows of the pretraining runs, so that the study's folder can be moved without them."""
    for arm, folders in pretraining_folders(plan.arms).items():
        for folder in folders:
            copy = plan.out / "pretraining" / arm / (folder.resolve().name if len(folders) > 1 else "")
            copy.mkdir(parents=True, exist_ok=True)
            for name in ("run.json", "metrics.csv", "examples.npz"):
                if (folder / name).exists():
                    write_atomically(copy / name, (folder / name).read_bytes())


def _work_all(plan: Plan, settings: StudySettings, jobs: int) -> None:
    """Do every cell that is not done, here or in `jobs` processes that share the cores; return when none is left."""
    started = time.time()
    with _progress(plan) as report:
        if jobs < 2:
            _work(plan, started, report)
        else:
            threads = max(1, (os.cpu_count() or 1) // jobs)
            run_workers(_worker, (settings, threads, started), jobs, report)
            report()


def _worker(settings: StudySettings, threads: int, started: float) -> None:
    torch.set_num_threads(threads)
    quiet_third_parties()
    _work(make_plan(settings), started, lambda: None)


def _work(plan: Plan, started: float, report: Callable[[], None]) -> None:
    """Try each cell; then wait for those that other processes work on, and take over one whose process died."""
    waiting = list(plan.cells)
    while waiting:
        for cell in waiting:
            if not _settled(plan.folder(cell), started):
                _try(plan, cell)
                report()
        waiting = [cell for cell in waiting if not _settled(plan.folder(cell), started)]
        if waiting:
            time.sleep(1.0)


def _settled(folder: Path, started: float) -> bool:
    """Whether the cell finished at any time, or failed since this study was started."""
    if not (folder / "run.json").exists():
        return False
    run = runs.read(folder)
    return run.status == "finished" or (run.status == "failed" and run.heartbeat > started)


def _try(plan: Plan, cell: Cell) -> None:
    """Run a cell. If it fails, that is recorded and the others go on; a full disk stops them all."""
    try:
        run_cell(plan, cell)
    except DiskFull:
        raise
    except Exception as error:  # it is in the cell's record, and `_check_failures` reports it
        if not (plan.folder(cell) / "run.json").exists():
            raise
        console.print(f"a cell failed: {error if isinstance(error, MedsslError) else type(error).__name__}")


def _count_done(plan: Plan) -> int:
    return sum(is_done(plan.folder(c)) for c in plan.cells)


def _trials_line(plan: Plan) -> str:
    """What the trials add to the compute of the study, and in how many cells; empty for a study without trials."""
    if "trials" not in plan.config:
        return ""
    trained = [cell for cell in plan.cells if cell.mode == "finetune"]
    with_trials = [cell for cell in trained if cell.trials]
    own, more = (sum(counts) for counts in zip(*(plan.samples(cell) for cell in trained))) if trained else (0, 0)
    reasons = dict.fromkeys(cell.no_trials for cell in trained if cell.no_trials)
    line = (
        f"trials: {len(with_trials)} of {len(trained)} trained cells try {plan.config['trials']['count']} settings in {FOLDS} folds "
        f"each; labelled samples: {own:,} in the trainings, {more:,} more in trials"
    )
    if own:
        line += f", so that the study takes about {(own + more) / own:.1f} times as long as one without trials"
    return line + (f"; the other cells take the fixed recipe ({'; '.join(reasons)})" if reasons else "")


@contextmanager
def _progress(plan: Plan) -> Iterator[Callable[[], None]]:
    """A progress bar over the cells; yields the function that updates it."""
    done = _count_done(plan)
    console.print(f"{len(plan.cells)} cells, {done} of them already done; {len(plan.scored)} scans to score in each")
    if line := _trials_line(plan):
        console.print(line)
    with ProgressBar() as bar:
        task = bar.add_task("cells", total=len(plan.cells), completed=done)
        yield lambda: bar.update(task, completed=_count_done(plan))
