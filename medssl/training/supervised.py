"""Train a classifier or segmenter on labelled scans, and keep the weights of its best validation score.

data = TrainingData(cache, task, (32, 32, 32), training=scans[:20], validation=scans[20:25])
trained = train_model(task.build_model(encoder, seed=0), data, FinetuneConfig(steps=300), seed=0)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from medssl.core.errors import Diverged, MedsslError
from medssl.preprocessing.cache import Cache
from medssl.preprocessing.datamodule import CropData
from medssl.training.callbacks.gradient_guard import GradientGuard
from medssl.training.config import FinetuneConfig
from medssl.training.engine import Group, StepBar, adamw, quiet_third_parties
from medssl.training.models import Classifier, Segmenter
from medssl.training.tasks import Task
from medssl.training.techniques.averaging import Average
from medssl.training.techniques.balancing import balanced
from medssl.training.techniques.layer_decay import groups
from medssl.training.techniques.low_rank import add_adapters, merge_adapters, merged_state
from medssl.training.techniques.pasting import paste_structures
from medssl.training.techniques.probe_start import start_from_probe
from medssl.views import recipes
from medssl.views.random import derive_keys

VALIDATIONS = 5  # evaluations of the validation scans during training, if there are any
EARLIER = 2 / 3  # share of the steps after which the weights are kept, to see what the rest of the training changed
Weights = dict[str, Tensor]


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


@dataclass(frozen=True)
class Trained:
    """What a training gives beside the model.

    Attributes:
        score: The best validation score, or NaN if there is none.
        earlier: The model's state as it would have been used after two thirds of the steps.
    """

    score: float
    earlier: Weights


def train_model(
    model: Classifier | Segmenter, data: TrainingData, settings: FinetuneConfig, seed: int, progress: bool = False
) -> Trained:
    """Train a model in place; if there are validation scans, it ends with the weights of their best score.

    Args:
        model: Model of the task.
        data: What to learn from.
        settings: Settings of the optimisation.
        seed: Seed of the order, the crops and the views.
        progress: Whether to show a progress bar.

    Returns:
        The validation score, and the state after two thirds of the steps.

    Raises:
        Diverged: The loss is no longer finite.
        MedsslError: A setting does not suit the task.
    """
    prepare_start(model, data, settings)
    module = SupervisedModule(model, data, settings)
    batches = CropData(labelled_crops(data, settings, seed), settings.batch_size, settings.steps * settings.accumulate)
    trainer(settings, progress).fit(module, datamodule=batches)
    return module.finish()


def prepare_start(model: Classifier | Segmenter, data: TrainingData, settings: FinetuneConfig) -> None:
    """Set the head from a probe and add adapters to the encoder, where the settings ask for it; check what suits the task.

    Raises:
        MedsslError: The setting does not suit the task.
    """
    if settings.probe_start:
        if not isinstance(model, Classifier):
            raise MedsslError(
                "probe_start is set for segmentation: expected classification; head_first trains the decoder first"
            )
        start_from_probe(model, data.cache, data.training, data.task.labels, data.size)
    if settings.pasting and not isinstance(model, Segmenter):
        raise MedsslError(f"pasting is {settings.pasting} for classification: expected 0, or segmentation")
    if settings.adapter_rank:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            add_adapters(model.encoder, settings.adapter_rank)


def labelled_crops(data: TrainingData, settings: FinetuneConfig, seed: int) -> Any:
    """The stream of labelled samples, each class equally often if the settings say so."""
    scans = balanced(data.training, data.task.labels) if settings.balanced else data.training
    return data.task.crops(data.cache, scans, data.size, seed)


class SupervisedModule(pl.LightningModule):
    """The optimisation of a model on a task; `finish` leaves the model with the weights to use.

    Args:
        model: Model of the task, trained in place.
        data: What to learn from.
        settings: Settings of the optimisation.
    """

    def __init__(self, model: Classifier | Segmenter, data: TrainingData, settings: FinetuneConfig):
        super().__init__()
        self.model, self.training_data, self.settings = model, data, settings
        self.task = data.task
        self.view = recipes.finetune(data.cache.data_spec, data.size, strong=settings.augmentation == "strong")
        self.best: tuple[float, Weights] | None = None
        self.earlier: Weights | None = None
        self.encoder_start = round(settings.head_first * settings.steps)
        self.average: Average | None = None

    def configure_optimizers(self) -> Any:
        settings, encoder = self.settings, self.model.encoder
        if settings.encoder_share == 0:
            encoder.requires_grad_(False)
        self.encoder_weights = [weight for weight in encoder.parameters() if weight.requires_grad]
        own = groups(encoder, settings.encoder_share, settings.layer_decay, self.encoder_start)
        return adamw([*own, Group(self.model)], settings)

    def on_train_start(self) -> None:
        if self.settings.averaging:
            self.average = Average(self.model, self.settings.averaging)

    def training_step(self, batch: Any, index: int) -> Tensor:
        self.model.encoder.train(self.encoder_learns)
        for weight in self.encoder_weights:
            weight.requires_grad_(self.encoder_learns)
        loss = self.loss(batch)
        if not torch.isfinite(loss):
            raise Diverged(
                f"the loss is {loss.item()} at step {self.global_step}: expected a finite number; lower --lr"
            )
        return loss

    @property
    def encoder_learns(self) -> bool:
        """Whether the encoder's weights change in this step."""
        return self.settings.encoder_share > 0 and self.global_step >= self.encoder_start

    def loss(self, batch: Any) -> Tensor:
        """The loss of one batch of `labelled_crops`."""
        params = self.view.draw(derive_keys(batch["key"], 0))
        x, target = self.task.inputs(self.view, params, batch)
        if self.settings.pasting:
            x, target = paste_structures(x, target, batch["key"], self.settings.pasting)
        return self.task.loss(self.model(x), target)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)  # called once a step, never in the middle of an accumulation
        if self.average is not None:
            self.average.update(self.model)

    def on_train_batch_end(self, outputs: Any, *_: Any) -> None:
        if self.trainer.fit_loop._should_accumulate():
            return
        every = max(1, self.settings.steps // VALIDATIONS)
        due = self.global_step % every == 0 or self.global_step == self.settings.steps
        if self.training_data.validation and due:
            self._keep_if_best()
        if self.earlier is None and self.global_step >= EARLIER * self.settings.steps:
            self.earlier = self._state_to_use()

    def finish(self) -> Trained:
        """Load the weights to use into the model: the best by validation, else the average, else the last."""
        last = self._state_to_use()
        earlier = self.earlier or last
        if self.settings.adapter_rank:
            self.model.load_state_dict(earlier)
            earlier = merged_state(self.model)
        self.model.load_state_dict(last)
        if self.settings.adapter_rank:
            merge_adapters(self.model.encoder)
        return Trained(self.best[0] if self.best else float("nan"), earlier)

    def _state_to_use(self) -> Weights:
        if self.best is not None:
            return self.best[1]
        return _copied((self.average.model if self.average else self.model).state_dict())

    def _keep_if_best(self) -> None:
        model = self.average.model if self.average else self.model
        data, scans = self.training_data, list(self.training_data.validation)
        training = model.training
        predictions = data.task.predict(model, data.cache, scans, data.size, self.settings.precision)
        model.train(training)
        score = data.task.validation_score(data.cache, scans, predictions)
        if np.isfinite(score) and (self.best is None or score >= self.best[0]):
            self.best = (score, _copied(model.state_dict()))


def _copied(state: Weights) -> Weights:
    return {name: values.detach().clone() for name, values in state.items()}


def trainer(settings: FinetuneConfig, progress: bool) -> pl.Trainer:
    """The Trainer of a supervised training, on one device, without log or checkpoint."""
    quiet_third_parties()
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
