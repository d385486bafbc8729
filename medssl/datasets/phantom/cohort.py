"""A cohort that looks like abdominal and thoracic CT, written the way a hospital would send it.

No patient stands behind it: every scan is drawn from a seed, and the same settings give the same bytes.

    from pathlib import Path
    from medssl.datasets.phantom.cohort import phantom
    phantom(Path("cohort"), patients=40, seed=0)

    cohort/dicom/P0001/P0001_S01/0001.dcm CT Image Storage, one folder per series; some patients have two
    cohort/masks/P0001_S01.nii.gz         structure labels on the same grid, see `LABELS`
    cohort/labels.csv                     file, patient, lesion (yes/no), kind, scanner
    cohort/reports.csv                    file, report
    cohort/phantom.json                   the settings it was made with
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import nibabel
import numpy as np
import pandas as pd
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from scipy.ndimage import gaussian_filter

from medssl.core.atomic import exclusive
from medssl.core.errors import MedsslError
from medssl.datasets.phantom.anatomy import (
    FIELD_MM,
    KINDS,
    LABELS,
    Body,
    Lesion,
    draw_body,
    draw_contrast,
    draw_lesions,
    grid_points,
    render,
)
from medssl.datasets.phantom.report import write_report
from medssl.scans.modality import LOWEST_HU

__all__ = ["KINDS", "LABELS", "mask_path", "phantom"]

SLICE_LEVEL_MM = -72.0  # height of a single slice in the reference torso: liver, spine and vessels, no lung
BLOCK = 8  # patients that together have each kind of lesion once, four healthy ones, two with a second scan


@dataclass(frozen=True)
class Scanner:
    """What a manufacturer does to the picture."""

    noise_hu: float
    blur_voxels: float
    offset_hu: float
    thickness: float  # slice thickness as a multiple of the slice distance
    kvp: int
    kernel: str
    signed: bool  # pixel representation
    table_sag: float  # how far the table's edges rise, as a fraction of its half-width


SCANNERS = {
    "A": Scanner(11, 0.40, 0, 1.0, 120, "STANDARD", False, 0.20),
    "B": Scanner(8, 0.60, 4, 1.25, 120, "SOFT", False, 0.0),
    "C": Scanner(20, 0.30, -3, 0.8, 100, "SHARP", True, 0.10),
}


def phantom(
    out: Path,
    patients: int = 40,
    seed: int = 0,
    shape: tuple[int, int, int] = (64, 64, 48),
    spacing_mm: tuple[float, float, float] = (5.0, 5.0, 6.0),
    jobs: int = 1,
) -> Path:
    """Make the cohort in `out` and return `out`; a finished cohort of the same settings is left as it is.

    The torso is scaled to fill the smaller side of a slice, so a smaller field of view shows a smaller person. The first
    patients of a longer cohort are those of a shorter one. A shape with one slice makes images in place of volumes: each scan
    is one slice through the liver, and no patient has a lesion, since few slices would meet one.

    Args:
        out: The folder to write to.
        patients: How many patients.
        seed: The same seed and settings give the same bytes.
        shape: Columns, rows and slices; one slice for images.
        spacing_mm: Of columns, rows and slices.
        jobs: Processes that draw patients side by side, -1 for one per core; the result is the same.

    Raises:
        MedsslError: A count, seed, shape or spacing makes no cohort, or `out` holds something else already.

    Example:
        phantom(Path("cohort"), patients=8, shape=(32, 32, 24), spacing_mm=(10, 10, 12))
    """
    out = Path(out)
    _check(patients, seed, shape, spacing_mm, jobs)
    settings = {
        "patients": patients,
        "seed": seed,
        "shape": [int(count) for count in shape],
        "spacing_mm": [float(step) for step in spacing_mm],
    }
    with exclusive(out):
        if not _made_before(out, settings):
            _make(out, settings, Grid(shape, spacing_mm), jobs)
    return out


def _make(out: Path, settings: dict[str, Any], grid: Grid, jobs: int) -> None:
    patients, seed = settings["patients"], settings["seed"]
    (out / "masks").mkdir(parents=True, exist_ok=True)
    (out / "phantom.json").write_text(json.dumps(settings) + "\n")
    work = joblib.delayed(_write_patient)
    jobs_done = joblib.Parallel(n_jobs=jobs)(
        work(out, plan, patient_seed, grid)
        for plan, patient_seed in zip(_plan(patients, seed, grid), np.random.SeedSequence(seed).spawn(patients))
    )
    table = pd.DataFrame([row for patient_rows in jobs_done for row in patient_rows])
    _write_table(table[["file", "report"]], out / "reports.csv")
    labels = table[["file", "patient", "lesion", "kind", "scanner"]]
    _write_table(labels, out / "labels.csv")  # last: where it lies, the cohort is whole


def mask_path(out: Path, file: str) -> Path:
    """Where the mask of a series lies: `dicom/P0001/P0001_S01` of labels.csv -> `out/masks/P0001_S01.nii.gz`."""
    return out / "masks" / f"{Path(file).name}.nii.gz"


@dataclass(frozen=True)
class Grid:
    """The voxels asked for: how many and how far apart, as (X, Y, Z)."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]

    @property
    def single_slice(self) -> bool:
        """Whether a scan is an image."""
        return self.shape[2] == 1

    @property
    def scale(self) -> float:
        """How many mm of the scan one mm of the reference torso takes."""
        return min(self.shape[0] * self.spacing_mm[0], self.shape[1] * self.spacing_mm[1]) / FIELD_MM[0]

    @property
    def height_mm(self) -> float:
        """How much of the reference torso the slices span, in its own mm."""
        return self.shape[2] * self.spacing_mm[2] / self.scale


