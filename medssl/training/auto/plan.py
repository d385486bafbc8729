"""What to pretrain on these scans, for this task, on this machine: `medssl plan`, and what `--method auto` takes.

    medssl plan --data CACHE --task segmentation --hours 2
    medssl pretrain --data CACHE --out runs/auto --method auto --task segmentation --hours 2

    chosen = medssl.plan("cache", task="segmentation")
    chosen.crop, chosen.train.steps, chosen.forecast.hours, chosen.command

The choices follow from the table in `rules.py`; what is given is kept. Time and memory are measured with a few steps.
"""

from __future__ import annotations

import math
import shlex
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from medssl.core.errors import MedsslError
from medssl.core.progress import format_duration
from medssl.core.spec import describe, rebuild
from medssl.datasets.labels import label_codes
from medssl.datasets.splits import SplitSpec
from medssl.encoders import Encoder
from medssl.methods import Method
from medssl.preprocessing.cache import Cache
from medssl.training.auto.command import changed_arguments, class_words, group_words, option_words
from medssl.training.auto.forecast import Forecast, TrialRun, fitting_batch, measure, with_train
from medssl.training.auto.rules import DECISIONS, CropLimit, Decision, Rule, choose
from medssl.training.auto.situation import Situation, task_of
from medssl.training.config import Hardware, Monitoring, Planning, PretrainingTask, TrainConfig
from medssl.training.models import describe_method
from medssl.training.samples import default_crop, pretraining_scans, usable_samples

GIVEN, OUT = "given", "runs/auto"
KEPT: dict[Decision, str] = {"batch": "batch_size", "steps": "steps", "lr": "lr", "stop": "patience"}


@dataclass(frozen=True)
class Choice:
    """One thing that is taken.

    Attributes:
        decides: What it is.
        taken: The value, for a reader.
        reason: Why.
        evidence: Pages of the results, or published figures with their sources; none for what was given.
    """

    decides: str
    taken: str
    reason: str
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True)
class PretrainingPlan:
    """What to pretrain, why, and what it costs here.

    Attributes:
        situation: The cohort, the task and the machine.
        choices: What is taken, in the order of the table.
        encoder: The encoder and its arguments, as a record has them.
        method: The pretext and its arguments, likewise.
        crop: Voxels along each axis.
        train: The optimisation, with real numbers.
        monitoring: With the patience.
        forecast: Hours and memory on this machine, if all steps are taken.
        command: The command that does the same without `auto`.
    """

    situation: Situation
    choices: tuple[Choice, ...]
    encoder: dict[str, Any]
    method: dict[str, Any]
    crop: tuple[int, ...]
    train: TrainConfig
    monitoring: Monitoring
    forecast: Forecast
    command: str

    def new_method(self, encoder: Encoder) -> Method:
        """The pretext on this encoder."""
        return rebuild(self.method, Method, encoder=encoder)  # type: ignore[type-abstract]

    def to_record(self) -> dict[str, dict[str, Any]]:
        """Choices, situation and forecast, as a run's record keeps them beside its settings."""
        choices = {each.decides: {k: v for k, v in asdict(each).items() if k != "decides"} for each in self.choices}
        return {**choices, "situation": asdict(self.situation), "forecast": asdict(self.forecast)}

    def __rich__(self) -> Group:
        table = Table("", "taken", "why", "evidence", title=str(self.situation), title_justify="left")
        notes: list[str] = []
        for each in self.choices:
            notes += [note for note in each.evidence if note not in notes]
            numbers = " ".join(f"[{notes.index(note) + 1}]" for note in each.evidence)
            table.add_row(each.decides, each.taken, each.reason, numbers)
        lines = [f"[{number}] {note}" for number, note in enumerate(notes, 1)]
        cost = self.forecast
        forecast = (
            f"forecast: at most {format_duration(cost.hours * 3600)} and {cost.memory_mib:,.0f} MiB on this machine's "
            f"{cost.device} ({cost.step_seconds:.2g} s a step; less if it stops early)"
        )
        return Group(
            table, *(Text(line) for line in [*lines, "", forecast, "the same without auto:"]), Text(self.command)
        )


