"""The picture of views in the README: each modality's contrastive recipe on the phantom, so no patient is on it.

make views

CT is the phantom cohort's first scan. The other three are drawn from its HU: MR as a T1-like curve of them, the
radiograph as their attenuation along the front-to-back rays (Beer and Lambert), ultrasound as the envelope of random
echoes of their size, in decibels.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel
import numpy as np
from matplotlib import colormaps
from PIL import Image
from scipy.ndimage import gaussian_filter, zoom

from medssl.datasets.index import index
from medssl.datasets.phantom.cohort import phantom
from medssl.preprocessing.cache import Cache, prepare
from medssl.views.dose import LowDoseCT
from medssl.views.preview import preview

MM, CROPS = 4.0, {"CT": (64, 64, 32), "MR": (64, 64, 32), "DX": (64, 64), "US": (40, 40)}
MAX_BYTES = 150_000


def picture(out: Path, folder: Path) -> Path:
    """Write the pictures of all modalities, one below the other, to `out`."""
    cohort = phantom(folder / "CT", patients=1, shape=(80, 80, 66), spacing_mm=(MM, MM, MM))
    ct = cached([cohort / "dicom"], "CT", folder)
    scan = str(ct.manifest["scan"].iloc[0])
    hu = np.asarray(ct.read(scan, (0, 0, 0), ct.shape(scan))[0], np.float32)
    nibabel.save(nibabel.Nifti1Image(magnetic(hu), np.diag([MM, MM, MM, 1.0])), folder / "MR.nii.gz")
    for name, image in (("DX", radiograph(hu)), ("US", ultrasound(hu))):
        Image.fromarray((255 * image.clip(0, 1)).astype(np.uint8)).save(folder / f"{name}.png")
    caches = [ct, *(cached([folder / file], file[:2], folder) for file in ("MR.nii.gz", "DX.png", "US.png"))]
    pictures = [
        Image.open(preview("contrastive", cache.path, folder / f"picture{n}.png", crop=crop, scans=1)).convert("RGB")
        for n, (cache, crop) in enumerate(zip(caches, CROPS.values()))
    ]
    whole = Image.new("RGB", (max(one.width for one in pictures), sum(one.height for one in pictures)), "white")
    for n, one in enumerate(pictures):
        whole.paste(one, (0, sum(before.height for before in pictures[:n])))
    small = [data for greys in range(40, 7, -4) if len(data := png(whole, greys)) < MAX_BYTES]
    if not small:
        raise SystemExit(f"the picture has more than {MAX_BYTES} bytes in 8 greys: expected less; lower CROPS")
    out.write_bytes(small[0])
    return out


def png(image: Image.Image, greys: int) -> bytes:
    """With so many greys, and half as many colours of the differences."""
    scales = [("gray", greys), ("RdBu_r", greys // 2)]
    palette = Image.new("P", (1, 1))
    palette.putpalette(
        (np.concatenate([colormaps[m](np.linspace(0, 1, n))[:, :3] for m, n in scales]) * 255)
        .astype(np.uint8)
        .tobytes()
    )
    buffer = io.BytesIO()
    image.quantize(palette=palette, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def cached(sources: list[Path], modality: str, folder: Path) -> Cache:
    index(sources, folder / f"{modality}-manifest", modality=modality, accept_burned_in_risk=True)
    return prepare(folder / f"{modality}-manifest", folder / f"{modality}-cache")


def magnetic(hu: np.ndarray) -> np.ndarray:
    """Bright fat, grey soft tissue, dark bone and air."""
    return np.interp(hu, [-950, -700, -120, -60, 0, 60, 150, 350, 900], [0, 40, 900, 900, 250, 450, 700, 300, 120])


def radiograph(hu: np.ndarray) -> np.ndarray:
    """(Z, X) from the front, head up and right on the left: the share of the line integral's range."""
    integral = LowDoseCT.water_per_mm * MM * (1 + hu / 1000).clip(0).sum(1)
    return np.ascontiguousarray((integral / integral.max()).T[::-1, ::-1])


def ultrasound(hu: np.ndarray, decibels: float = 50.0) -> np.ndarray:
    """The front of a slice of the abdomen, twice as fine, skin up."""
    body = zoom(hu[20:60, 30:70, hu.shape[2] // 3], 2, order=1).T[::-1]
    echo = np.interp(body, [-900, -100, 0, 60, 200, 600], [0.005, 0.1, 0.005, 0.05, 0.02, 1.0])
    rng = np.random.default_rng(0)
    parts = [gaussian_filter(echo * rng.normal(size=echo.shape), (0.6, 1.2)) for _ in range(2)]
    envelope = np.hypot(*parts)
    return 1 + 20 * np.log10(envelope / envelope.max() + 1e-6) / decibels


if __name__ == "__main__":
    with TemporaryDirectory() as temporary:
        print(picture(Path(sys.argv[1]), Path(temporary)))
