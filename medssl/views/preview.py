"""A picture of what a recipe does to scans: the original, each view alone, all together, and the differences.

medssl views --recipe contrastive --data CACHE --out views.png [--modality mr] [--crop 96 96 96] [--scans 3] [--seed 1]

Grey is the scale of the views, 0 black and 1 white, in every panel, so that what saturates on the sheet saturates for the
encoder; in CT the bar says which HU that is. Volumes show their middle slice at true proportions, the patient's right on
the left. A view that a sample would get with some probability is shown as if it had come up; the columns "all" are
drawn as in training. Below each picture is its difference from the original (of "all": from the same place of the
scan, unchanged); its colours are linear up to 0.05 and logarithmic beyond, so that faint noise shows beside a bias field.
Scans carry their pseudonyms.
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
from medssl.views import recipes
from medssl.views.base import Params, View, leaves, moves_voxels
from medssl.views.intensity import Window
from medssl.views.random import make_keys

MOST = {2: 224, 3: 96}  # voxels of the default crop's edge
SHOWN_HU = (-1000, -160, 40, 240, 1500)
GREYS, CHANGES = Normalize(0, 1), SymLogNorm(0.05, vmin=-0.4, vmax=0.4)
SHOWN_CHANGES = (-0.4, -0.2, -0.05, 0, 0.05, 0.2, 0.4)
BELOW = "difference\nfrom the original;\nof all: from the\nsame place,\nunchanged"
FORMATS = (".png", ".pdf", ".svg")


@dataclass(frozen=True)
class Panel:
    """One picture, (C, *S) on the scale of the views, what it differs from, and what stands above it."""

    title: str
    image: Tensor
    before: Tensor | None = None


def sheet(
    recipe: str,
    data: Path,
    out: Path = Path("views.png"),
    modality: str | None = None,
    crop: tuple[int, ...] | None = None,
    scans: int = 2,
    seed: int = 0,
) -> Path:
    """Write a labelled sheet of a recipe's views on scans of a cache; returns the file.

    recipe: contrastive, multi_crop, masked, relational, restoration, finetune or plain. data: a cache made by
    `medssl prepare`. out: a .png, .pdf or .svg file. modality: what the recipe is made for, ct, mr, xray, us, rgb or a
    DICOM code; the data's own by default. crop: voxels an axis. scans: how many, drawn by the seed. seed: of the scans
    and of the views. Raises MedsslError for an unknown recipe, and for a modality that cannot be the data's.
    """
    cache = Cache(Path(data))
    if Path(out).suffix.lower() not in FORMATS:
        raise MedsslError(f"--out ends in {Path(out).suffix!r}: expected one of {', '.join(FORMATS)}")
    if scans < 1:
        raise MedsslError(f"scans is {scans}: expected 1 or more")
    median = np.median([cache.shape(scan) for scan in cache.manifest["scan"]], axis=0)
    size = tuple(crop or (min(int(n), MOST[cache.dims]) for n in median))
    recipe_spec = replace(cache.data_spec, modality=modality) if modality else cache.data_spec
    views = recipes.recipe_views(recipe, recipe_spec, size)
    for view in views:
        recipes.check_modality(view, cache.data_spec)
    order = np.random.default_rng(seed).permutation(len(cache.manifest))[:scans]
    chosen = [str(cache.manifest["scan"].iloc[i]) for i in order]
    rows = [panels(cache, scan, views, size, seed) for scan in chosen]
    title = f"{recipe}, {recipe_spec.family.name}, crop {' x '.join(map(str, size))}, seed {seed}"
    write_atomically(Path(out), drawn(rows, chosen, title, cache, Path(out).suffix[1:].lower()))
    return Path(out)


def panels(cache: Cache, scan: str, views: Sequence[View], size: Sequence[int], seed: int) -> list[Panel]:
    """The pictures of one scan, left to right."""
    source = source_of(cache, scan, size)
    keys = make_keys(seed, (torch.tensor([int.from_bytes(scan.encode()[:7])]),))
    plain = recipes.plain(cache.data_spec)
    shown = plain(source, plain.draw(keys))
    original = middle(shown, size)
    found = [Panel("original", original[0])]
    parts = list(leaves(views[0], views[0].draw(keys)))
    windowed = any(isinstance(part, Window) for part, _ in parts)
    raw = source if windowed else shown
    raw = raw if any(moves_voxels(part) for part, _ in parts) else middle(raw, size)
    in_hu = windowed  # what comes before the window gets HU
    for part, params in parts:
        given = raw if in_hu else shown
        moved = part(given if moves_voxels(part) else middle(given, size), shown_on(params))
        in_hu = in_hu and not isinstance(part, Window)
        moved = plain(moved, plain.draw(keys)) if in_hu else moved
        found.append(Panel(described(part, params), moved[0], original[0] if moved.shape == original.shape else None))
    for number, view in enumerate(views if len(views) > 1 else [views[0]] * 2):
        params = view.draw(make_keys(seed + 1, (number, keys)))
        found.append(Panel(f"all, draw {number + 1}", view(raw, params)[0], unchanged(view, params, raw, plain)[0]))
    return found


def source_of(cache: Cache, scan: str, size: Sequence[int]) -> Tensor:
    """(1, C, *source): the middle of a scan, as much of it as pretraining cuts its crops from."""
    wide = source_within(cache, [scan], [round(1.5 * n) for n in size], size)
    start = [(n - w) // 2 for n, w in zip(cache.shape(scan), wide)]
    return torch.from_numpy(np.asarray(cache.read(scan, start, wide), np.float32))[None]


def middle(x: Tensor, size: Sequence[int]) -> Tensor:
    """The middle of (B, C, *S)."""
    for axis, (n, s) in enumerate(zip(x.shape[2:], size)):
        x = x.narrow(2 + axis, (n - s) // 2, s)
    return x


def unchanged(view: View, params: Params, x: Tensor, plain: View) -> Tensor:
    """The place in the scan that `view` shows, with its moves in space alone and the plain window."""
    for part, own in leaves(view, params):
        if isinstance(part, Window):
            x = plain(x, plain.draw(torch.zeros(1, dtype=torch.int64)))
        elif moves_voxels(part):
            x = part(x, own)
    return x


def shown_on(params: Params) -> Params:
    return {**params, "on": torch.ones_like(params["on"])} if "on" in params else params


def described(view: View, params: Params) -> str:
    """`Gamma, p 0.8` and below it the numbers that were drawn, where they are few."""
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


def drawn(rows: Sequence[Sequence[Panel]], names: Sequence[str], title: str, cache: Cache, format: str) -> bytes:
    """The sheet as a file's content: two rows a scan, pictures and differences."""
    count = max(map(len, rows))
    with rc_context({"font.size": 7, "axes.titlesize": 7, "svg.fonttype": "none"}):
        figure = Figure(figsize=(1.45 * count + 1.0, 3.4 * len(rows) + 0.5), layout="constrained")
        grid = figure.subplots(2 * len(rows), count + 1, squeeze=False, width_ratios=[1.0] * count + [0.06])
        for axes in grid.flat:
            axes.set_axis_off()
        greys: Any = None
        colours: Any = None
        for n, row in enumerate(rows):
            for i, panel in enumerate(row):
                greys = picture(grid[2 * n, i], slice_of(panel.image, cache.spacing_mm), cache, "gray", GREYS)
                grid[2 * n, i].set_title(panel.title)
                if panel.before is not None:
                    change = slice_of(panel.image - panel.before, cache.spacing_mm).mean(0, keepdims=True)
                    colours = picture(grid[2 * n + 1, i], change, cache, "RdBu_r", CHANGES)
            grid[2 * n, 0].text(
                -0.08, 0.5, f"scan {names[n][:8]}", transform=grid[2 * n, 0].transAxes, rotation=90, va="center", ha="right"
            )  # fmt: skip
            grid[2 * n + 1, 0].text(0.5, 0.5, BELOW, ha="center", va="center")
        bar = _bar(figure, greys, grid[0, -1])
        if cache.data_spec.family.in_hu:
            bar.set_ticks(values_of_hu(SHOWN_HU), labels=[f"{hu} HU" for hu in SHOWN_HU])
        if colours is not None:
            _bar(figure, colours, grid[1, -1]).set_ticks(SHOWN_CHANGES, labels=[f"{v:g}" for v in SHOWN_CHANGES])
        figure.suptitle(title, fontsize=9)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=format, dpi=110, metadata={"Date": None} if format == "svg" else None)
    return buffer.getvalue()


