"""Train a classifier or a segmenter from an encoder: from scratch, from a pretraining run, or frozen.

    medssl finetune --data CACHE --task segmentation --init runs/simmim --out runs/model

    model = medssl.finetune("cache", "runs/model", task="segmentation", init="runs/simmim")

The settings are the same for every initialisation, with two exceptions: a pretrained encoder starts to learn after the
head (`head_first`), and at a share of its learning rate (`encoder_share`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from safetensors.torch import load
from torch import Tensor

from medssl.core import runs
from medssl.core.errors import MedsslError
from medssl.core.progress import console
from medssl.core.spec import describe, describes_same
from medssl.datasets.splits import SplitSpec, label_budgets
from medssl.encoders import Encoder
from medssl.encoders.resenc import ResidualUNet
from medssl.preprocessing.cache import Cache
from medssl.preprocessing.data_spec import DataSpec
from medssl.preprocessing.datamodule import CropData
from medssl.training.callbacks.gradient_guard import GradientGuard
from medssl.training.config import FinetuneConfig
from medssl.training.engine import StepBar, adamw, quiet_third_parties
from medssl.training.models import Classifier, Segmenter, fresh_encoder, load_pretrained, save_weights
from medssl.training.pretrain import default_crop
from medssl.training.task import Task, TaskName, task_named
from medssl.views import recipes
from medssl.views.random import derive_keys

CHECKS = 5  # evaluations of the validation patients during training, if there are any


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
) -> runs.Run:
    """Train one classifier or segmenter on the training patients of a cache; the test patients are never read.

    Args:
        data: Cache made by `medssl prepare`.
        out: Folder of the run; it then holds everything that `medssl predict` needs.
        task: What to learn.
        label: Label column to classify.
        init: Pretraining run to start from; without one the model starts from scratch.
        encoder: Encoder of a model from scratch, or of a run whose encoder class lies outside medssl.
        budget: Share or number of the labelled training patients to use, as 5% or 3p (three patients).
        crop: Voxels along each axis; by default those of the pretraining run.
        train: The optimisation.
        split: How the patients are split.
        seed: Seed of the head, the draw of patients, the order and the views.

    Returns:
        The record of the finished run.

    Raises:
        MedsslError: A setting cannot work; raised before the first step.
    """
    cache, out = Cache(Path(data)), Path(out)
    targets = task_named(task).from_cache(cache, label)
    spec, size = architecture(cache, [init] if init else [], encoder, crop)
    settings = train.resolved(pretrained=init is not None)
    subset = label_budgets(split.roles(cache.manifest), targets.seen, [budget], seed, 1)
    training, validation = (scans_of(cache, targets, subset, role) for role in ("train", "validation"))
    parent_id = runs.read(init).id if init else None
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
        "data_spec": cache.data_spec.to_record(),
        **split.to_record(),
    }
    name = runs.identity(kind="finetune", config=config, data=cache.digest, seed=seed, parent=parent_id)
    if (before := runs.finished_run(out, name)) is not None:
        console.print(f"{out} is already finished; nothing to do")
        return before
    with runs.recording(out, "finetune", config, cache.digest, seed, parent_id) as record:
        model = targets.build_model(fresh_encoder(spec, seed, encoder), seed)
        loaded = load_pretrained(model, Path(init)) if init else []
        console.print(
            f"{len(training)} scans to train on, {len(validation)} to choose a checkpoint; loaded: "
            f"{', '.join(loaded) or 'nothing'}"
        )
        score = train_model(model, cache, targets, training, validation, size, settings, seed, progress=True)
        save_weights(model, out / "model.safetensors")
        record.update(metrics={"validation_score": score} if validation else {})
    return runs.read(out)


def load_model(folder: Path, encoder: Encoder | None = None) -> tuple[Classifier | Segmenter, runs.Run]:
    """A fine-tuned model and its record, ready for `classify` or `segment`."""
    run = runs.read(folder)
    if run.kind != "finetune" or run.status != "finished":
        raise MedsslError(f"{folder} holds a {run.status} {run.kind} run: expected a finished fine-tuned model")
    config = run.config
    task = task_named(config["task"])(tuple(config["classes"]))
    model = task.build_model(fresh_encoder(config["encoder"], 0, encoder), seed=0)
    model.load_state_dict(load((Path(folder) / "model.safetensors").read_bytes()))
    return model.eval(), run


def architecture(
    cache: Cache, inits: Sequence[Path], encoder: Encoder | None, crop: Sequence[int] | None
) -> tuple[dict, tuple[int, ...]]:
    """The one encoder that all runs in `inits` share, as a record, and the crop; checked against the cache."""
    records = [runs.read(folder) for folder in inits]
    for folder, record in zip(inits, records):
        if record.kind != "pretrain" or record.status != "finished":
            raise MedsslError(
                f"{folder} holds a {record.status} {record.kind} run: expected a finished pretraining run"
            )
    specs = [record.config["encoder"] for record in records]
    if encoder is not None:
        specs.append(describe(encoder))
    specs = specs or [describe(ResidualUNet(cache.dims, cache.channels))]
    for other in specs[1:]:
        if not describes_same(other, specs[0]):
            raise MedsslError(
                f"the arms have different encoders, {specs[0]} and {other}: expected one; compare them in two studies"
            )
    built = fresh_encoder(specs[0], 0, encoder)
    cache.data_spec.check_encoder(built)
    size = tuple(crop or (records[0].config["crop"] if records else default_crop(cache, built)))
    built.check_size(size)
    for record in records:
        cache.data_spec.warn_of_spacing(DataSpec.from_record(record.config))
    return specs[0], size


def scans_of(cache: Cache, task: Task, subset: Any, role: str) -> list[str]:
    """The labelled scans of the patients of a subset who have this role, in the manifest's order."""
    patients = set(subset["patient"][subset["role"] == role])
    rows = zip(cache.manifest["scan"], cache.manifest["patient"])
    return [scan for scan, patient in rows if patient in patients and scan in task.labels]


