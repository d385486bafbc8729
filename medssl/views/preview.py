"""A picture of what a recipe does to scans: the original, each view alone, all together, and the differences.

    medssl views --recipe contrastive --data CACHE --out views.png [--modality mr] [--crop 96 96 96] [--scans 3] [--seed 1]

Grey is the scale of the views, 0 black and 1 white, in every panel, so that what saturates in the picture saturates for
the encoder; in CT the colour bar says which HU that is. Volumes show their middle slice at true proportions, the
patient's right on the left. A view that a sample gets with some probability is shown as if the sample got it; the columns
"all" are drawn as in training. Below each picture is its difference from the original (of "all": from the same place of
the scan, unchanged). Its colours are linear up to 0.05 and logarithmic beyond, so that faint noise and a bias field both
show. Scans carry their pseudonyms.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, SymLogNorm
from matplotlib.figure import Figure
from torch import Tensor

from medssl.core.atomic import write_atomically
from medssl.core.errors import MedsslError
from medssl.preprocessing.cache import Cache
from medssl.preprocessing.crops import source_within
from medssl.preprocessing.data_spec import DataSpec
from medssl.scans.modality import AIR_HU
from medssl.views import recipes
from medssl.views.base import Params, View, leaves, moves_voxels
from medssl.views.intensity import Window
from medssl.views.random import make_keys

MAX_CROP_EDGE = {2: 224, 3: 96}  # voxels of the default crop
HU_TICKS = (int(AIR_HU), -160, 40, 240, 1500)
DIFFERENCE_TICKS = (-0.4, -0.2, -0.05, 0, 0.05, 0.2, 0.4)
GREY_SCALE, DIFFERENCE_SCALE = Normalize(0, 1), SymLogNorm(0.05, vmin=-0.4, vmax=0.4)
DIFFERENCE_LABEL = "difference\nfrom the original;\nof all: from the\nsame place,\nunchanged"
FORMATS = (".png", ".pdf", ".svg")
THICK = 1.5  # slices this many times as far apart as pixels are shown as they were scanned


@dataclass(frozen=True)
class Panel:
    """One picture on the scale of the views, and the picture that it is compared with.

    Attributes:
        title: Written above the picture.
        image: (C, *S).
        before: (C, *S), the original; None where there is none of this size.
    """

    title: str
    image: Tensor
    before: Tensor | None = None


def preview(
    recipe: str,
    data: Path,
    out: Path = Path("views.png"),
    modality: str | None = None,
    crop: tuple[int, ...] | None = None,
    scans: int = 2,
    seed: int = 0,
) -> Path:
    """Write a labelled picture of what a recipe's views do to scans of a cache; returns the file.

    Args:
        recipe: contrastive, multi_crop, masked, relational, restoration, finetune or plain.
        data: A cache made by `medssl prepare`.
        out: The file to write: .png, .pdf or .svg.
        modality: What the recipe is made for: ct, mr, xray, us, rgb or a DICOM code; the data's own by default.
        crop: Voxels of the crop, one number per axis; by default those of the median scan, up to 224 (2D) or 96 (3D).
        scans: How many scans to show.
        seed: Seed of the choice of scans and of the views.

    Raises:
        MedsslError: The recipe is unknown, the modality cannot be the data's, or the file has another ending.
    """
    cache = Cache(Path(data))
    if Path(out).suffix.lower() not in FORMATS:
        raise MedsslError(f"--out ends in {Path(out).suffix!r}: expected one of {', '.join(FORMATS)}")
    if scans < 1:
        raise MedsslError(f"scans is {scans}: expected 1 or more")
    median = np.median([cache.shape(scan) for scan in cache.manifest["scan"]], axis=0)
    size = tuple(crop or (min(int(n), MAX_CROP_EDGE[cache.dims]) for n in median))
    recipe_spec = replace(cache.data_spec, modality=modality) if modality else cache.data_spec
    views = recipes.recipe_views(recipe, recipe_spec, size)
    for view in views:
        recipes.check_modality(view, cache.data_spec)
    order = np.random.default_rng(seed).permutation(len(cache.manifest))[:scans]
    names = [str(cache.manifest["scan"].iloc[i]) for i in order]
    panels = [scan_panels(cache, scan, views, size, seed) for scan in names]
    title = f"{recipe}, {recipe_spec.family.name}, crop {' x '.join(map(str, size))}, seed {seed}"
    write_atomically(Path(out), render(panels, names, title, cache.data_spec, Path(out).suffix[1:].lower()))
    return Path(out)


def scan_panels(cache: Cache, scan: str, views: Sequence[View], size: Sequence[int], seed: int) -> list[Panel]:
    """The pictures of one scan, left to right.

    Args:
        cache: Where the scan is.
        scan: Its pseudonym.
        views: The views of the recipe.
        size: Voxels of the crop along each axis.
        seed: Seed of the views.
    """
    source = source_of(cache, scan, size)
    keys = make_keys(seed, (torch.tensor([int.from_bytes(scan.encode()[:7])]),))
    plain = recipes.plain(cache.data_spec)
    windowed = plain(source, plain.draw(keys))
    parts = list(leaves(views[0], views[0].draw(keys)))
    before_window = source if any(isinstance(part, Window) for part, _ in parts) else windowed
    if not any(moves_voxels(part) for part, _ in parts):
        before_window = middle(before_window, size)
    original = middle(windowed, size)
    panels = [Panel("original", original[0]), *_single_views(parts, before_window, windowed, original, plain)]
    for number, view in enumerate(views if len(views) > 1 else [views[0]] * 2):
        params = view.draw(make_keys(seed + 1, (number, keys)))
        place = unchanged(view, params, before_window, plain)
        panels.append(Panel(f"all, draw {number + 1}", view(before_window, params)[0], place[0]))
    return panels


def _single_views(
    parts: Sequence[tuple[View, Params]], before_window: Tensor, windowed: Tensor, original: Tensor, plain: View
) -> list[Panel]:
    """A panel for each view alone; those that come before the window get HU, and are windowed afterwards."""
    panels = []
    in_hu = any(isinstance(part, Window) for part, _ in parts)
    for part, params in parts:
        x = before_window if in_hu else windowed
        changed = part(x if moves_voxels(part) else middle(x, original.shape[2:]), as_if_selected(params))
        in_hu = in_hu and not isinstance(part, Window)
        changed = apply_plain(plain, changed) if in_hu else changed
        before = original[0] if changed.shape == original.shape else None
        panels.append(Panel(panel_title(part, params), changed[0], before))
    return panels


def source_of(cache: Cache, scan: str, size: Sequence[int]) -> Tensor:
    """(1, C, *source): the middle of a scan, as much of it as pretraining cuts its crops from.

    Args:
        cache: Where the scan is.
        scan: Its pseudonym.
        size: Voxels of the crop along each axis.
    """
    wide = source_within(cache, [scan], [round(1.5 * n) for n in size], size)
    start = [(n - w) // 2 for n, w in zip(cache.shape(scan), wide)]
    return torch.from_numpy(np.asarray(cache.read(scan, start, wide), np.float32))[None]


def middle(x: Tensor, size: Sequence[int]) -> Tensor:
    """The middle of a batch, (B, C, *size).

    Args:
        x: (B, C, *S).
        size: Voxels of the middle along each axis.
    """
    for axis, (n, s) in enumerate(zip(x.shape[2:], size)):
        x = x.narrow(2 + axis, (n - s) // 2, s)
    return x


def apply_plain(plain: View, x: Tensor) -> Tensor:
    """x as a model sees it at test time; `plain` draws nothing, so any key will do.

    Args:
        plain: What `recipes.plain` made for these scans.
        x: (B, C, *S), in the units of the cache.
    """
    return plain(x, plain.draw(torch.zeros(len(x), dtype=torch.int64)))


def unchanged(view: View, params: Params, x: Tensor, plain: View) -> Tensor:
    """The place in the scan that `view` shows, with only its moves in space and the plain window.

    Args:
        view: A view of the recipe.
        params: What it drew.
        x: (1, C, *source), in the units of the cache.
        plain: What `recipes.plain` made for these scans.
    """
    for part, own in leaves(view, params):
        if isinstance(part, Window):
            x = apply_plain(plain, x)
        elif moves_voxels(part):
            x = part(x, own)
    return x


def as_if_selected(params: Params) -> Params:
    """The same parameters, for samples that all get the view."""
    return {**params, "on": torch.ones_like(params["on"])} if "on" in params else params


def panel_title(view: View, params: Params) -> str:
    """`Gamma, p 0.8` and below it the numbers that were drawn, where they are few.

    Args:
        view: A single view.
        params: What it drew for one sample.
    """
    drawn = {
        name: value.flatten().tolist()
        for name, value in params.items()
        if isinstance(value, Tensor) and name != "on" and value.dtype == torch.float32 and value.numel() <= 3
    }
    if "radians" in drawn:
        drawn["degrees"] = [math.degrees(angle) for angle in drawn.pop("radians")]
    drawn = {name: values for name, values in drawn.items() if any(values)}
    lines = [f"{name} {' '.join(f'{v:.3g}' for v in values)}" for name, values in drawn.items()]
    chance = f", p {view.probability:g}" if view.probability < 1 else ""
    return "\n".join([f"{type(view).__name__}{chance}", *lines[:3]])


def render(
    panels: Sequence[Sequence[Panel]], names: Sequence[str], title: str, data_spec: DataSpec, format: str
) -> bytes:
    """The picture as a file's content: two rows per scan, images and differences.

    Args:
        panels: The panels of each scan.
        names: Pseudonyms of the scans.
        title: Title of the picture.
        data_spec: What the scans have in common.
        format: png, pdf or svg.
    """
    count = max(map(len, panels))
    with rc_context({"font.size": 7, "axes.titlesize": 7, "svg.fonttype": "none"}):
        figure = Figure(figsize=(1.45 * count + 1.0, 3.4 * len(panels) + 0.5), layout="constrained")
        grid = figure.subplots(2 * len(panels), count + 1, squeeze=False, width_ratios=[1.0] * count + [0.06])
        for axes in grid.flat:
            axes.set_axis_off()
        for n, (row, name) in enumerate(zip(panels, names)):
            greys, colours = _draw_scan(grid[2 * n : 2 * n + 2], row, name, data_spec)
        bar = _colour_bar(figure, greys, grid[0, -1])
        if data_spec.family.in_hu:
            bar.set_ticks(values_of_hu(HU_TICKS), labels=[f"{hu} HU" for hu in HU_TICKS])
        if colours is not None:
            bar = _colour_bar(figure, colours, grid[1, -1])
            bar.set_ticks(DIFFERENCE_TICKS, labels=[f"{value:g}" for value in DIFFERENCE_TICKS])
        figure.suptitle(title, fontsize=9)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=format, dpi=110, metadata={"Date": None} if format == "svg" else None)
    return buffer.getvalue()


def _draw_scan(grid: np.ndarray, panels: Sequence[Panel], name: str, data_spec: DataSpec) -> tuple[Any, Any]:
    """Draw one scan's images and differences; returns one of each, for the colour bars."""
    greys: Any = None
    colours: Any = None
    spacing_mm = data_spec.spacing_mm
    for i, panel in enumerate(panels):
        greys = draw_image(grid[0, i], slice_of(panel.image, spacing_mm), spacing_mm, "gray", GREY_SCALE)
        grid[0, i].set_title(panel.title)
        if panel.before is not None:
            change = slice_of(panel.image - panel.before, spacing_mm).mean(0, keepdims=True)
            colours = draw_image(grid[1, i], change, spacing_mm, "RdBu_r", DIFFERENCE_SCALE)
    label = {"transform": grid[0, 0].transAxes, "rotation": 90, "va": "center", "ha": "right"}
    grid[0, 0].text(-0.08, 0.5, f"scan {name[:8]}", **label)
    grid[1, 0].text(0.5, 0.5, DIFFERENCE_LABEL, ha="center", va="center")
    return greys, colours