def _bar(figure: Figure, image: Any, axes: Axes) -> Any:
    axes.set_axis_on()
    return figure.colorbar(image, cax=axes, extend="both")


def picture(axes: Axes, image: np.ndarray, cache: Cache, cmap: str, norm: Normalize) -> Any:
    """(C, rows, columns), shown true to the pixels' proportions; three channels as colours, else the first one."""
    spacing = plane_spacing(cache.spacing_mm)
    coloured = len(image) == 3 and cmap == "gray"
    shown = np.clip(np.moveaxis(image, 0, -1), 0, 1) if coloured else image[0]
    return axes.imshow(
        shown, cmap=cmap, norm=norm, interpolation="nearest", aspect=spacing[0] / spacing[1]
    )  # fmt: skip


def slice_of(x: Tensor, spacing_mm: Sequence[float]) -> np.ndarray:
    """(C, *S) -> (C, rows, columns): an image as it is, the middle slice of a volume upright, right on the left."""
    if x.ndim == 3:
        return x.numpy()
    axis = across(spacing_mm)
    return x.select(1 + axis, x.shape[1 + axis] // 2).numpy().swapaxes(1, 2)[:, ::-1, ::-1]


def plane_spacing(spacing_mm: Sequence[float]) -> tuple[float, float]:
    """mm of the rows and columns that are shown."""
    if len(spacing_mm) == 2:
        return spacing_mm[0], spacing_mm[1]
    first, second = (mm for axis, mm in enumerate(spacing_mm) if axis != across(spacing_mm))
    return second, first


def across(spacing_mm: Sequence[float]) -> int:
    """The axis a volume is cut across: that of thick slices, else from head to foot."""
    return int(np.argmax(spacing_mm)) if max(spacing_mm) > 1.5 * min(spacing_mm) else 2


def values_of_hu(hu: Sequence[float]) -> list[float]:
    plain = recipes.plain(DataSpec(2, modality="CT"))
    x = torch.tensor(hu, dtype=torch.float32).reshape(1, 1, -1, 1)
    return plain(x, plain.draw(torch.zeros(1, dtype=torch.int64))).flatten().tolist()
