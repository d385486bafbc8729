"""Train a classifier or segmenter on labelled scans, and keep the weights of its best validation score.

data = TrainingData(cache, task, (32, 32, 32), training=scans[:20], validation=scans[20:25])
score = train_model(task.build_model(encoder, seed=0), data, FinetuneConfig(steps=300), seed=0)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from medssl.core.errors import MedsslError
from medssl.preprocessing.cache import Cache
from medssl.preprocessing.datamodule import CropData
from medssl.training.callbacks.gradient_guard import GradientGuard
from medssl.training.config import FinetuneConfig
from medssl.training.engine import StepBar, adamw, quiet_third_parties
from medssl.training.models import Classifier, Segmenter
from medssl.training.task import Task
from medssl.views import recipes
from medssl.views.random import derive_keys

VALIDATIONS = 5  # evaluations of the validation scans during training, if there are any


@dataclass(frozen=True)
class TrainingData:
    """What one model may learn from.

    Attributes:
        cache: Where the scans are.
        task: The task, with its targets.
        size: Voxels of a crop along each axis.
        training: Labelled scans to train on.
        validation: Labelled scans to choose a checkpoint by; none for a small budget.
        unlabelled: The other scans of training patients, whose labels the budget did not buy.
    """

    cache: Cache
    task: Task
    size: tuple[int, ...]
    training: Sequence[str]
    validation: Sequence[str] = ()
    unlabelled: Sequence[str] = ()


def train_model(
    model: Classifier | Segmenter, data: TrainingData, settings: FinetuneConfig, seed: int, progress: bool = False
) -> float:
    """Train a model in place; if there are validation scans, it ends with the weights of their best score.

    Args:
        model: Model of the task.
        data: What to learn from.
        settings: Settings of the optimisation.
        seed: Seed of the order, the crops and the views.
        progress: Whether to show a progress bar.

    Returns:
        The best validation score, or NaN if there is none.

    Raises:
        MedsslError: The loss is no longer finite.
    """
    module = SupervisedModule(model, data, settings)
    crops = data.task.crops(data.cache, data.training, data.size, seed)
    batches = CropData(crops, settings.batch_size, settings.steps * settings.accumulate)
    quiet_third_parties()
    _trainer(settings, progress).fit(module, datamodule=batches)
    if module.best is None:
        return float("nan")
    score, weights = module.best
    model.load_state_dict(weights)
    return score


class SupervisedModule(pl.LightningModule):
    """The optimisation of a model on a task; `best` holds the best validation score and its weights."""

    def __init__(self, model: Classifier | Segmenter, data: TrainingData, settings: FinetuneConfig):
        super().__init__()
        self.model, self.training_data, self.settings = model, data, settings
        self.view = recipes.finetune(data.cache.data_spec, data.size)
        self.best: tuple[float, dict[str, Tensor]] | None = None

    def configure_optimizers(self) -> Any:
        settings = self.settings
        groups = [(self.model.encoder, settings.encoder_share or 1.0), (self.model, 1.0)]
        if settings.frozen:
            self.model.encoder.requires_grad_(False)
        return adamw(groups, settings)

    def training_step(self, batch: dict[str, Any], index: int) -> Tensor:
        settings = self.settings
        frozen = settings.frozen or self.global_step < (settings.head_first or 0.0) * settings.steps
        self.model.encoder.requires_grad_(not frozen).train(not frozen)
        params = self.view.draw(derive_keys(batch["key"], 0))
        loss = self.training_data.task.loss(self.model, self.view, params, batch)
        if not torch.isfinite(loss):
            raise MedsslError(
                f"the loss is {loss.item()} at step {self.global_step}: expected a finite number; lower --lr"
            )
        return loss

    def on_train_batch_end(self, outputs: Any, *_: Any) -> None:
        every = max(1, self.settings.steps // VALIDATIONS)
        due = self.global_step % every == 0 or self.global_step == self.settings.steps
        if not self.training_data.validation or not due or self.trainer.fit_loop._should_accumulate():
            return
        score = self._validate()
        if np.isfinite(score) and (self.best is None or score >= self.best[0]):
            self.best = (score, {k: v.detach().clone() for k, v in self.model.state_dict().items()})
        self.model.train()

    def _validate(self) -> float:
        data, scans = self.training_data, list(self.training_data.validation)
        predictions = data.task.predict(self.model, data.cache, scans, data.size, self.settings.precision)
        return data.task.validation_score(data.cache, scans, predictions)


def _trainer(settings: FinetuneConfig, progress: bool) -> pl.Trainer:
    return pl.Trainer(
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
