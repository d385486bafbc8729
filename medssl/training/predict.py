"""Use a model on new scans: masks on each scan's own grid, class probabilities, feature vectors.

    medssl predict runs/model NEW_SCANS --out masks
    medssl embed runs/simmim NEW_SCANS --out features

NEW_SCANS is a folder of scans (indexed and prepared first, as the model's own scans were), a manifest or a cache. Results
are named by pseudonym, so results that come from one manifest can be joined; `medssl where OUT SCAN` shows on the terminal
which files a pseudonym stands for. The manifest of a folder that is indexed here stays in OUT/manifest, with its private
table of files and its key: share the results, not that folder.
"""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import torch
from scipy.ndimage import affine_transform

from medssl.core import runs
from medssl.core.atomic import write_atomically
from medssl.core.errors import MedsslError
from medssl.core.progress import track
from medssl.core.runs import Run
from medssl.datasets.index import index
from medssl.datasets.manifest import read_table
from medssl.encoders import Encoder
from medssl.evaluation import representation as probes
from medssl.preprocessing.cache import Cache, prepare
from medssl.preprocessing.data_spec import DataSpec
from medssl.scans.read import read_scan
from medssl.training.finetune import load_model
from medssl.training.models import Classifier, Segmenter, classify, pretrained_encoder, segment_probabilities
from medssl.views.center_crops import center_crops

BATCH = 64  # images that are classified at once


def predict(run: Path, scans: Path, out: Path, encoder: Encoder | None = None) -> pd.DataFrame:
    """Apply a fine-tuned model to scans.

    Segmentation writes `SCAN.nii.gz` with structure numbers on each scan's own grid (on the cache's grid if `scans` is a
    cache) and `volumes.csv` with the volume of each structure in ml. Classification writes `probabilities.csv`.

    Args:
        run: Folder of a fine-tuned model.
        scans: Folder of scans, manifest or cache.
        out: Folder of the results.
        encoder: Encoder of a model whose encoder class lies outside medssl.

    Returns:
        The table that was written, one row for each scan; a rejected scan has its reason and no numbers.

    Raises:
        MedsslError: The model was not made for such scans.
    """
    model, record = load_model(Path(run), encoder)
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    out = Path(out)
    with prepared_like(record.config, Path(scans), out) as (cache, sources):
        if isinstance(model, Classifier):
            table, name = _probabilities(model, record, cache), "probabilities.csv"
        else:
            progress = track(list(cache.manifest["scan"]), "masks")
            table = pd.DataFrame([_write_mask(model, record, cache, scan, sources, out) for scan in progress])
            name = "volumes.csv"
        table = _with_rejects(table, cache)
    write_atomically(out / name, table.to_csv(index=False).encode())
    return table


def embed(
    run: Path, scans: Path, out: Path, encoder: Encoder | None = None, duplicates_above: float | None = None
) -> pd.DataFrame:
    """Compute one feature vector for each scan and write them to `features.parquet`.

    Args:
        run: Folder of a pretraining run or a fine-tuned model.
        scans: Folder of scans, manifest or cache.
        out: Folder of the results.
        encoder: Encoder of a run whose encoder class lies outside medssl.
        duplicates_above: Cosine similarity, such as 0.99: pairs of scans of different patients that are at least as
            similar are listed in `near_duplicates.csv`. No scan is left out.

    Returns:
        The table of features, one row for each scan; a rejected scan has its reason and no numbers.
    """
    record, out = runs.read(run), Path(out)
    if record.kind == "pretrain":
        trained = pretrained_encoder(Path(run), encoder)
    else:
        trained = load_model(Path(run), encoder)[0].encoder
    with prepared_like(record.config, Path(scans), out) as (cache, _):
        vectors = probes.embed(trained.eval(), cache, list(cache.manifest["scan"]), record.config["crop"])
        features = pd.DataFrame(vectors, columns=[f"f{i}" for i in range(vectors.shape[1])])
        table = pd.concat([cache.manifest[["scan", "patient", "status"]], features], axis=1)
        table = _with_rejects(table, cache)
    write_atomically(out / "features.parquet", table.to_parquet())
    if duplicates_above is not None:
        duplicates = _near_duplicates(cache.manifest, vectors, duplicates_above)
        write_atomically(out / "near_duplicates.csv", duplicates.to_csv(index=False).encode())
    return table


def _near_duplicates(manifest: pd.DataFrame, vectors: np.ndarray, above: float) -> pd.DataFrame:
    scans = list(manifest["scan"])
    pairs = probes.near_duplicates(vectors, list(manifest["patient"]), above)
    return pd.DataFrame([(scans[i], scans[j], cosine) for i, j, cosine in pairs], columns=["scan", "other", "cosine"])


