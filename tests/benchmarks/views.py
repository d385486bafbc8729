"""How many samples per second medssl's views make on a CPU, against MONAI, TorchIO, batchgeneratorsv2 (3D) and lightly,
torchvision v2, MONAI (2D): the same pipeline, the same scans, one run.

    pip install torchio batchgeneratorsv2                  # rivals that medssl itself does not need
    python tests/benchmarks/views.py [--quick] [--threads 2]

3D: 8 scans (4 with --quick) of 128 cubed -> 96 cubed; a random affine and elastic resample, flip, gamma, bias field, blur, noise,
each always on. A floor is one bare `grid_sample` of that size. batchgeneratorsv2 has no bias field and runs without one.
A rival that is not installed leaves its ratio out, and `met` false.
2D: 32 films of 288 x 288 -> 224 x 224, the steps of SimCLR. Rounds are run in turns, the best of each counts.
The last line is JSON: `ratios`, `goals`, `met`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medssl.views.base import Compose, View
from medssl.views.intensity import Blur, BrightnessContrast, Gamma, Noise
from medssl.views.mri import BiasField
from medssl.views.random import make_keys
from medssl.views.spatial import Resample

SOURCE, CROP, BATCH = 128, 96, 8
FILM, FILM_CROP, FILMS = 288, 224, 32
GOALS_3D = {"batchgeneratorsv2": 3.0, "monai": 5.0, "torchio": 12.0, "floor": 1 / 3}
GOALS_2D = {"lightly": 3.0}
Run = Callable[[], object]


def ours_3d(scans: Tensor) -> tuple[dict[str, Run], Run]:
    """(each view by its name, the whole pipeline), each for the batch."""
    move = Resample(
        (CROP,) * 3, (0.8, 1.25), rotate_degrees=(15,) * 3, flip=(0.5,) * 3, elastic_mm=6.0, elastic_every_mm=24.0
    )
    still = Resample((CROP,) * 3, (0.8, 1.25), rotate_degrees=(15,) * 3, flip=(0.5,) * 3)
    views = {
        "affine": still,
        "affine + elastic": move,
        "gamma": Gamma(1.5, 1.0),
        "bias field": BiasField(probability=1.0),
        "blur": Blur(1.0, 1.0),
        "noise": Noise(0.05, 1.0),
    }
    whole = Compose([view for name, view in views.items() if name != "affine"])
    crops = scans[..., :CROP, :CROP, :CROP].contiguous()
    runs = {name: _run(view, scans if "affine" in name else crops) for name, view in views.items()}
    return runs, _run(whole, scans)


def ours_2d(films: Tensor) -> tuple[dict[str, Run], Run]:
    views = {
        "crop, zoom, flip": Resample((FILM_CROP,) * 2, (0.4, 1.25), 1.3, flip=(0, 0.5)),
        "gamma": Gamma(1.8, 0.8),
        "contrast": BrightnessContrast(),
        "blur": Blur(2.0, 0.5),
    }
    crops = films[..., :FILM_CROP, :FILM_CROP].contiguous()
    runs = {name: _run(view, films if "crop" in name else crops) for name, view in views.items()}
    return runs, _run(Compose(list(views.values())), films)


def _run(view: View, x: Tensor) -> Run:
    step = iter(range(10**9))

    def once() -> object:
        with torch.no_grad():
            return view(x, view.draw(make_keys(next(step), (torch.arange(len(x)),))))

    return once


def floor_3d(scans: Tensor) -> Run:
    theta = torch.eye(3, 4).repeat(len(scans), 1, 1) * (CROP / SOURCE)
    grid = F.affine_grid(theta, [len(scans), 1, *(CROP,) * 3], align_corners=False)
    return lambda: F.grid_sample(scans, grid, align_corners=False)


def monai_3d(scans: Tensor) -> Run:
    from monai.transforms import (  # type: ignore[attr-defined]
        Compose,
        Rand3DElasticd,
        RandAdjustContrastd,
        RandBiasFieldd,
        RandFlipd,
        RandGaussianNoised,
        RandGaussianSmoothd,
    )

    turn, sigma = (0.26,) * 3, (0.25, 1.0)
    pipeline = Compose(
        [
            Rand3DElasticd(
                "x",
                (5, 7),
                (50, 150),
                prob=1,
                rotate_range=turn,
                scale_range=(0.2,) * 3,
                spatial_size=(CROP,) * 3,
                padding_mode="zeros",
            ),
            *[RandFlipd("x", 0.5, axis) for axis in range(3)],
            RandAdjustContrastd("x", prob=1, gamma=(0.67, 1.5)),
            RandBiasFieldd("x", prob=1),
            RandGaussianSmoothd("x", sigma, sigma, sigma, prob=1),
            RandGaussianNoised("x", prob=1, std=0.05),
        ]
    )
    return lambda: [pipeline({"x": scan}) for scan in scans]


def torchio_3d(scans: Tensor) -> Run:
    import torchio as tio  # type: ignore[import-not-found]

    pipeline = tio.Compose(
        [
            tio.RandomAffine(scales=0.2, degrees=15),
            tio.CropOrPad(CROP),
            tio.RandomElasticDeformation(num_control_points=7, max_displacement=6),
            tio.RandomFlip(axes=(0, 1, 2)),
            tio.RandomGamma(log_gamma=0.4),
            tio.RandomBiasField(),
            tio.RandomBlur(std=(0.25, 1.0)),
            tio.RandomNoise(std=(0, 0.05)),
        ]
    )
    return lambda: [pipeline(tio.Subject(x=tio.ScalarImage(tensor=scan))) for scan in scans]


def batchgenerators_3d(scans: Tensor) -> Run:
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform  # type: ignore[import-not-found]
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform  # type: ignore[import-not-found]
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform  # type: ignore[import-not-found]
    from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform  # type: ignore[import-not-found]
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform  # type: ignore[import-not-found]
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms  # type: ignore[import-not-found]

    pipeline = ComposeTransforms(
        [
            SpatialTransform(
                (CROP,) * 3,
                0,
                False,
                p_elastic_deform=1,
                p_rotation=1,
                rotation=(-0.26, 0.26),
                p_scaling=1,
                scaling=(0.8, 1.25),
            ),
            MirrorTransform((0, 1, 2)),
            GammaTransform((0.67, 1.5), p_invert_image=0, synchronize_channels=True, p_per_channel=1, p_retain_stats=0),
            GaussianBlurTransform((0.25, 1.0), p_per_channel=1),
            GaussianNoiseTransform((0, 0.05), p_per_channel=1, synchronize_channels=True),
        ]
    )
    return lambda: [pipeline(image=scan) for scan in scans]


def lightly_2d(films: Tensor, mode: str = "RGB") -> Run:
    """lightly's datasets open every image as RGB, and its transform normalises three channels; grey is without that."""
    from lightly.transforms import SimCLRTransform
    from PIL import Image

    images = [Image.fromarray((film[0].numpy() * 255).astype(np.uint8)).convert(mode) for film in films]
    both = SimCLRTransform(FILM_CROP) if mode == "RGB" else SimCLRTransform(FILM_CROP, normalize=None)
    pipeline = both.transforms[0]  # one of its two equal views
    return lambda: [pipeline(image) for image in images]