def train_model(
    model: Classifier | Segmenter,
    cache: Cache,
    task: Task,
    training: Sequence[str],
    validation: Sequence[str],
    size: Sequence[int],
    settings: FinetuneConfig,
    seed: int,
    progress: bool = False,
) -> float:
    """Train the model in place; with validation scans it ends at its best check. Returns that score (or NaN)."""
    module = _Training(model, cache, task, validation, size, settings)
    quiet_third_parties()
    trainer = pl.Trainer(
        max_steps=settings.steps,
        max_epochs=-1,
        precision=settings.precision,  # type: ignore[arg-type]
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=1.0,
        accelerator="auto",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[GradientGuard(), *([StepBar()] if progress else [])],
    )
    crops = task.crops(cache, training, size, seed)
    data = CropData(crops, settings.batch_size, settings.steps * settings.accumulate)
    trainer.fit(module, datamodule=data)
    if module.best is not None:
        model.load_state_dict(module.best[1])
    return module.best[0] if module.best else float("nan")


class _Training(pl.LightningModule):
    """The optimisation of a model on a task; `best` holds the best validation score and its weights."""

    def __init__(
        self,
        model: Classifier | Segmenter,
        cache: Cache,
        task: Task,
        validation: Sequence[str],
        size: Sequence[int],
        settings: FinetuneConfig,
    ):
        super().__init__()
        self.model, self.cache, self.task, self.validation = model, cache, task, list(validation)
        self.size, self.settings = tuple(size), settings
        self.view = recipes.finetune(cache.data_spec, size)
        self.best: tuple[float, dict] | None = None

    def configure_optimizers(self) -> Any:
        settings = self.settings
        groups = [(self.model.encoder, settings.encoder_share or 1.0), (self.model, 1.0)]
        if settings.frozen:
            self.model.encoder.requires_grad_(False)
        return adamw(groups, settings.lr, settings.weight_decay, settings.warmup, settings.steps)

    def training_step(self, batch: dict[str, Any], index: int) -> Tensor:
        settings = self.settings
        frozen = settings.frozen or self.global_step < (settings.head_first or 0.0) * settings.steps
        self.model.encoder.requires_grad_(not frozen).train(not frozen)
        params = self.view.draw(derive_keys(batch["key"], 0))
        loss = self.task.loss(self.model, self.view, params, batch)
        if not torch.isfinite(loss):
            raise MedsslError(
                f"the loss is {loss.item()} at step {self.global_step}: expected a finite number; lower --lr"
            )
        return loss

    def on_train_batch_end(self, outputs: Any, *_: Any) -> None:
        every = max(1, self.settings.steps // CHECKS)
        is_check = self.global_step % every == 0 or self.global_step == self.settings.steps
        if not self.validation or not is_check or self.trainer.fit_loop._should_accumulate():
            return
        score = self._validate()
        if np.isfinite(score) and (self.best is None or score >= self.best[0]):
            self.best = (score, {k: v.detach().clone() for k, v in self.model.state_dict().items()})
        self.model.train()

    def _validate(self) -> float:
        predictions = self.task.predict(self.model, self.cache, self.validation, self.size, self.settings.precision)
        return self.task.validation_score(self.cache, self.validation, predictions)
