"""The phantom's vessels and airways: centrelines with a radius, branching anew in each patient.

import numpy as np
from medssl.datasets.phantom.vessels import draw_tubes
draw_tubes(np.random.default_rng(0))["hepatic"]  # (N, 4): x, y, z, radius in mm of the reference torso
"""

from __future__ import annotations

import numpy as np
from scipy.interpolate import CubicSpline


def draw_tubes(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The vessels and airways of one patient: (N, 4) points every 2 mm with their radius."""
    wide = rng.uniform(0.85, 1.15, 3)
    aorta = [
        (10, 22, 62),
        (15, 26, 82),
        (6, 12, 102),
        (-12, -14, 98),
        (-20, -22, 72),
        (-17, -22, 20),
        (-12, -12, -50),
    ]
    cava = [(20, -14, -250), (19, -7, -120), (22, -6, -50), (22, 2, -8), (14, 12, 22)]
    portal = [(-6, 8, -84), (14, 14, -70), (32, 14, -58), (44, 12, -54)]
    roots = {"right": (60, 5, -52), "left": (14, 36, -36)}
    veins = {"right": (84, -8, -48), "middle": (52, 28, -46), "left": (12, 44, -30)}
    hepatic = [_path([(36, 14, -57), end], 5.5, 4.5, rng) for end in roots.values()]
    hepatic += [_tree(np.array(end), np.array(end) - (34, 14, -58), 30, 4.5, 4, rng) for end in roots.values()]
    hepatic += [_path([(23, 2, -10), end], 6.0, 4.0, rng) for end in veins.values()]
    hepatic += [_tree(np.array(end), np.array(end) - (24, 2, -12), 24, 4.0, 3, rng) for end in veins.values()]
    hila = [np.array([side * 26, -4, 46]) for side in (1, -1)]
    aims = [(1, 0, 1), (1, 0.4, 0), (1, -0.5, -0.8), (0.5, -1, 0.2), (0.6, 0.8, 0.6)]
    lungs = [_tree(hilum, np.array(aim) * (np.sign(hilum[0]), 1, 1), 32, 5, 5, rng) for hilum in hila for aim in aims]
    bronchi = [_path([(0, -8, 64), hilum + np.array([0, 0, 4])], 5.5, 4.5, rng) for hilum in hila]
    return {
        "artery": _path([*aorta, (-6, -5, -120), (-4, -8, -250)], 14 * wide[0], 9 * wide[0], rng),
        "vein": np.vstack(
            [_path(cava, 11 * wide[1], 13 * wide[1], rng), _path(portal, 7.5 * wide[2], 6.5 * wide[2], rng)]
        ),
        "hepatic": np.vstack(hepatic),
        "pulmonary": np.vstack(lungs),
        "airway": np.vstack([_path([(2, -2, 190), (2, -4, 110), (0, -8, 64)], 8, 8, rng), *bronchi]),
    }


def _path(knots: list, start_mm: float, end_mm: float, rng: np.random.Generator) -> np.ndarray:
    """A smooth tube through slightly moved knots, its radius going from start to end: (N, 4)."""
    corners = np.array(knots, float)
    corners[1:-1] += rng.normal(0, 2.5, corners[1:-1].shape)
    along = np.append(0, np.cumsum(np.linalg.norm(np.diff(corners, axis=0), axis=1)))
    places = np.linspace(0, along[-1], int(along[-1] / 2) + 2)
    line = CubicSpline(along, corners)(places) if len(corners) > 2 else np.linspace(corners[0], corners[1], len(places))
    return np.column_stack([line, np.linspace(start_mm, end_mm, len(places))])


def _tree(
    start: np.ndarray,
    aim: np.ndarray,
    length_mm: float,
    radius_mm: float,
    depth: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """A tube that forks `depth` times on its way, thinner and shorter each time: (N, 4)."""
    end = start + unit(aim + rng.normal(0, 0.15, 3) * np.linalg.norm(aim)) * length_mm
    parts = [_path([start, end], radius_mm, radius_mm * 0.8, rng)]
    if depth > 1:
        across = unit(np.cross(end - start, rng.normal(size=3))) * length_mm * rng.uniform(0.45, 0.75)
        for turn in (across, -across):
            parts.append(_tree(end, end - start + turn, length_mm * 0.78, radius_mm * 0.76, depth - 1, rng))
    return np.vstack(parts)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (..., 3) scaled to length 1."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
