"""`--method auto` turned into real settings: by a new plan, or by the one that an interrupted run has in its record.

A plan depends on measured time, so a second one could differ; a run that is continued, and every process of one on several
devices, takes the recorded one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_only

from medssl.core import runs
from medssl.core.progress import console
from medssl.core.spec import rebuild
from medssl.encoders import Encoder
from medssl.methods import Method
from medssl.preprocessing.cache import Cache
from medssl.training.auto.plan import Given, kept_settings, plan_pretraining
from medssl.training.auto.situation import task_of
from medssl.training.config import Monitoring, Planning, TrainConfig


@dataclass(frozen=True)
class Resolved:
    """The settings of a run, with nothing left to choose.

    Attributes:
        encoder: Encoder to pretrain.
        method: Builds the pretext on an encoder.
        crop: Voxels along each axis.
        train: The optimisation.
        monitoring: How the representation is measured.
        about: Choices with reasons and evidence, for the run's record.
    """

    encoder: Encoder
    method: Callable[[Encoder], Method]
    crop: tuple[int, ...]
    train: TrainConfig
    monitoring: Monitoring
    about: dict[str, Any]


def resolve(cache: Cache, out: Path, planning: Planning, given: Given, resume: bool) -> Resolved:
    """The settings that `--method auto` stands for.

    Args:
        cache: Where the scans are.
        out: Folder of the run, which may hold the record of an interrupted one.
        planning: The task, the hours, and which settings are kept.
        given: The settings of the user.
        resume: Whether an interrupted run is continued.
    """
    if resume or getattr(rank_zero_only, "rank", 0) > 0:
        recorded = _recorded(cache, out, planning, given)
        if recorded is not None:
            return recorded
    plan = plan_pretraining(cache, planning, given)
    rank_zero_only(console.print)(plan)
    encoder = given.encoder or rebuild(plan.encoder, Encoder)  # type: ignore[type-abstract]
    about = plan.to_record() | {"planning": {"task": plan.situation.task, "hours": planning.hours}}
    return Resolved(encoder, plan.new_method, plan.crop, plan.train, plan.monitoring, about)


def _recorded(cache: Cache, out: Path, planning: Planning, given: Given) -> Resolved | None:
    """The settings in the record of the run in `out`, if that was planned for the same; what is given overrides them."""
    if not (out / "run.json").exists():
        return None
    run = runs.read(out)
    wanted = {"task": task_of(cache, planning.task, given.monitoring.label)[0], "hours": planning.hours}
    if run.kind != "pretrain" or run.data != cache.digest or run.protocol.get("planning") != wanted:
        return None
    config, kept = run.config, kept_settings(planning, given)
    names = {"batch": "batch_size", "steps": "steps", "lr": "lr"}
    planned = {name: config[name] for decides, name in names.items() if decides not in kept}
    patience = given.monitoring.patience if "stop" in kept else config.get("patience")
    return Resolved(
        given.encoder or rebuild(config["encoder"], Encoder),  # type: ignore[type-abstract]
        lambda encoder: rebuild(config["method"], Method, encoder=encoder),  # type: ignore[type-abstract]
        given.crop or tuple(config["crop"]),
        replace(given.train, **planned),
        replace(given.monitoring, patience=patience),
        run.protocol,
    )