@dataclass(frozen=True)
class Plan:
    """What was decided for a patient before drawing."""

    number: int
    visits: int
    kind: str  # of KINDS, or "none"

    @property
    def name(self) -> str:
        """Folder name, and the stem of the patient's made-up identity."""
        return f"P{self.number:04d}"

    @property
    def identity(self) -> str:
        """The made-up patient identifier, the same in the DICOM headers and in labels.csv."""
        return f"PHANTOM-{self.name}"


def _check(patients: int, seed: int, shape: tuple, spacing_mm: tuple, jobs: int) -> None:
    """Raise MedsslError for settings that make no cohort."""
    if patients < 1:
        raise MedsslError(f"patients is {patients}: expected 1 or more; pass --patients 40")
    if seed < 0:
        raise MedsslError(f"seed is {seed}: expected 0 or more; pass --seed 0")
    if jobs == 0:
        raise MedsslError("jobs is 0: expected a number of processes, or -1 for one a core; pass --jobs 1")
    if len(shape) != 3 or any(not 16 <= count <= 1024 for count in shape[: 2 if shape[2] == 1 else 3]):
        raise MedsslError(
            f"shape is {shape}: expected three numbers from 16 to 1024, or 1 as the last for images; pass --shape 64 64 48"
        )
    if len(spacing_mm) != 3 or any(not (math.isfinite(step) and 0.1 <= step <= 20) for step in spacing_mm):
        raise MedsslError(f"spacing_mm is {spacing_mm}: expected three numbers from 0.1 to 20; pass --spacing-mm 5 5 6")
    grid = Grid(shape, spacing_mm)
    if not grid.single_slice and grid.height_mm < 0.4 * FIELD_MM[2]:
        slices = math.ceil(0.4 * FIELD_MM[2] * grid.scale / spacing_mm[2])
        raise MedsslError(
            f"shape is {shape} with spacing_mm {spacing_mm}: expected {slices} slices or more, to show both "
            "chest and abdomen; raise shape[2] or spacing_mm[2]"
        )


def _made_before(out: Path, settings: dict) -> bool:
    """Whether `out` holds this very cohort, complete; raises MedsslError rather than mix two cohorts in one folder."""
    record = out / "phantom.json"
    try:
        recorded = json.loads(record.read_text()) if record.exists() else None
    except ValueError:
        recorded = None
    if recorded != settings and any((out / part).exists() for part in ("dicom", "masks", "labels.csv", "reports.csv")):
        raise MedsslError(
            f"the output folder holds other data (settings {recorded}): expected an empty folder or a cohort of "
            f"{settings}; choose another folder, or remove this one first"
        )
    return recorded == settings and (out / "labels.csv").exists()


def _plan(patients: int, seed: int, grid: Grid) -> list[Plan]:
    """Kind of lesion and number of visits of each patient, balanced within every block of eight."""
    plans: list[Plan] = []
    for block in range(math.ceil(patients / BLOCK)):
        rng = np.random.default_rng([seed, block])
        kinds = rng.permutation(["none"] * (BLOCK - len(KINDS)) + list(KINDS))
        visits = rng.permutation([2, 2] + [1] * (BLOCK - 2))
        if grid.single_slice:
            kinds = np.full(BLOCK, "none")
        first = block * BLOCK + 1
        plans += [Plan(first + i, int(visits[i]), str(kinds[i])) for i in range(BLOCK)]
    return plans[:patients]