def torchvision_2d(films: Tensor) -> Run:
    from torchvision.transforms import v2

    jitter = v2.RandomApply([v2.ColorJitter(0.8, 0.8)], 0.8)
    pipeline = v2.Compose(
        [
            v2.RandomResizedCrop(FILM_CROP, (0.08, 1), antialias=True),
            v2.RandomHorizontalFlip(),
            jitter,
            v2.RandomApply([v2.GaussianBlur(17, (0.1, 2.0))], 0.5),
        ]
    )
    return lambda: [pipeline(film) for film in films]


def monai_2d(films: Tensor) -> Run:
    from monai.transforms import (  # type: ignore[attr-defined]
        Compose,
        RandAdjustContrastd,
        RandAffined,
        RandFlipd,
        RandGaussianSmoothd,
        RandScaleIntensityd,
    )

    sigma = (0.1, 2.0)
    pipeline = Compose(
        [
            RandAffined("x", prob=1, scale_range=(-0.6, 0.25), translate_range=30, spatial_size=(FILM_CROP,) * 2),
            RandFlipd("x", 0.5, 1),
            RandAdjustContrastd("x", prob=0.8, gamma=(0.55, 1.8)),
            RandScaleIntensityd("x", 0.3, prob=0.8),
            RandGaussianSmoothd("x", sigma, sigma, prob=0.5),
        ]
    )
    return lambda: [pipeline({"x": film}) for film in films]


