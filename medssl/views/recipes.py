"""Which views a family of methods takes for which modality: short lists, with where their ranges come from.

    view = contrastive("CT", size=(32, 32, 32))
    two = multi_crop("MR", size=(96, 96, 96))               # a tuple of views: global crops, then local ones

A modality is DICOM's code (CT, MR, DX, US, ...) or a kind: CT, MR, XRAY, US, RGB (photographs: pathology, fundus,
dermoscopy), OT (grey, nothing known). CT comes in HU, all else about 0..1.

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
from medssl.scans.privacy import MODALITIES
from medssl.views.base import Compose, View
from medssl.views.colour import ColourJitter
from medssl.views.dose import LowDoseCT, LowDoseXray
from medssl.views.intensity import BezierCurve, Blur, BrightnessContrast, Gamma, Noise, Window
from medssl.views.masking import InPainting, LocalShuffle, OutPainting
from medssl.views.mri import BiasField, RicianNoise
from medssl.views.spatial import Resample, turns
from medssl.views.ultrasound import Shadow, Speckle

Size = Sequence[int]
AIR_HU = -1000.0
KINDS = {
    "CT": ("CT",),
    "MR": ("MR",),
    "XRAY": ("DX", "CR", "DR", "RG", "MG", "PX", "IO", "RF", "XA", "XR"),
    "US": ("US", "IVUS"),
    "RGB": ("SM", "GM", "OP", "ES", "XC"),
    "OT": tuple(sorted(MODALITIES)),
}


class Recipe(Compose):
    """The views of one recipe, one after the other; it remembers the kind of scan it was made for."""

    def __init__(self, kind: str, views: Sequence[View]):
        super().__init__(views)
        self.kind = kind

    @classmethod
    def example(cls, dims: int) -> View:
        return contrastive("MR", (16,) * dims)


def contrastive(modality: str, size: Size, spacing_mm: Sequence[float] | None = None) -> View:
    """Strong crops, turns and changes of intensity: two of these of one scan should be told to be alike."""
    return _strong(kind_of(modality), size, (0.5, 1.1), spacing_mm)


def multi_crop(
    modality: str, size: Size, spacing_mm: Sequence[float] | None = None, local_size: Size | None = None, local: int = 6
) -> tuple[View, ...]:
    """DINO's crops: two global ones of `size`, then `local` small ones of `local_size` (by default 3/7 of it, in eights).

    Edges are the square or cube root of the paper's shares of the area, here taken of the crop `size`.
    """
    kind, dims = kind_of(modality), len(size)
    small = tuple(local_size or (min(n, max(8, round(n * 3 / 7 / 8) * 8)) for n in size))
    shrink = sum(n / s for n, s in zip(size, small)) / dims  # the local zoom is counted in edges of the local crop
    wide = (0.4 ** (1 / dims), 1.0)
    near = (0.05 ** (1 / dims) * shrink, 0.4 ** (1 / dims) * shrink)
    return (
        *(_strong(kind, size, wide, spacing_mm) for _ in range(2)),
        *(_strong(kind, small, near, spacing_mm) for _ in range(local)),
    )


def masked(modality: str, size: Size, spacing_mm: Sequence[float] | None = None) -> View:
    """A crop at about true scale and slight changes of intensity: the mask is the hard part of such a pretext."""
    kind = kind_of(modality)
    crop = _crop(kind, size, spacing_mm, zoom=(0.85, 1.15), flip=_flips(kind, len(size)))
    return Recipe(kind, [crop, *window(kind, 0.02), *_light(kind, 0.05, 0.1, 0.5)])


def relational(modality: str, size: Size, spacing_mm: Sequence[float] | None = None) -> View:
    """A crop turned, zoomed and never mirrored: for pretexts that ask where in the scan something lies."""
    kind = kind_of(modality)
    crop = _crop(kind, size, spacing_mm, degrees=15, zoom=(0.75, 1.1), aspect=1.2)
    return Recipe(kind, [crop, *window(kind, 0.1)])


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


def finetune(modality: str, size: Size, spacing_mm: Sequence[float] | None = None) -> View:
    """nnU-Net's kind of augmentation, the mask moved along."""
    kind = kind_of(modality)
    crop = _crop(kind, size, spacing_mm, degrees=15, zoom=(0.8, 1.25), aspect=1.15, flip=_flips(kind, len(size)))
    changes = [Gamma(1.4, 0.4), *_light(kind, 0.1, 0.2, 0.4), Blur(1.0, 0.2), _noise(kind, 0.04, 0.2)]
    return Recipe(kind, [crop, *window(kind, 0.03), *changes])


def plain(modality: str, size: Size | None = None) -> View:
    """What a scan looks like to a model at test time: the window, and the middle crop where a size is given."""
    kind = kind_of(modality)
    return Recipe(kind, [*([_crop(kind, size, shift=False)] if size else []), *window(kind)])


RECIPES: dict[str, Callable[..., Any]] = {
    f.__name__: f for f in (contrastive, multi_crop, masked, relational, restoration, finetune, plain)
}


def named(name: str, modality: str, size: Size, spacing_mm: Sequence[float] | None = None) -> tuple[View, ...]:
    """The views of a recipe by its name; raises MedsslError, with the nearest names, for one that is not here."""
    if name not in RECIPES:
        raise MedsslError(f"there is no recipe {name!r}{nearest(name, RECIPES)}")
    given = {"modality": modality, "size": size, "spacing_mm": spacing_mm}
    taken = inspect.signature(RECIPES[name]).parameters
    views = RECIPES[name](**{key: value for key, value in given.items() if key in taken})
    return views if isinstance(views, tuple) else (views,)


