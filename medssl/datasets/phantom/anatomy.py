"""A torso as functions of space: where each organ is, how dense it is, and how patients differ.

Every shape is a signed depth in millimetres, positive inside, so the same body can be drawn on any grid, and
a second scan of a patient is the same body on moved points. Points are (3, ...) in RAS: x to the patient's
Right, y to Anterior, z to Superior, the diaphragm near z = 0. The torso fills a box of `FIELD_MM`.

    import numpy as np
    from medssl.datasets.phantom.anatomy import draw_body, draw_contrast, grid_points, render
    rng = np.random.default_rng(0)
    points = grid_points((64, 64, 48), np.diag([-5.0, -5.0, 6.0, 1.0]))
    hu, labels, _ = render(draw_body(rng), [], points, draw_contrast(rng), rng)
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from medssl.datasets.phantom.vessels import draw_tubes, unit
from medssl.scans.modality import AIR_HU

FIELD_MM = (320.0, 320.0, 288.0)  # the box of the reference torso
LABELS = {1: "lungs", 2: "liver", 3: "spine", 4: "vessels", 5: "lesion"}
KINDS = ("cyst", "metastasis", "nodule", "sclerotic")

# organ: (centre, half-axes) in mm of the reference torso
ORGANS = {
    "heart": ((-28, 32, 34), (54, 42, 48)),
    "liver_right": ((56, 6, -50), (60, 70, 64)),
    "liver_left": ((2, 44, -30), (60, 30, 28)),
    "spleen": ((-86, -28, -44), (25, 38, 40)),
    "stomach": ((-50, 38, -42), (34, 30, 34)),
    "kidney_right": ((54, -36, -110), (25, 23, 44)),
    "kidney_left": ((-54, -36, -98), (25, 23, 46)),
    "gallbladder": ((34, 50, -86), (14, 14, 22)),
}


@dataclass(frozen=True)
class Body:
    """One patient's anatomy: what stays the same from scan to scan. Lengths in mm of the reference torso."""

    size: np.ndarray  # (3,) stretch along x, y, z
    waves: np.ndarray  # (waves, 7): wave vector (3), phase, displacement_mm (3); the smooth deformation
    fat_mm: float
    muscle_mm: float
    vertebra_mm: float  # from one vertebra to the next
    bone_density: float
    liver_fat_hu: float  # how far fat lowers the liver; 0 in most patients
    dome_mm: tuple[float, float]  # height of the right and left diaphragm
    organs: dict[str, tuple[np.ndarray, np.ndarray]] = field(repr=False)
    tubes: dict[str, np.ndarray] = field(repr=False)  # name: (N, 4) centreline x, y, z and radius_mm


@dataclass(frozen=True)
class Lesion:
    """One ellipsoid lesion in the body's own coordinates (mm), so it moves with the anatomy."""

    kind: str
    centre: np.ndarray  # (3,)
    radii: np.ndarray  # (3,)


@dataclass(frozen=True)
class Contrast:
    """Densities in HU of one scan: the moment after the injection, the breath."""

    phase: str  # "arterial" or "portal venous"
    artery: float
    vein: float
    liver: float
    spleen: float
    kidney: float
    lung: float  # how deep the breath was


def grid_points(shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
    """World coordinates in mm of every voxel centre, the volume's centre at the origin: (3, X, Y, Z)."""
    axes = [(np.arange(count) - (count - 1) / 2) * step for count, step in zip(shape, np.diag(affine))]
    return np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)


def draw_body(rng: np.random.Generator) -> Body:
    """A random patient: size, organ positions, vessels and a smooth deformation of all of it."""
    wavelengths_mm = rng.uniform(130, 320, 6)
    directions = unit(rng.normal(size=(6, 3)))
    waves = np.hstack(
        [
            directions * (2 * np.pi / wavelengths_mm[:, None]),
            rng.uniform(0, 2 * np.pi, (6, 1)),
            np.clip(rng.normal(0, 2.6, (6, 3)), -5, 5),
        ]
    )
    organs = {
        name: (
            np.array(centre) + rng.normal(0, 3.5, 3),
            np.array(radii) * np.clip(rng.normal(1, 0.09, 3), 0.8, 1.2),
        )
        for name, (centre, radii) in ORGANS.items()
    }
    dome_right = rng.uniform(2, 20)
    return Body(
        size=np.clip(rng.normal(1, [0.05, 0.06, 0.05]), 0.9, 1.1),
        waves=waves,
        fat_mm=rng.uniform(6, 24),
        muscle_mm=rng.uniform(10, 16),
        vertebra_mm=rng.uniform(23, 28),
        bone_density=rng.uniform(0.7, 1.25),
        liver_fat_hu=rng.uniform(18, 34) if rng.uniform() < 0.25 else 0.0,
        dome_mm=(dome_right, dome_right - rng.uniform(3, 9)),
        organs=organs,
        tubes=draw_tubes(rng),
    )


