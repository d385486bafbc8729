"""Use a model on new scans: masks on each scan's own grid, class probabilities, feature vectors.

    medssl predict runs/model NEW_SCANS --out masks
    medssl embed runs/simmim NEW_SCANS --out features

NEW_SCANS is a folder of scans (indexed and prepared first, as the model's own were), a manifest or a cache: from one
manifest the pseudonyms of all outputs are the same, so that they can be joined. Outputs are named by pseudonym; `medssl
where OUT SCAN` says on the terminal which files that was. What of a folder is indexed here stays in OUT/manifest, with
its private sources and key: hand on the outputs, not that.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import torch
from rich.progress import track
from scipy.ndimage import affine_transform

from medssl.core import runs
from medssl.core.atomic import write_atomically
from medssl.core.errors import MedsslError
from medssl.core.runs import Run
from medssl.datasets.index import index
from medssl.datasets.manifest import read_table
from medssl.encoders import Encoder
from medssl.evaluation import representation as probes
from medssl.evaluation.representation import middles
from medssl.preprocessing.cache import Cache, prepare
from medssl.preprocessing.data_spec import DataSpec
from medssl.scans.read import read_scan
from medssl.training.finetune import load_model
from medssl.training.models import Classifier, Segmenter, classify, pretrained_encoder, segment_probabilities


def predict(run: Path, scans: Path, out: Path, encoder: Encoder | None = None) -> pd.DataFrame:
    """Apply a fine-tuned model; returns one row a scan.

    Segmentation writes `out/SCAN.nii.gz`, structure numbers on the scan's own grid (on the cache's grid where `scans` is
    a cache), and rows with each structure's volume in ml. Classification writes `out/probabilities.csv`. encoder: for a
    model whose encoder class lies outside of medssl. Raises MedsslError for scans the model was not made for.
    """
    model, record = load_model(Path(run), encoder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device)
    out = Path(out)
    with prepared(Path(scans), out, record.config) as (cache, sources):
        if isinstance(model, Classifier):
            table, name = _probabilities(model, record, cache), "probabilities.csv"
        else:
            names = track(list(cache.manifest["scan"]), "masks")
            rows = [_write_mask(model, record, cache, scan, sources, out) for scan in names]
            table, name = pd.DataFrame(rows), "volumes.csv"
        table = _with_rejects(table, cache)
    write_atomically(out / name, table.to_csv(index=False).encode())
    return table


def embed(
    run: Path, scans: Path, out: Path, encoder: Encoder | None = None, duplicates_above: float | None = None
) -> pd.DataFrame:
    """Feature vectors of scans from a pretraining run or a fine-tuned model, in `out/features.parquet`, one row a scan;
    of a scan that was rejected the row has its reason and no numbers.

    duplicates_above: a cosine, as 0.99: pairs of scans of different patients that agree as closely are listed in
    `out/near_duplicates.csv`, to be looked at; nothing is left out.
    """
    record = runs.read(run)
    if record.kind == "pretrain":
        trained = pretrained_encoder(Path(run), encoder)
    else:
        trained = load_model(Path(run), encoder)[0].encoder
    with prepared(Path(scans), Path(out), record.config) as (cache, _):
        names = list(cache.manifest["scan"])
        vectors = probes.embed(trained.eval(), cache, names, record.config["crop"])
        table = cache.manifest[["scan", "patient", "status"]].copy()
        table = pd.concat([table, pd.DataFrame(vectors, columns=[f"f{i}" for i in range(vectors.shape[1])])], axis=1)
        table = _with_rejects(table, cache)
    write_atomically(Path(out) / "features.parquet", table.to_parquet())
    if duplicates_above is not None:
        pairs = probes.near_duplicates(vectors, list(cache.manifest["patient"]), duplicates_above)
        found = pd.DataFrame([(names[i], names[j], c) for i, j, c in pairs], columns=["scan", "other", "cosine"])
        write_atomically(Path(out) / "near_duplicates.csv", found.to_csv(index=False).encode())
    return table


@contextmanager
def prepared(scans: Path, out: Path, config: dict[str, Any]) -> Iterator[tuple[Cache, Path | None]]:
    """The scans as the model's own were prepared, and where their sources are listed.

    An existing cache; or a manifest, or a folder that is indexed into `out/manifest`, prepared into `out/cache`, which
    is removed when the block ends well.
    """
    out.mkdir(parents=True, exist_ok=True)
    trained = DataSpec.from_record(config)
    if (scans / "cache.json").exists():
        cache = Cache(scans)
        cache.data_spec.check_model(trained)
        yield cache, None
        return
    manifest = scans
    if not (scans / "sources.parquet").exists():
        if scans.resolve() in out.resolve().parents or scans.resolve() == out.resolve():
            raise MedsslError(
                "--out lies in the folder of scans: expected another place, or its masks would be the next scans"
            )
        manifest = out / "manifest"
        index([scans], manifest, modality=trained.modality)
    grid: dict[str, Any] = {"spacing_mm": trained.spacing_mm} if trained.dims == 3 else {"size": trained.size}
    cache = prepare(manifest, out / "cache", dims=trained.dims, modality=trained.modality, **grid)
    cache.data_spec.check_model(trained)
    yield cache, manifest / "sources.parquet"
    shutil.rmtree(out / "cache")


def _probabilities(model: Classifier, record: Run, cache: Cache) -> pd.DataFrame:
    names = list(cache.manifest["scan"])
    device = next(model.parameters()).device
    parts = [
        classify(model, middles(cache, names[i : i + 64], record.config["crop"]).to(device)).cpu().numpy()
        for i in track(range(0, len(names), 64), "scans")
    ]
    scores = pd.DataFrame(np.concatenate(parts), columns=[f"p.{name}" for name in record.config["classes"]])
    return pd.concat([cache.manifest[["scan", "patient", "status"]], scores], axis=1)


def _write_mask(
    model: Segmenter, record: Run, cache: Cache, scan: str, sources: Path | None, out: Path
) -> dict[str, Any]:
    device = next(model.parameters()).device
    x = middles(cache, [scan], cache.shape(scan))[0].to(device)
    probabilities = segment_probabilities(model, x, record.config["crop"]).cpu().numpy()
    shape, affine = _own_grid(cache, scan, sources)
    values = np.array([0, *map(int, record.config["classes"])], np.uint8)
    mask = values[onto(probabilities, cache.affine(scan), shape, affine).argmax(0)]
    content = nibabel.Nifti1Image(mask, affine)
    write_atomically(out / f"{scan}.nii.gz", _gzipped(content))
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)[: mask.ndim]
    unit, size = ("ml", spacing_mm.prod() / 1000) if mask.ndim == 3 else ("mm2", spacing_mm.prod())
    return {"scan": scan, "status": "ok"} | {
        f"{unit}.{v}": round(float((mask == v).sum() * size), 3) for v in values[1:]
    }


def _with_rejects(table: pd.DataFrame, cache: Cache) -> pd.DataFrame:
    """The scans that could not be used stand in the result too, with the reason."""
    everything = pd.read_parquet(cache.path / "manifest.parquet")
    rejected = everything.loc[everything["status"] != "ok", ["scan", "status", "reason"]]
    return pd.concat([table, rejected], ignore_index=True) if len(rejected) else table


def onto(volume: np.ndarray, affine: np.ndarray, shape: tuple[int, ...], target: np.ndarray) -> np.ndarray:
    """(K, X, Y, Z) on one grid -> (K, *shape) on another, linear; both affines map voxels to the same world in mm."""
    if volume.shape[1:] == tuple(shape) and np.allclose(affine, target, atol=1e-4):
        return volume
    way = np.linalg.inv(affine) @ target
    d = volume.ndim - 1
    turn, shift = way[:d, :d], way[:d, 3]
    return np.stack([affine_transform(v, turn, shift, tuple(shape), order=1, mode="nearest") for v in volume])


def _own_grid(cache: Cache, scan: str, sources: Path | None) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape and affine of the scan as it came; the cache's own grid where the files are not at hand."""
    if sources is None:
        return cache.shape(scan), cache.affine(scan)
    source = read_table(sources).set_index("scan").loc[scan]
    files, correct = list(source["files"]), source.get("correct")
    original = read_scan(files, source["format"], scan, "", member=source["member"], correct=correct)
    return original.array.shape[1:], original.affine


def _gzipped(image: nibabel.Nifti1Image) -> bytes:
    import gzip

    return gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)