def plan(
    data: Path,
    task: PretrainingTask | None = None,
    label: str | None = None,
    hours: float | None = None,
    hardware: Hardware = Hardware(),
    split: SplitSpec = SplitSpec(),
    seed: int = 0,
) -> PretrainingPlan:
    """Say which pretext, encoder, crop, batch and length to take for these scans, this task and this machine, and why.

    Nothing is trained but a few trial steps, and nothing is written.

    Args:
        data: Cache made by `medssl prepare`.
        task: What the pretrained encoder is for; by default as masks and the label suggest.
        label: Label column that the run is monitored with; it never enters the loss, nor decides when to stop.
        hours: Hours that the run may take; by default as long as the rules ask for.
        hardware: Where it would run.
        split: How the patients are split; the test patients are left out.
        seed: Seed of the trial.

    Returns:
        The choices with reasons and evidence, the forecast, and the command that does the same.

    Raises:
        MedsslError: The folder is no cache, there is no scan or no such label, or not one step fits into the hours.
    """
    if (Path(data) / "manifest.parquet").exists() and not (Path(data) / "cache.json").exists():
        name = Path(data).name
        raise MedsslError(
            f"{name} is a manifest: expected a cache; run medssl prepare first, and medssl fingerprint {name} to see what that "
            "would make of it"
        )
    cache = Cache(Path(data))
    if label is not None:
        label_codes(cache.manifest, label)  # raises MedsslError where there is no such column
    given = Given(None, None, TrainConfig(), Monitoring(label=label), hardware, split, seed)
    return plan_pretraining(cache, Planning(task, hours), given)


@dataclass(frozen=True)
class Given:
    """What the user settled beforehand.

    Attributes:
        encoder: Encoder to pretrain; None for that of the rules.
        crop: Voxels along each axis; None for that of the rules.
        train: The optimisation; what differs from its defaults is kept.
        monitoring: How the representation is measured; a patience is kept.
        hardware: Where the run would be.
        split: How the patients are split.
        seed: Seed of the run.
        transductive: Whether test patients are pretrained on too.
    """

    encoder: Encoder | None
    crop: tuple[int, ...] | None
    train: TrainConfig
    monitoring: Monitoring
    hardware: Hardware
    split: SplitSpec
    seed: int
    transductive: bool = False


def plan_pretraining(cache: Cache, planning: Planning, given: Given) -> PretrainingPlan:
    """The plan of a run, with what was given kept as it is.

    Args:
        cache: Where the scans are.
        planning: The task, the hours, and which settings are kept.
        given: The settings of the user.

    Raises:
        MedsslError: There is no scan, a given setting does not fit, or not one step fits into the hours.
    """
    task, task_reason = task_of(cache, planning.task, given.monitoring.label)
    scans = pretraining_scans(cache, given.split, given.transductive)
    situation = Situation.of(cache, scans, task, given.hardware.accelerator)
    rules = {decides: choose(decides, situation) for decides in DECISIONS}
    kept = kept_settings(planning, given)
    encoder = given.encoder or rules["encoder"].take(situation)(cache.dims, cache.channels)
    cache.data_spec.check_encoder(encoder)
    crop = given.crop or _crop(cache, encoder, rules["crop"].take(situation))
    train, monitoring = _settings(rules, situation, kept, given)
    method = rules["pretext"].take(situation)(encoder)
    method.check(crop, train.batch_size)
    method.set_up_views(cache.data_spec, crop)
    manifest, readers = usable_samples(cache, method, scans)
    trial = TrialRun(
        method, cache, list(manifest["scan"]), readers, crop, train, monitoring, given.hardware, given.seed
    )
    train, forecast, notes = _sized(trial, situation, rules["steps"], kept, planning.hours)
    taken = _taken(method, encoder, crop, train, monitoring)
    choices = [_choice(rules[each], taken[each], each in kept, notes.get(each, "")) for each in DECISIONS]
    specs = describe(encoder), describe_method(method)
    command = _command(cache, given, *specs, crop, train, monitoring)
    first = Choice("task", task, task_reason)
    return PretrainingPlan(situation, (first, *choices), *specs, crop, train, monitoring, forecast, command)


def kept_settings(planning: Planning, given: Given) -> set[Decision]:
    """What no rule decides: the settings that are named, or that differ from their defaults.

    Args:
        planning: Its `keep` names settings.
        given: The settings of the user.
    """
    settings = asdict(given.train) | {"patience": given.monitoring.patience}
    defaults = asdict(TrainConfig()) | {"patience": None}
    kept = {d for d, name in KEPT.items() if name in planning.keep or settings[name] != defaults[name]}
    kept |= {"encoder"} if given.encoder is not None else set()
    return kept | ({"crop"} if given.crop is not None else set())


def _settings(
    rules: dict[Decision, Rule], situation: Situation, kept: set[Decision], given: Given
) -> tuple[TrainConfig, Monitoring]:
    """The optimisation with the batch, steps and rate that the rules take, unless they are kept."""
    train, monitoring = given.train, given.monitoring
    if "batch" not in kept:
        train = replace(train, batch_size=rules["batch"].take(situation))
    if "lr" not in kept:
        train = replace(train, lr=rules["lr"].take(situation))
    if "steps" not in kept:
        train = replace(train, steps=_steps(rules["steps"], situation, train))
    if "stop" not in kept:
        monitoring = replace(monitoring, patience=rules["stop"].take(situation))
    return train, monitoring


