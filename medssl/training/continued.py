"""Pretraining that starts from the encoder of another run, pretrained here or imported, and passes on what that run has seen.

medssl pretrain --data CACHE --method SimMIM --init runs/large_cohort --out runs/continued

parent = Parent.read(Path("runs/large_cohort"))
encoder = parent.architecture()
parent.load_into(encoder)
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medssl.core import runs
from medssl.core.errors import MedsslError
from medssl.core.spec import describe, describes_same
from medssl.encoders import Encoder
from medssl.preprocessing.data_spec import DataSpec
from medssl.preprocessing.expected import check_expected
from medssl.training.models import fresh_encoder, load_encoder


@dataclass(frozen=True)
class Parent:
    """A finished pretraining run, or an import, that another run starts from.

    Attributes:
        folder: Its folder.
        run: Its record.
    """

    folder: Path
    run: runs.Run

    @classmethod
    def read(cls, folder: Path) -> Parent:
        """The run in a folder.

        Args:
            folder: Folder of the run.

        Raises:
            MedsslError: It holds no run, one of another kind, or one that is not finished.
        """
        run = runs.read(folder)
        if not run.is_start:
            raise MedsslError(
                f"--init {folder.name} holds a {run.status} {run.kind} run: expected a finished pretraining run or import, whose encoder "
                "this one can start from"
            )
        return cls(folder, run)

    def architecture(self, encoder: Encoder | None = None) -> Encoder:
        """An encoder of the run's architecture.

        Args:
            encoder: What the user named; it must be the same.

        Raises:
            MedsslError: The run's encoder is another one.
        """
        spec = self.run.config["encoder"]
        if encoder is None:
            return fresh_encoder(spec, 0)
        if not describes_same(describe(encoder), spec):
            raise MedsslError(
                f"the encoder is {_text(describe(encoder))}: --init {self.folder.name} has {_text(spec)}; leave --encoder out to "
                "take that one, or start without --init"
            )
        return encoder

    def load_into(self, encoder: Encoder) -> None:
        """Load the run's encoder into one of the same architecture, in place."""
        load_encoder(encoder, self.folder)

    def check_data(self, data_spec: DataSpec) -> None:
        """Warn of scans that are unlike those of the run; raise MedsslError where imported weights cannot take them."""
        check_expected(self.run.config, data_spec)

    @property
    def weights(self) -> str:
        """A hash of the encoder's weights: from other weights it is another run, whatever the settings were."""
        return hashlib.sha256((self.folder / "encoder.safetensors").read_bytes()).hexdigest()[:12]

    @property
    def transductive(self) -> bool:
        """Whether it was given test patients."""
        return bool(self.run.config.get("transductive"))

    def with_seen(self, seen: pd.DataFrame) -> pd.DataFrame:
        """The scans that were seen, with those that the run, and the runs before it, had seen.

        Args:
            seen: What `seen_table` gives for the new run.
        """
        earlier = pd.read_parquet(self.folder / "seen.parquet").reindex(columns=seen.columns)
        return pd.concat([seen, earlier]).drop_duplicates(ignore_index=True)


def _text(spec: dict) -> str:
    return f"{spec['class_path']}({', '.join(f'{name}={value}' for name, value in sorted(spec['init_args'].items()))})"
