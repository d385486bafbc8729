"""What was the pretraining worth? Arms x budgets x draws, paired, on patients that nothing else has seen.

    medssl study --data CACHE --task segmentation --arms scratch runs/simmim --budgets 1p 5% 100% --out studies/hippo

Every cell is a run in `STUDY/cells`, identified by everything it depends on: a study that is started again does only
what is missing, and several processes may work on one study. Arms share subsets, order, augmentation keys and the
head's seed in each draw, so their differences are paired. The test split is read here, once a cell, after training.
"""

from __future__ import annotations

import hashlib
import inspect
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from rich.console import Console

from medssl.core import runs
from medssl.core.atomic import write_atomically
from medssl.core.errors import MedsslError, nearest
from medssl.core.spec import describe, plain
from medssl.datasets.splits import duplicates_across, label_budgets, split
from medssl.encoders import Encoder
from medssl.preprocessing.cache import Cache
from medssl.studies.cell import Cell, Mode, Plan, is_done, run_cell
from medssl.studies.protocol import protocol_points
from medssl.studies.summary import summarise
from medssl.training.config import FinetuneConfig
from medssl.training.engine import Bar, quiet_third_parties
from medssl.training.finetune import architecture, scans_of
from medssl.training.task import Task, TaskName, task_named

BASELINES = ("scratch", "scratch-long", "random-frozen")
console = Console(stderr=True)


def study(
    data: Path,
    out: Path,
    task: TaskName,
    arms: list[str],
    budgets: list[str],
    label: str | None = None,
    modes: list[Mode] | None = None,
    draws: int | None = None,
    encoder: Encoder | None = None,
    crop: tuple[int, ...] | None = None,
    recipe: FinetuneConfig | None = None,
    long: float = 3.0,
    score_on: Literal["test", "validation"] = "test",
    seed: int = 0,
    split_seed: int = 0,
    split_column: str | None = None,
    allow_seen: bool = False,
    jobs: int = 1,
) -> pd.DataFrame:
    """Run what is missing of the grid and return its table, one row an arm, mode, budget and metric.

    arms: `scratch`, `scratch-long` (`long` times the steps), `random-frozen`, and folders of pretraining runs.
    label: the label column to classify. budgets: shares ("5%") or numbers ("3p") of the training patients, validation included. modes: how a pretrained
    encoder is used in classification (finetune, linear probe, knn). recipe: for every arm; its `encoder_share` and
    `head_first` concern pretrained arms alone. score_on: explore on "validation", publish "test". allow_seen: run although
    test scans were pretrained on, with the verdict in every table. draws: of each
    budget; by default ten below 10%, five below 100%, three at 100%. crop: voxels an axis; by default the pretraining
    run's. encoder: of the scratch arms where no run is given, or a class outside of medssl. seed: of heads, order and
    views. split_seed, split_column: who trains and who tests. jobs: processes, the cores shared among them.
    """
    arguments: dict[str, Any] = {k: v for k, v in locals().items() if k != "jobs"}
    plan = make_plan(**arguments)
    plan.config["asked"] = asked(arguments)
    started = time.time()
    with runs.recording(plan.out, "study", plan.config, plan.cache.digest, seed) as record:
        record.update(config={"cell_ids": [plan.id(c) for c in plan.cells]})
        _keep_pretraining(plan)
        write_atomically(plan.out / "subsets.parquet", plan.subsets.to_parquet())
        _work_all(plan, arguments, jobs)
        failed = _failed(plan)
        table = summarise(plan.out, [plan.id(c) for c in plan.cells], plan.task.metric)
        write_atomically(plan.out / "summary.parquet", table.to_parquet())
        record.update(protocol=protocol_points(plan.config), cost={"wall_s": round(time.time() - started, 1)})
    if failed:
        raise MedsslError(
            f"{len(failed)} of {len(plan.cells)} cells failed, the first says: {failed[0]}; the others are kept, run the same "
            f"command again to try these once more"
        )
    return table


def asked(arguments: dict[str, Any]) -> dict[str, Any]:
    """The options that differ from their defaults, by the names they have on the command line; folders are left out."""
    usual = {name: p.default for name, p in inspect.signature(study).parameters.items()}
    given = {
        n: v for n, v in arguments.items() if n not in ("data", "out", "arms", "encoder", "recipe") and v != usual[n]
    }
    if arguments["recipe"] is not None:
        fields = asdict(arguments["recipe"])
        given |= {f"recipe.{n}": v for n, v in fields.items() if v != getattr(FinetuneConfig(), n)}
    if arguments["encoder"] is not None:
        spec = plain(describe(arguments["encoder"]))
        given |= {"encoder": spec["class_path"]} | {f"encoder.{n}": v for n, v in spec["init_args"].items()}
    return given


