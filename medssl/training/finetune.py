"""Train a classifier or a segmenter from an encoder: from scratch, from a pretraining run, or frozen.

    medssl finetune --data CACHE --task segmentation --init runs/simmim --out runs/model

    model = medssl.finetune("cache", "runs/model", task="segmentation", init="runs/simmim")

The settings are the same for every start; those that concern a pretrained encoder alone (`head_first`, `encoder_share`,
`layer_decay`, `probe_start`, `adapter_rank`) do not hold for a random one. The steps grow with the labelled scans. With
`--semi-supervised mean-teacher` the other scans of training patients are learned from as well, without their labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from medssl.core import runs
from medssl.core.atomic import exclusive
from medssl.core.errors import MedsslError
from medssl.core.progress import console
from medssl.core.spec import describe, describes_same
from medssl.datasets.splits import SplitSpec, label_budgets
from medssl.encoders import Encoder
from medssl.encoders.resenc import ResidualUNet
from medssl.preprocessing.cache import Cache
from medssl.preprocessing.expected import check_expected
from medssl.training.config import FinetuneConfig
from medssl.training.models import Classifier, Segmenter, fresh_encoder, load_exactly, load_pretrained, save_weights
from medssl.training.samples import default_crop
from medssl.training.semi_supervised.base import (
    SemiSupervised,
    build_algorithm,
    check_start,
    check_task,
    train_semi_supervised,
)
from medssl.training.semi_supervised.distillation import Distillation
from medssl.training.supervised import TrainingData, train_model
from medssl.training.tasks import Task, TaskName, task_named


def finetune(
    data: Path,
    out: Path,
    task: TaskName,
    label: str | None = None,
    init: Path | None = None,
    encoder: Encoder | None = None,
    budget: str = "100%",
    crop: tuple[int, ...] | None = None,
    train: FinetuneConfig = FinetuneConfig(),
    split: SplitSpec = SplitSpec(),
    seed: int = 0,
    semi_supervised: str | None = None,
    teacher: Path | None = None,
) -> runs.Run:
    """Train one classifier or segmenter on the training patients of a cache; the test patients are never read.

    Args:
        data: Cache made by `medssl prepare`.
        out: Folder of the run; it then holds everything that `medssl predict` needs.
        task: What to learn.
        label: Label column to classify.
        init: Pretraining run, or imported weights, to start from; without one the model starts from scratch.
        encoder: Encoder of a model from scratch, or of a run whose encoder class lies outside medssl.
        budget: Share or number of the labelled training patients to use, as 5% or 3p (three patients).
        crop: Voxels along each axis; by default those of the pretraining run.
        train: The optimisation.
        split: How the patients are split.
        seed: Seed of the head, the draw of patients, the order and the views.
        semi_supervised: Algorithm that also learns from the training patients outside of the budget, without their labels,
            as mean-teacher or self-training(teachers=3).
        teacher: Fine-tuned model of any encoder, for semi_supervised=distillation.

    Returns:
        The record of the finished run.

    Raises:
        MedsslError: A setting cannot work; raised before the first step.
    """
    cache, out = Cache(Path(data)), Path(out)
    targets = task_named(task).from_cache(cache, label)
    spec, size = architecture(cache, init, encoder, crop)
    roles = split.roles(cache.manifest)
    subset = label_budgets(roles, targets.seen, [budget], seed, 1)
    training, validation = (scans_of(cache, targets, subset, role) for role in ("train", "validation"))
    algorithm = _algorithm(
        semi_supervised, teacher, targets, init is not None, {"budget": budget, **split.to_record()}, seed
    )
    unlabelled = unlabelled_scans(cache, roles, set(subset["patient"])) if algorithm else []
    scans = TrainingData(cache, targets, size, training, validation, unlabelled)
    settings = (train if init else train.for_random_start()).for_scans(len(training))
    config = {
        "task": task,
        "label": label,
        "classes": targets.classes,
        "encoder": spec,
        "crop": size,
        "train": asdict(settings),
        "budget": budget,
        "patients": len(subset),
        "scans": len(training) + len(validation),
        "semi_supervised": semi_supervised,
        "unlabelled_scans": len(unlabelled),
        "teacher": runs.read(teacher).id if teacher else None,
        "data_spec": cache.data_spec.to_record(),
        **split.to_record(),
    }
    parent_id = runs.read(init).id if init else None
    name = runs.identity(kind="finetune", config=config, data=cache.digest, seed=seed, parent=parent_id)
    if (finished := runs.finished_run(out, name)) is not None:
        console.print(f"{out} is already finished; nothing to do")
        return finished
    key = cache.pseudonym_key
    with exclusive(out), runs.recording(out, "finetune", config, cache.digest, seed, parent_id, key) as record:
        model = targets.build_model(fresh_encoder(spec, seed, encoder), seed)
        metrics = _train_and_save(model, scans, init, settings, seed, out, algorithm)
        record.update(metrics=metrics)
    return runs.read(out)


def _train_and_save(
    model: Classifier | Segmenter,
    data: TrainingData,
    init: Path | None,
    settings: FinetuneConfig,
    seed: int,
    out: Path,
    algorithm: SemiSupervised | None,
) -> dict[str, float]:
    """Load the pretrained weights, train, and write `model.safetensors`; returns the validation score, if there is one."""
    loaded = load_pretrained(model, Path(init)) if init else []
    console.print(
        f"{len(data.training)} scans to train on for {settings.steps} steps, {len(data.validation)} to choose a checkpoint, "
        f"{len(data.unlabelled)} without labels; loaded: {', '.join(loaded) or 'nothing'}"
    )
    if algorithm is None:
        trained = train_model(model, data, settings, seed, progress=True)
    else:
        trained = train_semi_supervised(model, data, settings, seed, algorithm, progress=True)
    save_weights(model, out / "model.safetensors")
    return {"validation_score": trained.score} if data.validation else {}


def _algorithm(
    name: str | None, teacher: Path | None, task: Task, pretrained: bool, expected: dict, seed: int
) -> SemiSupervised | None:
    """The semi-supervised algorithm by its name and options, with the teacher that was given.

    Args:
        name: As the user gave it.
        teacher: Folder of a fine-tuned model.
        task: The task of the student.
        pretrained: Whether the student starts from a pretraining run.
        expected: Budget and split, which the teacher must have had too.
        seed: Seed of the draw, likewise.
    """
    if name is None:
        if teacher is not None:
            raise MedsslError("--teacher comes without --semi-supervised distillation: expected both, or neither")
        return None
    word, _, options = name.partition("(")
    algorithm = build_algorithm(word.strip(), options.removesuffix(")"))
    check_task(algorithm, task.name)
    check_start(algorithm, pretrained)
    if teacher is not None:
        if not isinstance(algorithm, Distillation):
            raise MedsslError(f"--teacher is for distillation: {word} trains its own teachers; leave --teacher out")
        theirs, algorithm.teacher, record = load_model(Path(teacher))
        if theirs.name != task.name or theirs.classes != task.classes:
            raise MedsslError(
                f"the teacher knows {theirs.name} of {', '.join(theirs.classes)}: expected {task.name} of "
                f"{', '.join(task.classes)}"
            )
        known = {name: record.config.get(name) for name in expected} | {"seed": record.seed}
        if known != expected | {"seed": seed}:
            raise MedsslError(
                f"the teacher was trained with {known}: expected {expected | {'seed': seed}}, or its labels and test patients "
                "would not be those of this model"
            )
    return algorithm


def load_model(folder: Path, encoder: Encoder | None = None) -> tuple[Task, Classifier | Segmenter, runs.Run]:
    """Load a fine-tuned model.

    Args:
        folder: Folder of a finished fine-tuning run.
        encoder: Encoder of a model whose encoder class lies outside medssl.

    Returns:
        The task, which can predict but not train; the model in evaluation mode; and the run's record.

    Raises:
        MedsslError: The folder holds another kind of run, or one that is not finished.
    """
    run = _read_finished(folder, ("finetune",), "fine-tuned model")
    task = task_named(run.config["task"])(tuple(run.config["classes"]))
    model = task.build_model(fresh_encoder(run.config["encoder"], 0, encoder), seed=0)
    load_exactly(model, Path(folder) / "model.safetensors")
    return task, model.eval(), run


def _read_finished(folder: Path, kinds: Sequence[str], what: str) -> runs.Run:
    run = runs.read(folder)
    if run.kind not in kinds or run.status != "finished":
        raise MedsslError(f"{folder} holds a {run.status} {run.kind} run: expected a finished {what}")
    return run


def architecture(
    cache: Cache, init: Path | None, encoder: Encoder | None, crop: Sequence[int] | None
) -> tuple[dict, tuple[int, ...]]:
    """Find the encoder of a model and the crop, and check both against the cache.

    Args:
        cache: Cache that the model is trained on.
        init: Folder of the pretraining run or import that it starts from.
        encoder: Encoder given by the user; a ResidualUNet if neither it nor a run is given.
        crop: Voxels along each axis; by default those of the run, or the largest that fit.

    Returns:
        The encoder as a record, and the crop.

    Raises:
        MedsslError: The encoders differ, do not fit the cache or the crop, or the run is not a finished pretraining run.
    """
    record = _read_finished(init, runs.WITH_ENCODER, "pretraining run or import") if init is not None else None
    spec = _encoder_of(record, encoder) or describe(ResidualUNet(cache.dims, cache.channels))
    built = fresh_encoder(spec, 0, encoder)
    cache.data_spec.check_encoder(built)
    size = tuple(crop or (record.config["crop"] if record is not None else default_crop(cache, built)))
    built.check_size(size)
    if record is not None:
        check_expected(record.config, cache.data_spec)
    return spec, size


def _encoder_of(record: runs.Run | None, encoder: Encoder | None) -> dict | None:
    """The encoder of a run or the given one, as a record; None if there is neither."""
    given = describe(encoder) if encoder is not None else None
    if record is None:
        return given
    own: dict = record.config["encoder"]
    if given is not None and not describes_same(given, own):
        raise MedsslError(f"the run has another encoder than the one given, {own} and {given}: expected the run's own")
    return own


def unlabelled_scans(cache: Cache, roles: pd.Series, budget: set[str]) -> list[str]:
    """The scans of training patients outside of a budget, whose labels are not used; never of validation or test patients.

    Args:
        cache: Where the scans are.
        roles: Role of each patient in the split.
        budget: The patients of the budget, those held out of it for validation included.
    """
    patient = cache.manifest["patient"]
    chosen = (patient.map(roles) == "train") & ~patient.isin(budget)
    return list(cache.manifest["scan"][chosen])


def scans_of(cache: Cache, task: Task, subset: pd.DataFrame, role: str) -> list[str]:
    """The labelled scans of the patients who have this role in a subset of `label_budgets`, in the manifest's order."""
    patients = set(subset["patient"][subset["role"] == role])
    pairs = zip(cache.manifest["scan"], cache.manifest["patient"])
    return [scan for scan, patient in pairs if patient in patients and scan in task.labels]