def _write_patient(out: Path, plan: Plan, seed: np.random.SeedSequence, grid: Grid) -> list[dict]:
    """Draw one body with its lesions, scan it once or twice, write it; the rows of the tables."""
    body_seed, *scan_seeds = seed.spawn(1 + plan.visits)
    rng = np.random.default_rng(body_seed)
    body = draw_body(rng)
    lesions: list[Lesion] = []
    if plan.kind != "none":
        smallest_mm = 1.1 * max(grid.spacing_mm) / grid.scale
        reach_mm = 0.5 * grid.height_mm - 36  # stays in view in every pose
        lesions = draw_lesions(body, plan.kind, smallest_mm, reach_mm, rng)
    return [
        _write_scan(out, plan, visit, body, lesions, grid, np.random.default_rng(scan_seed))
        for visit, scan_seed in enumerate(scan_seeds, start=1)
    ]


def _write_scan(
    out: Path, plan: Plan, visit: int, body: Body, lesions: list[Lesion], grid: Grid, rng: np.random.Generator
) -> dict:
    """Scan a body: another pose, contrast, scanner and noise each time; write series and mask."""
    file = f"dicom/{plan.name}/{plan.name}_S{visit:02d}"
    scanner = str(rng.choice(list(SCANNERS)))
    contrast = draw_contrast(rng)
    steps = np.array(grid.spacing_mm) * (-1, -1, 1)  # columns run to the patient's Left, rows to Posterior
    affine = np.diag([*steps, 1.0])
    room = grid_points(grid.shape, affine) / np.float32(grid.scale)
    if grid.single_slice:
        room[2] += np.float32(SLICE_LEVEL_MM)
    hu, labels, sizes_mm = render(body, lesions, _pose(room, rng), contrast, rng)
    stored = _scan(hu, room, SCANNERS[scanner], rng)
    corner = -(np.array(grid.shape) - 1) / 2 * steps
    affine[:3, 3] = np.round(corner + rng.uniform(-1, 1, 3) * (12, 12, 300), 2)  # the table stands somewhere
    _write_mask(labels, affine, mask_path(out, file))
    _write_series(stored, affine, _header(grid, plan, visit, scanner), out / file, rng)
    return {
        "file": file,
        "patient": plan.identity,
        "lesion": "yes" if lesions else "no",
        "kind": plan.kind,
        "scanner": scanner,
        "report": write_report(visit, lesions, [size * grid.scale for size in sizes_mm], contrast, body, rng),
    }


