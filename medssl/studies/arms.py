"""The arms of a study. An arm says which weights a model starts from and how it is trained.

Each kind of arm is one class, made from its name:

    arms = parse_arms(["scratch", "random-frozen", "runs/simmim", "mean-teacher(runs/simmim)"])
    arms["simmim"].settings(FinetuneConfig()).head_first            # 0.1: the head learns before a pretrained encoder

`runs/simclr-{0,1,2}` is one arm of three pretraining runs; `in_draw` says which of them a draw starts from. An arm of another kind (imported weights) is one more class here, named in `ARMS`.
Imports torch only when an arm is trained, so that pages that show a study can ask which arms are baselines.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from medssl.core import runs
from medssl.core.errors import MedsslError, nearest
from medssl.studies.several_runs import check_same_but_seed, common_name, expand_braces
from medssl.training.config import FinetuneConfig
from medssl.training.tasks import Task

if TYPE_CHECKING:
    from medssl.encoders import Encoder
    from medssl.training.supervised import Trained, TrainingData

Mode = Literal["finetune", "linear", "knn", "class-mean", "kmeans", "propagation", "chosen"]
NewEncoder = Callable[[int], "Encoder"]  # seed -> a randomly initialised encoder
SCRATCH_LONG_FACTOR = 3.0  # `scratch-long` trains for this many times the steps of `scratch`


class Arm(ABC):
    """One way to a trained model, compared with the others at every budget and draw."""

    redrawn: ClassVar[bool] = False  # whether its frozen encoder is a random one, another in each draw
    unlabelled_needed: ClassVar[bool] = False  # whether it learns from unlabelled scans as well
    trainings: int = 1  # how many trainings of its settings' length it is made of

    @property
    @abstractmethod
    def name(self) -> str:
        """What tables call it."""

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders of the pretraining runs whose weights it starts from, one after the other in its draws."""
        return ()

    @property
    def pretraining(self) -> Path | None:
        """The folder of the one run whose weights it starts from; an arm of several runs has one in each draw alone."""
        (folder,) = self.folders or (None,)
        return folder

    def in_draw(self, draw: int) -> Arm:
        """The arm as a draw has it, with the one pretraining run behind that draw; draws take the runs in turn.

        Args:
            draw: Number of the draw.
        """
        return self

    @classmethod
    @abstractmethod
    def parse(cls, text: str, long: float) -> Self | None:
        """The arm that a word of `--arms` names, or None where it names another kind.

        Args:
            text: A word of `--arms`.
            long: Steps of `scratch-long`, as a multiple of those of `scratch`.
        """

    @abstractmethod
    def settings(self, base: FinetuneConfig) -> FinetuneConfig:
        """How it trains, given the study's settings."""

    @abstractmethod
    def probed_modes(self, requested: Sequence[Mode] | None) -> list[Mode]:
        """How its encoder is used in a task that has probes; requested: the modes that the user chose, None for the default."""

    def modes(self, task: Task, requested: Sequence[Mode] | None) -> list[Mode]:
        """How its encoder is used in a task: fine-tuned, and where the task has probes as `probed_modes` says.

        Args:
            task: The task of the study.
            requested: The modes that the user chose; None for the default.
        """
        return self.probed_modes(requested) if task.probes else ["finetune"]

    def encoder(self, new_encoder: NewEncoder, seed: int) -> Encoder:
        """The encoder as the arm starts with it, for probes.

        Args:
            new_encoder: Makes a randomly initialised encoder from a seed.
            seed: Seed of its weights, where the arm loads none.
        """
        from medssl.training.models import load_encoder

        encoder = new_encoder(seed)
        if self.pretraining is not None:
            load_encoder(encoder, self.pretraining)
        return encoder

    def model(self, task: Task, new_encoder: NewEncoder, seed: int) -> Any:
        """The model as the arm starts with it; the head depends on the seed alone, so it is the same in every arm.

        Args:
            task: The task of the study, which adds the head.
            new_encoder: Makes a randomly initialised encoder from a seed.
            seed: Seed of the encoder; the head's is the next one.
        """
        from medssl.training.models import load_pretrained

        model = task.build_model(new_encoder(seed), seed + 1)
        if self.pretraining is not None:
            load_pretrained(model, self.pretraining)
        return model

    def train(self, model: Any, data: TrainingData, settings: FinetuneConfig, seed: int) -> Trained:
        """Train the model in place, on the labelled scans alone unless an arm says otherwise.

        Args:
            model: What `model` returned.
            data: The labelled scans of the cell, and the unlabelled ones.
            settings: What `settings` returned, for the cell's number of scans.
            seed: Seed of the order of the scans and of the views.

        Returns:
            The validation score, and the state after two thirds of the steps.
        """
        from medssl.training.supervised import train_model

        return train_model(model, data, settings, seed)

    def check(self, task: Task) -> None:  # noqa: B027
        """Raise MedsslError where the arm is not for this task."""

    def parent_id(self) -> str | None:
        """The id of the run it starts from."""
        return runs.read(self.pretraining).id if self.pretraining is not None else None

    def weights(self) -> str | None:
        """A hash of the weights it starts from: other weights are another arm, whatever their settings were."""
        if self.pretraining is None:
            return None
        paths = [self.pretraining / f"{part}.safetensors" for part in ("encoder", "decoder")]
        return hashlib.sha256(b"".join(path.read_bytes() for path in paths if path.exists())).hexdigest()[:12]