def _colour_bar(figure: Figure, image: Any, axes: Axes) -> Any:
    axes.set_axis_on()
    return figure.colorbar(image, cax=axes, extend="both")


def draw_image(axes: Axes, image: np.ndarray, spacing_mm: Sequence[float], cmap: str, norm: Normalize) -> Any:
    """Draw an image true to the pixels' proportions; three channels as colours, otherwise the first one.

    Args:
        axes: Where it is drawn.
        image: (C, rows, columns).
        spacing_mm: Spacing of the scan's voxels along each axis.
        cmap: matplotlib's colour map of one channel.
        norm: Values of its ends.
    """
    rows_mm, columns_mm = plane_spacing(spacing_mm)
    coloured = len(image) == 3 and cmap == "gray"
    pixels = np.clip(np.moveaxis(image, 0, -1), 0, 1) if coloured else image[0]
    return axes.imshow(pixels, cmap=cmap, norm=norm, interpolation="nearest", aspect=rows_mm / columns_mm)


def slice_of(x: Tensor, spacing_mm: Sequence[float]) -> np.ndarray:
    """An image as it is, the middle slice of a volume upright with the patient's right on the left: (C, rows, columns).

    Args:
        x: (C, *S).
        spacing_mm: Spacing of the voxels along each axis.
    """
    if x.ndim == 3:
        return x.numpy()
    axis = slice_axis(spacing_mm)
    return x.select(1 + axis, x.shape[1 + axis] // 2).numpy().swapaxes(1, 2)[:, ::-1, ::-1]


def plane_spacing(spacing_mm: Sequence[float]) -> tuple[float, float]:
    """Distance of the rows and of the columns that are shown, in mm."""
    if len(spacing_mm) == 2:
        return spacing_mm[0], spacing_mm[1]
    first, second = (mm for axis, mm in enumerate(spacing_mm) if axis != slice_axis(spacing_mm))
    return second, first


def slice_axis(spacing_mm: Sequence[float]) -> int:
    """The axis across the slice that is shown: that of thick slices, otherwise from head to foot."""
    return int(np.argmax(spacing_mm)) if max(spacing_mm) > THICK * min(spacing_mm) else 2


def values_of_hu(hu: Sequence[float]) -> list[float]:
    """The values, 0..1, that the plain window gives to HU."""
    x = torch.tensor(hu, dtype=torch.float32).reshape(1, 1, -1, 1)
    return apply_plain(recipes.plain(DataSpec(2, modality="CT")), x).flatten().tolist()
