"""The steps before and after the network: to the grid and the intensities it was trained on, and back to the scan's own grid.

They do what `medssl prepare` and `medssl predict` do, with numpy and scipy alone; medssl's tests hold them equal.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from scipy import ndimage
from torch import Tensor

SAME_SPACING = 1e-3  # a spacing that differs by a smaller share is left as it is
BLUR_REACH = 4.0  # standard deviations at which the blur ends


def scans_in(folder: str, endings: Sequence[str]) -> list[dict[str, str]]:
    """The files in a folder, at any depth, that end like this, as items of a dataset.

    Raises:
        FileNotFoundError: There is none.
        ValueError: Two have one name, so that one result would replace the other.
    """
    found = sorted(str(path) for path in Path(folder).rglob("*") if path.name.lower().endswith(tuple(endings)))
    if not found:
        raise FileNotFoundError(f"{folder} holds no file that ends in {', '.join(endings)}: give a folder with scans")
    names = [stem(path) for path in found]
    if len(set(names)) < len(names):
        raise ValueError("two scans have one name: expected different names, since results are named by them")
    return [{"image": path} for path in found]


class ToModelInput(MapTransform):
    """A scan (C, *S) as the network takes it, with its own grid beside it for `ToScanGrid`.

    Args:
        keys: Keys of the scans.
        channels: Channels of a scan.
        intensity: The field `intensity` of the bundle's `medssl.json`.
        air: What fills a crop beyond the edge of a scan.
        spacing_mm: Spacing of volumes.
        size: (H, W) of images; None keeps their own.
        crop: The middle that a classifier sees; None for the whole scan.
    """

    def __init__(
        self,
        keys: Sequence[Hashable],
        channels: int,
        intensity: Mapping[str, Any],
        air: float = 0.0,
        spacing_mm: Sequence[float] | None = None,
        size: Sequence[int] | None = None,
        crop: Sequence[int] | None = None,
    ):
        super().__init__(keys)
        self.channels, self.intensity, self.air = channels, intensity, air
        self.spacing_mm, self.size, self.crop = spacing_mm, size, crop

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        out = dict(data)
        for key in self.keys:
            scan = out[key]
            array, affine = _one_picture(np.asarray(scan), self.channels), np.asarray(scan.affine, float)
            scaled, grid = self._on_grid(array, affine)
            x = torch.from_numpy(scaled if self.crop is None else middle(scaled, self.crop, self.air))
            out[key] = MetaTensor(self._in_window(x), affine=torch.from_numpy(grid), meta=dict(scan.meta))
            out["scan_shape"], out["scan_affine"], out["grid_affine"] = np.array(array.shape[1:]), affine, grid
        return out

    def _on_grid(self, array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(C, *S) on the grid and the stored scale of a cache, as float32, and its affine."""
        stored = np.int16 if "unit" in self.intensity else np.float16
        array = self._scaled(array)
        if array.ndim == 4:
            array, affine = to_ras(array, affine)
            own_mm = np.linalg.norm(affine[:3, :3], axis=0)
            factors = [float(new / old) for old, new in zip(own_mm, self.spacing_mm or own_mm)]
            if max(abs(factor - 1) for factor in factors) <= SAME_SPACING:
                factors = [1.0] * 3
            shape = tuple(max(1, round(n / factor)) for n, factor in zip(array.shape[1:], factors))
        else:
            shape = tuple(self.size or array.shape[1:])
            factors = [old / new for old, new in zip(array.shape[1:], shape)]
        if max(abs(factor - 1) for factor in factors) > SAME_SPACING:
            array, affine = zoom(array, factors, shape), affine @ step_of(array.shape[1:], shape, factors)
        rounded = np.rint(array) if stored is np.int16 else array
        return rounded.astype(stored).astype(np.float32), affine

    def _scaled(self, array: np.ndarray) -> np.ndarray:
        if not np.isfinite(array).all() or array.min() == array.max():
            raise ValueError("the scan holds NaN or one value everywhere: expected an image; leave it out")
        if "unit" in self.intensity:
            return np.maximum(array, self.intensity["lowest"]).astype(np.float32)
        if array.ndim == 3 and array.dtype == np.uint8:
            return array.astype(np.float32) / 255
        low, high = np.percentile(array, self.intensity["percentiles"])
        if high <= low:
            low, high = float(array.min()), float(array.max())
        return np.clip((array - np.float64(low)) / (high - low), *self.intensity["clip"]).astype(np.float32)

    def _in_window(self, x: Tensor) -> Tensor:
        """HU to 0..1 by straight lines through the points; other scans stay."""
        if "unit" not in self.intensity:
            return x
        (air, _), (low, tails), (high, _), (bone, _) = self.intensity["points"]
        outside = ((x - air) / (low - air)).clamp(0, 1) + ((x - high) / (bone - high)).clamp(0, 1)
        return tails * outside + (1 - 2 * tails) * ((x - low) / (high - low)).clamp(0, 1)


