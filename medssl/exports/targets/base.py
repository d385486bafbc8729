"""The contract of a target: a library or format that a trained model can be written for.

    class Mine(Target):
        needs = ("mylibrary",)
        def check(self, model): ...
        def write(self, model, folder): ...
        def usage(self, model): ...

`usage` is Python that a user runs in the folder; it leaves the loaded network in `model`. The tests run it as it stands.
"""

from __future__ import annotations

import importlib.util
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from medssl.core.errors import MedsslError
from medssl.exports.trained import TrainedModel


class Target(ABC):
    """A library or format.

    Attributes:
        title: Its name as its users write it.
        card: Where the model card stands in the folder.
        needs: Modules that writing it imports and that medssl does not depend on.
    """

    title: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    card: ClassVar[str] = "README.md"

    def check(self, model: TrainedModel) -> None:  # noqa: B027
        """Raise MedsslError where the target cannot hold this model; nothing is written before."""

    @abstractmethod
    def write(self, model: TrainedModel, folder: Path) -> None:
        """Write the files.

        Args:
            model: What to write.
            folder: An empty folder.
        """

    @abstractmethod
    def usage(self, model: TrainedModel) -> str:
        """Python that loads the files, run in their folder; the network is then `model`."""

    def left_out(self, model: TrainedModel) -> str | None:
        """What of the model is not in the files, in words; None where all of it is."""
        return None

    def check_packages(self) -> None:
        """Raise MedsslError where a package that writing needs is not installed."""
        missing = [name for name in self.needs if importlib.util.find_spec(name) is None]
        if missing:
            raise MedsslError(
                f"--to {type(self).__name__.lower()} needs {', '.join(missing)}, which is not installed: pip install "
                "'medssl[export]'"
            )


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a config file.

    Args:
        path: The file; its folder is made.
        content: What it holds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
