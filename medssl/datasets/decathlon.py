"""Medical Segmentation Decathlon: a folder for each task, with dataset.json, imagesTr, labelsTr and imagesTs.

Antonelli et al., The Medical Segmentation Decathlon, Nature Communications 13, 4128 (2022); http://medicaldecathlon.com

    medssl index decathlon:Task04_Hippocampus --out manifest

The scans without a mask (imagesTs) are indexed too: pretraining can use them. The folder does not say which scans show
the same person, so each counts as its own patient; where you know better, add --labels FILE.csv --patient COLUMN.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from medssl.core.errors import MedsslError
from medssl.datasets.base import Dataset, IndexOptions

SCANS = ("imagesTr", "imagesTs")
MASKS = "labelsTr"
MODALITIES = {
    "CT": r"CT\b",
    "PT": r"PET\b",
    "MR": r"MR|FLAIR|T1|T2|ADC|DWI|PD\b",
}  # DICOM code -> words of dataset.json


class Decathlon(Dataset):
    """One task of the Medical Segmentation Decathlon, or any folder laid out in the same way.

    Args:
        folder: The task's folder, such as Task04_Hippocampus.

    Raises:
        MedsslError: The folder holds no dataset.json of the Decathlon, or no imagesTr.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        description = _read_description(self.folder / "dataset.json")
        self.source = str(description.get("reference") or "http://medicaldecathlon.com")
        self.licence = str(description.get("licence") or description.get("license") or "not stated in dataset.json")
        self.structures = {int(number): str(name) for number, name in description["labels"].items() if int(number)}
        self.modality = _modality([str(word) for word in description["modality"].values()])

    def files(self) -> list[Path]:
        """imagesTr, imagesTs and labelsTr, as far as they are there."""
        return [folder for name in (*SCANS, MASKS) if (folder := self.folder / name).is_dir()]

    def options(self) -> IndexOptions:
        """The mask of a scan has the scan's name and lies in labelsTr."""
        return IndexOptions(mask=f"../{MASKS}/{{name}}", modality=self.modality)


def _read_description(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise MedsslError(
            f"{path} cannot be read ({type(error).__name__}): expected a task of the Medical Segmentation Decathlon, "
            "with dataset.json, imagesTr and labelsTr"
        ) from None
    tables = [description.get(name) for name in ("labels", "modality")] if isinstance(description, dict) else [None]
    if not all(isinstance(table, dict) and all(key.isdigit() for key in table) for table in tables):
        raise MedsslError(
            f"{path} has no tables `labels` and `modality` by number, such as {{'0': 'background', '1': 'liver'}}: it is "
            "not the Decathlon's; index the folder of scans itself, with --mask and --modality"
        )
    if not (path.parent / SCANS[0]).is_dir():
        raise MedsslError(f"{path.parent} holds no folder {SCANS[0]}: expected the scans of the task there")
    return description


def _modality(words: list[str]) -> str | None:
    """DICOM's code where all channels have the same one, None where dataset.json does not tell."""
    codes = {next((code for code, start in MODALITIES.items() if re.match(start, word, re.I)), None) for word in words}
    return codes.pop() if len(codes) == 1 else None
