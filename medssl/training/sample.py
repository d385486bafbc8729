"""Draw new scans from a model that was trained to make them.

    medssl pretrain --data CACHE --out runs/vae --method VAE
    medssl sample runs/vae --count 16 --out samples

Volumes are written as NIfTI and images as PNG, at the spacing of the cache, with one overview image. They show no patient,
and every file says so: its name begins with SYNTHETIC, and so does the description in the NIfTI or PNG header.
Intensities are on the scale of a network's input: about 0 to 1, for CT the soft-tissue window and its tails.
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

from medssl.core.atomic import exclusive, write_atomically
from medssl.core.errors import MedsslError
from medssl.core.registry import METHODS
from medssl.core.runs import Run, read
from medssl.encoders import Encoder
from medssl.preprocessing.data_spec import DataSpec
from medssl.training.models import load_method

SYNTHETIC = "SYNTHETIC"
HEADING = 16  # pixels above the slices of the overview


def sample(run: Path, out: Path, count: int = 16, seed: int = 0, encoder: Encoder | None = None) -> pd.DataFrame:
    """Draw scans of the size of the run's crop and write them, with an overview image.

    Args:
        run: Finished pretraining run of a method that can draw scans (VAE).
        out: Folder of the drawn scans.
        count: Number of scans to draw.
        seed: Seed of the drawing; the same seed gives the same scans.
        encoder: Encoder of a run whose encoder class lies outside medssl.

    Returns:
        A table of the files.

    Raises:
        MedsslError: The run is of another kind, or its method cannot draw scans.
    """
    if count < 1:
        raise MedsslError(f"--count is {count}: expected how many scans to draw, at least 1")
    _check_can_draw(Path(run))
    method, record = load_method(Path(run), encoder)
    drawn = method.sample(count, record.config["crop"], seed).clamp(0, 1).numpy()  # type: ignore[operator]
    overview = f"{SYNTHETIC}_{seed}_sheet.png"
    with exclusive(Path(out)):
        files = [_write(x, f"{SYNTHETIC}_{seed}_{n:04d}", record, Path(out)) for n, x in enumerate(drawn)]
        write_atomically(Path(out) / overview, _png(_overview(drawn), record, with_spacing=False))
    return pd.DataFrame({"file": [*files, overview]})


def _check_can_draw(run: Path) -> None:
    """Raise MedsslError unless the run is a pretraining run of a method with `sample`."""
    record = read(run)
    spec = record.config.get("method")
    name = str(spec.get("class_path", "")) if isinstance(spec, dict) else ""
    generative = [known for known, kind in METHODS.classes().items() if hasattr(kind, "sample")]
    if record.kind != "pretrain" or name not in generative:
        raise MedsslError(
            f"{run.name} holds a {record.kind} run{f' of {name}' if name else ''}, from which no scan can be drawn: "
            f"expected one of {', '.join(generative)}; train it with medssl pretrain --method {generative[0]}"
        )


def _write(x: np.ndarray, name: str, record: Run, out: Path) -> str:
    """Write one scan (C, *S) in 0..1; returns the file's name."""
    if x.ndim == 3 and len(x) in (1, 3):
        pixels = np.moveaxis(np.rint(255 * x).astype(np.uint8), 0, -1)
        write_atomically(out / f"{name}.png", _png(Image.fromarray(pixels.squeeze()), record))
        return f"{name}.png"
    array = x[0] if len(x) == 1 else np.moveaxis(x, 0, -1)
    spacing_mm = (*DataSpec.from_record(record.config).spacing_mm, 1.0)
    image = nibabel.Nifti1Image(array.astype(np.float32), np.diag([*spacing_mm[:3], 1.0]))
    image.header["descrip"] = _description(record).encode()
    image.header["intent_name"] = SYNTHETIC.encode()
    image.header["cal_max"] = 1.0
    write_atomically(out / f"{name}.nii.gz", gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))
    return f"{name}.nii.gz"


def _description(record: Run) -> str:
    """The description in a header, which in NIfTI holds at most 79 characters."""
    return f"{SYNTHETIC}: drawn by the medssl run {record.id}, no patient"


def _png(image: Image.Image, record: Run, with_spacing: bool = True) -> bytes:
    """The image as PNG, with its description and, as pixels per inch, its spacing."""
    text = PngInfo()
    text.add_text("Description", _description(record))
    down_mm, across_mm = DataSpec.from_record(record.config).spacing_mm[:2]
    spacing = {"dpi": (25.4 / across_mm, 25.4 / down_mm)} if with_spacing else {}
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=text, **spacing)
    return buffer.getvalue()


def _overview(drawn: np.ndarray) -> Image.Image:
    """The middle slices of (N, C, *S) in radiological orientation, in a grid below the word SYNTHETIC."""
    channel = drawn[:, 0]
    slices = channel if channel.ndim == 3 else channel[..., channel.shape[-1] // 2].transpose(0, 2, 1)[:, ::-1, ::-1]
    enlargement = max(1, 128 // max(slices.shape[1:]))
    height, width = (enlargement * n for n in slices.shape[1:])
    columns = math.ceil(math.sqrt(len(slices)))
    lines = math.ceil(len(slices) / columns)
    overview = Image.new("L", (max(120, columns * width), HEADING + lines * height))
    ImageDraw.Draw(overview).text((4, 2), SYNTHETIC, fill=255)
    for n, pixels in enumerate(slices):
        tile = Image.fromarray(np.rint(255 * pixels).astype(np.uint8)).resize((width, height))
        overview.paste(tile, (n % columns * width, HEADING + n // columns * height))
    return overview
