"""Scans drawn from a VAE: on the cache's grid, marked as nobody's, repeatable; other runs are refused in words."""

from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import medssl
from medssl.cli.main import main
from medssl.core.errors import MedsslError
from medssl.encoders import ResidualUNet
from medssl.methods import VAE
from medssl.preprocessing.cache import Cache, prepare
from medssl.training.models import load_method
from medssl.training.pretrain import pretrain
from tests.conftest import small_encoder
from tests.options import options


@pytest.fixture(scope="module")
def run(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "vae"
    pretrain(
        cache.path, out, small_encoder(), VAE, **options(crop=(16, 24, 16), steps=3, batch_size=4, accelerator="cpu")
    )
    return out


def test_volumes_are_nifti_at_the_caches_spacing_and_say_that_they_are_synthetic(
    run: Path, cache: Cache, tmp_path: Path
) -> None:
    table = medssl.sample(run, tmp_path, count=5, seed=2)
    assert sorted(p.name for p in tmp_path.glob("[!.]*")) == sorted(table["file"])
    volumes = sorted(tmp_path.glob("*.nii.gz"))
    assert len(volumes) == 5
    for path in volumes:
        image = nibabel.load(path)
        assert path.name.startswith("SYNTHETIC")
        assert image.header["descrip"].item().startswith(b"SYNTHETIC")
        assert image.shape == (16, 24, 16)
        assert image.header.get_zooms() == pytest.approx(cache.spacing_mm)
        values = np.asarray(image.dataobj)
        assert 0 <= values.min() < values.max() <= 1
    sheet = Image.open(tmp_path / "SYNTHETIC_2_sheet.png")
    assert sheet.text["Description"].startswith("SYNTHETIC")
    assert sheet.width >= 3 * 16  # five scans: three in a row


def test_the_weights_are_the_runs_own_and_the_seed_says_what_is_drawn(run: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        medssl.sample(run, tmp_path / name, count=2, seed=seed)
    first, again, other = (sorted((tmp_path / n).glob("*.nii.gz"))[0].read_bytes() for n in "abc")
    assert first == again
    assert first != other
    method, record = load_method(run)
    drawn = method.sample(2, record.config["crop"], 0).clamp(0, 1).numpy()
    assert np.allclose(nibabel.load(tmp_path / "a" / "SYNTHETIC_0_0001.nii.gz").get_fdata(), drawn[1, 0], atol=1e-6)
    assert record.metrics["effective_rank"] > 1


def test_images_are_png_in_8_bit_with_their_spacing(tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    for n in range(20):
        pixels = np.random.default_rng(n).integers(0, 255, (40, 40)).astype(np.uint8)
        Image.fromarray(pixels).save(scans / f"{n}.png")
    medssl.index([scans], tmp_path / "manifest", modality="DX")
    cache = prepare(tmp_path / "manifest", tmp_path / "cache", size=(32, 32))
    pretrain(
        cache.path,
        tmp_path / "run",
        ResidualUNet(2, width=4, blocks=(1, 1)),
        VAE,
        **options(crop=(16, 32), steps=1, batch_size=2, accelerator="cpu"),
    )
    assert main(["sample", str(tmp_path / "run"), "--count", "2", "--out", str(tmp_path / "drawn")]) == 0
    image = Image.open(tmp_path / "drawn" / "SYNTHETIC_0_0000.png")
    assert (image.size, image.mode) == ((32, 16), "L")
    assert image.text["Description"].startswith("SYNTHETIC")
    assert 25.4 / image.info["dpi"][0] == pytest.approx(cache.spacing_mm[1], rel=0.01)


def test_other_runs_are_refused_with_what_could_be_drawn_from(pretrained: Path, run: Path, tmp_path: Path) -> None:
    with pytest.raises(MedsslError, match=r"holds a pretrain run of SimMIM.*expected one of VAE"):
        medssl.sample(pretrained, tmp_path)
    with pytest.raises(MedsslError, match="--count is 0"):
        medssl.sample(run, tmp_path, count=0)
    assert not list(tmp_path.iterdir())


def test_a_record_without_its_weights_is_refused(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "run.json").write_bytes((run / "run.json").read_bytes())
    with pytest.raises(MedsslError, match=r"holds no method.safetensors"):
        medssl.sample(copy, tmp_path / "out")
    assert isinstance(medssl.sample(run, tmp_path / "out", count=1), pd.DataFrame)
