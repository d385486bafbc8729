"""A fine-tuned model used on new scans: masks on their own grid, probabilities, vectors."""

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from medssl.core import runs
from medssl.core.errors import MedsslError
from medssl.datasets.index import index
from medssl.datasets.manifest import read_table
from medssl.datasets.splits import SplitSpec
from medssl.encoders import ResNet
from medssl.preprocessing.cache import Cache
from medssl.training.config import FinetuneConfig
from medssl.training.finetune import finetune
from medssl.training.native_grid import map_to_grid
from medssl.training.predict import embed, predict
from tests.conftest import small_encoder


@pytest.fixture(scope="module")
def segmenter(cache: Cache, pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model") / "seg"
    finetune(
        cache.path,
        out,
        "segmentation",
        init=pretrained,
        crop=(16, 16, 16),
        train=FinetuneConfig(steps=150, batch_size=4, lr=5e-3, growth=0),
    )
    return out


def test_masks_lie_on_the_scans_own_grid_and_find_the_organs(segmenter: Path, cohort: Path, tmp_path: Path) -> None:
    """Against the cohort's own masks: shape and affine equal, and lungs found where they are (a shifted or mirrored grid fails)."""
    patient = sorted((cohort / "dicom").iterdir())[0]
    table = predict(segmenter, patient, tmp_path)
    sources = pd.read_parquet(tmp_path / "manifest" / "sources.parquet").set_index("scan")
    for scan in table["scan"]:
        mask = nibabel.load(tmp_path / f"{scan}.nii.gz")
        folder = Path(sources.loc[scan, "files"][0]).parent
        reference = nibabel.as_closest_canonical(
            nibabel.load(folder / ".." / ".." / ".." / "masks" / f"{folder.name}.nii.gz")
        )
        predicted = nibabel.as_closest_canonical(mask)
        assert predicted.shape == reference.shape
        assert np.abs(predicted.affine - reference.affine).max() < 1e-3
        a, b = (np.asarray(m.dataobj) == 1 for m in (predicted, reference))
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.6
        ml = a.sum() * abs(np.linalg.det(mask.affine[:3, :3])) / 1000
        assert table.set_index("scan").loc[scan, "ml.1"] == pytest.approx(ml, rel=1e-3)


def test_another_grid_equals_scipys_zoom_and_keeps_world_places() -> None:
    blob = ndimage.gaussian_filter((np.indices((20, 24, 16)).sum(0) % 17 == 0).astype(float), 2)[None]
    affine = np.diag([2.0, 2, 3, 1])
    flipped = affine.copy()
    flipped[0] = [-2, 0, 0, 2 * 19]
    assert np.allclose(map_to_grid(blob, affine, (20, 24, 16), flipped), blob[:, ::-1])
    fine = np.diag([1.0, 1, 1.5, 1])
    fine[:3, 3] = [-0.5, -0.5, -0.75]
    up = map_to_grid(blob, affine, (40, 48, 32), fine)
    assert np.abs(up.reshape(1, 20, 2, 24, 2, 16, 2).mean((2, 4, 6)) - blob).max() < 0.05


def test_a_flat_mask_goes_back_to_its_own_grid_without_a_shift() -> None:
    mask = np.zeros((1, 32, 32))
    mask[0, 8:16, 10:20] = 1
    small = np.diag([4.0, 4, 1, 1])
    small[:2, 3] = 1.5  # the middle of four pixels of the large one
    back = map_to_grid(mask, small, (128, 128), np.eye(4))[0] > 0.5
    assert np.argwhere(back).min(0).tolist() == [32, 40]
    assert np.argwhere(back).max(0).tolist() == [63, 79]


def test_rejected_scans_stand_in_the_result(segmenter: Path, cohort: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    patients = sorted((cohort / "dicom").iterdir())
    shutil.copytree(patients[0], folder / "good")
    shutil.copytree(next(patients[1].iterdir()), folder / "bad")
    sorted((folder / "bad").iterdir())[5].unlink()  # a slice is missing
    table = predict(segmenter, folder, tmp_path / "out")
    rejected = table[table["status"] != "ok"]
    assert len(rejected) == 1
    assert "missing" in rejected["reason"].iloc[0]
    with pytest.raises(MedsslError, match="--out lies in the folder of scans"):
        predict(segmenter, folder, folder / "masks")


def test_classification_and_vectors_in_tables(cache: Cache, pretrained: Path, tmp_path: Path) -> None:
    finetune(
        cache.path,
        tmp_path / "m",
        "classification",
        label="lesion",
        init=pretrained,
        crop=(16, 16, 16),
        train=FinetuneConfig(steps=2, batch_size=2),
    )
    table = predict(tmp_path / "m", cache.path, tmp_path / "p")
    assert np.allclose(table[["p.no", "p.yes"]].sum(axis=1), 1, atol=1e-4)
    assert len(pd.read_csv(tmp_path / "p" / "probabilities.csv")) == len(cache.manifest)
    vectors = embed(pretrained, cache.path, tmp_path / "e")
    assert len(vectors) == len(cache.manifest)
    assert vectors.filter(regex=r"^f\d").to_numpy().std() > 0
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "e" / "features.parquet"), vectors, check_dtype=False)


