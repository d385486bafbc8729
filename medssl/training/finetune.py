"""Train a classifier or a segmenter from an encoder: from scratch, from a pretraining run, or frozen.

    medssl finetune --data CACHE --task segmentation --init runs/simmim --out runs/model

    model = medssl.finetune("cache", "runs/model", task="segmentation", init="runs/simmim")

The recipe is the same for every initialisation but for what PROTOCOL-minded papers agree on: a pretrained encoder
starts after the head (`head_first`) and learns at a share of the rate (`encoder_share`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from rich.console import Console
from safetensors.torch import load
from torch import Tensor

from medssl.core import runs
from medssl.core.errors import MedsslError
from medssl.datasets.splits import label_budgets, split
from medssl.encoders import Encoder
from medssl.encoders.resenc import ResidualUNet
from medssl.preprocessing.cache import Cache
from medssl.training.engine import CropData, SoundGradients, StepBar, adamw, quiet_third_parties
from medssl.training.models import Classifier, Segmenter, fresh_encoder, load_pretrained, save_weights
from medssl.training.pretrain import default_crop
from medssl.training.task import Task, TaskName, task_named
from medssl.views import recipes
from medssl.views.random import derive_keys

CHECKS = 5  # looks at the validation patients during training, where there are any
console = Console(stderr=True)


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. encoder_share and head_first concern a pretrained encoder only.

    steps, batch_size, lr, weight_decay, warmup (steps): AdamW with cosine. encoder_share: the encoder's learning rate
    over the head's (0.3 unless said otherwise). head_first: share of the steps in which only the head (and decoder) learns (0.1). frozen: the encoder
    never learns. precision: Lightning's name ("bf16-mixed" halves the time on GPUs and on CPUs that know bfloat16).
    """

    steps: int = 300
    batch_size: int = 4
    lr: float = 1e-3
    weight_decay: float = 0.01
    warmup: int = 20
    encoder_share: float | None = None
    head_first: float | None = None
    frozen: bool = False
    precision: str = "32-true"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or self.lr <= 0:
            raise MedsslError(
                f"the recipe has steps {self.steps}, batch_size {self.batch_size}, lr {self.lr}: expected numbers above 0"
            )

    def resolved(self, pretrained: bool) -> Recipe:
        """With encoder_share and head_first as they are for this kind of start: 1 and 0 where nothing was pretrained."""
        if not pretrained:
            return replace(self, encoder_share=1.0, head_first=0.0)
        share = 0.3 if self.encoder_share is None else self.encoder_share
        return replace(self, encoder_share=share, head_first=0.1 if self.head_first is None else self.head_first)


def finetune(
    data: Path,
    out: Path,
    task: TaskName,
    label: str | None = None,
    init: Path | None = None,
    encoder: Encoder | None = None,
    budget: str = "100%",
    crop: tuple[int, ...] | None = None,
    recipe: Recipe | None = None,
    seed: int = 0,
    split_seed: int = 0,
    split_column: str | None = None,
) -> runs.Run:
    """Train one model on the training patients of a cache (a `budget` of them); the test patients are never read.

    init: a pretraining run to start from; without it the model starts from scratch. The run's folder then holds
    `model.safetensors` and everything `medssl predict` needs to use it on new scans.
    """
    cache, out = Cache(Path(data)), Path(out)
    targets = task_named(task).from_cache(cache, label)
    spec, size = architecture(cache, [init] if init else [], encoder, crop)
    recipe = (recipe or Recipe()).resolved(pretrained=init is not None)
    subset = label_budgets(split(cache.manifest, split_seed, column=split_column), targets.seen, [budget], seed, 1)
    train, validation = (scans_of(cache, targets, subset, role) for role in ("train", "validation"))
    parent = runs.read(init) if init else None
    config = {
        "task": task, "label": label, "classes": targets.classes, "encoder": spec, "crop": size, "recipe": asdict(recipe),
        "budget": budget, "patients": len(subset), "scans": len(train) + len(validation), "dims": cache.dims,
        "channels": cache.channels, "modality": cache.modality, "spacing_mm": cache.spacing_mm,
        "size": cache.size, "split_seed": split_seed, "split_column": split_column,
    }  # fmt: skip
    whence = parent.id if parent else None
    name = runs.identity(kind="finetune", config=config, data=cache.digest, seed=seed, parent=whence)
    if (before := runs.finished(out, name)) is not None:
        console.print(f"{out} is already finished; nothing to do")
        return before
    with runs.recording(out, "finetune", config, cache.digest, seed, whence) as record:
        model = targets.build_model(fresh_encoder(spec, seed, encoder), seed)
        loaded = load_pretrained(model, Path(init)) if init else []
        console.print(
            f"{len(train)} scans to train on, {len(validation)} to choose a checkpoint; loaded: {', '.join(loaded) or 'nothing'}"
        )
        score = train_model(model, cache, targets, train, validation, size, recipe, seed, progress=True)
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
        specs.append(runs.describe(encoder))
    specs = specs or [runs.describe(ResidualUNet(cache.dims, cache.channels))]
    for other in specs[1:]:
        if other != specs[0]:
            raise MedsslError(
                f"the arms have different encoders, {specs[0]} and {other}: expected one; compare them in two studies"
            )
    built = fresh_encoder(specs[0], 0, encoder)
    cache.data_spec.check_encoder(built)
    size = tuple(crop or (records[0].config["crop"] if records else default_crop(cache, built)))
    built.check_size(size)
    for record in records:
        before, now = record.config["spacing_mm"], cache.spacing_mm
        if any(abs(a - b) > 0.05 * b for a, b in zip(before, now)):
            console.print(
                f"warning: pretrained at a spacing of {tuple(before)} mm, used at {tuple(now)} mm; expected the same"
            )
    return specs[0], size