def installed(rivals: dict[str, Callable[[Tensor], Run]], batch: Tensor) -> dict[str, Run]:
    """The rivals whose package (the first word of the name) is there, made for the batch; the others are said to be out."""
    runs = {}
    for name, make in rivals.items():
        package = name.split()[0]
        if importlib.util.find_spec(package):
            runs[name] = make(batch)
        else:
            print(f"{name} is not installed (pip install {package}): left out")
    return runs


def smooth(batch: int, size: int, dims: int) -> Tensor:
    """(batch, 1, *size) of smooth noise in 0..1."""
    coarse = torch.rand(batch, 1, *[size // 8] * dims, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, size=(size,) * dims, mode="bilinear" if dims == 2 else "trilinear").clamp(0, 1)


def best_of(runs: dict[str, Run], rounds: int, min_seconds: float) -> dict[str, tuple[float, float]]:
    """(seconds, processor seconds) a call of each, the best of the rounds, in turns that are at least `min_seconds` long, so
    that a busy moment hits all alike."""
    best: dict[str, tuple[float, float]] = {}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            begun, begun_cpu, calls = time.perf_counter(), time.process_time(), 0
            while calls == 0 or time.perf_counter() - begun < min_seconds:
                run()
                calls += 1
            seconds = (time.perf_counter() - begun) / calls, (time.process_time() - begun_cpu) / calls
            best[name] = min(best.get(name, seconds), seconds)
    return best


def report(title: str, best: dict[str, tuple[float, float]], samples: int, parts: dict[str, tuple]) -> dict[str, float]:
    """Print samples per second and the views' shares; give how many times quicker medssl is than each other."""
    print(f"\n{title}")
    for name, (wall, cpu) in best.items():
        times = [value / ours for value, ours in zip((wall, cpu), best["medssl"])]
        print(
            f"  {name:20s} {samples / wall:8.1f} samples/s, {1000 * cpu / samples:8.2f} ms of processor a sample; "
            f"medssl takes {times[0]:6.2f} times less time, {times[1]:6.2f} times less processor"
        )
    print(
        "  one view of medssl, ms a sample: " + ", ".join(f"{k} {1000 * v[0] / samples:.2f}" for k, v in parts.items())
    )
    return {name: wall / best["medssl"][0] for name, (wall, _) in best.items() if name != "medssl"}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(given.threads)
    rounds, min_seconds, batch = (1, 0.5, BATCH // 2) if given.quick else (4, 1.5, BATCH)
    scans, films = smooth(batch, SOURCE, 3), smooth(FILMS, FILM, 2)
    views_3d, whole_3d = ours_3d(scans)
    views_2d, whole_2d = ours_2d(films)
    rivals = {"batchgeneratorsv2": batchgenerators_3d, "monai": monai_3d, "torchio": torchio_3d}
    runs = {"medssl": whole_3d, "floor": floor_3d(scans), **installed(rivals, scans)}
    title = f"3D: {batch} scans of {SOURCE} cubed -> {CROP} cubed, {given.threads} threads"
    ratios = report(title, best_of(runs, rounds, min_seconds), batch, best_of(views_3d, rounds, min_seconds / 4))
    flat = {
        "lightly": lightly_2d,
        "lightly grey": partial(lightly_2d, mode="L"),
        "torchvision v2": torchvision_2d,
        "monai": monai_2d,
    }
    runs = {"medssl": whole_2d, **installed(flat, films)}
    title = f"2D: {FILMS} films of {FILM} squared -> {FILM_CROP} squared, {given.threads} threads"
    ratios_2d = report(title, best_of(runs, rounds, min_seconds), FILMS, best_of(views_2d, rounds, min_seconds / 4))
    goals = {f"3d {k}": v for k, v in GOALS_3D.items()} | {f"2d {k}": v for k, v in GOALS_2D.items()}
    measured = {f"3d {k}": round(v, 3) for k, v in ratios.items()} | {
        f"2d {k}": round(v, 3) for k, v in ratios_2d.items()
    }
    met = all(measured.get(name, 0) >= goal for name, goal in goals.items())
    print(json.dumps({"ratios": measured, "goals": {k: round(v, 3) for k, v in goals.items()}, "met": met}))


if __name__ == "__main__":
    main()
