"""MedMNIST: one .npz archive of small images with labels and the official split.

Yang et al., MedMNIST v2, Scientific Data 10, 41 (2023); https://medmnist.com

    medssl index medmnist:pneumoniamnist.npz --out manifest
    medssl study --data CACHE --task classification --label label --split-column split ...

The archive does not say which images show the same person, so each counts as its own patient: keep to the official
split, which the manifest has in the column `label.split`.
"""

from __future__ import annotations

import re
from pathlib import Path

from medssl.core.errors import MedsslError
from medssl.datasets.base import Dataset, IndexOptions

# DICOM's code for each set whose 8-bit values still mean what that modality's do. The sets cut from CT are not among
# them: their values are windowed and no longer HU. Nor are TissueMNIST (grey microscopy) and SynapseMNIST3D (electrons).
MODALITIES = {
    "path": "SM",
    "chest": "DX",
    "derma": "XC",
    "oct": "OPT",
    "pneumonia": "DX",
    "retina": "OP",
    "breast": "US",
    "blood": "GM",
    "vessel": "MR",
}


class MedMNIST(Dataset):
    """One set of MedMNIST, or any archive with its keys: train_images, train_labels, val_images, ...

    Args:
        folder: The .npz file, or a folder that holds just one.

    Raises:
        MedsslError: There is no .npz, or there are several.
    """

    source = "https://medmnist.com"
    licence = "CC BY 4.0; DermaMNIST: CC BY-NC 4.0"
    split_column = "split"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        archives = [self.folder] if self.folder.is_file() else sorted(self.folder.glob("*.npz"))
        if len(archives) != 1 or archives[0].suffix != ".npz":
            raise MedsslError(f"{folder} holds {len(archives)} .npz archives: expected one; name the file itself")
        self.archive = archives[0]

    def files(self) -> list[Path]:
        """The archive."""
        return [self.archive]

    def options(self) -> IndexOptions:
        """The modality, by the archive's name; labels and split stand in the archive itself."""
        name = re.match(r"([a-z]+?)mnist", self.archive.name.lower())
        return IndexOptions(modality=MODALITIES.get(name[1]) if name else None)
