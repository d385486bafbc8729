"""The settings of a training: the same names in Python, on the command line and in YAML.

pretrain("cache", "runs/a", encoder, SimCLR, train=TrainConfig(steps=500, lr=2e-3), hardware=Hardware(devices=2))

medssl pretrain --data cache --out runs/a --steps 500 --lr 2e-3 --devices 2
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from medssl.core.errors import MedsslError

OnCollapse = Literal["stop", "warn"]


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
        MedsslError: A number is not above 0.
    """

    steps: int = 1000
    batch_size: int = 32
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: int = 50
    accumulate: int = 1
    precision: str = "32-true"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or self.accumulate < 1 or self.lr <= 0:
            raise MedsslError(
                f"steps {self.steps}, batch_size {self.batch_size}, accumulate {self.accumulate}, lr {self.lr}: expected "
                "numbers above 0"
            )


@dataclass(frozen=True)
class FinetuneConfig(TrainConfig):
    """How a classifier or segmenter is optimised. The additional fields concern its encoder.

    Attributes:
        encoder_share: Learning rate of a pretrained encoder as a share of the head's; 0.3 by default.
        head_first: Share of the steps in which only the head and decoder learn, with a pretrained encoder; 0.1 by default.
        frozen: Whether the encoder's weights are never changed.
    """

    steps: int = 300
    batch_size: int = 4
    weight_decay: float = 0.01
    warmup: int = 20
    encoder_share: float | None = None
    head_first: float | None = None
    frozen: bool = False

    def resolved(self, pretrained: bool) -> FinetuneConfig:
        """The same settings with encoder_share and head_first filled in; 1 and 0 for an encoder that is not pretrained."""
        if not pretrained:
            return replace(self, encoder_share=1.0, head_first=0.0)
        share = 0.3 if self.encoder_share is None else self.encoder_share
        return replace(self, encoder_share=share, head_first=0.1 if self.head_first is None else self.head_first)


@dataclass(frozen=True)
class Hardware:
    """Where a training runs.

    Attributes:
        accelerator: Kind of device by Lightning's name: auto, cpu or gpu.
        devices: Number of devices, or auto for all of them.
        workers: Processes that load scans, for each device; 0 loads them in the training process.
        checkpoint_every: Steps between two checkpoints, from which an interrupted run is resumed.
    """

    accelerator: str = "auto"
    devices: int | str = "auto"
    workers: int = 0
    checkpoint_every: int = 100


@dataclass(frozen=True)
class Monitoring:
    """How the representation is measured during pretraining.

    Attributes:
        label: Label column measured with nearest neighbours during the run; it never enters the loss.
        monitor_every: Steps between two full measurements of the representation; a quarter of the run by default.
        on_collapse: Whether to stop the run or only to warn when the features of all scans become the same.
    """

    label: str | None = None
    monitor_every: int | None = None
    on_collapse: OnCollapse = "stop"
