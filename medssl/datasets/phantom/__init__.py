"""The embedded cohort: CT-like scans of made-up patients, drawn here, so that nothing has to be downloaded.

from pathlib import Path
from medssl.datasets.phantom.cohort import phantom
phantom(Path("cohort"), patients=8)

medssl index phantom:cohort --out manifest
"""

from __future__ import annotations

from pathlib import Path

from medssl.core.errors import MedsslError
from medssl.datasets.base import Dataset, IndexOptions
from medssl.datasets.phantom.anatomy import LABELS


class Phantom(Dataset):
    """A phantom cohort that `medssl.phantom` has drawn.

    Args:
        folder: The folder the cohort was written to.

    Raises:
        MedsslError: The folder holds no phantom cohort.
    """

    source = "medssl.phantom"
    licence = "drawn by medssl from a seed, free of rights"
    structures = LABELS

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        if not (self.folder / "phantom.json").exists():
            raise MedsslError(f"{folder} holds no phantom.json: expected a cohort that medssl.phantom has written")

    def files(self) -> list[Path]:
        """The whole folder: DICOM series and masks."""
        return [self.folder]

    def options(self) -> IndexOptions:
        """Labels and patients stand in labels.csv, masks in a folder of their own."""
        return IndexOptions(
            labels=self.folder / "labels.csv",
            patient="patient",
            label=("lesion", "kind", "scanner"),
            mask="../../masks/{name}.nii.gz",
        )
