"""Which pretraining is worth it on these scans? Every method with one budget of steps, probed at a few label budgets.

    medssl compare --data CACHE --label finding --out comparisons/chest --crop 64 64 --steps 300 --batch-size 64
    medssl compare --data CACHE --label finding --out comparisons/chest --methods SimCLR MAE --encoders ResNet

Each method is pretrained with the same settings and seed on the first of the encoders that it can use. The frozen
encoders are then probed by nearest neighbours and a linear classifier, beside a random encoder of the same shape, in a
`study` on the test patients. Each method has one run, so an interval is about this run, not about its method, as its note
says. A method that cannot run, or collapses, is in the table with the reason. When it is started
again, `compare` skips what is done. The table is `OUT/table.csv`, or `OUT/table.validation.csv` with
`--score-on validation`.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from medssl.core import runs
from medssl.core.atomic import exclusive, write_atomically
from medssl.core.errors import MedsslError, Stopped
from medssl.core.progress import console
from medssl.core.registry import METHODS
from medssl.datasets.splits import DEFAULT_DRAWS, SplitSpec
from medssl.encoders import Encoder
from medssl.encoders.resnet import ResNet
from medssl.encoders.vit import ViT
from medssl.evaluation.intervals import join_notes
from medssl.methods import Method
from medssl.methods.joint import Joint
from medssl.methods.rotation import Rotation
from medssl.methods.simclr import SimCLR
from medssl.methods.simmim import SimMIM
from medssl.preprocessing.cache import Cache
from medssl.studies.settings import StudyDesign
from medssl.studies.study import study
from medssl.training.config import TrainConfig
from medssl.training.pretrain import pretrain
from medssl.training.samples import default_crop

COLUMNS = ("method", "encoder", "probe", "budget", "auroc", "low", "high", "seconds", "memory_mib", "note")
JOINT_PARTS: list[Callable[[Encoder], Method]] = [SimMIM, Rotation, SimCLR]


@dataclass(frozen=True)
class Pretraining:
    """The settings that all methods share."""

    crop: tuple[int, ...]
    train: TrainConfig
    split: SplitSpec
    seed: int

    def matches(self, run: runs.Run) -> bool:
        """Whether a run, perhaps of an earlier call, had these settings."""
        settings = asdict(self.train) | self.split.to_record()
        same = all(run.config.get(name) == value for name, value in settings.items())
        return same and run.seed == self.seed and tuple(run.config["crop"]) == self.crop


def compare(
    data: Path,
    out: Path,
    label: str,
    methods: list[Callable[[Encoder], Method]] | None = None,
    encoders: list[Encoder] | None = None,
    budgets: list[str] | None = None,
    crop: tuple[int, ...] | None = None,
    train: TrainConfig = TrainConfig(steps=300),
    draws: int = DEFAULT_DRAWS,
    score_on: Literal["test", "validation"] = "test",
    split: SplitSpec = SplitSpec(),
    seed: int = 0,
) -> pd.DataFrame:
    """Pretrain with every method under the same settings, and probe each.

    Args:
        data: Cache made by `medssl prepare`.
        out: Folder of the comparison.
        label: Label column to classify.
        methods: Pretext tasks; all of medssl by default, Joint as masking, rotation and contrast.
        encoders: Each method takes the first that it can use; by default a small ResNet, then a small ViT.
        budgets: Shares or numbers of the labelled training patients; 1% and 10% by default.
        crop: Voxels along each axis; by default the largest that fits.
        train: The optimisation of every pretraining.
        draws: Draws of patients for each budget, as in `medssl study`.
        score_on: Explore on validation, publish test.
        split: How the patients are split.
        seed: Seed of the pretraining and the probes.

    Returns:
        The table, best first within a budget and probe.
    """
    cache, out = Cache(Path(data)), Path(out)
    choices = encoders or default_encoders(cache)
    pretraining = Pretraining(tuple(crop or default_crop(cache, choices[-1])), train, split, seed)
    with exclusive(out):
        notes: list[dict[str, Any]] = []
        for name, method in _method_names(methods, choices):
            reason = _pretrain_on_first_that_fits(cache, out, name, method, choices, pretraining)
            if reason is not None:
                console.print(f"{name}: {reason}")
                notes.append({"method": name, "note": reason})
        failed = {note["method"] for note in notes}
        design = StudyDesign(modes=["linear", "knn"], draws=draws, score_on=score_on, seed=seed)
        budgets = budgets or ["1%", "10%"]
        parts = [_probe_all(cache, out, encoder, pretraining, failed, label, budgets, design) for encoder in choices]
        table = pd.concat([*parts, pd.DataFrame(notes, columns=COLUMNS)], ignore_index=True)
        name = "table.csv" if score_on == "test" else "table.validation.csv"
        write_atomically(out / name, table.to_csv(index=False).encode())
    return table


def default_encoders(cache: Cache) -> list[Encoder]:
    """Small ones, for a CPU: a ResNet, and a ViT for the methods that need tokens."""
    return [ResNet(cache.dims, cache.channels, depth=10, width=16, max_pool=False), ViT(cache.dims, cache.channels)]


def _method_names(
    methods: Sequence[Callable[[Encoder], Method]] | None, encoders: Sequence[Encoder]
) -> list[tuple[str, Callable[[Encoder], Method]]]:
    """Methods with the names of their folders; a second one of the same name is numbered."""
    if methods is None:
        alone = [name for name in METHODS.names() if name != "Joint"]
        return [*((name, METHODS.load(name)) for name in alone), ("Joint", lambda encoder: Joint(encoder, JOINT_PARTS))]
    by_name: dict[str, Callable[[Encoder], Method]] = {}
    for method in methods:
        name = _method_name(method, encoders)
        by_name[name if name not in by_name else f"{name}-{len(by_name)}"] = method
    return list(by_name.items())


def _method_name(method: Callable[[Encoder], Method], encoders: Sequence[Encoder]) -> str:
    for encoder in encoders:
        with suppress(MedsslError):  # reported when it is pretrained
            return type(method(encoder)).__name__
    return getattr(method, "__name__", "method")


def _pretrain_on_first_that_fits(
    cache: Cache,
    out: Path,
    name: str,
    method: Callable[[Encoder], Method],
    encoders: Sequence[Encoder],
    pretraining: Pretraining,
) -> str | None:
    """Return why it could not be done, or None. After a failure on an encoder that fits, no other one is tried."""
    reason = None
    for encoder in encoders:
        reason = _misfit(method, encoder, pretraining)
        if reason is None:
            return _pretrain(cache, out / "runs" / type(encoder).__name__ / name, method, encoder, pretraining)
    return reason


def _misfit(method: Callable[[Encoder], Method], encoder: Encoder, pretraining: Pretraining) -> str | None:
    """Why the method cannot use the encoder, or None."""
    try:
        method(encoder).check(pretraining.crop, pretraining.train.batch_size)
    except MedsslError as error:
        return str(error)
    return None


def _pretrain(
    cache: Cache, folder: Path, method: Callable[[Encoder], Method], encoder: Encoder, pretraining: Pretraining
) -> str | None:
    """Return why it failed, or None. A run that collapsed before would collapse again, so it is not repeated."""
    before = runs.read(folder) if (folder / "run.json").exists() else None
    collapsed = before is not None and before.status == "failed" and "collapsed_at_step" in before.metrics
    if before is not None and collapsed and pretraining.matches(before):
        return before.reason
    settings: dict[str, Any] = {field.name: getattr(pretraining, field.name) for field in fields(pretraining)}
    try:
        pretrain(cache.path, folder, encoder, method, **settings)
    except Stopped:
        raise
    except MedsslError as error:
        return str(error)
    finally:
        gc.collect()
    return None


def _probe_all(
    cache: Cache,
    out: Path,
    encoder: Encoder,
    pretraining: Pretraining,
    failed: set[str],
    label: str,
    budgets: list[str],
    design: StudyDesign,
) -> pd.DataFrame:
    """The probes of all finished runs on one encoder with these settings, and of a random encoder."""
    kind = type(encoder).__name__
    folders = [path.parent for path in sorted((out / "runs" / kind).glob("*/run.json"))]
    records = {folder: runs.read(folder) for folder in folders if folder.name not in failed}
    finished = {f: run for f, run in records.items() if run.status == "finished" and pretraining.matches(run)}
    if not finished:
        return pd.DataFrame(columns=COLUMNS)
    folder, arms = out / "studies" / design.score_on / kind, ["random-frozen", *map(str, finished)]
    crop, split = pretraining.crop, pretraining.split
    table = study(
        cache.path, folder, "classification", arms, budgets, label, encoder, crop=crop, design=design, split=split
    )
    costs = {path.name: run.cost for path, run in finished.items()}
    return _table_rows(table[table["metric"] == "auroc"], kind, costs)


def _table_rows(table: pd.DataFrame, encoder: str, costs: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """The rows of a study's table with the cost of each method's pretraining, best first within a budget and probe."""
    cost = [costs.get(arm, {}) for arm in table["arm"]]
    rows = pd.DataFrame(
        {
            "method": table["arm"],
            "encoder": encoder,
            "probe": table["mode"],
            "budget": table["budget_name"],
            "auroc": table["mean"],
            "low": table["low"],
            "high": table["high"],
            "seconds": [each.get("seconds", 0.0) for each in cost],
            "memory_mib": [each.get("peak_memory_mib") for each in cost],
            "note": [
                join_notes("interval of this run" if count == 1 else "", note if isinstance(note, str) else "")
                for count, note in zip(table["pretraining_runs"], table["note"])
            ],
        },
        columns=COLUMNS,
    )
    return rows.sort_values(["budget", "probe", "auroc"], ascending=[True, True, False])