def draw_contrast(rng: np.random.Generator) -> Contrast:
    """A random moment after the injection: early (bright arteries) to late (bright veins and liver)."""
    late = rng.uniform()
    return Contrast(
        phase="portal venous" if late > 0.5 else "arterial",
        artery=195 - 50 * late + rng.normal(0, 5),
        vein=125 + 40 * late + rng.normal(0, 5),
        liver=58 + 42 * late + rng.normal(0, 5),
        spleen=85 + 30 * late + rng.normal(0, 5),
        kidney=165 + rng.normal(0, 15),
        lung=rng.uniform(-890, -790),
    )


def draw_lesions(body: Body, kind: str, smallest_mm: float, reach_mm: float, rng: np.random.Generator) -> list[Lesion]:
    """One to three lesions of a kind, inside their organ and within `reach_mm` of the middle slice."""
    low_mm, high_mm = {"cyst": (9, 24), "metastasis": (8, 20), "nodule": (6, 16), "sclerotic": (8, 12)}[kind]
    candidates = rng.uniform(-1, 1, (20_000, 3)) * (FIELD_MM[0] / 2, FIELD_MM[1] / 2, reach_mm)
    areas = regions(body, candidates.T)
    home = {"nodule": areas.lungs, "sclerotic": areas.vertebrae}.get(kind, areas.liver).copy()
    lesions: list[Lesion] = []
    for _ in range(1 if kind == "cyst" else int(rng.integers(1, 4))):
        radius_mm = max(rng.uniform(low_mm, high_mm), smallest_mm)
        depth = np.minimum(home, radius_mm * 0.9)  # all deep enough places are equally good
        best = int(np.argmax(depth + rng.uniform(0, 1, len(depth))))
        if lesions and home[best] <= 0:
            break  # no room for another one
        lesions.append(Lesion(kind, candidates[best], radius_mm * rng.uniform(0.85, 1.15, 3)))
        near = np.linalg.norm(candidates - candidates[best], axis=1) < radius_mm * 1.2 + high_mm * 1.2 + smallest_mm
        home[near] = -1e3  # lesions do not touch
    return lesions


def into_body(body: Body, points: np.ndarray) -> np.ndarray:
    """Points of the room (3, ...) in mm -> the same points in the body's own coordinates."""
    moved = points / body.size.reshape(-1, *[1] * (points.ndim - 1)).astype(points.dtype)
    shift = np.zeros_like(moved)
    for wave in body.waves.astype(points.dtype):
        ripple = np.sin(wave[0] * moved[0] + wave[1] * moved[1] + wave[2] * moved[2] + wave[3])
        for axis in range(3):
            shift[axis] += wave[4 + axis] * ripple
    return moved + shift


@dataclass(frozen=True)
class Regions:
    """Signed depth in mm (positive inside) of the big parts at some points, each of the points' shape."""

    skin: np.ndarray
    cavity: np.ndarray
    abdomen: np.ndarray  # below the diaphragm, not yet cut to the cavity
    heart: np.ndarray
    lungs: np.ndarray
    liver: np.ndarray
    vertebrae: np.ndarray