@dataclass(frozen=True)
class Scratch(Arm):
    """A random start, trained as every other arm is."""

    name = "scratch"

    @classmethod
    def parse(cls, text: str, long: float) -> Self | None:
        return cls() if text == cls.name else None

    def settings(self, base: FinetuneConfig) -> FinetuneConfig:
        return base.for_random_start()

    def probed_modes(self, requested: Sequence[Mode] | None) -> list[Mode]:
        return ["finetune"]


@dataclass(frozen=True)
class ScratchLong(Arm):
    """A random start, trained for `long` times the steps: what more training time gives without pretraining."""

    name = "scratch-long"
    long: float = SCRATCH_LONG_FACTOR

    @classmethod
    def parse(cls, text: str, long: float) -> Self | None:
        return cls(long) if text == cls.name else None

    def settings(self, base: FinetuneConfig) -> FinetuneConfig:
        return replace(base.for_random_start(), steps=round(base.steps * self.long))

    def probed_modes(self, requested: Sequence[Mode] | None) -> list[Mode]:
        return ["finetune"]


@dataclass(frozen=True)
class RandomFrozen(Arm):
    """A random encoder that stays frozen: what the architecture alone is worth.

    The running statistics of its norms are those of the training scans, and each draw has another encoder.
    """

    name = "random-frozen"
    redrawn = True

    @classmethod
    def parse(cls, text: str, long: float) -> Self | None:
        return cls() if text == cls.name else None

    def settings(self, base: FinetuneConfig) -> FinetuneConfig:
        return replace(base.for_random_start(), encoder_share=0.0)

    def probed_modes(self, requested: Sequence[Mode] | None) -> list[Mode]:
        return [mode for mode in requested or ["linear", "knn"] if mode != "finetune"] or ["linear"]


@dataclass(frozen=True)
class PretrainedRun(Arm):
    """The weights of a pretraining run; its name is that of the run's folder."""

    folder: Path

    @classmethod
    def parse(cls, text: str, long: float) -> Self | None:
        return cls(Path(text)) if (Path(text) / "run.json").exists() else None

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def folders(self) -> tuple[Path, ...]:
        return (self.folder,)

    def settings(self, base: FinetuneConfig) -> FinetuneConfig:
        return base

    def probed_modes(self, requested: Sequence[Mode] | None) -> list[Mode]:
        return list(requested or ["finetune", "linear", "knn"])


@dataclass(frozen=True)
class PretrainedRuns(Arm):
    """Several pretraining runs that differ in their seeds alone: `runs/simclr-{0,1,2}`, quoted so that the shell leaves it.

    Draw d starts from run d modulo their number, so that every arm and budget has the same run in a draw.
    """

    runs: tuple[PretrainedRun, ...]

    @classmethod
    def parse(cls, text: str, long: float) -> Self | None:
        words = expand_braces(text)
        if len(words) < 2:
            return None
        folders = [Path(word) for word in words]
        check_same_but_seed(folders)
        return cls(tuple(map(PretrainedRun, folders)))

    @property
    def name(self) -> str:
        return common_name([run.name for run in self.runs])

    @property
    def folders(self) -> tuple[Path, ...]:
        return tuple(run.folder for run in self.runs)

    def in_draw(self, draw: int) -> Arm:
        return self.runs[draw % len(self.runs)]

    def settings(self, base: FinetuneConfig) -> FinetuneConfig:
        return self.runs[0].settings(base)

    def probed_modes(self, requested: Sequence[Mode] | None) -> list[Mode]:
        return self.runs[0].probed_modes(requested)