def make_plan(
    data: Path, out: Path, task: TaskName, arms: list[str], budgets: list[str], label: str | None, modes: list[Mode] | None,
    draws: int | None, encoder: Encoder | None, crop: tuple[int, ...] | None, recipe: FinetuneConfig | None, long: float,
    score_on: str, seed: int, split_seed: int, split_column: str | None, allow_seen: bool,
) -> Plan:  # fmt: skip
    """Check everything that can be known before the first training, and lay out the cells."""
    cache = Cache(Path(data))
    folders = _arm_folders(arms)
    targets = task_named(task).from_cache(cache, label)
    spec, size = architecture(cache, list(folders.values()), encoder, crop)
    roles = split(cache.manifest, split_seed, column=split_column)
    if copies := duplicates_across(cache.manifest, roles):
        raise MedsslError(
            f"{copies} test scan(s) have the very voxels of a scan outside of the test split: expected none"
        )
    seen = {arm: _seen(folder, cache, roles) for arm, folder in folders.items()}
    if any(seen.values()) and not allow_seen:
        raise MedsslError(
            f"pretraining saw test scans or patients ({', '.join(f'{n} by {a}' for a, n in seen.items() if n)}): expected none; "
            f"pretrain with the same --split-seed and without --transductive, or say --allow-seen true to have it in every table"
        )
    subsets = label_budgets(roles, targets.seen, budgets, seed, draws)
    given = set(roles.index[roles == score_on])
    scored = [
        s for s, p in zip(cache.manifest["scan"], cache.manifest["patient"]) if p in given and s in targets.labels
    ]
    targets.check_scored(scored)
    recipes = _recipes(arms, recipe or FinetuneConfig(), long)
    cells = _cells(cache, targets, subsets, recipes, folders, modes)
    people = cache.manifest.set_index("scan")["patient"]
    digests = cache.manifest.set_index("scan")["digest"]
    config = {
        "task": task, "label": label, "classes": targets.classes, "arms": list(recipes), "budgets": budgets, "score_on": score_on,
        "recipes": {a: asdict(r) for a, r in recipes.items()}, "encoder": spec, "crop": size, "split_seed": split_seed,
        "split_column": split_column, "seen_test_scans": seen, "long": long,
        "truth": runs.identity(labels=sorted((digests[s], c) for s, c in targets.labels.items()), classes=targets.classes),
        "scored": runs.identity(scans=sorted(digests[scored])), "weights": {a: _weights(f) for a, f in folders.items()}, "cells": len(cells),
        "data_spec": cache.data_spec.to_record(), "scored_scans": len(scored), "scored_patients": people[scored].nunique(),
        "patients": {role: int((roles == role).sum()) for role in ("train", "validation", "test")},
        "pretraining": {a: runs.read(f).config | {"id": runs.read(f).id, "cost": runs.read(f).cost} for a, f in folders.items()},
    }  # fmt: skip
    return Plan(Path(out), cache, targets, spec, encoder, size, folders, scored, cells, subsets, roles, seed, config)


def _cells(
    cache: Cache, task: Task, subsets: pd.DataFrame, recipes: dict[str, FinetuneConfig], folders: dict[str, Path],
    modes: list[Mode] | None,
) -> list[Cell]:  # fmt: skip
    """Ordered by draw first, so that an unfinished study is a balanced one."""
    parents = {arm: runs.read(folder).id for arm, folder in folders.items()}
    cells = []
    for (draw, name), subset in subsets.groupby(["draw", "budget_name"], sort=False):
        train, validation = (tuple(scans_of(cache, task, subset, role)) for role in ("train", "validation"))
        for arm, recipe in recipes.items():
            for mode in _modes(arm, task, modes):
                used = (
                    recipe if mode == "finetune" else FinetuneConfig()
                )  # probes have no recipe, and no new identity by it
                parent, budget = parents.get(arm), float(subset["budget"].iloc[0])
                cell = Cell(arm, mode, str(name), budget, int(draw), used, parent, len(subset), train, validation)
                cells.append(cell)
    return sorted(cells, key=lambda c: c.draw)


def _modes(arm: str, task: Task, modes: list[Mode] | None) -> list[Mode]:
    if not task.probes or arm in ("scratch", "scratch-long"):
        return ["finetune"]
    if arm == "random-frozen":
        return [m for m in modes or ["linear", "knn"] if m != "finetune"] or ["linear"]
    return modes or ["finetune", "linear", "knn"]


def _recipes(arms: Sequence[str], base: FinetuneConfig, long: float) -> dict[str, FinetuneConfig]:
    scratch = base.resolved(pretrained=False)
    known = {
        "scratch": scratch,
        "scratch-long": replace(scratch, steps=round(base.steps * long)),
        "random-frozen": replace(scratch, frozen=True),
    }
    return {_arm_name(a): known.get(a, base.resolved(pretrained=True)) for a in arms}


def _arm_name(arm: str) -> str:
    return arm if arm in BASELINES else Path(arm).resolve().name


