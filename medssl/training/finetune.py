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
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from monai.losses import DiceCELoss
from rich.console import Console
from safetensors.torch import load
from torch import Tensor

from medssl.core import runs
from medssl.core.errors import MedsslError
from medssl.datasets.splits import label_budgets, split
from medssl.encoders import Encoder
from medssl.encoders.resenc import ResidualUNet
from medssl.evaluation.intervals import dice
from medssl.evaluation.representation import label_codes, middles
from medssl.preprocessing.cache import Cache
from medssl.preprocessing.crops import Crops, source_within
from medssl.training.engine import CropData, SoundGradients, StepBar, adamw, quiet_third_parties
from medssl.training.models import (
    Classifier,
    Segmenter,
    build,
    classify,
    fresh_encoder,
    load_pretrained,
    save_weights,
    segment,
)
from medssl.training.pretrain import default_crop
from medssl.views import recipes
from medssl.views.random import derive_keys

Task = Literal["classification", "segmentation"]
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


@dataclass(frozen=True)
class Target:
    """What is to be learnt: the task, its classes (structures, for segmentation), and each scan's label."""

    task: Task
    classes: tuple[str, ...]
    labels: dict[str, int]  # scan -> class number; for segmentation 0 for every scan that has a mask
    patients: dict[str, tuple]  # patient -> the classes or structures seen in them, for stratified budgets

    @property
    def outputs(self) -> int:
        return len(self.classes) + (self.task == "segmentation")


def target_of(cache: Cache, task: Task, label: str | None) -> Target:
    """The labelled scans of a cache; raises MedsslError where it has no such label or no masks."""
    patient = cache.manifest.set_index("scan")["patient"]
    seen: dict[str, set] = {}
    if task == "classification":
        if label is None:
            columns = [c.removeprefix("label.") for c in cache.manifest if c.startswith("label.")]
            raise MedsslError(
                f"classification needs --label: expected one of {', '.join(columns) or 'none, there is no label in this cache'}"
            )
        labels, classes = label_codes(cache, label)
        for scan, code in labels.items():
            seen.setdefault(patient[scan], set()).add(code)
    else:
        scans = list(cache.manifest["scan"][cache.manifest["has_mask"]])
        if not scans:
            raise MedsslError(
                "segmentation needs masks and no scan of this cache has one: join them with `medssl index --mask`"
            )
        labels, classes = dict.fromkeys(scans, 0), [str(s) for s in cache.structures]
        for scan in scans:
            seen.setdefault(patient[scan], set()).update(np.unique(cache.read_mask(scan)).tolist())
        seen = {p: s - {0} for p, s in seen.items()}
    if len(classes) < (2 if task == "classification" else 1):
        raise MedsslError(
            f"there are {len(classes)} classes for {task}: expected at least {2 if task == 'classification' else 1}"
        )
    return Target(task, tuple(classes), labels, {p: tuple(sorted(s)) for p, s in seen.items()})


