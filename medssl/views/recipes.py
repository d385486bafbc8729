"""Which views a family of methods takes for which modality: short lists, with where their ranges come from.

    view = contrastive(cache.data_spec, size=(32, 32, 32))
    several = multi_crop(DataSpec(3, modality="MR"), size=(96, 96, 96))     # a tuple: global crops, then local ones

What a recipe does goes by the family of the scans (`DataSpec.family`): CT, MR, XRAY, US, RGB (photographs: pathology,
fundus, dermoscopy), OT (grey, nothing known). CT comes in HU, all else about 0..1.

Sources of the lists:
SimCLR, Chen et al. 2020, arXiv 2002.05709: crop, contrast, blur; its hue and grey-scale changes mean nothing in a grey
scan. Azizi et al. 2021, arXiv 2101.05224: chest films get brightness and contrast, no colour. Sowrirajan et al. 2021,
MoCo-CXR, arXiv 2010.05352: turns of 10 degrees, no hard crops, no blur in films, they may remove the finding.
DINO, Caron et al. 2021, arXiv 2104.14294: 2 global crops of 40 to 100% of the area, local ones of 5 to 40% at 96 of 224
pixels. MAE, He et al. 2022, arXiv 2111.06377, and SimMIM, Xie et al. 2022, arXiv 2111.09886: masking wants little else.
nnU-Net, Isensee et al. 2021: zoom, turns, noise, blur and gamma in training a segmenter. Models Genesis, Zhou et al.
2021, arXiv 2004.07882: what is put right again. Gudbjartsson and Patz 1995, MRM 34: noise in magnitude images.
Tellez et al. 2019, arXiv 1902.06543: colours of pathology. Low dose, speckle and shadow: see their own files. Elastic
bending is left out, as nnU-Net does; `Resample(elastic_mm=...)` has it. Stains (`StainJitter`) are for pathology alone,
which no header tells from other photographs.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from medssl.core.errors import MedsslError, nearest
from medssl.preprocessing.data_spec import DataSpec
from medssl.scans.modality import Family
from medssl.views.base import Compose, View
from medssl.views.colour import ColourJitter
from medssl.views.dose import LowDoseCT, LowDoseXray
from medssl.views.intensity import BezierCurve, Blur, BrightnessContrast, Gamma, Noise, Window
from medssl.views.masking import InPainting, LocalShuffle, OutPainting
from medssl.views.mri import BiasField, RicianNoise
from medssl.views.spatial import Resample, turns
from medssl.views.ultrasound import Shadow, Speckle

Size = Sequence[int]


class Recipe(Compose):
    """The views of one recipe, one after the other; it remembers the family of scans it was made for."""

    def __init__(self, family: str, views: Sequence[View]):
        super().__init__(views)
        self.family = family

    @classmethod
    def example(cls, dims: int) -> View:
        return contrastive(DataSpec(dims, modality="MR"), (16,) * dims)


def contrastive(data_spec: DataSpec, size: Size) -> View:
    """Strong crops, turns and changes of intensity: two of these of one scan should be told to be alike."""
    return _strong(data_spec, size, (0.5, 1.1))


def multi_crop(data_spec: DataSpec, size: Size, local_size: Size | None = None, local: int = 6) -> tuple[View, ...]:
    """DINO's crops: two global ones of `size`, then `local` small ones of `local_size` (by default 3/7 of it, in eights).

    Edges are the square or cube root of the paper's shares of the area, here taken of the crop `size`.
    """
    dims = len(size)
    small = tuple(local_size or (min(n, max(8, round(n * 3 / 7 / 8) * 8)) for n in size))
    shrink = sum(n / s for n, s in zip(size, small)) / dims  # the local zoom is counted in edges of the local crop
    wide = (0.4 ** (1 / dims), 1.0)
    near = (0.05 ** (1 / dims) * shrink, 0.4 ** (1 / dims) * shrink)
    return (
        *(_strong(data_spec, size, wide) for _ in range(2)),
        *(_strong(data_spec, small, near) for _ in range(local)),
    )


def masked(data_spec: DataSpec, size: Size) -> View:
    """A crop at about true scale and slight changes of intensity: the mask is the hard part of such a pretext."""
    crop = _crop(data_spec, size, zoom=(0.85, 1.15), flip=_flips(data_spec))
    family = data_spec.family
    return Recipe(family.name, [crop, *window(family, 0.02), *_light(family, 0.05, 0.1, 0.5)])


def relational(data_spec: DataSpec, size: Size) -> View:
    """A crop turned, zoomed and never mirrored: for pretexts that ask where in the scan something lies."""
    crop = _crop(data_spec, size, degrees=15, zoom=(0.75, 1.1), aspect=1.2)
    return Recipe(data_spec.family.name, [crop, *window(data_spec.family, 0.1)])


def restoration(strength: float = 1.0, painting: bool = False) -> View:
    """Changes of intensity alone, on a crop of 0..1, for pretexts that put them right again.

    painting: Models Genesis' own list instead, with its chances: curves, local shuffling, in- and out-painting.
    """
    if painting:
        return Compose([BezierCurve(), LocalShuffle(), OutPainting(probability=0.72), InPainting(probability=0.18)])
    s = strength
    return Compose(
        [Gamma(1 + 1.2 * s, 0.8), BrightnessContrast(0.2 * s, 0.4 * s), Blur(1.0 * s, 0.3), Noise(0.08 * s, 0.5)]
    )


def finetune(data_spec: DataSpec, size: Size) -> View:
    """nnU-Net's kind of augmentation, the mask moved along."""
    family = data_spec.family
    crop = _crop(data_spec, size, degrees=15, zoom=(0.8, 1.25), aspect=1.15, flip=_flips(data_spec))
    changes = [Gamma(1.4, 0.4), *_light(family, 0.1, 0.2, 0.4), Blur(1.0, 0.2), _noise(family, 0.04, 0.2)]
    return Recipe(family.name, [crop, *window(family, 0.03), *changes])


