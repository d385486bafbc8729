"""Which views a family of methods takes for which modality: short lists, with where their ranges come from.

    view = contrastive("CT", size=(32, 32, 32))

Sources: SimCLR (Chen et al. 2020, arXiv 2002.05709) for the structure of the contrastive list; nnU-Net (Isensee et al.
2021) for rotation, zoom, noise, blur and gamma in training a segmenter; the CT window is the usual soft-tissue one,
with tails that keep lung and bone. Hue and grey-scale changes have no meaning in a grey scan and are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

from medssl.views.base import Compose, View
from medssl.views.intensity import Blur, BrightnessContrast, Gamma, Noise, Window
from medssl.views.spatial import Resample

Size = Sequence[int]


def window(modality: str, jitter: float = 0.0) -> list[View]:
    """What turns the cache's values into 0..1: a soft-tissue window with tails for CT, nothing for the rest.

    jitter: of level and width, as a share of the window's width.
    """
    return [Window(level_hu=40.0, width_hu=400.0, jitter_hu=400.0 * jitter, tails=0.15)] if modality == "CT" else []


def contrastive(modality: str, size: Size, spacing_mm: Sequence[float] | None = None) -> View:
    """Strong crops, turns and changes of intensity: two of these of one scan should be told to be alike."""
    dims = len(size)
    crop = Resample(
        size, zoom=(0.5, 1.1), aspect=1.3, rotate_degrees=(15,) * (3 if dims == 3 else 1), flip=_flips(modality, dims),
        spacing_mm=spacing_mm,
    )  # fmt: skip
    return Compose(
        [*window(modality, 0.1), crop, Gamma(1.8, 0.8), BrightnessContrast(), Blur(1.5, 0.4), Noise(0.06, 0.4)]
    )


def gentle(modality: str, size: Size, spacing_mm: Sequence[float] | None = None) -> View:
    """A crop at about true scale and slight changes of intensity: for masked and relational pretexts."""
    crop = Resample(size, zoom=(0.85, 1.15), flip=_flips(modality, len(size)), spacing_mm=spacing_mm)
    return Compose([*window(modality, 0.02), crop, BrightnessContrast(0.05, 0.1, 0.5)])


def relational(modality: str, size: Size, spacing_mm: Sequence[float] | None = None) -> View:
    """A crop turned, zoomed and never mirrored: for pretexts that ask where in the scan something lies."""
    turns = (15,) * (3 if len(size) == 3 else 1)
    crop = Resample(size, zoom=(0.75, 1.1), aspect=1.2, rotate_degrees=turns, spacing_mm=spacing_mm)
    return Compose([*window(modality, 0.1), crop])


def intensities(strength: float = 1.0) -> View:
    """Changes of intensity alone, for pretexts that put them right again (Zhou et al. 2021, Models Genesis)."""
    s = strength
    return Compose(
        [Gamma(1 + 1.2 * s, 0.8), BrightnessContrast(0.2 * s, 0.4 * s), Blur(1.0 * s, 0.3), Noise(0.08 * s, 0.5)]
    )


def finetune(modality: str, size: Size, spacing_mm: Sequence[float] | None = None, task: str = "segmentation") -> View:
    """nnU-Net's kind of augmentation, the mask moved along."""
    dims = len(size)
    crop = Resample(
        size, zoom=(0.8, 1.25), aspect=1.15, rotate_degrees=(15,) * (3 if dims == 3 else 1),
        flip=_flips(modality, dims), spacing_mm=spacing_mm,
    )  # fmt: skip
    return Compose(
        [
            *window(modality, 0.03),
            crop,
            Gamma(1.4, 0.4),
            BrightnessContrast(0.1, 0.2, 0.4),
            Blur(1.0, 0.2),
            Noise(0.04, 0.2),
        ]
    )


def plain(modality: str, size: Size | None = None) -> View:
    """What a scan looks like to a model at test time: the window, and the middle crop where a size is given."""
    return Compose([*window(modality), *([Resample(size, shift=False)] if size else [])])


def _flips(modality: str, dims: int) -> tuple[float, ...]:
    """Left-right only where the side carries no meaning for the picture: slices of a CT or MR in 2D, not a chest film.

    In volumes no axis is mirrored: heart and liver have a side.
    """
    return (0.0, 0.5) if dims == 2 and modality in ("MR", "OT") else (0.0,) * dims