@contextmanager
def prepared_like(config: dict[str, Any], scans: Path, out: Path) -> Iterator[tuple[Cache, Path | None]]:
    """Prepare scans as those of a run were prepared.

    A folder of scans is indexed into `out/manifest`; a folder or manifest is prepared into `out/cache`, which is removed
    at the end unless an error interrupts it.

    Args:
        config: Config of the run's record.
        scans: Folder of scans, manifest or cache.
        out: Folder of the results.

    Yields:
        The cache, and the table of the scans' files (None if `scans` is a cache).
    """
    out.mkdir(parents=True, exist_ok=True)
    trained = DataSpec.from_record(config)
    if (scans / "cache.json").exists():
        cache = Cache(scans)
        cache.data_spec.check_model(trained)
        yield cache, None
        return
    manifest = scans if (scans / "sources.parquet").exists() else _index_into(out, scans, trained.modality)
    grid: dict[str, Any] = {"spacing_mm": trained.spacing_mm} if trained.dims == 3 else {"size": trained.size}
    cache = prepare(manifest, out / "cache", dims=trained.dims, modality=trained.modality, **grid)
    cache.data_spec.check_model(trained)
    yield cache, manifest / "sources.parquet"
    shutil.rmtree(out / "cache")


def _index_into(out: Path, scans: Path, modality: str) -> Path:
    if scans.resolve() in (out.resolve(), *out.resolve().parents):
        raise MedsslError(
            "--out lies in the folder of scans: expected another place, or its masks would be the next scans"
        )
    index([scans], out / "manifest", modality=modality)
    return out / "manifest"


def _probabilities(model: Classifier, record: Run, cache: Cache) -> pd.DataFrame:
    scans = list(cache.manifest["scan"])
    device = next(model.parameters()).device
    parts = [
        classify(model, center_crops(cache, scans[i : i + BATCH], record.config["crop"]).to(device)).cpu().numpy()
        for i in track(range(0, len(scans), BATCH), "scans")
    ]
    scores = pd.DataFrame(np.concatenate(parts), columns=[f"p.{name}" for name in record.config["classes"]])
    return pd.concat([cache.manifest[["scan", "patient", "status"]], scores], axis=1)


def _write_mask(
    model: Segmenter, record: Run, cache: Cache, scan: str, sources: Path | None, out: Path
) -> dict[str, Any]:
    device = next(model.parameters()).device
    x = center_crops(cache, [scan], cache.shape(scan))[0].to(device)
    probabilities = segment_probabilities(model, x, record.config["crop"]).cpu().numpy()
    shape, affine = _own_grid(cache, scan, sources)
    values = np.array([0, *map(int, record.config["classes"])], np.uint8)
    mask = values[map_to_grid(probabilities, cache.affine(scan), shape, affine).argmax(0)]
    image = nibabel.Nifti1Image(mask, affine)
    write_atomically(out / f"{scan}.nii.gz", gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)[: mask.ndim]
    unit, size = ("ml", spacing_mm.prod() / 1000) if mask.ndim == 3 else ("mm2", spacing_mm.prod())
    return {"scan": scan, "status": "ok"} | {
        f"{unit}.{v}": round(float((mask == v).sum() * size), 3) for v in values[1:]
    }


def _with_rejects(table: pd.DataFrame, cache: Cache) -> pd.DataFrame:
    """Add a row with the reason for each rejected scan."""
    manifest = pd.read_parquet(cache.path / "manifest.parquet")
    rejected = manifest.loc[manifest["status"] != "ok", ["scan", "status", "reason"]]
    return pd.concat([table, rejected], ignore_index=True) if len(rejected) else table


def map_to_grid(volume: np.ndarray, affine: np.ndarray, shape: tuple[int, ...], target: np.ndarray) -> np.ndarray:
    """Resample a volume to another grid with linear interpolation.

    Args:
        volume: (K, *S) on the first grid.
        affine: (4, 4) of the first grid, from voxels to the world in mm.
        shape: Size of the second grid.
        target: (4, 4) of the second grid, from voxels to the same world.

    Returns:
        (K, *shape) on the second grid.
    """
    if volume.shape[1:] == tuple(shape) and np.allclose(affine, target, atol=1e-4):
        return volume
    target_to_source = np.linalg.inv(affine) @ target
    dims = volume.ndim - 1
    matrix, offset = target_to_source[:dims, :dims], target_to_source[:dims, 3]
    channels = [affine_transform(v, matrix, offset, tuple(shape), order=1, mode="nearest") for v in volume]
    return np.stack(channels)


def _own_grid(cache: Cache, scan: str, sources: Path | None) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape and affine of the original scan, or of the cached one if the files are not known."""
    if sources is None:
        return cache.shape(scan), cache.affine(scan)
    source = read_table(sources).set_index("scan").loc[scan]
    files, correct = list(source["files"]), source.get("correct")
    original = read_scan(files, source["format"], scan, "", member=source["member"], correct=correct)
    return original.array.shape[1:], original.affine