def plain(data_spec: DataSpec, size: Size | None = None) -> View:
    """What a scan looks like to a model at test time: the window, and the middle crop where a size is given."""
    crop = [_crop(data_spec, size, shift=False)] if size else []
    return Recipe(data_spec.family.name, [*crop, *window(data_spec.family)])


RECIPES: dict[str, Callable[..., Any]] = {
    f.__name__: f for f in (contrastive, multi_crop, masked, relational, restoration, finetune, plain)
}


def named(name: str, data_spec: DataSpec, size: Size) -> tuple[View, ...]:
    """The views of a recipe by its name; raises MedsslError, with the nearest names, for one that is not here."""
    if name not in RECIPES:
        raise MedsslError(f"there is no recipe {name!r}{nearest(name, RECIPES)}")
    given = {"data_spec": data_spec, "size": size}
    taken = inspect.signature(RECIPES[name]).parameters
    views = RECIPES[name](**{key: value for key, value in given.items() if key in taken})
    return views if isinstance(views, tuple) else (views,)


def check_modality(view: View, data_spec: DataSpec) -> None:
    """Raise MedsslError where a recipe for CT meets other scans or the reverse (HU against 0..1); warn on other pairs."""
    family, modality = data_spec.family.name, data_spec.modality
    for part in view.modules():
        if not isinstance(part, Recipe) or part.family == family:
            continue
        said = f"a recipe for {part.family} was given scans of {family}"
        if "CT" in (part.family, family):
            raise MedsslError(
                f"{said}: expected one scale, HU in CT and about 0..1 elsewhere; make the recipe from the cache's own data_spec, whose modality is {modality!r}"
            )
        warnings.warn(
            f"{said}: its ranges are not meant for them; for example contrastive(cache.data_spec, size), whose modality "
            f"is {modality!r}",
            stacklevel=2,
        )


def moves(view: View) -> bool:
    """Whether a single view moves voxels, and so a mask with them."""
    return type(view).move_mask is not View.move_mask or type(view).mask is not View.mask


def window(family: Family, jitter: float = 0.0) -> list[View]:
    """What turns the cache's values into 0..1: a soft-tissue window with tails for CT, nothing for the rest.

    jitter: of level and width, as a share of the window's width.
    """
    return [Window(level_hu=40.0, width_hu=400.0, jitter_hu=400.0 * jitter, tails=0.15)] if family.in_hu else []


def _strong(data_spec: DataSpec, size: Size, zoom: tuple[float, float]) -> View:
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
    """Brightness and contrast. Where there is air, at 0, it stays black: the scan is scaled, and in MR shaded by the coil."""
    if family.name in ("XRAY", "RGB", "OT"):
        return [BrightnessContrast(brightness, contrast, probability)]
    scaled = BrightnessContrast(0.0, contrast, probability, about_air=True)
    return [BiasField(strength=contrast / 2, probability=probability / 2), scaled] if family.name == "MR" else [scaled]


def _noise(family: Family, most: float, probability: float) -> View:
    """Rician in MR, whose images are magnitudes, speckle in ultrasound, Gaussian elsewhere."""
    if family.name == "US":
        return Speckle(4 * most, probability=probability)  # it multiplies: dark tissue gets little of it
    return RicianNoise(most, probability) if family.name == "MR" else Noise(most, probability)


def _crop(data_spec: DataSpec, size: Size, degrees: float = 0.0, **moves: Any) -> Resample:
    """The crop comes first: what follows has fewer voxels to change. CT is still in HU there, and air is -1000."""
    spacing_mm = data_spec.spacing_mm
    turned = turns(degrees, spacing_mm)
    return Resample(size, rotate_degrees=turned, spacing_mm=spacing_mm, outside=data_spec.family.air, **moves)


def _flips(data_spec: DataSpec) -> tuple[float, ...]:
    """Mirrored only where no side is lost: photographs along both axes, ultrasound left-right (the probe may be held
    either way; depth never turns round). Heart and liver have a side, in volumes, slices and films alike."""
    if data_spec.dims == 3:
        return (0.0, 0.0, 0.0)
    return {"RGB": (0.5, 0.5), "US": (0.0, 0.5)}.get(data_spec.family.name, (0.0, 0.0))