def finetune(
    data: Path,
    out: Path,
    task: Task,
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
    target = target_of(cache, task, label)
    spec, size = architecture(cache, [init] if init else [], encoder, crop)
    recipe = (recipe or Recipe()).resolved(pretrained=init is not None)
    subset = label_budgets(split(cache.manifest, split_seed, column=split_column), target.patients, [budget], seed, 1)
    train, validation = (scans_of(cache, target, subset, role) for role in ("train", "validation"))
    parent = runs.read(init) if init else None
    config = {
        "task": task, "label": label, "classes": target.classes, "encoder": spec, "crop": size, "recipe": asdict(recipe),
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
        model = build(task, fresh_encoder(spec, seed, encoder), target.outputs, seed)
        loaded = load_pretrained(model, Path(init)) if init else []
        console.print(
            f"{len(train)} scans to train on, {len(validation)} to choose a checkpoint; loaded: {', '.join(loaded) or 'nothing'}"
        )
        score = train_model(model, cache, target, train, validation, size, recipe, seed, progress=True)
        save_weights(model, out / "model.safetensors")
        record.update(metrics={"validation_score": score} if validation else {})
    return runs.read(out)


def load_model(folder: Path, encoder: Encoder | None = None) -> tuple[Classifier | Segmenter, runs.Run]:
    """A fine-tuned model and its record, ready for `classify` or `segment`."""
    run = runs.read(folder)
    if run.kind != "finetune" or run.status != "finished":
        raise MedsslError(f"{folder} holds a {run.status} {run.kind} run: expected a finished fine-tuned model")
    config = run.config
    outputs = len(config["classes"]) + (config["task"] == "segmentation")
    model = build(config["task"], fresh_encoder(config["encoder"], 0, encoder), outputs, 0)
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


def scans_of(cache: Cache, target: Target, subset: Any, role: str) -> list[str]:
    """The labelled scans of the patients of a subset who have this role, in the manifest's order."""
    patients = set(subset["patient"][subset["role"] == role])
    rows = zip(cache.manifest["scan"], cache.manifest["patient"])
    return [scan for scan, patient in rows if patient in patients and scan in target.labels]


def train_model(
    model: Classifier | Segmenter, cache: Cache, target: Target, train: Sequence[str], validation: Sequence[str],
    size: Sequence[int], recipe: Recipe, seed: int, progress: bool = False,
) -> float:  # fmt: skip
    """Train the model in place; with validation scans it ends at its best check. Returns that score (or NaN)."""
    module = _Training(model, cache, target, validation, size, recipe, seed)
    segmentation = target.task == "segmentation"
    source = source_within(cache, train, [round(1.3 * n) for n in size], size) if segmentation else tuple(size)
    crops = Crops(cache, train, source, seed, segmentation, None if segmentation else target.labels,
                  "random" if segmentation else "middle")  # fmt: skip
    quiet_third_parties()
    trainer = pl.Trainer(
        max_steps=recipe.steps, max_epochs=-1, precision=recipe.precision,  # type: ignore[arg-type]
        accelerator="auto", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, callbacks=[SoundGradients(), *([StepBar()] if progress else [])], enable_model_summary=False, use_distributed_sampler=False, gradient_clip_val=1.0,
    )  # fmt: skip
    trainer.fit(module, datamodule=CropData(crops, recipe.batch_size, recipe.steps))
    if module.best is not None:
        model.load_state_dict(module.best[1])
    return module.best[0] if module.best else float("nan")


def score_scans(
    model: Classifier | Segmenter,
    cache: Cache,
    target: Target,
    scans: Sequence[str],
    size: Sequence[int],
    precision: str = "32-true",
) -> list[Any]:
    """For each scan: class probabilities (classes,), or a predicted mask (*S) in the structures' own numbers."""
    own = next(model.parameters()).device.type
    device = "cuda" if torch.cuda.is_available() else own  # Lightning leaves the model on the CPU after training
    with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16-mixed"):
        return _score(model.to(device), cache, target, scans, size, device)


def _score(
    model: Any, cache: Cache, target: Target, scans: Sequence[str], size: Sequence[int], device: str
) -> list[Any]:
    if target.task == "classification":
        parts = [scans[i : i + 64] for i in range(0, len(scans), 64)]
        return [p for part in parts for p in classify(model, middles(cache, part, size).to(device)).cpu().numpy()]
    values = np.array([0, *cache.structures], np.uint8)
    masks = []
    for scan in scans:
        shape = cache.shape(scan)
        masks.append(values[segment(model, middles(cache, [scan], shape)[0].to(device), size).cpu().numpy()])
    return masks


class _Training(pl.LightningModule):
    def __init__(
        self, model: Classifier | Segmenter, cache: Cache, target: Target, validation: Sequence[str], size: Sequence[int],
        recipe: Recipe, seed: int,
    ):  # fmt: skip
        super().__init__()
        self.model, self.cache, self.target, self.held_out = model, cache, target, list(validation)
        self.size, self.recipe, self.seed = tuple(size), recipe, seed
        self.view = recipes.finetune(cache.data_spec, size)
        self.best: tuple[float, dict] | None = None
        self.dice_ce = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)
        codes = torch.zeros(256, dtype=torch.long)
        if target.task == "segmentation":
            codes[list(cache.structures)] = torch.arange(1, len(cache.structures) + 1)
        self.register_buffer("codes", codes)

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
        source = batch["source"].float()
        if self.target.task == "classification":
            return self._finite(F.cross_entropy(self.model(self.view(source, params)), batch["target"]))
        x, mask = self.view.with_mask(source, self.codes[batch["mask"].long()].float(), params)  # type: ignore[index]
        return self._finite(self.dice_ce(self.model(x), mask))

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
        """Mean Dice, or minus the cross-entropy, of the validation scans."""
        found = score_scans(self.model, self.cache, self.target, self.held_out, self.size, self.recipe.precision)
        if self.target.task == "classification":
            chosen = [max(float(p[self.target.labels[s]]), 1e-6) for s, p in zip(self.held_out, found)]
            return float(np.mean(np.log(chosen)))
        cases = [dice(m, self.cache.read_mask(s), self.cache.structures) for s, m in zip(self.held_out, found)]
        return float(np.nanmean([list(case.values()) for case in cases]))
