"""What a pretraining run trains on: the scans, the size of a crop, and the note of what it was given.

scans = pretraining_scans(cache)                       # of the training patients alone
manifest, readers = usable_samples(cache, method, scans)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from pytorch_lightning.utilities import rank_zero_only

from medssl.core.errors import MedsslError
from medssl.core.progress import console
from medssl.datasets.manifest import PSEUDONYM_KEY
from medssl.datasets.splits import SplitSpec
from medssl.encoders import Encoder
from medssl.methods import Method
from medssl.preprocessing.cache import Cache
from medssl.preprocessing.crops import FieldReader, crop_by_spacing
from medssl.preprocessing.fingerprint import ANISOTROPIC
from medssl.preprocessing.sample_fields import readers, resolve, select_scans

LARGEST_CROP = {2: 224, 3: 96}  # voxels along an axis, by dims


def pretraining_scans(cache: Cache, split: SplitSpec = SplitSpec(), transductive: bool = False) -> list[str]:
    """The scans of the training patients, or of all patients if transductive."""
    allowed = cache.manifest["patient"].map(split.roles(cache.manifest)) == "train"
    return list(cache.manifest["scan"][allowed | transductive])


def usable_samples(cache: Cache, method: Method, allowed: Sequence[str]) -> tuple[pd.DataFrame, list[FieldReader]]:
    """The manifest of the allowed scans that the method can use, and the readers of the fields that it wants.

    Args:
        cache: Where the scans are.
        method: The pretext.
        allowed: Scans that may be trained on.

    Raises:
        MedsslError: There is none.
    """
    if not allowed:
        raise MedsslError(
            "no scan to pretrain on: expected at least one scan of a training patient; check --split-column and --split-seed"
        )
    fields = resolve(method.sample_fields)
    manifest, remarks = select_scans(fields, cache.manifest[cache.manifest["scan"].isin(allowed)])
    for remark in remarks:
        rank_zero_only(console.print)(remark)
    return manifest, readers(fields, manifest)


def default_crop(cache: Cache, encoder: Encoder, maximum: int | None = None) -> tuple[int, ...]:
    """The largest crop that the encoder's strides divide and the median scan holds, up to 224 (2D) or 96 (3D) voxels.

    In volumes of thick slices (anisotropic by more than 3) the crop has as many voxels, and about the same length in mm
    along every axis.

    Args:
        cache: Where the scans are.
        encoder: Whose strides have to divide the crop.
        maximum: Voxels along the longest axis, in place of 224 or 96.
    """
    median = np.median([cache.shape(s) for s in cache.manifest["scan"]], axis=0)
    maximum = maximum or LARGEST_CROP[cache.dims]
    if cache.dims == 3 and max(cache.spacing_mm) > ANISOTROPIC * min(cache.spacing_mm):
        return crop_by_spacing(cache.spacing_mm, [int(n) for n in median], maximum, encoder.strides[-1])
    return tuple(int(max(s, min(n, maximum) // s * s)) for n, s in zip(median, encoder.strides[-1]))


def seen_table(manifest: pd.DataFrame) -> pd.DataFrame:
    """What `seen.parquet` holds of the scans: digests, patients, and the fingerprint of the key these are named with."""
    return manifest.reindex(columns=["digest", "patient", PSEUDONYM_KEY])
