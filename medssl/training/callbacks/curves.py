"""The curves of a pretraining run: loss, learning rate, the method's own values and the representation's health.

They are the columns of `metrics.csv` in the run's folder, with one row for each logged step.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl

from medssl.core.atomic import write_atomically
from medssl.training.callbacks.health import Health


class Curves(pl.Callback):
    """Writes one row for every `every`-th step; a resumed run continues after the step of its checkpoint."""

    def __init__(self, path: Path, health: Health, every: int, checkpoint_every: int, start_step: int):
        self.path, self.health, self.every, self.checkpoint_every = path, health, every, checkpoint_every
        earlier = pd.read_csv(path).query("step <= @start_step") if start_step and path.exists() else pd.DataFrame()
        self.rows: list[dict[str, float]] = earlier.to_dict("records")

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        step = trainer.global_step
        if not trainer.is_global_zero or trainer.fit_loop._should_accumulate():
            return
        if step % self.every == 0 or step == trainer.max_steps:
            logged = {"loss": round(float(trainer.callback_metrics["loss"]), 6)}
            logged |= {f"method.{name}": round(value, 6) for name, value in module.method.monitored_values().items()}
            if step == self.health.measured_step:
                logged |= {k: round(v, 6) for k, v in self.health.latest.items() if k != "loss"}
            self.rows.append({"step": step, "lr": trainer.optimizers[0].param_groups[0]["lr"], **logged})
        if step % self.checkpoint_every == 0:
            self._write(trainer)  # before the checkpoint, so that a run resumed from it has all rows up to it

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        self._write(trainer)

    def on_exception(self, trainer: pl.Trainer, module: Any, exception: BaseException) -> None:
        self._write(trainer)

    def _write(self, trainer: pl.Trainer) -> None:
        """Write all rows, in the first process alone: the others hold the rows before the step that was resumed, and no more."""
        if self.rows and trainer.is_global_zero:
            write_atomically(self.path, pd.DataFrame(self.rows).to_csv(index=False).encode())
