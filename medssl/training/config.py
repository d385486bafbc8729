"""The settings of a training: the same names in Python, on the command line and in YAML.

pretrain("cache", "runs/a", encoder, SimCLR, train=TrainConfig(steps=500, lr=2e-3), hardware=Hardware(devices=2))

medssl pretrain --data cache --out runs/a --steps 500 --lr 2e-3 --devices 2
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from medssl.core.errors import MedsslError
from medssl.core.settings import check_numbers

OnCollapse = Literal["stop", "warn"]
Augmentation = Literal["standard", "strong"]
PretrainingTask = Literal["segmentation", "classification", "both"]


@dataclass(frozen=True)
class TrainConfig:
    """How weights are optimised: AdamW with a linear warm-up and a cosine schedule.

    Attributes:
        steps: Optimiser steps.
        batch_size: Scans in each batch of each device.
        lr: Peak learning rate.
        weight_decay: Weight decay of AdamW; norms, biases and tokens are not decayed.
        warmup: Steps of linear warm-up, at most half of all steps.
        accumulate: Batches whose gradients are added up for one optimiser step.
        precision: Precision by Lightning's name; bf16-mixed halves the time on hardware that supports bfloat16.

    Raises:
        MedsslError: A number is outside of its range.
    """

    steps: int = 1000
    batch_size: int = 32
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: int = 50
    accumulate: int = 1
    precision: str = "32-true"

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.steps < 1 or self.batch_size < 1 or self.accumulate < 1 or self.lr <= 0:
            raise MedsslError(
                f"steps {self.steps}, batch_size {self.batch_size}, accumulate {self.accumulate}, lr {self.lr}: expected "
                "numbers above 0"
            )
        if self.warmup < 0 or self.weight_decay < 0:
            raise MedsslError(f"warmup is {self.warmup}, weight_decay {self.weight_decay}: expected 0 or more of each")

    @property
    def samples(self) -> int:
        """How many samples a training on one device passes."""
        return self.steps * self.batch_size * self.accumulate


@dataclass(frozen=True)
class FinetuneConfig(TrainConfig):
    """How a classifier or segmenter is optimised, the same for every start unless an attribute says otherwise.

    Attributes:
        steps: Optimiser steps with one labelled scan; see growth.
        growth: Exponent by which the steps grow with the labelled scans: steps x scans ^ growth; 0 for a fixed length.
        encoder_share: Learning rate of the encoder as a share of the head's; 0 leaves a pretrained encoder unchanged.
        head_first: Share of the steps in which only the head and decoder learn, with a pretrained encoder.
        layer_decay: Factor on the learning rate from each layer of a pretrained encoder to the one before it (0.65 to 0.8 suit a ViT); 1 for the same rate in all.
        averaging: Share of itself that a moving average of the weights keeps at each step; the average is the model. 0 for none.
        balanced: Whether the scans of each class are drawn equally often, in classification.
        probe_start: Whether the head starts as a logistic regression on the features of a pretrained encoder, in classification.
        adapter_rank: Rank of low-rank changes of a pretrained encoder's weights, in place of changes of all; 0 for all.
        augmentation: standard, or strong: with elastic deformation and low resolution as well.
        pasting: Share of the crops that get structures of another crop of the batch, in segmentation; 0 for none.

    Raises:
        MedsslError: A number is outside of its range.
    """

    steps: int = 300
    batch_size: int = 4
    weight_decay: float = 0.01
    warmup: int = 20
    growth: float = 0.3
    encoder_share: float = 1.0
    head_first: float = 0.1
    layer_decay: float = 1.0
    averaging: float = 0.99
    balanced: bool = True
    probe_start: bool = False
    adapter_rank: int = 0
    augmentation: Augmentation = "standard"
    pasting: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("encoder_share", "head_first", "averaging", "growth", "pasting"):
            if not 0 <= getattr(self, name) <= 1:
                raise MedsslError(f"{name} is {getattr(self, name)}: expected 0 to 1")
        if self.averaging == 1 or not 0 < self.layer_decay <= 1 or self.adapter_rank < 0:
            raise MedsslError(
                f"averaging is {self.averaging}, layer_decay {self.layer_decay}, adapter_rank {self.adapter_rank}: expected "
                "averaging below 1, a layer decay above 0 and at most 1, and a rank of 0 or more"
            )

    def for_random_start(self) -> FinetuneConfig:
        """The settings of an encoder that is not pretrained: it learns from the first step on, all of it at the full rate."""
        return replace(self, encoder_share=1.0, head_first=0.0, layer_decay=1.0, probe_start=False, adapter_rank=0)

    def for_scans(self, scans: int) -> FinetuneConfig:
        """The settings with as many steps as this number of labelled scans gets.

        >>> FinetuneConfig(steps=300, growth=0.5).for_scans(4).steps
        600
        """
        return replace(self, steps=round(self.steps * max(scans, 1) ** self.growth))


@dataclass(frozen=True)
class Hardware:
    """Where a training runs.

    Attributes:
        accelerator: Kind of device by Lightning's name: auto, cpu or gpu.
        devices: Number of devices, or auto for all of them.
        workers: Processes that load scans, for each device; 0 loads them in the training process.
        checkpoint_every: Steps between two checkpoints, from which an interrupted run is resumed.
        checkpoint_activations: Whether each block keeps its input alone and is computed again for its gradient: less memory, more time, the same weights.

    Raises:
        MedsslError: A number is outside of its range.
    """

    accelerator: str = "auto"
    devices: int | str = "auto"
    workers: int = 0
    checkpoint_every: int = 100
    checkpoint_activations: bool = False

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.workers < 0 or self.checkpoint_every < 1:
            raise MedsslError(
                f"workers is {self.workers}, checkpoint_every {self.checkpoint_every}: expected 0 or more workers, and a "
                "checkpoint after 1 step or more"
            )


@dataclass(frozen=True)
class Monitoring:
    """How the representation is measured during pretraining.

    Attributes:
        label: Label column measured with nearest neighbours during the run; it never enters the loss.
        monitor_every: Steps between two full measurements of the representation; a quarter of the run by default, with patience a
            twentieth.
        on_collapse: Whether to stop the run or only to warn when the features of all scans become the same.
        patience: End the run when a scan is no longer found better by another view of it, for this many full measurements in a row; `steps` is then the longest that it may take. By default the run has all its steps.

    Raises:
        MedsslError: A number is below 1.
    """

    label: str | None = None
    monitor_every: int | None = None
    on_collapse: OnCollapse = "stop"
    patience: int | None = None

    def __post_init__(self) -> None:
        check_numbers(self)
        for name in ("monitor_every", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise MedsslError(f"{name} is {value}: expected a whole number above 0; leave it out for the default")


@dataclass(frozen=True)
class Planning:
    """What `medssl pretrain --method auto` chooses by.

    Attributes:
        task: What the pretrained encoder is for; by default as the cohort's masks and the label suggest.
        hours: Hours that the run may take on this machine; by default as long as the plan needs.
        keep: Of steps, batch_size, lr and patience those that stay as they are given; the command line adds what it names.

    Raises:
        MedsslError: hours is not above 0.
    """

    task: PretrainingTask | None = None
    hours: float | None = None
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.hours is not None and self.hours <= 0:
            raise MedsslError(f"hours is {self.hours}: expected a number above 0")