def test_patients_of_a_folder_are_named_with_the_sites_key(
    cache: Cache, pretrained: Path, cohort: Path, tmp_path: Path
) -> None:
    folder, key = tmp_path / "scans", tmp_path / "site.key"
    shutil.copytree(sorted((cohort / "dicom").iterdir())[0], folder)
    index([folder], tmp_path / "m", key_file=key)
    with_key = embed(pretrained, folder, tmp_path / "a", key_file=key)
    assert set(with_key["patient"]) == set(read_table(tmp_path / "m/manifest.parquet")["patient"])
    assert not (tmp_path / "a/manifest/pseudonym.key").exists()
    with pytest.raises(MedsslError, match="--key-file came with a cache"):
        embed(pretrained, cache.path, tmp_path / "b", key_file=key)
    with pytest.raises(MedsslError, match="--key-file came with a manifest"):
        embed(pretrained, tmp_path / "m", tmp_path / "b", key_file=key)


def test_finetuning_never_reads_a_test_patient(
    cache: Cache, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medssl.datasets.splits import split

    roles = split(cache.manifest, 0)
    test = set(cache.manifest["scan"][cache.manifest["patient"].map(roles) == "test"])
    read: set[str] = set()
    real = Cache.read
    monkeypatch.setattr(Cache, "read", lambda self, scan, *a, **k: (read.add(scan), real(self, scan, *a, **k))[1])
    finetune(
        cache.path,
        tmp_path / "m",
        "classification",
        label="lesion",
        crop=(16, 16, 16),
        encoder=small_encoder(),
        train=FinetuneConfig(steps=8, batch_size=4, growth=0),
    )
    assert read
    assert not read & test


def test_a_finished_model_is_not_trained_again_and_never_overwritten_by_another(cache: Cache, tmp_path: Path) -> None:
    settings = {"task": "classification", "label": "lesion", "crop": (16, 16, 16), "encoder": small_encoder()}
    finetune(cache.path, tmp_path / "m", train=FinetuneConfig(steps=2, batch_size=2), **settings)
    before = (tmp_path / "m" / "model.safetensors").stat().st_mtime_ns
    finetune(cache.path, tmp_path / "m", train=FinetuneConfig(steps=2, batch_size=2), **settings)
    with pytest.raises(MedsslError, match="other settings"):
        finetune(cache.path, tmp_path / "m", train=FinetuneConfig(steps=3, batch_size=2), **settings)
    assert (tmp_path / "m" / "model.safetensors").stat().st_mtime_ns == before


def test_a_smaller_network_learns_from_a_teacher_of_the_same_labels(cache: Cache, tmp_path: Path) -> None:
    settings = {"task": "classification", "label": "lesion", "crop": (16, 16, 16), "budget": "5p"}
    train = FinetuneConfig(steps=2, batch_size=2)
    finetune(cache.path, tmp_path / "teacher", train=train, **settings, encoder=small_encoder())
    small = ResNet(dims=3, depth=10, width=4, max_pool=False)
    more = {"encoder": small, "semi_supervised": "distillation(share=0.9)", "teacher": tmp_path / "teacher"}
    run = finetune(cache.path, tmp_path / "student", train=train, **settings, **more)
    assert run.config["teacher"] == runs.read(tmp_path / "teacher").id
    assert run.config["unlabelled_scans"] > 0
    for wrong in ({"seed": 1}, {"budget": "3p"}, {"split": SplitSpec(seed=1)}):
        with pytest.raises(MedsslError, match="the teacher was trained with"):
            finetune(cache.path, tmp_path / "wrong", train=train, **settings | more | wrong)
    with pytest.raises(MedsslError, match="--teacher comes without --semi-supervised"):
        finetune(cache.path, tmp_path / "wrong", train=train, **settings, teacher=tmp_path / "teacher")
    with pytest.raises(MedsslError, match="--teacher is for distillation"):
        finetune(cache.path, tmp_path / "wrong", train=train, **settings | more | {"semi_supervised": "fixmatch"})
