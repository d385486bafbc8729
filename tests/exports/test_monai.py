"""A MONAI bundle without medssl: its steps equal ours, and its runner writes the masks and classes of `medssl predict`."""

import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import ndimage

import medssl
from medssl.core.errors import MedsslError
from medssl.encoders import ResNet, ViT
from medssl.exports.bundle.steps import ToModelInput, ToScanGrid, middle
from medssl.exports.trained import intensity_steps
from medssl.preprocessing.data_spec import DataSpec
from medssl.preprocessing.store import resample_and_scale
from medssl.scans.scan import Scan
from medssl.training.native_grid import map_to_grid
from medssl.views import recipes
from medssl.views.random import make_keys
from tests.exports.made import make_run

AXES = {"LPS": np.diag([-1.0, -1, 1, 1]), "SRA": np.eye(4)[[1, 2, 0, 3]]}
WITHOUT_MEDSSL = """
import runpy, sys
sys.modules["medssl"] = None
sys.argv = ["monai.bundle", *sys.argv[1:]]
runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
"""


def smooth(shape: tuple[int, ...], low: float, high: float, seed: int = 0) -> np.ndarray:
    """Blobs between two values."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    return low + (high - low) * (noise - noise.min()) / np.ptp(noise)


def affine(axes: str, spacing_mm: tuple[float, ...]) -> np.ndarray:
    matrix = AXES[axes] @ np.diag([*spacing_mm, 1.0])
    matrix[:3, 3] = (-31.0, 12.5, 90.0)
    return matrix


@pytest.mark.parametrize("spacing_mm", [(2.0, 2.0, 3.0), (1.3, 4.1, 2.2)])
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_volumes_reach_the_network_as_ours_do(modality: str, axes: str, spacing_mm: tuple[float, ...]) -> None:
    from monai.data import MetaTensor

    spec = DataSpec(3, 1, modality, (2.0, 2.0, 3.0))
    array = smooth((23, 17, 11), *((-1100, 900) if modality == "CT" else (0, 700)))[None].round().astype(np.int16)
    grid = affine(axes, spacing_mm)
    ours, _, expected_grid = resample_and_scale(Scan(array, grid, spacing_mm, "", "", modality), spec.spacing_mm)
    view = recipes.plain(spec)
    x = view(torch.from_numpy(np.asarray(ours, np.float32))[None], view.draw(make_keys(0, (torch.arange(1),))))[0]
    step = ToModelInput("image", 1, intensity_steps(spec), spec.family.air, spec.spacing_mm)
    out = step({"image": MetaTensor(torch.from_numpy(array.astype(np.float32)), affine=torch.from_numpy(grid))})
    assert out["image"].shape == x.shape
    assert np.allclose(out["grid_affine"], expected_grid)
    apart = (torch.as_tensor(out["image"]) - x).abs()
    assert apart.max() < (
        2e-3 if modality == "CT" else 1e-3
    )  # one HU, or the last bit of float16, where rounding differs
    assert (apart > 1e-6).float().mean() < 1e-2
    logits = torch.randn(3, *x.shape[1:])
    back = ToScanGrid("pred", [0, 1, 4])(out | {"pred": logits})["pred"]
    probabilities = map_to_grid(logits.softmax(0).numpy(), expected_grid, array.shape[1:], grid)
    assert np.array_equal(np.asarray(back)[0], np.array([0, 1, 4])[probabilities.argmax(0)])


@pytest.mark.parametrize("size", [None, (40, 24)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_images_reach_the_network_as_ours_do(size: tuple[int, int] | None, dtype: type) -> None:
    from monai.data import MetaTensor

    array = smooth((31, 45), 0, 255 if dtype == np.uint8 else 4000)[None].astype(dtype)
    ours = resample_and_scale(Scan(array, np.eye(4), (1.0, 1.0), "", "", "DX"), size=size)[0]
    step = ToModelInput("image", 1, intensity_steps(DataSpec(2, 1, "DX")), size=size)
    out = step({"image": MetaTensor(torch.from_numpy(array), affine=torch.eye(4))})
    assert np.abs(np.asarray(out["image"]) - ours.astype(np.float32)).max() < 1e-3


def test_the_middle_is_that_of_a_cache() -> None:
    array = np.arange(35.0).reshape(1, 5, 7)
    assert middle(array, (2, 3), 0).tolist() == [[[9, 10, 11], [16, 17, 18]]]
    assert middle(array, (8, 3), -1)[0, :, 0].tolist() == [-1, -1, 2, 9, 16, 23, 30, -1]


def test_an_encoder_is_refused(tmp_path: Path) -> None:
    make_run(tmp_path / "run", ResNet(dims=2, depth=10, width=4), "encoder")
    with pytest.raises(MedsslError, match="a bundle predicts: expected a fine-tuned model"):
        medssl.export(tmp_path / "run", "monai", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def bundle(folder: Path, *words: str) -> str:
    """Run MONAI's command in the bundle's folder, in a process that cannot import medssl."""
    pytest.importorskip("fire", reason="monai.bundle needs the optional package fire")
    pytest.importorskip("ignite", reason="monai.bundle needs the optional package pytorch-ignite")
    configs = ["--meta_file", "configs/metadata.json"]
    code = [sys.executable, "-W", "ignore", "-c", WITHOUT_MEDSSL, words[0], *configs, *words[1:]]
    done = subprocess.run(code, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stderr + done.stdout


@pytest.mark.slow
def test_the_bundle_segments_as_medssl_does(tmp_path: Path) -> None:
    spec = DataSpec(3, 1, "CT", (2.0, 2.0, 3.0))
    make_run(tmp_path / "run", ResNet(dims=3, depth=10, width=4, max_pool=False), "segmenter", spec)
    (tmp_path / "scans").mkdir()
    for number, axes in enumerate(AXES):
        array = smooth((37, 45, 29), -1000, 600, number).round().astype(np.int16)
        nibabel.Nifti1Image(array, affine(axes, (2.6, 1.9, 3.3))).to_filename(tmp_path / "scans" / f"{axes}.nii.gz")
    medssl.predict(tmp_path / "run", tmp_path / "scans", tmp_path / "ours")
    medssl.export(tmp_path / "run", "monai", tmp_path / "out")
    bundle(tmp_path / "out", "run", "--config_file", "configs/inference.json", "--scans", str(tmp_path / "scans"))
    sources = pd.read_parquet(tmp_path / "ours" / "manifest" / "sources.parquet").set_index("scan")["files"]
    assert len(sources) == len(AXES)
    for scan, files in sources.items():
        ours = nibabel.load(tmp_path / "ours" / f"{scan}.nii.gz")
        theirs = nibabel.load(tmp_path / "out" / "predictions" / Path(files[0]).name.replace(".nii", "_mask.nii"))
        a, b = np.asarray(ours.dataobj), np.asarray(theirs.dataobj)
        assert a.shape == b.shape == (37, 45, 29)
        assert np.allclose(ours.affine, theirs.affine, atol=1e-4)
        assert min((a == value).mean() for value in (0, 1, 4)) > 0.02
        assert (a == b).mean() > 0.9999


@pytest.mark.slow
def test_the_bundle_classifies_as_medssl_does_and_passes_monais_checks(tmp_path: Path) -> None:
    spec = DataSpec(2, 1, "DX", size=(32, 24))
    make_run(tmp_path / "run", ViT(dims=2, patch=(8, 4), width=24, depth=1), "classifier", spec, crop=24)
    (tmp_path / "scans").mkdir()
    for number in range(3):
        picture = smooth((45, 31), 0, 255, number).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / "scans" / f"{number}.png")
    medssl.index([tmp_path / "scans"], tmp_path / "manifest", modality="DX")
    table = medssl.predict(tmp_path / "run", tmp_path / "manifest", tmp_path / "ours").set_index("scan")
    medssl.export(tmp_path / "run", "monai", tmp_path / "out")
    bundle(tmp_path / "out", "run", "--config_file", "configs/inference.json", "--scans", str(tmp_path / "scans"))
    theirs = pd.read_csv(tmp_path / "out" / "predictions" / "probabilities.csv", header=None, index_col=0)
    sources = pd.read_parquet(tmp_path / "manifest" / "sources.parquet").set_index("scan")["files"]
    for scan, files in sources.items():
        ours = table.loc[scan, ["p.a", "p.b", "p.c"]].to_numpy(float)
        assert np.abs(ours - theirs.loc[files[0]].to_numpy(float)).max() < 1e-5
    bundle(tmp_path / "out", "verify_net_in_out", "--net_id", "network_def", "--config_file", "configs/inference.json")
    assert "no error" in bundle(tmp_path / "out", "verify_metadata", "--filepath", "docs/metadata_schema.json")
    assert json.loads((tmp_path / "out" / "configs" / "metadata.json").read_text())["task"] == "classification in 2D DX"
