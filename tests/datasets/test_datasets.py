"""Every dataset, also one that somebody has just added, keeps the contract; the contract's check finds what does not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medssl.cli.main import main
from medssl.core.errors import MedsslError
from medssl.datasets.base import Dataset, IndexOptions, known_datasets, named_dataset
from medssl.datasets.check import check_dataset
from medssl.datasets.decathlon import Decathlon
from medssl.datasets.index import index
from medssl.datasets.manifest import read_table
from medssl.datasets.medmnist import MedMNIST
from medssl.datasets.phantom.cohort import phantom
from tests.scans.scan_makers import ct_like, write_nifti

KNOWN = known_datasets()


def make_decathlon(folder: Path, modality: str = "MRI") -> Path:
    for number in range(4):
        array = ct_like((12, 10, 9), seed=number)
        write_nifti(folder / ("imagesTr" if number < 3 else "imagesTs") / f"liver_{number}.nii.gz", array)
        if number < 3:
            write_nifti(folder / "labelsTr" / f"liver_{number}.nii.gz", (array > 900).astype(np.uint8) * 2)
    description = {
        "reference": "a hospital",
        "licence": "CC-BY-SA 4.0",
        "modality": {"0": modality},
        "labels": {"0": "background", "1": "liver", "2": "tumour"},
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def make_medmnist(folder: Path) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 6), ("val", 3), ("test", 4)):
        arrays[f"{split}_images"] = rng.integers(0, 255, (count, 28, 28), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count) % 2).astype(np.uint8)[:, None]
    np.savez_compressed(folder / "pneumoniamnist.npz", **arrays)
    return folder


def make_phantom(folder: Path) -> Path:
    return phantom(folder, patients=3, shape=(20, 20, 20), spacing_mm=(16, 16, 20))


MAKERS = {"decathlon": make_decathlon, "medmnist": make_medmnist, "phantom": make_phantom}


@pytest.mark.parametrize("name", KNOWN)
def test_every_dataset_keeps_the_contract(name, tmp_path):
    assert name in MAKERS, f"add a function that makes a small {name} folder to MAKERS"
    folder = MAKERS[name](tmp_path / "data")
    manifest = check_dataset(KNOWN[name](folder))
    assert (manifest.status == "ok").all()
    assert index([f"{name}:{folder}"], tmp_path / "m").shape == manifest.shape


def test_decathlon_pairs_scans_with_masks_and_takes_the_test_scans_too(tmp_path):
    dataset = named_dataset(f"decathlon:{make_decathlon(tmp_path / 'Task03_Liver')}")
    assert (dataset.licence, dataset.structures) == ("CC-BY-SA 4.0", {1: "liver", 2: "tumour"})
    manifest = check_dataset(dataset)
    assert manifest.has_mask.tolist() == [True] * 3 + [False]
    assert set(manifest.modality) == {"MR"}


@pytest.mark.parametrize(("word", "code"), [("CT", "CT"), ("T1w", "MR"), ("FLAIR", "MR"), ("PET", "PT"), ("X", None)])
def test_decathlon_reads_the_modality(word, code, tmp_path):
    assert Decathlon(make_decathlon(tmp_path, word)).options().modality == code


def test_medmnist_has_the_official_split_as_a_column(tmp_path):
    manifest = check_dataset(MedMNIST(make_medmnist(tmp_path / "m")))
    assert manifest["label.split"].value_counts().to_dict() == {"train": 6, "test": 4, "val": 3}
    assert set(manifest.modality) == {"DX"}


def test_options_given_by_the_user_come_before_the_datasets_own(tmp_path):
    folder = make_decathlon(tmp_path / "task")
    pd.DataFrame({"file": [f"liver_{n}" for n in range(4)], "subject": list("aabb")}).to_csv(tmp_path / "l.csv")
    manifest = index(
        [f"decathlon:{folder}"], tmp_path / "m", labels=tmp_path / "l.csv", patient="subject", modality="PT"
    )
    assert (manifest.patient.nunique(), set(manifest.modality)) == (2, {"PT"})
    assert manifest.has_mask.sum() == 3


def test_the_command_line_takes_a_dataset_by_name(tmp_path, capsys):
    folder = make_decathlon(tmp_path / "task")
    assert main(["index", f"decathlon:{folder}", "--out", str(tmp_path / "m")]) == 0
    assert read_table(tmp_path / "m" / "manifest.parquet").has_mask.sum() == 3
    assert main(["index", f"decathlom:{folder}", "--out", str(tmp_path / "m")]) == 2
    assert "did you mean decathlon?" in capsys.readouterr().err
    assert main(["index", f"decathlon:{folder}", str(folder), "--out", str(tmp_path / "m")]) == 2


def test_a_folder_of_another_kind_is_rejected(tmp_path):
    (tmp_path / "dataset.json").write_text('{"labels": {"liver": 1}}')
    for name, message in (("decathlon", "not the Decathlon's"), ("medmnist", "0 .npz"), ("phantom", "phantom.json")):
        with pytest.raises(MedsslError, match=message):
            named_dataset(f"{name}:{tmp_path}")
    with pytest.raises(MedsslError, match="does not exist"):
        named_dataset(f"decathlon:{tmp_path / 'nowhere'}")
    assert named_dataset(tmp_path) is None


class Own(Dataset):
    """A dataset of the test's own, right until an attribute is set wrong."""

    source, licence = "the test", "none"
    structures: Mapping[int, str] = {2: "high"}
    given = IndexOptions(mask="../labelsTr/{name}")

    def files(self):
        return [self.folder / "imagesTr"]

    def options(self):
        return self.given


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("source", " ", "Own.source is empty"),
        ("licence", "", "Own.licence is empty"),
        ("structures", {1: "low"}, r"numbers \[2\]"),
        ("given", IndexOptions(mask="{stem}_seg.nii.gz"), "no scan of Own has a mask"),
        ("files", lambda self: [], "names nothing"),
        ("files", lambda self: [self.folder / "gone"], "names .*gone"),
        ("split_column", "fold", "no column label.fold"),
    ],
)
def test_the_check_says_what_is_wrong(attribute, value, message, tmp_path, monkeypatch):
    folder = make_decathlon(tmp_path)
    check_dataset(Own(folder))
    monkeypatch.setattr(Own, attribute, value)
    with pytest.raises(MedsslError, match=message):
        check_dataset(Own(folder))


