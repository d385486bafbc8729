"""Which pretraining is worth it on these scans? Every method under one budget, probed at a few label budgets, one table.

    medssl compare --data CACHE --label finding --out comparisons/chest --crop 64 64 --steps 300 --batch-size 64
    medssl compare --data CACHE --label finding --out comparisons/chest --methods SimCLR MAE --encoders ResNet

Each method is pretrained with the same steps, batch, crop, learning rate and seed on the first of the encoders that it can
use, then judged frozen, by nearest neighbours and a linear probe (`study`'s cells: training patients' budgets, scored once
on the test patients), beside a random encoder of the same shape. What cannot run, or collapses, stands in the table with
the reason. Started again it does only what is missing; the table is `OUT/table.csv`, that of `--score-on validation` `OUT/table.validation.csv`.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from rich.console import Console

import medssl.encoders
import medssl.methods
from medssl.core import runs
from medssl.core.atomic import write_atomically
from medssl.core.errors import MedsslError, Stopped
from medssl.core.registry import METHODS
from medssl.datasets.splits import SplitSpec
from medssl.encoders import Encoder
from medssl.encoders.resnet import ResNet
from medssl.methods import Method
from medssl.methods.joint import Joint
from medssl.methods.rotation import Rotation
from medssl.methods.simclr import SimCLR
from medssl.methods.simmim import SimMIM
from medssl.preprocessing.cache import Cache
from medssl.studies.plan import StudyDesign
from medssl.studies.study import study
from medssl.training.config import TrainConfig
from medssl.training.pretrain import default_crop, pretrain

COLUMNS = ("method", "encoder", "probe", "budget", "auroc", "low", "high", "seconds", "memory_mib", "note")
console = Console(stderr=True)


def compare(
    data: Path,
    out: Path,
    label: str,
    methods: list[Callable[[Encoder], Method]] | None = None,
    encoders: list[Encoder] | None = None,
    budgets: list[str] | None = None,
    crop: tuple[int, ...] | None = None,
    steps: int = 300,
    batch_size: int = 32,
    lr: float = 1e-3,
    precision: str = "32-true",
    draws: int | None = None,
    score_on: Literal["test", "validation"] = "test",
    seed: int = 0,
    split_seed: int = 0,
    split_column: str | None = None,
) -> pd.DataFrame:
    """Pretrain with every method alike and probe each; returns the table, best first within a budget.

    label: the label column to tell apart. methods: all of medssl's by default, Joint as masking, rotation and contrast.
    encoders: each method takes the first it can use; by default a small ResNet, then a small ViT. budgets: 1% and 10% of
    the training patients by default. crop: voxels an axis; by default the largest that fits. steps, batch_size, lr,
    precision: of every pretraining. draws: of each budget, as in study. score_on: explore on validation, publish test. seed: of
    pretraining and probes. split_seed, split_column: who trains and who tests.
    """
    cache, out = Cache(Path(data)), Path(out)
    choices = encoders or default_encoders(cache)
    size = tuple(crop or default_crop(cache, choices[-1]))
    settings: dict[str, Any] = {"crop": size, "steps": steps, "batch_size": batch_size, "lr": lr, "precision": precision,
                                "seed": seed, "split_seed": split_seed, "split_column": split_column}  # fmt: skip
    notes: list[dict[str, Any]] = []
    for name, method in _named(methods, choices):
        refusals = [_refusal(method, encoder, size, batch_size) for encoder in choices]
        failed = refusals[-1]
        if None in refusals:  # an encoder takes it: what fails from here on is told, and no other encoder is tried
            failed = _pretrained(cache, out, name, method, choices[refusals.index(None)], settings)
        if failed is not None:
            console.print(f"{name}: {failed}")
            notes.append({"method": name, "note": failed})
    study_options = {
        "budgets": budgets or ["1%", "10%"],
        "label": label,
        "design": StudyDesign(modes=["linear", "knn"], draws=draws, score_on=score_on, seed=seed),
        "split": SplitSpec(split_seed, split_column),
    }
    failures = {note["method"] for note in notes}
    parts = [_studied(cache, out, encoder, settings, failures, study_options) for encoder in choices]
    table = pd.concat([*parts, pd.DataFrame(notes, columns=COLUMNS)], ignore_index=True)
    write_atomically(
        out / ("table.csv" if score_on == "test" else "table.validation.csv"), table.to_csv(index=False).encode()
    )
    return table


def default_encoders(cache: Cache) -> list[Encoder]:
    """Small ones, for a CPU: a ResNet, and a ViT for the methods that need tokens."""
    found: list[Encoder] = [ResNet(cache.dims, cache.channels, depth=10, width=16, max_pool=False)]
    vit: Any = getattr(medssl.encoders, "ViT", None)
    return found if vit is None else [*found, vit(cache.dims, cache.channels)]


def _named(
    methods: Sequence[Callable[[Encoder], Method]] | None, encoders: Sequence[Encoder]
) -> list[tuple[str, Callable[[Encoder], Method]]]:
    """Methods with the names of their folders; a second of a kind is numbered."""
    if methods is None:
        known = [name for name in METHODS.names() if name != "Joint"]
        parts: list[Callable[[Encoder], Method]] = [SimMIM, Rotation, SimCLR]
        return [*((name, METHODS.load(name)) for name in known), ("Joint", lambda encoder: Joint(encoder, parts))]
    found: dict[str, Callable[[Encoder], Method]] = {}
    for method in methods:
        name = _name(method, encoders)
        found[name if name not in found else f"{name}-{len(found)}"] = method
    return list(found.items())


def _name(method: Callable[[Encoder], Method], encoders: Sequence[Encoder]) -> str:
    for encoder in encoders:
        try:
            return type(method(encoder)).__name__
        except MedsslError:
            continue  # told when it is to be pretrained
    return getattr(method, "__name__", "method")


def _pretrained(
    cache: Cache, out: Path, name: str, method: Callable[[Encoder], Method], encoder: Encoder, settings: dict[str, Any]
) -> str | None:
    """Pretrain into OUT/runs/ENCODER/METHOD; why it could not be done, or None."""
    folder = out / "runs" / type(encoder).__name__ / name
    before = runs.read(folder) if (folder / "run.json").exists() else None
    if (
        before is not None
        and before.status == "failed"
        and "collapsing" in (before.reason or "")
        and _made_so(before, settings)
    ):
        return before.reason  # it would collapse again
    try:
        pretrain(cache.path, folder, encoder, method, **_pretraining_options(settings))
    except Stopped:
        raise
    except MedsslError as error:
        return str(error)
    finally:
        gc.collect()
    return None


def _pretraining_options(settings: dict[str, Any]) -> dict[str, Any]:
    train = {name: settings[name] for name in ("steps", "batch_size", "lr", "precision")}
    split = SplitSpec(settings["split_seed"], settings["split_column"])
    return {"crop": settings["crop"], "train": TrainConfig(**train), "split": split, "seed": settings["seed"]}


def _refusal(method: Callable[[Encoder], Method], encoder: Encoder, size: tuple[int, ...], batch: int) -> str | None:
    """Why the method cannot use the encoder, or None."""
    try:
        method(encoder).check(size, batch)
    except MedsslError as error:
        return str(error)
    return None


def _made_so(run: runs.Run, settings: dict[str, Any]) -> bool:
    """Whether a run, perhaps of an earlier call, had the settings of this one."""
    had = run.config | {"crop": tuple(run.config["crop"]), "seed": run.seed}
    return all(had[name] == value for name, value in settings.items())


def _studied(
    cache: Cache,
    out: Path,
    encoder: Encoder,
    settings: dict[str, Any],
    failures: set[str],
    study_options: dict[str, Any],
) -> pd.DataFrame:
    """The probes of all runs on one encoder under these settings, and of a random one."""
    kind, size = type(encoder).__name__, settings["crop"]
    found = {p.parent: runs.read(p.parent) for p in sorted((out / "runs" / kind).glob("*/run.json"))}
    folders = [
        folder
        for folder, run in found.items()
        if run.status == "finished" and folder.name not in failures and _made_so(run, settings)
    ]
    if not folders:
        return pd.DataFrame(columns=COLUMNS)
    arms = ["random-frozen", *map(str, folders)]
    table = study(
        cache.path,
        out / "studies" / study_options["design"].score_on / kind,
        "classification",
        arms,
        encoder=encoder,
        crop=size,
        **study_options,
    )
    table = table[table["metric"] == "auroc"]
    costs = {folder.name: runs.read(folder).cost for folder in folders}
    rows = [
        {
            "method": r["arm"], "encoder": kind, "probe": r["mode"], "budget": r["budget_name"], "auroc": r["mean"], "low": r["low"],
            "high": r["high"], "seconds": costs.get(r["arm"], {}).get("seconds", 0.0),
            "memory_mib": costs.get(r["arm"], {}).get("peak_memory_mib"), "note": r["note"],
        }
        for _, r in table.iterrows()
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS).sort_values(["budget", "probe", "auroc"], ascending=[True, True, False])