def scans_of(cache: Cache, task: Task, subset: Any, role: str) -> list[str]:
    """The labelled scans of the patients of a subset who have this role, in the manifest's order."""
    patients = set(subset["patient"][subset["role"] == role])
    rows = zip(cache.manifest["scan"], cache.manifest["patient"])
    return [scan for scan, patient in rows if patient in patients and scan in task.labels]


def train_model(
    model: Classifier | Segmenter, cache: Cache, task: Task, train: Sequence[str], validation: Sequence[str],
    size: Sequence[int], recipe: Recipe, seed: int, progress: bool = False,
) -> float:  # fmt: skip
    """Train the model in place; with validation scans it ends at its best check. Returns that score (or NaN)."""
    module = _Training(model, cache, task, validation, size, recipe, seed)
    quiet_third_parties()
    trainer = pl.Trainer(
        max_steps=recipe.steps, max_epochs=-1, precision=recipe.precision,  # type: ignore[arg-type]
        accelerator="auto", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, callbacks=[SoundGradients(), *([StepBar()] if progress else [])], enable_model_summary=False, use_distributed_sampler=False, gradient_clip_val=1.0,
    )  # fmt: skip
    trainer.fit(module, datamodule=CropData(task.crops(cache, train, size, seed), recipe.batch_size, recipe.steps))
    if module.best is not None:
        model.load_state_dict(module.best[1])
    return module.best[0] if module.best else float("nan")


class _Training(pl.LightningModule):
    def __init__(
        self, model: Classifier | Segmenter, cache: Cache, task: Task, validation: Sequence[str], size: Sequence[int],
        recipe: Recipe, seed: int,
    ):  # fmt: skip
        super().__init__()
        self.model, self.cache, self.task, self.held_out = model, cache, task, list(validation)
        self.size, self.recipe, self.seed = tuple(size), recipe, seed
        self.view = recipes.finetune(cache.data_spec, size)
        self.best: tuple[float, dict] | None = None

    def configure_optimizers(self) -> Any:
        r = self.recipe
        groups = [(self.model.encoder, r.encoder_share or 1.0), (self.model, 1.0)]
        if r.frozen:
            self.model.encoder.requires_grad_(False)
        return adamw(groups, r.lr, r.weight_decay, r.warmup, r.steps)

    def training_step(self, batch: dict[str, Any], index: int) -> Tensor:
        asleep = self.recipe.frozen or self.global_step < (self.recipe.head_first or 0.0) * self.recipe.steps
        self.model.encoder.requires_grad_(not asleep).train(not asleep)
        params = self.view.draw(derive_keys(batch["key"], 0))
        return self._finite(self.task.loss(self.model, self.view, params, batch))

    def _finite(self, loss: Tensor) -> Tensor:
        if not torch.isfinite(loss):
            raise MedsslError(
                f"the loss is {loss.item()} at step {self.global_step}: expected a finite number; lower --recipe.lr"
            )
        return loss

    def on_train_batch_end(self, outputs: Any, *_: Any) -> None:
        every = max(1, self.recipe.steps // CHECKS)
        if self.held_out and (self.global_step % every == 0 or self.global_step == self.recipe.steps):
            score = self._validate()
            if np.isfinite(score) and (self.best is None or score >= self.best[0]):  # NaN tells nothing
                self.best = (score, {k: v.detach().clone() for k, v in self.model.state_dict().items()})
            self.model.train()

    def _validate(self) -> float:
        predictions = self.task.predict(self.model, self.cache, self.held_out, self.size, self.recipe.precision)
        return self.task.validation_score(self.cache, self.held_out, predictions)
