"""The contract of a semi-supervised algorithm, and the training that uses one.

    train_semi_supervised(model, data, FinetuneConfig(steps=300), seed=0, algorithm=build_algorithm("mean-teacher"))

An algorithm gives the loss of a batch of labelled and a batch of unlabelled crops, each of the settings' batch size. It
never sees the targets of unlabelled scans: their crops do not hold them. A new algorithm is one file in this folder;
`--arms my-algorithm(scratch)` names it by the file.

Teachers and students see one crop of an unlabelled scan: the teacher after weak changes (moves alone), the student after
strong changes of intensity on top, so that every voxel of one has its counterpart in the other.
"""

from __future__ import annotations

import ast
import inspect
import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from pytorch_lightning.utilities import CombinedLoader
from torch import Tensor, nn

from medssl.core.errors import MedsslError, nearest
from medssl.core.registry import SEMI_SUPERVISED
from medssl.preprocessing.datamodule import CropData
from medssl.training.config import FinetuneConfig
from medssl.training.models import Classifier, Segmenter
from medssl.training.supervised import (
    SupervisedModule,
    Trained,
    TrainingData,
    labelled_crops,
    prepare_start,
    trainer,
)
from medssl.views import recipes
from medssl.views.random import derive_keys


class SemiSupervised(ABC):
    """An algorithm; the arguments of its constructor are its options."""

    tasks: ClassVar[tuple[str, ...]] = ("classification", "segmentation")
    needs_average: ClassVar[bool] = False  # whether its teacher is the average of the student's weights
    needs_pretraining: ClassVar[bool] = False  # whether it reads the features that the model starts with
    trainings: int = 1  # how many trainings of the same length it is made of

    def prepare(self, model: nn.Module, data: TrainingData, settings: FinetuneConfig, seed: int) -> None:  # noqa: B027
        """What comes before the training, such as the training of teachers; the model must stay as it is."""

    @abstractmethod
    def loss(self, module: SemiSupervisedModule, labelled: dict[str, Any], unlabelled: dict[str, Any]) -> Tensor:
        """The whole loss of one step.

        Args:
            module: Has the student (`model`), its average (`teacher`), the views and the supervised loss.
            labelled: A batch with targets.
            unlabelled: A batch without.
        """


class SemiSupervisedModule(SupervisedModule):
    """The optimisation of a model by a semi-supervised algorithm.

    Args:
        model: Model of the task, trained in place.
        data: What to learn from.
        settings: Settings of the optimisation.
        algorithm: Gives the loss.
    """

    def __init__(
        self, model: Classifier | Segmenter, data: TrainingData, settings: FinetuneConfig, algorithm: SemiSupervised
    ):
        super().__init__(model, data, settings)
        self.algorithm = algorithm
        self.weak_view = recipes.weak(data.cache.data_spec, data.size)
        self.strong_view = recipes.strengthen(data.cache.data_spec)

    @property
    def teacher(self) -> nn.Module:
        """The average of the student's weights, which predicts without running statistics of its own batches."""
        assert self.average is not None, "train_semi_supervised checks that there is one"
        return self.average.model.eval()

    def guess(self, x: Tensor) -> Tensor:
        """The student's own probabilities (B, classes, *S), by its running statistics, which stay as they are."""
        self.model.eval()
        guessed = probabilities(self.model, x)
        self.model.train()
        if not self.encoder_learns:
            self.model.encoder.eval()
        return guessed

    def loss(self, batch: Any) -> Tensor:
        return self.algorithm.loss(self, batch["labelled"], batch["unlabelled"])

    def supervised_loss(self, labelled: dict[str, Any]) -> Tensor:
        """The loss of `train_model`."""
        return super().loss(labelled)

    def weak(self, batch: dict[str, Any], number: int = 0) -> Tensor:
        """The crops (B, C, *S) as a teacher sees them; each number gives other moves."""
        return self.weak_view(batch["source"].float(), self.weak_view.draw(derive_keys(batch["key"], 10 + number)))

    def strong(self, x: Tensor, batch: dict[str, Any], number: int = 0) -> Tensor:
        """Crops that `weak` gave (B, C, *S), with strong changes of intensity; each number gives others."""
        return self.strong_view(x, self.strong_view.draw(derive_keys(batch["key"], 20 + number)))

    @property
    def progress(self) -> float:
        """Share of the steps that are done, 0 to 1."""
        return self.global_step / self.settings.steps


@torch.no_grad()
def probabilities(model: nn.Module, x: Tensor) -> Tensor:
    """(B, C, *S) -> (B, classes, *S), without gradient."""
    return model(x).float().softmax(1)


