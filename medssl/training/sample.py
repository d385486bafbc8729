"""Draw new scans from a model that was trained to make them.

    medssl pretrain --data CACHE --out runs/vae --method VAE
    medssl sample runs/vae --count 16 --out samples

Volumes are written as NIfTI, images as PNG, at the cache's spacing, and all of them on one sheet. Nobody stands behind
them, and each says so: SYNTHETIC begins every file's name, the NIfTI header's description and the PNG's.
Intensities are those that a network sees: about 0..1, for CT those of the soft-tissue window and its tails.
"""

from __future__ import annotations

import gzip
import io
import math
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from medssl.core.atomic import write_atomically
from medssl.core.errors import MedsslError
from medssl.core.registry import METHODS
from medssl.core.runs import Run, read
from medssl.encoders import Encoder
from medssl.preprocessing.data_spec import DataSpec
from medssl.training.models import load_method

SYNTHETIC = "SYNTHETIC"


def sample(run: Path, out: Path, count: int = 16, seed: int = 0, encoder: Encoder | None = None) -> pd.DataFrame:
    """Write `count` scans of the size of the run's crop to the folder `out`, and a sheet of them; returns their files.

    run: a finished pretraining run of a method that can draw scans (VAE). seed: the same seed gives the same scans.
    encoder: for a run whose encoder class lies outside of medssl. Raises MedsslError for a run of another kind.
    """
    if count < 1:
        raise MedsslError(f"--count is {count}: expected how many scans to draw, at least 1")
    record = read(run)
    spec = record.config.get("method")
    name = str(spec.get("class_path", "")) if isinstance(spec, dict) else ""
    able = [known for known, kind in METHODS.classes().items() if hasattr(kind, "sample")]
    if record.kind != "pretrain" or name not in able:
        raise MedsslError(
            f"{Path(run).name} holds a {record.kind} run{f' of {name}' if name else ''}, from which no scan can be drawn: "
            f"expected one of {', '.join(able)}; train it with medssl pretrain --method {able[0]}"
        )
    method, record = load_method(Path(run), encoder)
    drawn = method.sample(count, record.config["crop"], seed).clamp(0, 1).numpy()  # type: ignore[operator]
    files = [_write(x, f"{SYNTHETIC}_{seed}_{n:04d}", record, Path(out)) for n, x in enumerate(drawn)]
    sheet = f"{SYNTHETIC}_{seed}_sheet.png"
    write_atomically(Path(out) / sheet, _png(_sheet(drawn), record, spaced=False))
    return pd.DataFrame({"file": [*files, sheet]})


def _write(x: np.ndarray, name: str, record: Run, out: Path) -> str:
    """(C, *S) in 0..1 -> a file in `out`, whose name is returned."""
    if x.ndim == 3 and len(x) in (1, 3):
        pixels = np.moveaxis(np.rint(255 * x).astype(np.uint8), 0, -1)
        write_atomically(out / f"{name}.png", _png(Image.fromarray(pixels.squeeze()), record))
        return f"{name}.png"
    array = x[0] if len(x) == 1 else np.moveaxis(x, 0, -1)
    spacing_mm = (*DataSpec.from_record(record.config).spacing_mm, 1.0)
    image = nibabel.Nifti1Image(array.astype(np.float32), np.diag([*spacing_mm[:3], 1.0]))
    image.header["descrip"] = _said(record).encode()
    image.header["intent_name"] = SYNTHETIC.encode()
    image.header["cal_max"] = 1.0
    write_atomically(out / f"{name}.nii.gz", gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))
    return f"{name}.nii.gz"


def _said(record: Run) -> str:
    """What a header says of a drawn scan, in the 79 characters NIfTI has."""
    return f"{SYNTHETIC}: drawn by the medssl run {record.id}, no patient"


def _png(image: Image.Image, record: Run, spaced: bool = True) -> bytes:
    """The picture with its pixels' distance (PNG counts them a metre) and the word that it is synthetic."""
    about = PngInfo()
    about.add_text("Description", _said(record))
    down_mm, across_mm = DataSpec.from_record(record.config).spacing_mm[:2]
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=about, **({"dpi": (25.4 / across_mm, 25.4 / down_mm)} if spaced else {}))
    return buffer.getvalue()


def _sheet(drawn: np.ndarray) -> Image.Image:
    """(N, C, *S) -> the middle slices as radiologists hang them, side by side below a line that says what they are."""
    first = drawn[:, 0]
    slices = first if first.ndim == 3 else first[..., first.shape[-1] // 2].transpose(0, 2, 1)[:, ::-1, ::-1]
    height, width = slices.shape[1:]
    larger = max(1, 128 // max(height, width))
    across = math.ceil(math.sqrt(len(slices)))
    rows = math.ceil(len(slices) / across)
    sheet = Image.new("L", (max(120, across * width * larger), 16 + rows * height * larger))
    ImageDraw.Draw(sheet).text((4, 2), SYNTHETIC, fill=255)
    for n, pixels in enumerate(slices):
        tile = Image.fromarray(np.rint(255 * pixels).astype(np.uint8)).resize((width * larger, height * larger))
        sheet.paste(tile, (n % across * width * larger, 16 + n // across * height * larger))
    return sheet
