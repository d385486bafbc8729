"""A dataset: a named collection of scans on disk, and what `index` has to know to read it.

    medssl index decathlon:Task04_Hippocampus --out manifest
    manifest = index(["decathlon:Task04_Hippocampus"], Path("manifest"))

Adding a dataset is adding one file to this folder, with one class whose only argument is the folder of the scans. Its
name is the class's in small letters. A class in a file of your own is named by its path, `mypackage.mine.Mine:FOLDER`.

    class Mine(Dataset):
        source, licence = "https://example.org/mine", "CC BY 4.0"
        structures = {1: "liver", 2: "tumour"}

        def files(self):
            return [self.folder / "ct", self.folder / "masks"]

        def options(self):
            return IndexOptions(labels=self.folder / "patients.csv", patient="id", label=["finding"], mask="../masks/{name}")

`check_dataset(Mine(folder))` in check.py says whether it keeps the contract.
"""

from __future__ import annotations

import importlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from medssl.core.errors import MedsslError, nearest
from medssl.core.registry import DATASETS


@dataclass(frozen=True)
class IndexOptions:
    """Where `index` finds the labels, patients and masks of scans; the fields are its parameters of the same name.

    Attributes:
        labels: A CSV with one row per scan.
        key: Its column that holds the paths of the scans, or their pseudonyms.
        patient: Its column that says whose scan it is, or else a pattern with one group on the path.
        label: Its columns to keep.
        report: Its column of report text.
        mask: Where the mask of a scan lies, relative to its folder, such as '../masks/{name}'.
        classes_from_folders: Whether the folder's name is the label `class`.
        modality: Modality of the scans that do not say it.
    """

    labels: Path | None = None
    key: str = "file"
    patient: str | None = None
    label: Sequence[str] | None = None
    report: str | None = None
    mask: str | None = None
    classes_from_folders: bool = False
    modality: str | None = None

    def merged(self, requested: IndexOptions) -> IndexOptions:
        """These options, with those of `requested` in their place wherever it differs from the defaults."""
        changed = {field.name: getattr(requested, field.name) for field in fields(self)}
        return replace(self, **{name: value for name, value in changed.items() if value != getattr(DEFAULTS, name)})


DEFAULTS = IndexOptions()


class Dataset(ABC):
    """A named collection of scans in a folder, or in one file.

    Attributes:
        source: Where the collection comes from: an address, or the paper that describes it.
        licence: The terms under which it may be used.
        structures: The number of each structure in the masks and its name, without the background.
        split_column: The label that holds the collection's own split (train, val, test), or None.
    """

    source: str = ""
    licence: str = ""
    structures: Mapping[int, str] = {}
    split_column: str | None = None

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        if not self.folder.exists():
            raise MedsslError(f"{folder} does not exist: expected the folder of the {type(self).__name__} dataset")

    @abstractmethod
    def files(self) -> list[Path]:
        """The folders and files that `index` walks."""

    def options(self) -> IndexOptions:
        """What `index` has to know beyond the scans themselves."""
        return DEFAULTS


def known_datasets() -> dict[str, type[Dataset]]:
    """The datasets of this folder by name."""
    return {name.lower(): cls for name, cls in DATASETS.classes().items()}


def named_dataset(text: str | Path) -> Dataset | None:
    """The dataset that `NAME:FOLDER` names; None for text that is a path alone.

    Raises:
        MedsslError: No dataset has that name, or the folder is not one of its kind.
    """
    name, colon, folder = str(text).partition(":")
    if not colon or len(name) == 1 or Path(text).exists():  # one letter is a drive
        return None
    return (_imported(name) if "." in name else _known(name))(Path(folder))


def _known(name: str) -> type[Dataset]:
    known = known_datasets()
    if name.lower() not in known:
        raise MedsslError(
            f"{name!r} is not a known dataset{nearest(name, known)}; for one of your own write package.module.Class:FOLDER"
        )
    return known[name.lower()]


def _imported(name: str) -> type[Dataset]:
    """The class that the user named by its path."""
    module, _, attribute = name.rpartition(".")
    try:
        imported = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise MedsslError(f"the dataset {name} cannot be imported: {error}") from None
    if not (inspect.isclass(imported) and issubclass(imported, Dataset)):
        raise MedsslError(f"{name} is not a Dataset: expected a subclass of medssl.datasets.base.Dataset")
    return imported