def ramp_up(progress: float, length: float = 0.4) -> float:
    """The weight exp(-5 (1 - t)^2) of Laine and Aila (2017), which rises to 1 over `length` of the training.

    >>> ramp_up(0.4), round(ramp_up(0.0), 4)
    (1.0, 0.0067)
    """
    return math.exp(-5 * (1 - min(1.0, progress / length)) ** 2)


def train_semi_supervised(
    model: Classifier | Segmenter,
    data: TrainingData,
    settings: FinetuneConfig,
    seed: int,
    algorithm: SemiSupervised,
    progress: bool = False,
) -> Trained:
    """Train a model in place on labelled and unlabelled scans, in batches of the same size.

    Args:
        model: Model of the task.
        data: What to learn from; its unlabelled scans as well.
        settings: Settings of the optimisation.
        seed: Seed of the orders, the crops and the views.
        algorithm: Gives the loss.
        progress: Whether to show a progress bar.

    Returns:
        The validation score, and the state after two thirds of the steps.

    Raises:
        MedsslError: No scan is unlabelled, the algorithm does not suit the task or the settings, or a loss is no longer
            finite.
    """
    check_task(algorithm, data.task.name)
    if not data.unlabelled:
        raise MedsslError(
            "semi-supervised training, but no training scan is unlabelled: expected a budget below 100%, or more scans"
        )
    if algorithm.needs_average and not settings.averaging:
        raise MedsslError(
            f"{type(algorithm).__name__} has the average of the weights as its teacher, and averaging is 0: expected for "
            "example --averaging 0.99"
        )
    algorithm.prepare(model, data, settings, seed)
    prepare_start(model, data, settings)
    module = SemiSupervisedModule(model, data, settings, algorithm)
    total = settings.steps * settings.accumulate
    streams = {
        "labelled": labelled_crops(data, settings, seed),
        "unlabelled": data.task.crops(data.cache, data.unlabelled, data.size, seed + 1, labelled=False),
    }
    loaders = {n: CropData(crops, settings.batch_size, total).train_dataloader() for n, crops in streams.items()}
    trainer(settings, progress).fit(module, CombinedLoader(loaders, "min_size"))
    return module.finish()


def check_options(name: str, **values: tuple[float, float, float]) -> None:
    """Raise MedsslError where an option is outside of its range.

    Args:
        name: The algorithm's name.
        values: Of each option its value, the smallest and the largest that are possible.
    """
    for option, (value, low, high) in values.items():
        if not low <= value <= high:
            raise MedsslError(f"{option} of {name} is {value}: expected {low:g} to {high:g}")


def check_task(algorithm: SemiSupervised, task: str) -> None:
    """Raise MedsslError if the algorithm does not support this task."""
    if task not in algorithm.tasks:
        raise MedsslError(
            f"{type(algorithm).__name__} is for {', '.join(algorithm.tasks)}: it cannot be used for {task}"
        )


def check_start(algorithm: SemiSupervised, pretrained: bool) -> None:
    """Raise MedsslError if the algorithm reads features and the encoder that it starts from has learned none."""
    if algorithm.needs_pretraining and not pretrained:
        raise MedsslError(
            f"{type(algorithm).__name__} spreads labels over the features of its start, and this start is random: expected a "
            "pretraining run"
        )


def build_algorithm(name: str, options: str = "") -> SemiSupervised:
    """Build an algorithm from its name and its options as text.

    Args:
        name: The name of its file with dashes, such as "mean-teacher".
        options: Such as "teachers=3, threshold=0.9".

    Raises:
        MedsslError: There is no such algorithm or option, or a value is not a number.
    """
    classes = {file.replace("_", "-"): cls for file, cls in SEMI_SUPERVISED.files().items()}
    if name not in classes:
        raise MedsslError(
            f"there is no semi-supervised algorithm {name!r}: expected one of {', '.join(classes)}{nearest(name, classes)}"
        )
    kind = SEMI_SUPERVISED.load(classes[name])
    known = list(inspect.signature(kind).parameters)
    values: dict[str, Any] = {}
    for word in filter(None, (part.strip() for part in options.split(","))):
        option, _, value = (part.strip() for part in word.partition("="))
        if option not in known:
            raise MedsslError(
                f"{name} has no option {option!r}: expected one of {', '.join(known)}{nearest(option, known)}"
            )
        try:
            values[option] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            raise MedsslError(f"the option {option} of {name} is {value!r}: expected a number") from None
        if not isinstance(values[option], (int, float)):
            raise MedsslError(f"the option {option} of {name} is {value!r}: expected a number")
    return kind(**values)
