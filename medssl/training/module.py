"""A method as a LightningModule: the views, the optimiser, the steps, and a loss that must stay finite.

    module = PretrainingModule(SimMIM(encoder), TrainConfig(steps=500, lr=2e-3))
    pl.Trainer(max_steps=500).fit(module, datamodule)

Methods themselves know nothing of Lightning; checkpoints hold the method's weights under the method's own names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from medssl.core.errors import MedsslError
from medssl.methods.base import Method
from medssl.methods.shared.devices import mean_over_devices
from medssl.training.config import TrainConfig
from medssl.training.engine import Group, adamw


class PretrainingModule(pl.LightningModule):
    """Trains `method`, whose views must have been set up.

    Args:
        method: Any method; it is trained in place.
        train: The optimisation's settings.
        rate: The learning rate of a step over its peak, apart from the warm-up; a cosine schedule by default.
    """

    def __init__(self, method: Method, train: TrainConfig, rate: Callable[[int], float] | None = None):
        super().__init__()
        self.method, self.train_config, self.rate = method, train, rate
        self.method.progress.total_steps = train.steps
        self.method.progress.batches_per_step = train.accumulate

    def configure_optimizers(self) -> Any:
        return adamw([Group(self.method)], self.train_config, self.rate)

    def on_train_start(self) -> None:
        self.method.progress.step = self.global_step  # a resumed run does not start at 0

    def training_step(self, batch: dict[str, Any], index: int) -> Tensor:
        loss = self.method.loss(self.method.make_views(batch))
        of_all = mean_over_devices(loss.detach())  # if it is finite, all of them are: all devices go on, or all stop
        if not torch.isfinite(of_all):
            raise MedsslError(
                f"the loss of {type(self.method).__name__} is {of_all.item()} at step {self.global_step}: expected a finite "
                f"number; lower --lr, or use --precision 32-true; the last checkpoint is from before this step"
            )
        self.log("loss", of_all, prog_bar=True)
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.method.before_step()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)  # called once per step, never in the middle of an accumulation
        self.method.after_step()
        self.method.progress.step += 1

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        return self.method.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        try:
            return self.method.load_state_dict(state_dict, strict, assign)
        except (RuntimeError, AttributeError, TypeError) as error:
            raise MedsslError(
                f"the weights in the checkpoint do not fit {type(self.method).__name__} ({type(error).__name__}): expected those "
                f"that this run saved; remove last.ckpt to start again"
            ) from None