def test_labels_that_fit_no_scan_are_found(tmp_path, monkeypatch):
    folder = make_decathlon(tmp_path / "d")
    pd.DataFrame({"file": ["x", "y"], "side": ["left", "right"]}).to_csv(tmp_path / "l.csv")
    monkeypatch.setattr(Own, "given", IndexOptions(labels=tmp_path / "l.csv", label=["side"]))
    with pytest.raises(MedsslError, match=r"has a label from l\.csv"):
        check_dataset(Own(folder))


def test_a_class_of_ones_own_is_named_by_its_path(tmp_path):
    folder = make_decathlon(tmp_path)
    assert isinstance(named_dataset(f"{__name__}.Own:{folder}"), Own)
    for name, message in ((f"{__name__}.Path", "is not a Dataset"), ("nowhere.Mine", "cannot be imported")):
        with pytest.raises(MedsslError, match=message):
            named_dataset(f"{name}:{folder}")


def test_hippocampus_laid_out_as_the_decathlon_has_it(shared, tmp_path):
    data = shared("hippocampus")
    for name, there in (("imagesTr", "images"), ("labelsTr", "labels")):
        (tmp_path / name).mkdir()
        for file in sorted((data / there).iterdir()):
            (tmp_path / name / file.name).symlink_to(file)
    description = {
        "licence": "CC-BY-SA 4.0",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
    }
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    manifest = check_dataset(Decathlon(tmp_path))
    assert (len(manifest), manifest.has_mask.sum(), set(manifest.status)) == (168, 168, {"ok"})


def test_pneumoniamnist(shared):
    manifest = check_dataset(MedMNIST(shared("pneumoniamnist")))
    assert manifest["label.split"].value_counts().to_dict() == {"train": 4708, "test": 624, "val": 524}
    assert set(manifest.modality) == {"DX"}