@dataclass(frozen=True)
class SemiSupervisedArm(Arm):
    """A semi-supervised algorithm on top of the start of another arm: `mean-teacher(runs/simmim)`.

    Attributes:
        algorithm: The algorithm's name.
        start: The arm whose start and settings it has.
        options: The algorithm's options as text.
    """

    algorithm: str
    start: Arm
    options: str = ""
    unlabelled_needed = True

    @classmethod
    def parse(cls, text: str, long: float) -> Self | None:
        from medssl.training.semi_supervised.base import build_algorithm, check_start

        if (call := split_call(text)) is None:
            return None
        name, start, options = call
        algorithm = build_algorithm(name, options)  # raises MedsslError for what does not exist
        arm = parse_arm(start, long)
        if arm.unlabelled_needed or arm.redrawn:
            raise MedsslError(
                f"{name} starts from {arm.name}: expected scratch, scratch-long or the folder of a pretraining run"
            )
        check_start(algorithm, bool(arm.folders))
        return cls(name, arm, options)

    @property
    def name(self) -> str:
        return f"{self.algorithm}({', '.join(filter(None, (self.start.name, self.options)))})"

    @property
    def folders(self) -> tuple[Path, ...]:
        return self.start.folders

    def in_draw(self, draw: int) -> Arm:
        return replace(self, start=self.start.in_draw(draw))

    @property
    def trainings(self) -> int:  # type: ignore[override]
        from medssl.training.semi_supervised.base import build_algorithm

        return build_algorithm(self.algorithm, self.options).trainings

    def settings(self, base: FinetuneConfig) -> FinetuneConfig:
        return self.start.settings(base)

    def probed_modes(self, requested: Sequence[Mode] | None) -> list[Mode]:
        return ["finetune"]

    def train(self, model: Any, data: TrainingData, settings: FinetuneConfig, seed: int) -> Trained:
        from medssl.training.semi_supervised.base import build_algorithm, train_semi_supervised

        return train_semi_supervised(model, data, settings, seed, build_algorithm(self.algorithm, self.options))

    def check(self, task: Task) -> None:
        from medssl.training.semi_supervised.base import build_algorithm, check_task

        check_task(build_algorithm(self.algorithm, self.options), task.name)


ARMS: tuple[type[Arm], ...] = (Scratch, ScratchLong, RandomFrozen, SemiSupervisedArm, PretrainedRun, PretrainedRuns)
CALL = re.compile(r"([a-z][a-z-]*)\(((?:[^,{]|\{[^}]*\})*)(?:,(.*))?\)")  # a start in braces may have commas
BASELINES = (Scratch.name, ScratchLong.name, RandomFrozen.name)


def start_of(arm: str) -> str | None:
    """The name of the arm whose start a semi-supervised arm has; None for an arm of another kind.

    >>> start_of("self-training(simclr-{0,1}, teachers=3)"), start_of("simclr")
    ('simclr-{0,1}', None)
    """
    call = split_call(arm)
    return call[1] if call else None


def split_call(text: str) -> tuple[str, str, str] | None:
    """`name(start, option=value)` -> its name, its start and its options as text; None for another form.

    >>> split_call("self-training(runs/simclr, teachers=3)")
    ('self-training', 'runs/simclr', 'teachers=3')
    """
    if not (match := CALL.fullmatch(text.strip())):
        return None
    return match[1], match[2].strip(), (match[3] or "").strip()


def parse_arm(text: str, long: float = SCRATCH_LONG_FACTOR) -> Arm:
    """Return the arm that a word of `--arms` names.

    Args:
        text: A word of `--arms`.
        long: Steps of `scratch-long`, as a multiple of those of `scratch`.

    Raises:
        MedsslError: It is neither a baseline nor the folder of a run, or its runs differ in more than their seeds.

    >>> parse_arm("scratch").settings(FinetuneConfig(steps=10)).head_first
    0.0
    """
    for kind in ARMS:
        if (arm := kind.parse(text, long)) is not None:
            return arm
    name = Path(text).resolve().name
    raise MedsslError(
        f"the arm {name!r} is neither a baseline nor the folder of a pretraining run{nearest(name, BASELINES)}"
    )


def parse_arms(texts: Sequence[str], long: float = SCRATCH_LONG_FACTOR) -> dict[str, Arm]:
    """Return the arms by their names. Raises MedsslError where two have the same.

    Args:
        texts: The words of `--arms`.
        long: Steps of `scratch-long`, as a multiple of those of `scratch`.
    """
    parsed = [parse_arm(text, long) for text in texts]
    arms = {arm.name: arm for arm in parsed}
    if len(arms) < len(parsed):
        raise MedsslError(
            f"two of the arms {', '.join(arm.name for arm in parsed)} have the same name: expected different names; an arm is "
            "named after its folder, so rename one of the folders"
        )
    return arms
