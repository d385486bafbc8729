"""The views that a family of methods uses on a modality: short lists, with the sources of their ranges.

    view = contrastive(cache.data_spec, size=(32, 32, 32))
    several = multi_crop(DataSpec(3, modality="MR"), size=(96, 96, 96))     # a tuple: global crops, then local ones

A recipe depends on the family of the scans (`DataSpec.family`): CT, MR, XRAY, US, RGB (photographs: pathology, fundus,
dermoscopy) or OT (grey, nothing known). CT comes in HU, everything else at about 0..1.

Sources of the lists:
SimCLR, Chen et al. 2020, arXiv 2002.05709: crop, contrast, blur; its hue and grey-scale changes mean nothing in a grey
scan. Azizi et al. 2021, arXiv 2101.05224: chest radiographs get brightness and contrast, no colour. Sowrirajan et al.
2021, MoCo-CXR, arXiv 2010.05352: turns of 10 degrees; no hard crops and no blur, which may remove the finding.
DINO, Caron et al. 2021, arXiv 2104.14294: 2 global crops of 40 to 100% of the area, local ones of 5 to 40% at 96 of 224
pixels. MAE, He et al. 2022, arXiv 2111.06377, and SimMIM, Xie et al. 2022, arXiv 2111.09886: masking needs little else.
nnU-Net, Isensee et al. 2021: zoom, turns, noise, blur and gamma in training a segmenter. Gudbjartsson and Patz 1995, MRM
34: noise in magnitude images. Tellez et al. 2019, arXiv 1902.06543: colours of pathology. Low dose, speckle and shadow:
see their own files. Elastic deformation is left out, as in nnU-Net; `Resample(elastic_mm=...)` has it. Stains
(`StainJitter`) are for pathology alone, which no header distinguishes from other photographs.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from medssl.core.errors import MedsslError, nearest
from medssl.preprocessing.data_spec import DataSpec
from medssl.scans.modality import Family
from medssl.views.base import Compose, Range, View
from medssl.views.colour import ColourJitter
from medssl.views.dose import LowDoseCT, LowDoseXray
from medssl.views.intensity import Blur, BrightnessContrast, Gamma, Noise, Window
from medssl.views.mri import BiasField, RicianNoise
from medssl.views.spatial import Resample, limit_turns
from medssl.views.thick_slices import ThickSlices
from medssl.views.ultrasound import Shadow, Speckle

Size = Sequence[int]


class Recipe(Compose):
    """The views of one recipe, one after the other, and the family of scans that they are for.

    Args:
        family: The name of the family, as in `medssl.scans.modality.FAMILIES`.
        views: The views, in order.

    Example:
        >>> view = contrastive(DataSpec(3, modality="MR"), size=(16, 16, 16))
        >>> view.family
        'MR'
    """

    def __init__(self, family: str, views: Sequence[View]):
        super().__init__(views)
        self.family = family

    @classmethod
    def examples(cls, dims: int) -> tuple[View, ...]:
        return (contrastive(DataSpec(dims, modality="MR"), (16,) * dims),)


def contrastive(data_spec: DataSpec, size: Size) -> View:
    """Strong crops, turns and changes of intensity, for pretexts that ask two views of a scan to have similar features.

    Args:
        data_spec: The scans, see `Cache.data_spec`.
        size: Voxels of the crop, one number per axis.

    Example:
        >>> view = contrastive(DataSpec(3, modality="CT", spacing_mm=(1.0, 1.0, 5.0)), size=(32, 32, 8))
    """
    return _strong(data_spec, size, (0.5, 1.1))


def multi_crop(data_spec: DataSpec, size: Size, local_size: Size | None = None, local: int = 6) -> tuple[View, ...]:
    """DINO's crops: two global ones of `size`, then small local ones.

    The ranges of the edges are the square or cube roots of the paper's shares of the area, taken of the crop `size`.

    Args:
        data_spec: The scans.
        size: Voxels of a global crop, one number per axis.
        local_size: Voxels of a local crop; by default 3/7 of `size`, rounded to multiples of 8.
        local: The number of local crops.

    Example:
        >>> len(multi_crop(DataSpec(2, modality="DX"), size=(224, 224)))
        8
    """
    dims = len(size)
    small = tuple(local_size or (min(n, max(8, round(n * 3 / 7 / 8) * 8)) for n in size))
    shrink = sum(n / s for n, s in zip(size, small)) / dims  # the local zoom is counted in edges of the local crop
    global_zoom = (0.4 ** (1 / dims), 1.0)
    local_zoom = (0.05 ** (1 / dims) * shrink, 0.4 ** (1 / dims) * shrink)
    return (
        *(_strong(data_spec, size, global_zoom) for _ in range(2)),
        *(_strong(data_spec, small, local_zoom) for _ in range(local)),
    )


def masked(data_spec: DataSpec, size: Size, reflect: bool = False) -> View:
    """A crop at about true scale and slight changes of intensity, for pretexts whose difficulty is the mask.

    Args:
        data_spec: The scans.
        size: Voxels of the crop, one number per axis.
        reflect: Mirror the scan beyond its edge, where air would show which side is up.

    Example:
        >>> view = masked(DataSpec(3, modality="MR"), size=(64, 64, 64))
    """
    crop = _crop(data_spec, size, zoom=(0.85, 1.15), flip=_flips(data_spec), **_beyond(reflect))
    family = data_spec.family
    return Recipe(family.name, [crop, *window(family, 0.02), *_light(family, 0.05, 0.1, 0.5)])


def relational(data_spec: DataSpec, size: Size, reflect: bool = False) -> View:
    """A crop turned and zoomed but never mirrored, for pretexts that ask where in the scan something lies.

    Args:
        data_spec: The scans.
        size: Voxels of the crop, one number per axis.
        reflect: Mirror the scan beyond its edge, where air would give away where something lies.

    Example:
        >>> view = relational(DataSpec(3, modality="CT"), size=(64, 64, 64))
    """
    crop = _crop(data_spec, size, degrees=15, zoom=(0.75, 1.1), aspect=1.2, **_beyond(reflect))
    return Recipe(data_spec.family.name, [crop, *window(data_spec.family, 0.1)])


def restoration(strength: float = 1.0) -> View:
    """Changes of intensity on a crop of 0..1, for pretexts that restore the original.

    Args:
        strength: Scales all ranges.

    Example:
        >>> view = restoration(strength=0.5)
    """
    s = strength
    return Compose(
        [Gamma(1 + 1.2 * s, 0.8), BrightnessContrast(0.2 * s, 0.4 * s), Blur(1.0 * s, 0.3), Noise(0.08 * s, 0.5)]
    )


def finetune(data_spec: DataSpec, size: Size, strong: bool = False) -> View:
    """Augmentation of nnU-Net's kind, for supervised training; a mask moves along.

    Args:
        data_spec: The scans.
        size: Voxels of the crop, one number an axis.
        strong: Add nnU-Net's elastic deformation and wider turns and zooms, and thick slices in volumes (its simulated
            low resolution).

    Example:
        >>> view = finetune(DataSpec(2, modality="US"), size=(128, 128))
    """
    family, light = data_spec.family, _light(data_spec.family, 0.1, 0.2, 0.4)
    if not strong:
        crop = _crop(data_spec, size, degrees=15, zoom=(0.8, 1.25), aspect=1.15, flip=_flips(data_spec))
        changes = [Gamma(1.4, 0.4), *light, Blur(1.0, 0.2), _noise(family, 0.04, 0.2)]
        return Recipe(family.name, [crop, *window(family, 0.03), *changes])
    elastic_mm = 0.06 * min(n * step for n, step in zip(size, data_spec.spacing_mm))
    moves = {"zoom": (0.7, 1.4), "aspect": 1.25, "flip": _flips(data_spec), "elastic_mm": elastic_mm}
    crop = _crop(data_spec, size, degrees=25, **moves)
    low_resolution: list[View] = [_low_resolution(data_spec)] if data_spec.dims == 3 else [Blur(2.0, 0.25)]
    changes = [Gamma(1.5, 0.5), *light, Blur(1.0, 0.2), *low_resolution, _noise(family, 0.06, 0.3)]
    return Recipe(family.name, [crop, *window(family, 0.05), *changes])


def weak(data_spec: DataSpec, size: Size) -> View:
    """The moves of `finetune` alone: what a teacher sees of an unlabelled scan.

    Args:
        data_spec: The scans.
        size: Voxels of the crop, one number an axis.

    Example:
        >>> view = weak(DataSpec(3, modality="MR"), size=(32, 32, 32))
    """
    crop = _crop(data_spec, size, degrees=15, zoom=(0.8, 1.25), aspect=1.15, flip=_flips(data_spec))
    return Recipe(data_spec.family.name, [crop, *window(data_spec.family)])


def strengthen(data_spec: DataSpec) -> View:
    """Strong changes of intensity that move nothing, on top of `weak`: what a student sees where its teacher saw `weak`.

    Args:
        data_spec: The scans; their window, if they have one, is applied already.

    Example:
        >>> view = strengthen(DataSpec(3, modality="MR"))
    """
    family = data_spec.family
    changes = [Gamma(1.8, 0.8), *_light(family, 0.2, 0.3, 0.8), Blur(1.5, 0.4), _noise(family, 0.06, 0.4)]
    return Compose(changes)


def _low_resolution(data_spec: DataSpec) -> View:
    step_mm = min(data_spec.spacing_mm)
    return ThickSlices((2 * step_mm, 4 * step_mm), data_spec.spacing_mm, probability=0.25)


def plain(data_spec: DataSpec, size: Size | None = None) -> View:
    """What a model sees at test time: the window, and the middle crop where a size is given.

    Args:
        data_spec: The scans.
        size: Voxels of the crop, one number per axis; None for the whole scan.

    Example:
        >>> view = plain(DataSpec(3, modality="CT"), size=(64, 64, 64))
    """
    crop = [_crop(data_spec, size, shift=False)] if size else []
    return Recipe(data_spec.family.name, [*crop, *window(data_spec.family)])


RECIPES: dict[str, Callable[..., Any]] = {
    f.__name__: f for f in (contrastive, multi_crop, masked, relational, restoration, finetune, weak, strengthen, plain)
}


def recipe_views(name: str, data_spec: DataSpec, size: Size) -> tuple[View, ...]:
    """The views of a recipe by its name.

    Args:
        name: A key of `RECIPES`.
        data_spec: The scans.
        size: Voxels of the crop, one number per axis.

    Raises:
        MedsslError: There is no such recipe; the message suggests the nearest names.
    """
    if name not in RECIPES:
        raise MedsslError(f"there is no recipe {name!r}{nearest(name, RECIPES)}")
    options = {"data_spec": data_spec, "size": size}
    accepted = inspect.signature(RECIPES[name]).parameters
    views = RECIPES[name](**{key: value for key, value in options.items() if key in accepted})
    return views if isinstance(views, tuple) else (views,)


def check_modality(view: View, data_spec: DataSpec) -> None:
    """Check that the recipes in a view are for scans of this family; warn where only the ranges differ.

    Args:
        view: A view, with recipes at any depth.
        data_spec: The scans that it would meet.

    Raises:
        MedsslError: A recipe for CT, in HU, would meet other scans, at about 0..1, or the reverse.
    """
    family, modality = data_spec.family.name, data_spec.modality
    for part in view.modules():
        if not isinstance(part, Recipe) or part.family == family:
            continue
        mismatch = f"a recipe for {part.family} was given scans of {family}"
        if "CT" in (part.family, family):
            raise MedsslError(
                f"{mismatch}: expected one scale, HU in CT and about 0..1 elsewhere; make the recipe from the cache's own "
                f"data_spec, whose modality is {modality!r}"
            )
        warnings.warn(
            f"{mismatch}: its ranges are not meant for them; for example contrastive(cache.data_spec, size), whose "
            f"modality is {modality!r}",
            stacklevel=2,
        )


def window(family: Family, jitter: float = 0.0) -> list[View]:
    """What turns the cache's values into 0..1: a soft-tissue window with tails for CT, nothing for other families.

    Args:
        family: The family of the scans.
        jitter: How far level and width move, as a share of the window's width.
    """
    return [Window(level_hu=40.0, width_hu=400.0, jitter_hu=400.0 * jitter, tails=0.15)] if family.in_hu else []


def _strong(data_spec: DataSpec, size: Size, zoom: Range) -> View:
    family = data_spec.family
    crop = _crop(data_spec, size, degrees=15, zoom=zoom, aspect=1.3, flip=_flips(data_spec))
    light = [*window(family, 0.1), Gamma(1.8, 0.8), *_light(family, 0.2, 0.3, 0.8), Blur(1.5, 0.4)]
    by_scanner: dict[str, list[View]] = {
        "CT": [crop, LowDoseCT((3e5, 3e6), probability=0.4), *light],  # in HU: 50 to 15 of noise in 300 mm of water
        "XRAY": [crop, LowDoseXray(probability=0.3), *light],  # photons come before what a display does
        "US": [crop, *light, Speckle(0.3, probability=0.4), *([Shadow(probability=0.2)] if len(size) == 2 else [])],
        "RGB": [crop, ColourJitter(), *light, Noise(0.06, 0.4)],
    }
    return Recipe(family.name, by_scanner.get(family.name, [crop, *light, _noise(family, 0.06, 0.4)]))


def _light(family: Family, brightness: float, contrast: float, probability: float) -> list[View]:
    """Brightness and contrast. Air, at 0, stays black where there is any: the scan is scaled, and MR gets a bias field."""
    if family.name in ("XRAY", "RGB", "OT"):
        return [BrightnessContrast(brightness, contrast, probability)]
    scaled = BrightnessContrast(0.0, contrast, probability, about_air=True)
    return [BiasField(strength=contrast / 2, probability=probability / 2), scaled] if family.name == "MR" else [scaled]


def _noise(family: Family, max_sigma: float, probability: float) -> View:
    """Rician in MR, whose images are magnitudes; speckle in ultrasound; Gaussian elsewhere."""
    if family.name == "US":
        return Speckle(4 * max_sigma, probability=probability)  # it multiplies, so dark tissue gets little of it
    return RicianNoise(max_sigma, probability) if family.name == "MR" else Noise(max_sigma, probability)


def _crop(data_spec: DataSpec, size: Size, degrees: float = 0.0, **moves: Any) -> Resample:
    """The crop comes first, so that later views have fewer voxels to change. CT is still in HU there; air is -1000."""
    spacing_mm = data_spec.spacing_mm
    turns = limit_turns(degrees, spacing_mm)
    settings = {"outside": data_spec.family.air} | moves
    return Resample(size, rotate_degrees=turns, spacing_mm=spacing_mm, **settings)


def _beyond(reflect: bool) -> dict[str, Any]:
    return {"outside": "reflect"} if reflect else {}


def mirrored_axes(data_spec: DataSpec) -> tuple[int, ...]:
    """The array axes along which scans of this kind may be mirrored, because no side is lost.

    >>> mirrored_axes(DataSpec(2, modality="US")), mirrored_axes(DataSpec(3, modality="CT"))
    ((1,), ())
    """
    return tuple(axis for axis, chance in enumerate(_flips(data_spec)) if chance)


def _flips(data_spec: DataSpec) -> tuple[float, ...]:
    """The chance to mirror each axis, 0 where a side would be lost.

    Photographs are mirrored along both axes, ultrasound left-right (the probe may be held either way). Heart and liver
    have a side, in volumes, slices and radiographs alike.
    """
    if data_spec.dims == 3:
        return (0.0, 0.0, 0.0)
    return {"RGB": (0.5, 0.5), "US": (0.0, 0.5)}.get(data_spec.family.name, (0.0, 0.0))