def kind_of(modality: str) -> str:
    """CT, MR, XRAY, US, RGB or OT, from DICOM's code or the kind itself, in any case; raises MedsslError for neither."""
    code = modality.upper()
    found = next((kind for kind, codes in KINDS.items() if code == kind or code in codes), None)
    if found is None:
        known = {*KINDS, *(code for codes in KINDS.values() for code in codes)}
        raise MedsslError(
            f"modality {modality!r} is no DICOM modality code and no kind of scan{nearest(modality, known)}"
        )
    return found


def modality_of(modality: str, dims: int, channels: int) -> str:
    """What to ask a recipe for: a cache's own modality; RGB where a picture of unknown modality has three channels, and not
    where a photograph has one (autofluorescence, red-free fundus)."""
    kind = kind_of(modality)
    if kind == "RGB" and channels != 3:
        return "OT"
    return "RGB" if dims == 2 and channels == 3 and kind == "OT" else modality


def check_modality(view: View, modality: str) -> None:
    """Raise MedsslError where a recipe for CT meets other scans or the reverse (HU against 0..1); warn on other pairs."""
    kind = kind_of(modality)
    for part in view.modules():
        if not isinstance(part, Recipe) or part.kind == kind:
            continue
        said = f"a recipe for {part.kind} was given scans of {kind}"
        if "CT" in (part.kind, kind):
            raise MedsslError(
                f"{said}: expected one scale, HU in CT and about 0..1 elsewhere; make the recipe with modality {modality!r}"
            )
        warnings.warn(
            f"{said}: its ranges are not meant for them; for example contrastive({modality!r}, size)", stacklevel=2
        )


def moves(view: View) -> bool:
    """Whether a single view moves voxels, and so a mask with them."""
    return type(view).move_mask is not View.move_mask or type(view).mask is not View.mask


def window(kind: str, jitter: float = 0.0) -> list[View]:
    """What turns the cache's values into 0..1: a soft-tissue window with tails for CT, nothing for the rest.

    jitter: of level and width, as a share of the window's width.
    """
    return [Window(level_hu=40.0, width_hu=400.0, jitter_hu=400.0 * jitter, tails=0.15)] if kind == "CT" else []


def _strong(kind: str, size: Size, zoom: tuple[float, float], spacing_mm: Sequence[float] | None) -> View:
    crop = _crop(kind, size, spacing_mm, degrees=15, zoom=zoom, aspect=1.3, flip=_flips(kind, len(size)))
    light = [*window(kind, 0.1), Gamma(1.8, 0.8), *_light(kind, 0.2, 0.3, 0.8), Blur(1.5, 0.4)]
    by_scanner: dict[str, list[View]] = {
        "CT": [crop, LowDoseCT((3e5, 3e6), probability=0.4), *light],  # in HU: 50 to 15 of noise in 300 mm of water
        "XRAY": [crop, LowDoseXray(probability=0.3), *light],  # photons come before what a display does
        "US": [crop, *light, Speckle(0.3, probability=0.4), *([Shadow(probability=0.2)] if len(size) == 2 else [])],
        "RGB": [crop, ColourJitter(), *light, Noise(0.06, 0.4)],
    }
    return Recipe(kind, by_scanner.get(kind, [crop, *light, _noise(kind, 0.06, 0.4)]))


def _light(kind: str, brightness: float, contrast: float, probability: float) -> list[View]:
    """Brightness and contrast. Where there is air, at 0, it stays black: the scan is scaled, and in MR shaded by the coil."""
    if kind in ("XRAY", "RGB", "OT"):
        return [BrightnessContrast(brightness, contrast, probability)]
    scaled = BrightnessContrast(0.0, contrast, probability, about_air=True)
    return [BiasField(strength=contrast / 2, probability=probability / 2), scaled] if kind == "MR" else [scaled]


def _noise(kind: str, most: float, probability: float) -> View:
    """Rician in MR, whose images are magnitudes, speckle in ultrasound, Gaussian elsewhere."""
    if kind == "US":
        return Speckle(4 * most, probability=probability)  # it multiplies: dark tissue gets little of it
    return RicianNoise(most, probability) if kind == "MR" else Noise(most, probability)


def _crop(
    kind: str, size: Size, spacing_mm: Sequence[float] | None = None, degrees: float = 0.0, **moves: Any
) -> Resample:
    """The crop comes first: what follows has fewer voxels to change. CT is still in HU there, and air is -1000."""
    turned = turns(degrees, spacing_mm or (1.0,) * len(size))
    air = AIR_HU if kind == "CT" else 0.0
    return Resample(size, rotate_degrees=turned, spacing_mm=spacing_mm, outside=air, **moves)


def _flips(kind: str, dims: int) -> tuple[float, ...]:
    """Mirrored only where no side is lost: photographs along both axes, ultrasound left-right (the probe may be held
    either way; depth never turns round). Heart and liver have a side, in volumes, slices and films alike."""
    return {"RGB": (0.5, 0.5), "US": (0.0, 0.5)}.get(kind, (0.0, 0.0)) if dims == 2 else (0.0, 0.0, 0.0)