def regions(body: Body, points: np.ndarray) -> Regions:
    """The big parts of the body at points (3, ...) in its own coordinates."""
    x, y, z = points
    waist = 1 - 0.05 * np.clip((-60 - z) / 80, 0, 1) - 0.16 * np.clip((z - 80) / 64, 0, 1) ** 2
    radius = (np.abs(x / (134 * waist)) ** 2.5 + np.abs((y - 6) / (98 * waist)) ** 2.5) ** 0.4
    skin = (1 - radius) * 110
    groove = 12 * np.exp(-((x / 38) ** 2)) * (y < 0)  # the back muscles beside the spine
    cavity = skin - body.fat_mm - body.muscle_mm - groove - 42 * np.clip((z - 50) / 80, 0, 1.4) ** 2
    side = 1 / (1 + np.exp(-x / 12))
    top = body.dome_mm[0] * side + body.dome_mm[1] * (1 - side)
    dome = top - 42 * ((np.abs(x) - 52) / 62) ** 2 - 34 * ((y - 12) / 72) ** 2
    abdomen = (dome - z) * 0.8
    heart = ellipsoid(points, *body.organs["heart"])
    middle = 25 - 10 * np.clip(y / 60, 0, 1)
    lungs = np.minimum.reduce([cavity - 2, -abdomen, np.abs(x) - middle, -heart - 4])
    right, left = (ellipsoid(points, *body.organs[name]) for name in ("liver_right", "liver_left"))
    liver = np.minimum.reduce([_blend(right, left, 18), abdomen - 4, cavity - 3, -heart - 3])
    height = body.vertebra_mm * 0.37 - np.abs(_periodic(z, body.vertebra_mm))
    vertebrae = np.minimum(_disc(points), height)
    return Regions(skin, cavity, abdomen, heart, lungs, liver, vertebrae)


class Canvas:
    """A volume being painted, back to front: each shape covers what is under it, softly over one voxel."""

    def __init__(self, points: np.ndarray, soft_mm: float) -> None:
        """Air everywhere. points: (3, *S) in body coordinates; soft_mm: the width of an edge."""
        self.points, self.soft_mm = points, soft_mm
        self.hu = np.full(points.shape[1:], AIR_HU, np.float32)
        self.labels = np.zeros(points.shape[1:], np.uint8)

    def paint(self, depth: np.ndarray, hu: float | np.ndarray, label: int = 0) -> np.ndarray:
        """Cover the inside of a shape with a density and a label; the covered fraction (*S) is returned."""
        cover = np.clip(0.5 + depth / self.soft_mm, 0, 1)
        self.hu += cover * (hu - self.hu)
        self.labels[cover > 0.5] = label
        return cover


