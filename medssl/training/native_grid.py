"""Masks on the grid of the original scan, on which a viewer or a clinical system expects them.

shape, affine = native_grid(cache, scan, sources)
probabilities = map_to_grid(probabilities, cache.affine(scan), shape, affine)
"""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
from scipy.ndimage import affine_transform

from medssl.core.atomic import write_atomically
from medssl.datasets.manifest import read_table
from medssl.preprocessing.cache import Cache
from medssl.scans.read import read_scan


def native_grid(cache: Cache, scan: str, sources: Path | None) -> tuple[tuple[int, ...], np.ndarray]:
    """The grid of an original scan.

    Args:
        cache: Cache that holds the resampled scan.
        scan: Pseudonym of the scan.
        sources: Table of the scans' files; without one, the cache's grid is returned.

    Returns:
        The shape (*S), and the affine (4, 4) from voxels to the world in mm.
    """
    if sources is None:
        return cache.shape(scan), cache.affine(scan)
    source = read_table(sources).set_index("scan").loc[scan]
    files, correct = list(source["files"]), source.get("correct")
    original = read_scan(files, source["format"], scan, "", member=source["member"], correct=correct)
    return original.array.shape[1:], original.affine


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


def write_mask(path: Path, mask: np.ndarray, affine: np.ndarray) -> None:
    """Write a mask (*S) as gzipped NIfTI, atomically; the same mask always gives the same bytes."""
    image = nibabel.Nifti1Image(mask, affine)
    write_atomically(path, gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))


def structure_volumes(mask: np.ndarray, affine: np.ndarray, structures: tuple[int, ...]) -> dict[str, float]:
    """The volume of each structure: `ml.NUMBER` in 3D, or its area `mm2.NUMBER` in 2D."""
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)[: mask.ndim]
    unit, voxel = ("ml", spacing_mm.prod() / 1000) if mask.ndim == 3 else ("mm2", spacing_mm.prod())
    return {f"{unit}.{number}": round(float((mask == number).sum() * voxel), 3) for number in structures}
