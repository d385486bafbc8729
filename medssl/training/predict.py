"""Use a model on new scans: masks on each scan's own grid, class probabilities, feature vectors.

    medssl predict runs/model NEW_SCANS --out masks
    medssl embed runs/simmim NEW_SCANS --out features

NEW_SCANS is a folder of scans (indexed and prepared first, as the model's own scans were), a manifest or a cache. Results
are named by pseudonym, so results that come from one manifest can be joined; `medssl where OUT SCAN` shows on the terminal
which files a pseudonym stands for. The manifest of a folder that is indexed here stays in OUT/manifest, with its private
table of files and its key: share the results, not that folder. With `--key-file site.key` patients have the pseudonyms that
`medssl index --key-file site.key` gives them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from medssl.core import runs
from medssl.core.atomic import exclusive, write_atomically
from medssl.core.errors import MedsslError
from medssl.core.progress import console
from medssl.datasets.index import index
from medssl.datasets.manifest import read_table
from medssl.encoders import Encoder
from medssl.evaluation import representation
from medssl.evaluation.similar_features import near_duplicates
from medssl.preprocessing.cache import Cache, prepare
from medssl.preprocessing.data_spec import DataSpec
from medssl.preprocessing.expected import ExpectedScans
from medssl.training.ensemble import Ensemble, PredictionView, prediction_views
from medssl.training.finetune import load_model
from medssl.training.models import Classifier, Segmenter, pretrained_encoder

TEMPORARY_CACHE = ".cache"


def predict(
    run: Path,
    scans: Path,
    out: Path,
    encoder: Encoder | None = None,
    others: list[Path] | None = None,
    views: list[PredictionView] | None = None,
    key_file: Path | None = None,
) -> pd.DataFrame:
    """Apply a fine-tuned model to scans.

    Segmentation writes `SCAN.nii.gz` with structure numbers on each scan's own grid (on the cache's grid if `scans` is a
    cache) and `volumes.csv` with the volume of each structure in ml. Classification writes `probabilities.csv`.

    Args:
        run: Folder of a fine-tuned model.
        scans: Folder of scans, manifest or cache.
        out: Folder of the results.
        encoder: Encoder of a model whose encoder class lies outside medssl.
        others: More models of the same task, crop and classes, such as other seeds; the probabilities of all are averaged.
        views: Views of each scan whose probabilities are averaged with its own: mirrored (where no side is lost), scaled.
            Each view of each model is one pass more.
        key_file: The key of your own that `medssl index` names your patients with; only where `scans` is a folder.

    Returns:
        The table that was written, one row for each scan; a rejected scan has its reason and no numbers.

    Raises:
        MedsslError: The model was not made for such scans.
    """
    task, model, record = load_model(Path(run), encoder)
    data_spec = DataSpec.from_record(record.config)
    _check_distinct([Path(run), *map(Path, others or [])])
    members = [model, *(_load_like(Path(other), record, encoder) for other in others or [])]
    ensemble = Ensemble(members, prediction_views(views or [], data_spec)).eval()
    if ensemble.passes > 1:
        console.print(
            f"{len(members)} models, {1 + len(ensemble.views)} views: each scan takes {ensemble.passes} passes"
        )
    used, out = ensemble.to("cuda" if torch.cuda.is_available() else "cpu"), Path(out)
    with exclusive(out):
        with prepared_like(record.config, Path(scans), out, key_file) as (cache, sources):
            results = task.write_results(used, cache, record.config["crop"], sources, out)
            table = _with_rejects(results, cache)
        write_atomically(out / task.results_file, table.to_csv(index=False).encode())
    return table


def _check_distinct(folders: Sequence[Path]) -> None:
    """Raise MedsslError where one model would be averaged with itself, and called two."""
    places = [folder.resolve() for folder in folders]
    if twice := next((folder for folder, place in zip(folders, places) if places.count(place) > 1), None):
        raise MedsslError(
            f"the model {twice.name} is named twice: expected different models; leave one out of --others"
        )


def _load_like(folder: Path, first: runs.Run, encoder: Encoder | None) -> Classifier | Segmenter:
    """Load another model for the same scans and classes. Raises MedsslError where it is for others."""
    _, model, record = load_model(folder, encoder)
    for name in ("task", "classes", "crop", "data_spec"):
        if record.config[name] != first.config[name]:
            raise MedsslError(
                f"{folder.name} has the {name} {record.config[name]}, the first model {first.config[name]}: expected the same "
                "in all models that are averaged"
            )
    return model


def embed(
    run: Path,
    scans: Path,
    out: Path,
    encoder: Encoder | None = None,
    duplicates_above: float | None = None,
    key_file: Path | None = None,
) -> pd.DataFrame:
    """Compute one feature vector for each scan and write them to `features.parquet`.

    Args:
        run: Folder of a pretraining run, of imported weights or of a fine-tuned model.
        scans: Folder of scans, manifest or cache.
        out: Folder of the results.
        encoder: Encoder of a run whose encoder class lies outside medssl.
        duplicates_above: Cosine similarity, such as 0.99: pairs of scans of different patients that are at least as
            similar are listed in `near_duplicates.csv`. No scan is left out.
        key_file: The key of your own that `medssl index` names your patients with; only where `scans` is a folder.

    Returns:
        The table of features, one row for each scan; a rejected scan has its reason and no numbers.

    Raises:
        MedsslError: The run was not made for such scans.
    """
    record, out = runs.read(run), Path(out)
    if record.kind in runs.WITH_ENCODER:
        trained = pretrained_encoder(Path(run), encoder)
    else:
        trained = load_model(Path(run), encoder)[1].encoder
    with exclusive(out):
        with prepared_like(record.config, Path(scans), out, key_file) as (cache, _):
            vectors = representation.embed(trained.eval(), cache, list(cache.manifest["scan"]), record.config["crop"])
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
    pairs = near_duplicates(vectors, list(manifest["patient"]), above)
    return pd.DataFrame([(scans[i], scans[j], cosine) for i, j, cosine in pairs], columns=["scan", "other", "cosine"])


@contextmanager
def prepared_like(
    config: dict[str, Any], scans: Path, out: Path, key_file: Path | None = None
) -> Iterator[tuple[Cache, Path | None]]:
    """Prepare scans as those of a run were prepared.

    A folder of scans is indexed into `out/manifest`; a folder or manifest is prepared into `out/.cache`, which is removed
    at the end unless an error interrupts it. Its name is hidden, since `out/cache` may be a cache of the user's.

    Args:
        config: Config of the run's record.
        scans: Folder of scans, manifest or cache.
        out: Folder of the results.
        key_file: The key that patients of a folder are named with; by default one of its own.

    Yields:
        The cache, and the table of the scans' files (None if `scans` is a cache).

    Raises:
        MedsslError: The scans are not such as the run's, or a key came with patients who have their pseudonyms already.
    """
    trained = DataSpec.from_record(config)
    is_cache, is_manifest = (scans / "cache.json").exists(), (scans / "sources.parquet").exists()
    if key_file is not None and (is_cache or is_manifest):
        raise MedsslError(
            f"--key-file came with a {'cache' if is_cache else 'manifest'}, whose patients have their pseudonyms already: expected a "
            "folder of scans; leave it out, or give it to medssl index"
        )
    if is_cache:
        cache = Cache(scans)
        check_scans(config, cache.data_spec)
        yield cache, None
        return
    manifest = scans if is_manifest else _index_into(out, scans, trained.modality, key_file)
    grid: dict[str, Any] = {"spacing_mm": trained.spacing_mm} if trained.dims == 3 else {"size": trained.size}
    cache = prepare(manifest, out / TEMPORARY_CACHE, dims=trained.dims, modality=trained.modality, **grid)
    check_scans(config, cache.data_spec)
    yield cache, manifest / "sources.parquet"
    shutil.rmtree(out / TEMPORARY_CACHE)


def check_scans(config: dict[str, Any], scans: DataSpec) -> None:
    """Check that the model or encoder of a run can be applied to scans; imported weights warn where these are unlike their own.

    Args:
        config: Config of the run's record.
        scans: The scans.

    Raises:
        MedsslError: The run was not made for such scans.
    """
    trained, expected = DataSpec.from_record(config), ExpectedScans.from_record(config)
    if expected is None:
        scans.check_model(trained)
        return
    if (scans.dims, scans.channels) != (trained.dims, trained.channels):
        raise MedsslError(
            f"these scans are {scans.dims}D with {scans.channels} channel(s): the weights were imported for {trained.dims}D with "
            f"{trained.channels}; import them again, with --channels {scans.channels} or another --encoder"
        )
    expected.check(scans)


def _index_into(out: Path, scans: Path, modality: str, key_file: Path | None) -> Path:
    if scans.resolve() in (out.resolve(), *out.resolve().parents):
        raise MedsslError(
            "--out lies in the folder of scans: expected another place, or its masks would be the next scans"
        )
    index([scans], out / "manifest", modality=modality, key_file=key_file)
    return out / "manifest"


def _with_rejects(table: pd.DataFrame, cache: Cache) -> pd.DataFrame:
    """Add a row with the reason for each rejected scan."""
    manifest = read_table(cache.path / "manifest.parquet")
    rejected = manifest.loc[manifest["status"] != "ok", ["scan", "status", "reason"]]
    return pd.concat([table, rejected], ignore_index=True) if len(rejected) else table
