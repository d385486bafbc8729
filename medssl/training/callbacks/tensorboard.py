"""The log for TensorBoard, without the name of the machine.

logger = PrivateTensorBoard(out, name="", version="tensorboard")
"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment
from tensorboard.summary.writer import event_file_writer

PRIVATE_FOLDER = 0o700  # the files in it are TensorBoard's own, which are as open as the user's files are
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
            os.chmod(self.log_dir, PRIVATE_FOLDER)
        return self._experiment
