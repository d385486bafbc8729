"""How many scans of different patients count as near duplicates, and how many altered copies are found.

python -m tests.benchmarks.near_duplicates --data DATA      # the folder that holds chest_xray and hippocampus
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from medssl.datasets.near_duplicates import ALIKE, outline
from medssl.scans.read import read_scan

SHARES = (0.06, 0.08, 0.1, 0.12, 0.15, 0.2)
ALTERED = 100  # films


def differing(outlines: list[bytes]) -> np.ndarray:
    """(N, N): the share of bits in which two scans differ."""
    bits = np.unpackbits(np.stack([np.frombuffer(each, np.uint8) for each in outlines]), axis=1)
    signs = bits.astype(np.float32) * 2 - 1
    return 0.5 - signs @ signs.T / (2 * bits.shape[1])


def report_pairs(name: str, outlines: list[bytes], patients: pd.Series, digests: pd.Series) -> None:
    """Print how many pairs of different patients, with other voxels, differ in at most so many bits."""
    apart, patient, digest = differing(outlines), pd.factorize(patients)[0], pd.factorize(digests)[0]
    pairs = np.triu(patient[:, None] != patient, 1) & (digest[:, None] != digest)
    counts = {share: int((apart[pairs] <= share).sum()) for share in SHARES}
    print(f"{name}: {int(pairs.sum())} pairs of different patients, closest {apart[pairs].min():.3f}; at most {counts}")


def altered(film: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Copies of a film (H, W) uint8 as exports, displays and cuts make them."""
    picture = Image.fromarray(film)
    packed, (width, height) = io.BytesIO(), picture.size
    picture.save(packed, "JPEG", quality=50)
    yield "JPEG 50", np.asarray(Image.open(packed))
    yield "half the resolution", np.asarray(picture.resize((width // 2, height // 2), Image.Resampling.BILINEAR))
    yield "gamma 1.3", (255 * (film / 255) ** 1.3).astype(np.uint8)
    yield "noise, sd 5", np.clip(film + np.random.default_rng(0).normal(0, 5, film.shape), 0, 255)
    yield "window", np.asarray(ImageOps.autocontrast(picture, cutoff=1))
    yield "shift of 2 pixels", np.roll(film, (2, 2), (0, 1))
    yield "2 degrees", np.asarray(picture.rotate(2, Image.Resampling.BILINEAR))
    for margin in (4, 11):
        yield f"margin of {margin} pixels cut", film[margin:-margin, margin:-margin]


def report_copies(films: list[np.ndarray]) -> None:
    """Print in how many bits altered copies differ from their films, and how many of them are found."""
    found: dict[str, list[float]] = {}
    for film in films:
        for name, copy in altered(film):
            found.setdefault(name, []).append(float(differing([outline(film[None]), outline(copy[None])])[0, 1]))
    for name, shares in found.items():
        print(f"  {name}: median {np.median(shares):.3f}, found {np.mean(np.array(shares) <= ALIKE):.0%}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    volumes = pd.read_csv(data / "hippocampus/volumes.csv")
    scans = [read_scan([str(data / "hippocampus/images" / file)], "nifti", "a", "b").array for file in volumes["file"]]
    digests = pd.Series([scan.tobytes() for scan in scans])
    report_pairs("hippocampus MRI", [outline(scan) for scan in scans], volumes["subject"], digests)
    films = pd.read_csv(data / "chest_xray/images.csv")
    pictures = [np.asarray(Image.open(data / "chest_xray" / file).convert("L")) for file in films["file"]]
    digests = pd.Series([film.tobytes() for film in pictures])
    report_pairs("chest films", [outline(film[None]) for film in pictures], films["patient"], digests)
    report_copies(pictures[:: len(pictures) // ALTERED])


if __name__ == "__main__":
    main()