def _steps(rule: Rule, situation: Situation, train: TrainConfig) -> int:
    """Optimiser steps that show as many samples as the rule says."""
    return math.ceil(rule.take(situation) / (train.batch_size * train.accumulate))


def _sized(
    trial: TrialRun, situation: Situation, steps_rule: Rule, kept: set[Decision], hours: float | None
) -> tuple[TrainConfig, Forecast, dict[str, str]]:
    """The optimisation with a batch that fits into the memory and steps that fit into the hours, and what that changed."""
    notes: dict[str, str] = {}
    if "batch" not in kept:
        batch = fitting_batch(trial, situation.memory_mib)
        if batch < trial.train.batch_size:
            notes["batch"] = f"halved until it fits into {situation.memory_mib:,} MiB"
            trial = with_train(trial, batch_size=batch)
            if "steps" not in kept:
                trial = with_train(trial, steps=_steps(steps_rule, situation, trial.train))
    forecast = measure(trial)
    if hours is None or forecast.hours <= hours:
        return trial.train, forecast, notes
    if "steps" in kept:
        notes["steps"] = f"they take {forecast.hours:.2g} hours, longer than the {hours:g} that are given"
        return trial.train, forecast, notes
    fitting = int((hours * 3600 - forecast.measurement_seconds) / forecast.step_seconds)
    if fitting < 1:
        raise MedsslError(
            f"not one step fits into --hours {hours:g}: a step takes {forecast.step_seconds:.2g} s here and the measurements "
            f"{forecast.measurement_seconds:.2g} s; give more hours, or a smaller --crop"
        )
    notes["steps"] = f"cut from {trial.train.steps:,} to fit into {hours:g} hours"
    seconds = fitting * forecast.step_seconds + forecast.measurement_seconds
    return replace(trial.train, steps=fitting), replace(forecast, hours=seconds / 3600), notes


def _crop(cache: Cache, encoder: Encoder, limit: CropLimit) -> tuple[int, ...]:
    crop = default_crop(cache, encoder, limit.maximum)
    return (min(crop),) * len(crop) if limit.equal_edges else crop


def _choice(rule: Rule, taken: str, kept: bool, note: str) -> Choice:
    """The line of the table: of a rule, or of a setting that the user gave."""
    if kept:
        return Choice(rule.decides, taken, "; ".join(filter(None, (GIVEN, note))))
    return Choice(rule.decides, taken, "; ".join(filter(None, (rule.reason, note))), rule.evidence)


def _taken(
    method: Method, encoder: Encoder, crop: tuple[int, ...], train: TrainConfig, monitoring: Monitoring
) -> dict[Decision, str]:
    """What is taken, for a reader."""
    weights = sum(parameter.numel() for parameter in encoder.parameters())
    return {
        "pretext": _text(describe_method(method)),
        "encoder": f"{_text(describe(encoder))}: {weights / 1e6:.2g} million weights",
        "crop": " x ".join(map(str, crop)),
        "batch": str(train.batch_size),
        "steps": f"{train.steps:,} at most",
        "lr": f"{train.lr:g}",
        "views": _views(method),
        "stop": f"patience {monitoring.patience}" if monitoring.patience else "after all steps",
    }


def _text(spec: dict[str, Any]) -> str:
    """`SimMIM, mask_block 4`: a class with the arguments that are not its defaults."""
    arguments = []
    for name, value in changed_arguments(spec).items():
        items = value if isinstance(value, list) else [value]
        arguments.append(f"{name} {' '.join(_text(i) if isinstance(i, dict) else str(i) for i in items)}")
    return ", ".join([spec["class_path"], *arguments])


def _views(method: Method) -> str:
    """`2 x Resample, Gamma, Noise`: the parts of the views, equal ones counted."""
    names = [", ".join(type(part).__name__ for part in getattr(view, "views", [view])) for view in method._views]
    return "; ".join(f"{names.count(each)} x {each}" for each in dict.fromkeys(names))


def _command(
    cache: Cache,
    given: Given,
    encoder: dict[str, Any],
    method: dict[str, Any],
    crop: tuple[int, ...],
    train: TrainConfig,
    monitoring: Monitoring,
) -> str:
    """The command that does the same with every setting written out."""
    words = ["medssl", "pretrain", *option_words("data", cache.path), *option_words("out", OUT)]
    words += class_words("method", method) + class_words("encoder", encoder) + option_words("crop", crop)
    words += group_words(train) + group_words(monitoring) + group_words(given.hardware) + group_words(given.split)
    words += option_words("seed", given.seed) if given.seed else []
    words += option_words("transductive", True) if given.transductive else []
    return shlex.join(words)
