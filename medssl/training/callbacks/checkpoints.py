"""Checkpoints that survive an interruption: written atomically, checked when read, saved when the process is asked to stop."""

from __future__ import annotations

import hashlib
import io
import signal
import zipfile
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from medssl.core.atomic import write_atomically
from medssl.core.errors import MedsslError, Stopped

PARTS = {"global_step", "state_dict", "optimizer_states", "lr_schedulers", "pytorch-lightning_version"}


class SafeCheckpoints(TorchCheckpointIO):
    """Reads and writes checkpoints that begin with their own SHA-256.

    A checkpoint is replaced atomically, and it is read without running any code that a pickle may hold.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        content = buffer.getvalue()
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(path), hashlib.sha256(content).digest() + content)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        content, name = Path(path).read_bytes(), Path(path).name
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            raise MedsslError(
                f"the checkpoint {name} ({len(content)} bytes) does not match its checksum: it is damaged; restore it from a "
                f"copy, or remove it to start again"
            )
        try:
            _check_is_not_packed(content[32:])
            checkpoint = torch.load(io.BytesIO(content[32:]), map_location="cpu", weights_only=True)
            if checkpoint.keys() >= PARTS and isinstance(checkpoint["global_step"], int):
                return checkpoint
            problem = "other content"
        except (
            Exception
        ) as error:  # what a pickle of somebody else raises has no end, and its text may quote the pickle
            problem = type(error).__name__
        raise MedsslError(
            f"the checkpoint {name} holds code or something else than the state of a run ({problem}): expected numbers alone, as "
            f"medssl saves them; nothing in it was run; remove it to start again"
        )


def _check_is_not_packed(content: bytes) -> None:
    """Raise ValueError unless this is a zip file whose members are stored as they are, as torch writes it: a packed one
    could unpack to a thousand times its size."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
    if any(m.compress_type != zipfile.ZIP_STORED or m.compress_size != m.file_size for m in members):
        raise ValueError
    if sum(m.file_size for m in members) > len(content):
        raise ValueError


class CheckpointSaver(pl.Callback):
    """Saves a checkpoint every `every` steps, and when the process is asked to stop (SIGTERM, SIGUSR1, Ctrl-C).

    A stopped run is resumed from the checkpoint by the same command.

    Raises:
        Stopped: At the end of the step in which the process was asked to stop.
    """

    def __init__(self, path: Path, every: int):
        self.path, self.every, self.signal = path, every, 0
        self._earlier_handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGUSR1", signal.SIGTERM)):
            try:
                self._earlier_handlers[number] = signal.signal(number, self._on_signal)
            except ValueError:  # outside the main thread Python handles no signals; the caller does
                return

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        if trainer.fit_loop._should_accumulate():
            return  # in the middle of a step: gradients would be lost
        step = trainer.global_step
        stopping = trainer.strategy.reduce_boolean_decision(bool(self.signal), all=False)
        if step % self.every == 0 or stopping:
            trainer.save_checkpoint(self.path)
        if stopping:
            self._restore()
            raise Stopped(
                f"stopped by signal {self.signal} after step {step} of {trainer.max_steps}: the checkpoint is safe; "
                f"run the same command again to continue"
            )

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._restore()

    def _on_signal(self, number: int, frame: Any) -> None:
        if self.signal:  # the second signal stops at once; the last checkpoint stays
            self._restore()
            raise KeyboardInterrupt
        self.signal = number

    def _restore(self) -> None:
        for number, handler in self._earlier_handlers.items():
            signal.signal(number, handler)
        self._earlier_handlers = {}