def render(
    body: Body, lesions: list[Lesion], points: np.ndarray, contrast: Contrast, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """The body on a grid of room points (3, *S): HU (*S), labels (*S), and each lesion's diameter in mm."""
    steps = _steps(points)
    canvas = Canvas(into_body(body, points), soft_mm=float(np.mean(steps)))
    areas = regions(body, canvas.points)
    blobs = _smooth_noise(canvas.hu.shape, [9 / step for step in steps], rng)
    grain = _smooth_noise(canvas.hu.shape, [3.5 / step for step in steps], rng)
    _paint_wall(canvas, body, areas)
    _paint_abdomen(canvas, body, areas, contrast, blobs)
    _paint_chest(canvas, body, areas, contrast)
    canvas.hu += np.where(areas.lungs > 0, 30, 7) * grain * (areas.skin > 0)
    _paint_vessels(canvas, body, areas, contrast)
    _paint_bones(canvas, body, areas)
    voxel_mm3 = float(np.prod(steps))
    diameters = [_paint_lesion(canvas, lesion, contrast.liver - body.liver_fat_hu, voxel_mm3) for lesion in lesions]
    return canvas.hu, canvas.labels, diameters


def _steps(points: np.ndarray) -> list[float]:
    """From one point of a grid (3, *S) to the next along each axis, in mm; an axis with one point takes the widest of the others."""
    known = [float(np.abs(np.diff(points[axis], axis=axis)).max(initial=0.0)) for axis in range(3)]
    return [step or max(known) for step in known]


def _paint_wall(canvas: Canvas, body: Body, areas: Regions) -> None:
    """Skin and fat, then muscle, then the fat that fills the trunk; back muscles and psoas."""
    x, y, z = canvas.points
    canvas.paint(areas.skin, 0)
    canvas.paint(areas.skin - 2, -105)
    canvas.paint(areas.skin - body.fat_mm, 55)
    canvas.paint(areas.cavity, -95)
    psoas = 16 - np.hypot(np.abs(x) - 34, y + 44)
    canvas.paint(np.minimum(psoas, -55 - z), 58)


def _paint_abdomen(canvas: Canvas, body: Body, areas: Regions, contrast: Contrast, blobs: np.ndarray) -> None:
    """Bowel, stomach with its gas, spleen, kidneys, liver, gallbladder."""
    points, (_, y, z) = canvas.points, canvas.points
    inside = np.minimum(areas.cavity - 4, areas.abdomen - 6)
    crura = np.minimum(areas.cavity, 5 - np.abs(areas.abdomen))
    canvas.paint(crura, 50)
    gut = np.minimum.reduce([inside, y + 20, -40 - z])
    canvas.paint(np.minimum(gut, 14 * (blobs - 0.1)), 38)
    canvas.paint(np.minimum(gut, 14 * (blobs - 1.7)), -850)
    canvas.paint(np.minimum(gut, 14 * (-1.5 - blobs)), 180)
    stomach = np.minimum(ellipsoid(points, *body.organs["stomach"]), inside)
    canvas.paint(stomach, 55)
    canvas.paint(stomach - 6, 15)
    canvas.paint(np.minimum(stomach - 5, y - body.organs["stomach"][0][1] - 12), -900)
    canvas.paint(np.minimum(ellipsoid(points, *body.organs["spleen"]), inside), contrast.spleen)
    for side, name in ((1, "kidney_right"), (-1, "kidney_left")):
        kidney = np.minimum(ellipsoid(points, *body.organs[name]), areas.cavity)
        centre, radii = body.organs[name]
        canvas.paint(kidney, contrast.kidney)
        canvas.paint(ellipsoid(points, centre - [side * 10, 0, 0], radii * [0.55, 0.4, 0.5]), -40)
    canvas.paint(areas.liver, contrast.liver - body.liver_fat_hu, 2)
    canvas.paint(np.minimum(ellipsoid(points, *body.organs["gallbladder"]), areas.cavity), 12)


def _paint_chest(canvas: Canvas, body: Body, areas: Regions, contrast: Contrast) -> None:
    """Heart with its muscle and chambers, lungs with their vessels, windpipe."""
    x, y, _ = canvas.points
    chamber = np.minimum(areas.heart - 9, np.abs(0.75 * (x + 20) + 0.66 * (y - 30)) - 4)
    heart = np.minimum(areas.heart, areas.cavity)
    canvas.paint(heart + 5, -90)
    canvas.paint(heart, 75)
    canvas.paint(chamber, 0.5 * (contrast.artery + contrast.vein))
    canvas.paint(areas.lungs, contrast.lung - 0.4 * y, 1)
    pulmonary = tube(canvas, body.tubes["pulmonary"], areas.lungs > -4)
    cover = np.clip(0.4 + pulmonary / canvas.soft_mm, 0, 1)  # thin: part of the lung, brighter
    canvas.hu += cover * (60 - canvas.hu)
    airway = tube(canvas, body.tubes["airway"], areas.cavity > -10)
    canvas.paint(airway + 2, 30)
    canvas.paint(airway, -980)


def _paint_vessels(canvas: Canvas, body: Body, areas: Regions, contrast: Contrast) -> None:
    """Aorta, caval and portal vein, and their branches as far as they run inside the liver."""
    inside = areas.cavity > -5
    canvas.paint(tube(canvas, body.tubes["vein"], inside), contrast.vein, 4)
    branches = tube(canvas, body.tubes["hepatic"], areas.liver > 0)
    canvas.paint(branches, contrast.vein, 4)
    canvas.paint(tube(canvas, body.tubes["artery"], inside), contrast.artery, 4)


def _paint_bones(canvas: Canvas, body: Body, areas: Regions) -> None:
    """Ribs, breastbone and shoulder blades (no label), then the spine with its canal."""
    x, y, z = canvas.points
    period = body.vertebra_mm
    cortex, marrow = 600 * body.bone_density, 310 * body.bone_density
    slanted = z + 0.45 * (y + 40)
    shell = 4.5 - np.abs(areas.cavity + 6)
    ribs = np.minimum.reduce([shell, 5 - np.abs(_periodic(slanted, period)), slanted + 78, np.abs(x) - 18])
    canvas.paint(ribs, np.where((y > 40) & (np.abs(x) < 62), 140, cortex * 0.85))
    canvas.paint(np.minimum.reduce([shell + 1, 17 - np.abs(x), y, z + 12, 118 - z]), marrow * 0.8)
    blade = np.minimum(4 - np.abs(0.75 * (np.abs(x) - 86) - 0.66 * (y + 52)), areas.skin - body.fat_mm - 2)
    canvas.paint(np.minimum.reduce([blade, 36 - np.hypot(np.abs(x) - 86, y + 52), z - 62]), cortex * 0.8)
    canvas.paint(_disc(canvas.points) - 1, 95, 3)
    posterior, canal = _posterior(canvas.points, period)
    canvas.paint(np.minimum(posterior, areas.skin - 6), cortex * 0.9, 3)
    canvas.paint(areas.vertebrae, cortex, 3)
    canvas.paint(areas.vertebrae - 4, marrow, 3)
    canvas.paint(canal, 35)


def _paint_lesion(canvas: Canvas, lesion: Lesion, liver_hu: float, voxel_mm3: float) -> float:
    """Paint a lesion with its label (one voxel at least) and return its diameter in mm, from its volume."""
    hu = {"cyst": 6, "metastasis": max(liver_hu - 48, 10), "nodule": 45, "sclerotic": 950}[lesion.kind]
    offset = canvas.points - lesion.centre.reshape(3, 1, 1, 1).astype(np.float32)
    lobes = 1 + 0.1 * np.sin(offset.sum(0) * 3 / lesion.radii.mean())
    depth = ellipsoid(offset, np.zeros(3), lesion.radii) * lobes
    cover = canvas.paint(depth, hu, 5)
    canvas.labels[np.unravel_index(np.argmax(depth), depth.shape)] = 5
    return float((cover.sum() * voxel_mm3 * 6 / np.pi) ** (1 / 3))


def ellipsoid(points: np.ndarray, centre: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Signed depth in mm (approximate away from the surface) in an ellipsoid, positive inside."""
    squared = sum(((points[axis] - np.float32(centre[axis])) / np.float32(radii[axis])) ** 2 for axis in range(3))
    return (1 - np.sqrt(squared)) * np.float32(np.min(radii))


def tube(canvas: Canvas, centreline: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Signed depth in mm in tubes given as (N, 4) centreline points with radius, only where `where` is."""
    depth = np.full(where.shape, -1e3, np.float32)
    reach_mm = centreline[:, 3].max() + canvas.soft_mm
    distance, nearest = cKDTree(centreline[:, :3]).query(canvas.points[:, where].T, distance_upper_bound=reach_mm)
    radius = np.append(centreline[:, 3], -1e3)  # the tree answers N where nothing is in reach
    depth[where] = radius[nearest] - np.minimum(distance, 1e3)
    return depth


def _spine_y(z: np.ndarray) -> np.ndarray:
    """Where the vertebral bodies' centre lies, in mm: bent back in the chest, forward below."""
    return -40 - 7 * np.sin((z + 30) / 75)


def _disc(points: np.ndarray) -> np.ndarray:
    """Depth in the column of vertebral bodies and discs."""
    x, y, z = points
    return (1 - np.hypot(x / 21, (y - _spine_y(z)) / 16)) * 17


def _posterior(points: np.ndarray, period_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Depth in the arches and processes of the vertebrae, and in the canal they enclose."""
    x, y, z = points
    behind = _spine_y(z) - 24 - y  # mm behind the middle of the canal
    level = np.abs(_periodic(z, period_mm))
    around = np.hypot(x, behind)
    arch = np.minimum(14 - around, 9 - level)
    transverse = np.minimum.reduce([36 - np.abs(x), 6 - np.abs(behind), 6 - level])
    sloped = np.abs(_periodic(z + 0.4 * behind, period_mm))
    spinous = np.minimum.reduce([5 - np.abs(x), behind - 8, 28 - behind, 8 - sloped])
    return np.maximum.reduce([arch, transverse, spinous]), 8 - around


def _periodic(z: np.ndarray, period: float) -> np.ndarray:
    """Signed distance to the nearest multiple of a period."""
    return z - period * np.round(z / period)


def _blend(first: np.ndarray, second: np.ndarray, width_mm: float) -> np.ndarray:
    """Union of two shapes with a rounded seam."""
    share = np.clip(0.5 + 0.5 * (first - second) / width_mm, 0, 1)
    return second + share * (first - second) + width_mm * share * (1 - share)


def _smooth_noise(shape: tuple[int, ...], sigma: list[float], rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise of standard deviation 1 (*S), blurred by `sigma` voxels per axis."""
    noise = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma, mode="wrap", truncate=3)
    return noise / noise.std()