def _pose(room: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The patient never lies twice the same way: a small turn and shift of the points (3, *S)."""
    turn = np.eye(3)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        angle = np.deg2rad(rng.normal(0, 2.5))
        step = np.eye(3)
        step[[first, second], [first, second]] = np.cos(angle)
        step[first, second], step[second, first] = -np.sin(angle), np.sin(angle)
        turn = turn @ step
    shift = np.clip(rng.normal(0, [4, 4, 6]), -12, 12).reshape(3, 1, 1, 1)
    x, y, z = room
    turned = np.stack([row[0] * x + row[1] * y + row[2] * z for row in turn.astype(np.float32)])
    return turned + shift.astype(np.float32)  # no BLAS: its sums depend on the machine and its threads


def _scan(hu: np.ndarray, room: np.ndarray, scanner: Scanner, rng: np.random.Generator) -> np.ndarray:
    """Put the table under the body, blur, add noise, cut the round field of view: (*S) int16 HU."""
    x, y, _ = room
    half_mm, pixel_mm = FIELD_MM[0] / 2, abs(float(y[0, 1, 0] - y[0, 0, 0]))
    back = np.quantile(y[hu > -500], 0.002) - 3
    board = y - back - scanner.table_sag * half_mm * (x / half_mm) ** 2  # height above the table top
    foam = (board < 0) & (board > -16) & (np.abs(x) < 125) & (hu < -500)
    shell = foam & ((board > -pixel_mm) | (board < -16 + pixel_mm))
    hu = np.where(shell, -300, np.where(foam, -930, hu))
    sigma = scanner.blur_voxels * np.array([1, 1, scanner.thickness])
    hu = gaussian_filter(hu, sigma, truncate=3)
    noise = gaussian_filter(rng.standard_normal(hu.shape, dtype=np.float32), [0.5, 0.5, 0.0], truncate=3)
    centre_mm = np.hypot(x, y)
    level = scanner.noise_hu * np.exp(rng.normal(0.1, 0.35)) * (1.3 - 0.6 * centre_mm / half_mm)  # most in the middle
    hu = hu + level * noise / noise.std() + scanner.offset_hu + rng.normal(0, 1.5)
    hu[centre_mm > half_mm] = LOWEST_HU
    return np.clip(np.round(hu), LOWEST_HU, 3071).astype(np.int16)


def _write_mask(labels: np.ndarray, affine: np.ndarray, path: Path) -> None:
    """Labels (*S) as NIfTI on the grid of the series, affine in RAS+."""
    image = nibabel.Nifti1Image(labels, affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    nibabel.save(image, path)  # nibabel's gzip stores no time, so the bytes repeat


def _write_series(
    stored: np.ndarray, affine: np.ndarray, header: Dataset, folder: Path, rng: np.random.Generator
) -> None:
    """Volume (X, Y, Z) in HU -> one CT Image Storage file per slice, numbered upwards or downwards."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = rng.bytes(16).hex()
    header.StudyInstanceUID = generate_uid(entropy_srcs=[stem, "study"])
    header.SeriesInstanceUID = generate_uid(entropy_srcs=[stem, "series"])
    header.FrameOfReferenceUID = generate_uid(entropy_srcs=[stem, "frame of reference"])
    order = np.arange(stored.shape[2])[:: int(rng.choice([1, -1]))]
    for number, index in enumerate(order, start=1):
        left, posterior, superior = (affine[:3, 3] + affine[:3, 2] * index) * (-1, -1, 1)  # RAS -> LPS
        header.SOPInstanceUID = generate_uid(entropy_srcs=[stem, str(number)])
        header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
        header.InstanceNumber = number
        header.ImagePositionPatient = [_decimal(left), _decimal(posterior), _decimal(superior)]
        header.SliceLocation = _decimal(superior)
        pixels = stored[:, :, index].T + np.int16(1024)  # 0 to 4095: the same bits, signed or not
        header.PixelData = pixels.astype("<u2").tobytes()
        header.save_as(folder / f"{number:04d}.dcm", enforce_file_format=True)


def _decimal(value: float) -> str:
    """A decimal string of at most 16 characters, and never a negative zero."""
    return f"{round(float(value), 4) + 0.0:.10g}"


def _header(grid: Grid, plan: Plan, visit: int, name: str) -> Dataset:
    """Everything the slices of a series have in common, but for the UIDs."""
    scanner = SCANNERS[name]
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID = CTImageStorage
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SpecificCharacterSet = "ISO_IR 100"
    header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    header.Modality, header.BodyPartExamined, header.PatientPosition = "CT", "CHESTABDOMEN", "HFS"
    header.PatientID, header.PatientName = plan.identity, f"PHANTOM^{plan.name}"
    header.PatientBirthDate, header.PatientSex = "", "O"
    header.StudyDate = header.SeriesDate = header.ContentDate = f"20000{visit}01"
    header.StudyTime = header.ContentTime = "120000"
    header.StudyID, header.SeriesNumber, header.AcquisitionNumber = str(visit), visit, 1
    header.AccessionNumber = header.ReferringPhysicianName = header.PositionReferenceIndicator = ""
    header.SeriesDescription = "Synthetic torso"
    header.Manufacturer, header.ManufacturerModelName = name, f"Phantom {name}"
    header.KVP, header.ConvolutionKernel = scanner.kvp, scanner.kernel
    header.SliceThickness = _decimal(grid.spacing_mm[2] * scanner.thickness)
    header.SpacingBetweenSlices = _decimal(grid.spacing_mm[2])
    header.PixelSpacing = [
        _decimal(grid.spacing_mm[1]),
        _decimal(grid.spacing_mm[0]),
    ]  # between rows, then columns
    header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    header.Columns, header.Rows = grid.shape[0], grid.shape[1]
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, 16, 15
    header.PixelRepresentation = int(scanner.signed)
    header.RescaleSlope, header.RescaleIntercept, header.RescaleType = 1, -1024, "HU"
    header.WindowCenter, header.WindowWidth = 40, 400
    return header


def _write_table(table: pd.DataFrame, path: Path) -> None:
    """Write the CSV to a temporary file and rename it, so that a half-written table is never left behind."""
    partial = path.with_suffix(".partial")
    table.to_csv(partial, index=False, lineterminator="\n")
    partial.replace(path)
