"""The log for TensorBoard, without the name of the machine.

logger = PrivateTensorBoard(out, name="", version="tensorboard")
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment
from tensorboard.summary.writer import event_file_writer

MACHINE = SimpleNamespace(gethostname=lambda: "machine")


class PrivateTensorBoard(TensorBoardLogger):
    """Lightning's logger; its file is called `events.out.tfevents.TIME.machine...`, since a host's name often says whose it is."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:
            own, event_file_writer.socket = event_file_writer.socket, MACHINE
            try:
                super().experiment.flush()
            finally:
                event_file_writer.socket = own
        return self._experiment