def _arm_folders(arms: Sequence[str]) -> dict[str, Path]:
    folders = {_arm_name(a): Path(a) for a in arms if a not in BASELINES}
    for name, folder in folders.items():
        if not (folder / "run.json").exists():
            raise MedsslError(
                f"the arm {name!r} is neither a baseline nor the folder of a pretraining run{nearest(name, BASELINES)}"
            )
    if len({_arm_name(a) for a in arms}) < len(arms):
        raise MedsslError(
            f"two of the arms {', '.join(map(_arm_name, arms))} have the same name: expected different ones; rename a run's folder"
        )
    return folders


def _weights(folder: Path) -> str:
    """A hash of what an arm starts from: other weights are another arm, whatever their settings were."""
    found = hashlib.sha256()
    for name in ("encoder.safetensors", "decoder.safetensors"):
        if (folder / name).exists():
            found.update((folder / name).read_bytes())
    return found.hexdigest()[:12]


def _keep_pretraining(plan: Plan) -> None:
    """What the report shows of the pretraining runs, copied, so that the study's folder is whole by itself."""
    for arm, folder in plan.folders.items():
        for name in ("run.json", "metrics.csv", "examples.npz"):
            if (folder / name).exists():
                kept = plan.out / "pretraining" / arm
                kept.mkdir(parents=True, exist_ok=True)
                write_atomically(kept / name, (folder / name).read_bytes())


def _seen(folder: Path, cache: Cache, roles: pd.Series) -> int:
    """How many test scans, by voxels or by patient, the pretraining run was given."""
    seen = pd.read_parquet(folder / "seen.parquet")
    test = cache.manifest[cache.manifest["patient"].map(roles) == "test"]
    return int((test["digest"].isin(seen["digest"]) | test["patient"].isin(seen["patient"])).sum())


def _failed(plan: Plan) -> list[str]:
    records = [runs.read(plan.folder(c)) for c in plan.cells if (plan.folder(c) / "run.json").exists()]
    return [str(r.reason) for r in records if r.status == "failed"]


def _work_all(plan: Plan, arguments: dict[str, Any], jobs: int) -> None:
    """Do every cell that is not done, here or in `jobs` processes that share the cores; ends when all are settled."""
    begun = time.time()
    with _progress(plan) as (progress, bar):
        if jobs < 2:
            _work(plan, begun, lambda: progress.update(bar, completed=_count_done(plan)))
            return
        threads = max(1, (os.cpu_count() or 1) // jobs)
        os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning")  # of torch, at import, once a worker
        context = multiprocessing.get_context("spawn")
        workers = [context.Process(target=_worker, args=(arguments, threads, begun), daemon=True) for _ in range(jobs)]
        for worker in workers:
            worker.start()
        while any(w.is_alive() for w in workers):
            time.sleep(1.0)
            progress.update(bar, completed=_count_done(plan))
    if any(w.exitcode for w in workers):
        raise MedsslError(
            "a worker process stopped before its time: expected every cell to be tried; run the same command again to go on"
        )


def _worker(arguments: dict[str, Any], threads: int, begun: float) -> None:
    torch.set_num_threads(threads)
    quiet_third_parties()
    _work(make_plan(**arguments), begun, lambda: None)


def _work(plan: Plan, begun: float, tell: Callable[[], None]) -> None:
    """Try each cell; then wait for those that other processes hold, and take over one whose process died."""
    waiting = list(plan.cells)
    while waiting:
        for cell in waiting:
            if not _settled(plan.folder(cell), begun):
                _try(plan, cell)
                tell()
        waiting = [cell for cell in waiting if not _settled(plan.folder(cell), begun)]
        if waiting:
            time.sleep(1.0)


def _settled(folder: Path, begun: float) -> bool:
    """Finished at any time, or tried and failed since this study was begun."""
    if not (folder / "run.json").exists():
        return False
    run = runs.read(folder)
    return run.status == "finished" or (run.status == "failed" and run.heartbeat > begun)


def _try(plan: Plan, cell: Cell) -> None:
    """A cell that fails is recorded as failed, and the others go on; a full disk stops them all."""
    try:
        run_cell(plan, cell)
    except Exception as error:  # whatever it is stands in the cell's record, and the study's end names it
        if "disk is full" in str(error) or not (plan.folder(cell) / "run.json").exists():
            raise
        console.print(f"a cell failed: {error if isinstance(error, MedsslError) else type(error).__name__}")


def _count_done(plan: Plan) -> int:
    return sum(is_done(plan.folder(c)) for c in plan.cells)


@contextmanager
def _progress(plan: Plan) -> Iterator[tuple[Bar, Any]]:
    done = _count_done(plan)
    console.print(f"{len(plan.cells)} cells, {done} of them done before; {len(plan.scored)} scans to score in each")
    with Bar(console) as progress:
        yield progress, progress.add_task("cells", total=len(plan.cells), completed=done)
