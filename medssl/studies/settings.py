"""The settings of a study: what is compared on which labels, and how.

    StudySettings(Path("cache"), Path("studies/hippo"), "segmentation", ["scratch"], ["1p", "100%"], design=StudyDesign(draws=10))

They are plain options of `medssl study`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from medssl.core.errors import MedsslError
from medssl.core.settings import check_numbers
from medssl.core.spec import describe, plain
from medssl.datasets.splits import DEFAULT_DRAWS, SplitSpec
from medssl.encoders import Encoder
from medssl.studies.arms import SCRATCH_LONG_FACTOR, Mode
from medssl.studies.trials import check_count
from medssl.training.config import FinetuneConfig
from medssl.training.tasks import TaskName


@dataclass(frozen=True)
class StudyDesign:
    """How arms are compared.

    Attributes:
        modes: How a pretrained encoder is used in classification: finetune, linear, knn, class-mean (nearest mean of a class) kmeans (clusters named by the labelled scans), propagation (a linear probe of labels spread to the other training scans) or chosen (propagation or linear: from 30 labelled patients on by cross-validation within them, below that propagation); the first three by default.
        draws: Draws of patients and seeds for each budget; a p-value from fewer than ten is rarely small.
        long: Steps of scratch-long over those of scratch.
        score_on: Explore on validation, publish test.
        seed: Seed of the draws, the heads, the order and the views.
        allow_seen: Whether to run although test scans were pretrained on; the record and the report then say so.
        selection: Selectors (maxherding, typiclust, ...) that choose the patients of each budget as well, beside the random draws.
        selection_run: Pretraining run on whose features they choose; by default that of the first arm that has one.
        selection_seeds: Choices of each selector, each with a training seed of its own.
        trials: Settings that every arm tries in each cell by cross-validation inside the cell's labels, where it has ten patients or more; 0 for the fixed recipe.

    Raises:
        MedsslError: A number is outside of its range, or a mode or selector is named twice.
    """

    modes: list[Mode] | None = None
    draws: int = DEFAULT_DRAWS
    long: float = SCRATCH_LONG_FACTOR
    score_on: Literal["test", "validation"] = "test"
    seed: int = 0
    allow_seen: bool = False
    selection: list[str] | None = None
    selection_run: Path | None = None
    selection_seeds: int = 3
    trials: int = 0

    def __post_init__(self) -> None:
        check_numbers(self)
        check_count(self.trials)
        if self.long <= 0:
            raise MedsslError(
                f"long is {self.long:g}: expected a number above 0, the length of scratch-long over that of scratch"
            )
        if self.draws < 1 or self.selection_seeds < 1:
            raise MedsslError(
                f"draws is {self.draws}, selection_seeds {self.selection_seeds}: expected at least 1 of each"
            )
        for option, names in (("modes", self.modes or []), ("selection", self.selection or [])):
            if twice := sorted({str(name) for name in names if list(names).count(name) > 1}):
                raise MedsslError(f"--{option} names {twice[0]} twice: expected each once; leave one out")


@dataclass(frozen=True)
class StudySettings:
    """The arguments of `study`, which explains them."""

    data: Path
    out: Path
    task: TaskName
    arms: list[str]
    budgets: list[str]
    label: str | None = None
    encoder: Encoder | None = None
    crop: tuple[int, ...] | None = None
    train: FinetuneConfig = FinetuneConfig()
    design: StudyDesign = StudyDesign()
    split: SplitSpec = SplitSpec()

    def given_options(self) -> dict[str, Any]:
        """The options that differ from their defaults, by their names on the command line; folders are left out."""
        options: dict[str, Any] = {"task": self.task, "budgets": self.budgets}
        options |= {name: value for name in ("label", "crop") if (value := getattr(self, name)) is not None}
        for group in (self.train, self.design, self.split):
            options |= _changed_fields(group)
        if self.encoder is not None:
            spec = plain(describe(self.encoder))
            options |= {"encoder": spec["class_path"]}
            options |= {f"encoder.{name}": value for name, value in spec["init_args"].items()}
        return options


def _changed_fields(group: Any) -> dict[str, Any]:
    """The fields of a frozen dataclass of options that differ from their defaults, by their names as options; no folders."""
    prefix = getattr(group, "option_prefix", "")
    changed = (item.name for item in fields(group) if getattr(group, item.name) != item.default)
    values = {f"{prefix}{name}": getattr(group, name) for name in changed}
    return {name: value for name, value in values.items() if not isinstance(value, Path)}