class ToScanGrid(MapTransform):
    """Logits on the model's grid (classes, *S) -> the numbers of the structures on the scan's own grid (1, *T).

    Args:
        keys: Keys of the logits.
        values: The number of each class in the mask, background first.
    """

    def __init__(self, keys: Sequence[Hashable], values: Sequence[int]):
        super().__init__(keys)
        self.values = np.array(values, np.uint8)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        out = dict(data)
        shape = tuple(int(n) for n in np.asarray(out["scan_shape"]))
        affine, grid = np.asarray(out["scan_affine"]), np.asarray(out["grid_affine"])
        for key in self.keys:
            probabilities = torch.softmax(torch.as_tensor(out[key]).float(), dim=0).cpu().numpy()
            mask = self.values[on_grid(probabilities, grid, shape, affine).argmax(0)][None]
            out[key] = MetaTensor(torch.from_numpy(mask), affine=torch.from_numpy(affine), meta={})
        return out


class WriteMask(MapTransform):
    """Writes each mask as `NAME_mask.nii.gz`, NAME being the scan's.

    Args:
        keys: Keys of the masks (1, *S).
        scan: Key of the scan.
        folder: Where the masks go.
    """

    def __init__(self, keys: Sequence[Hashable], scan: Hashable, folder: str):
        super().__init__(keys)
        self.scan, self.folder = scan, Path(folder)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        self.folder.mkdir(parents=True, exist_ok=True)
        name = stem(data[self.scan].meta["filename_or_obj"])
        for key in self.keys:
            mask = np.asarray(data[key])[0]
            image = nibabel.Nifti1Image(mask, np.asarray(data[key].affine, float))
            image.to_filename(self.folder / f"{name}_mask.nii.gz")
        return dict(data)


def stem(path: str) -> str:
    """The name of a file without its ending, `.nii.gz` included."""
    return Path(path).name.removesuffix(".gz").rpartition(".")[0]


def _one_picture(array: np.ndarray, channels: int) -> np.ndarray:
    """One channel of a grey picture that is stored as three; another number of channels is an error."""
    if len(array) == 3 and channels == 1 and (array == array[:1]).all():
        array = array[:1]
    if len(array) != channels:
        raise ValueError(f"the scan has {len(array)} channels: expected {channels}")
    return array


def to_ras(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(C, *S) with its axes turned nearest to right, anterior, superior, and its affine (4, 4)."""
    turn = nibabel.orientations.io_orientation(affine)
    turned = nibabel.orientations.apply_orientation(np.moveaxis(array, 0, -1), turn)
    return np.moveaxis(turned, -1, 0), affine @ nibabel.orientations.inv_ornt_aff(turn, array.shape[1:])


def zoom(array: np.ndarray, factors: Sequence[float], shape: Sequence[int]) -> np.ndarray:
    """(C, *S) -> (C, *shape) float32, centre on centre, edges repeated, blurred first where it gets coarser.

    Args:
        array: (C, *S).
        factors: Old voxels to a new one along each axis.
        shape: Voxels of the result along each axis.
    """
    offsets = [(n - 1) / 2 - (m - 1) / 2 * f for n, m, f in zip(array.shape[1:], shape, factors)]
    sigmas = [max(0.0, (factor - 1) / 2) for factor in factors]
    blurred = [
        ndimage.gaussian_filter(channel, sigmas, mode="nearest", truncate=BLUR_REACH)
        for channel in array.astype(np.float32)
    ]
    return np.stack(
        [ndimage.affine_transform(c, factors, offsets, tuple(shape), order=1, mode="nearest") for c in blurred]
    )


def step_of(old: Sequence[int], new: Sequence[int], factors: Sequence[float]) -> np.ndarray:
    """(4, 4) from the voxels of a grid resampled about its centre to those of the old one."""
    step = np.eye(4)
    for axis, (before, after, factor) in enumerate(zip(old, new, factors)):
        step[axis, axis], step[axis, 3] = factor, (before - 1) / 2 - (after - 1) / 2 * factor
    return step


def middle(array: np.ndarray, size: Sequence[int], fill: float) -> np.ndarray:
    """The middle of a scan, (C, *size), filled beyond its edge."""
    out = np.full((len(array), *size), fill, np.float32)
    starts = [(n - s) // 2 for n, s in zip(array.shape[1:], size)]
    inside = [slice(max(0, first), min(n, first + s)) for first, n, s in zip(starts, array.shape[1:], size)]
    place = [slice(part.start - first, part.stop - first) for part, first in zip(inside, starts)]
    out[(slice(None), *place)] = array[(slice(None), *inside)]
    return out


def on_grid(volume: np.ndarray, affine: np.ndarray, shape: tuple[int, ...], target: np.ndarray) -> np.ndarray:
    """(K, *S) resampled to another grid (K, *shape), linearly.

    Args:
        volume: (K, *S).
        affine: (4, 4) of its grid.
        shape: Voxels of the other grid along each axis.
        target: (4, 4) of the other grid.
    """
    if volume.shape[1:] == shape and np.allclose(affine, target, atol=1e-4):
        return volume
    move, dims = np.linalg.inv(affine) @ target, len(shape)
    matrix, offset = move[:dims, :dims], move[:dims, 3]
    return np.stack([ndimage.affine_transform(v, matrix, offset, shape, order=1, mode="nearest") for v in volume])
