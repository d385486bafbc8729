"""Names seeded everywhere a name can stand, the whole path run, and every byte it wrote searched for them."""

from __future__ import annotations

import contextlib
import gzip
import io
import platform
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path

import blosc2
import nibabel as nib
import nrrd
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from PIL import Image, PngImagePlugin

from medssl.cli.main import main
from medssl.datasets.manifest import read_table
from tests.scans.scan_makers import write_series

pytestmark = pytest.mark.long

# What stands in headers and in tables may be shown nowhere; what stands in paths on the terminal of `index` alone.
HEADER = [
    "PHIName",
    "PHIId",
    "19310203",
    "1.2.826.0.1.99421",
    "PHIClinic",
    "PHIDoctor",
    "PHIStation",
    "PHIStudy",
    "PHICreator",
    "PHIPrivate",
    "PHIDescrip",
    "PHIAuxFile",
    "PHIExtension",
    "PHIContent",
    "PHIKeyOne",
    "PHIValue",
    "PHIRemark",
    "PHIMeta",
    "PHIChunk",
    "PHIExif",
    "PHIJpeg",
    "PHITiff",
    "PHIMüller",
    "PHIRow",
    "PHIFree",
    "PHIHtml",
    "PHINumber",
    "PHI SCREEN",
    "PHIReader",
    "PHIHost",
    "PHIUser",
    "PHISurgeon",
    "PHIHospital",
    "PHIWard",
    "PHIConsultant",
    "2019-11-23",
]
PATHS = ["PHIFolder", "PHIFile", "PHIMask"]
AFFINE = np.diag([-0.9, -0.7, 2.5, 1.0]) + np.pad([[20.0], [-30.0], [5.0]], ((0, 1), (3, 0)))
SHAPE = (20, 18, 16)
SHORT = ["--crop", "16", "16", "16", "--steps", "2", "--batch-size", "2"]
NET = ["--encoder", "ResidualUNet", "--encoder.width", "4", "--encoder.blocks", "1", "1"]


def test_no_name_reaches_anything_that_is_written(tmp_path, capfd, monkeypatch):
    for module, name in ((socket, "gethostname"), (platform, "node"), (socket, "getfqdn")):
        monkeypatch.setattr(module, name, lambda *_: "PHIHost")
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, "PHIUser")
    data = cohort(tmp_path / "PHIFolder")
    work = tmp_path / "work"
    m, c, pre, model = (str(work / name) for name in ("m", "c", "pre", "model"))
    labels = [
        "--labels",
        str(data / "PHIFile_labels.csv"),
        "--patient",
        "who",
        "--mask",
        "../PHIMask/{stem}_PHIMask.nii.gz",
        "--report",
        "text",
        "--label",
        "finding",
    ]
    assert run(capfd, ["index", str(data), "--out", m, *labels, "--modality", "CT", "--audit"], terminal=HEADER) == 3
    assert run(capfd, ["prepare", m, "--out", c, "--spacing-mm", "0.9", "0.7", "2.5", "--jobs", "2"]) == 3
    columns = read_table(Path(c) / "manifest.parquet").columns
    assert [name for name in columns if name.startswith("label.")] == ["label.finding"]
    assert read_table(Path(c) / "manifest.parquet").report.str.contains("Clear lungs").sum() == 8
    reasons = " ".join(read_table(Path(m) / "rejects.parquet").reason)
    assert all(words in reasons for words in ("quarantined: ultrasound", "quarantined: a screen", "text is burned"))
    tiny = [*SHORT, "--accelerator", "cpu"]
    assert run(capfd, ["pretrain", "--data", c, "--out", pre, *NET, "--method", "SimMIM", *tiny]) == 0
    assert run(capfd, ["pretrain", "--data", c, "--out", f"{pre}_clip", *NET, "--method", "CLIP", *tiny]) == 0
    task = ["--task", "segmentation"]
    grid = ["--arms", "scratch", pre, "--budgets", "100%", "--draws", "1"]
    assert run(capfd, ["study", "--data", c, "--out", str(work / "study"), *task, *SHORT, *grid]) == 0
    assert run(capfd, ["report", str(work / "study"), "--out", str(work / "report.html")]) == 0
    assert run(capfd, ["finetune", "--data", c, "--out", model, "--init", pre, *task, *SHORT]) == 0
    one = str(data / "images")
    for command, trained in (("predict", model), ("embed", pre)):
        code = run(capfd, [command, trained, one, "--out", str(work / command)], terminal=HEADER)
        assert code in (0, 3)
    assert len(list(work.rglob("*.*"))) > 40
    assert leaks(work, HEADER + PATHS) == {}


def test_what_fails_names_nobody(tmp_path, capfd, monkeypatch):
    data = cohort(tmp_path / "PHIFolder")
    work = tmp_path / "work"
    m, c = str(work / "m"), str(work / "c")
    assert run(capfd, ["index", str(data), "--out", m, "--modality", "CT"], terminal=HEADER) == 3

    text = f"PHIName in {data}/PHIFile_0.nii.gz"

    def breaks(*_, **__):
        raise ValueError(text)

    monkeypatch.setattr("medssl.preprocessing.cache.cache_settings", breaks)
    for debug in ([], ["--debug"]):
        assert run(capfd, ["prepare", m, "--out", c, *debug], message="ValueError") == 1
    monkeypatch.undo()
    for source in read_table(Path(m) / "sources.parquet").files:  # every file goes bad between index and prepare
        for file in source:
            Path(file).write_bytes(b"PHIName PHIFree" * 50)
    for jobs in ("1", "2"):
        assert run(capfd, ["prepare", m, "--out", c, "--jobs", jobs, "--debug"], message="none of") == 2
    assert leaks(work, HEADER + PATHS) == {}


def test_images_are_searched_too_and_the_audit_names_fields_not_values(tmp_path, capfd):
    data = pictures(tmp_path / "PHIFolder")
    m, c = str(tmp_path / "work" / "m"), str(tmp_path / "work" / "c")
    assert run(capfd, ["index", str(data), "--out", m, "--modality", "DX", "--audit"], terminal=HEADER) == 0
    assert run(capfd, ["prepare", m, "--out", c]) == 0
    assert leaks(tmp_path / "work", HEADER + PATHS) == {}
    audit = pd.read_csv(Path(m) / "audit.csv").set_index("field")
    assert audit.loc["text", "name"].tolist() == ["Author", "other"]
    assert audit.loc["315", "name"].tolist() == ["Artist", "Artist"]
    assert audit.loc["comment", "files"] == 1


def test_the_audit_of_volumes(tmp_path):
    data = cohort(tmp_path / "PHIFolder")
    assert main(["index", str(data), "--out", str(tmp_path / "m"), "--modality", "CT", "--audit"]) == 3
    audit = pd.read_csv(tmp_path / "m" / "audit.csv").fillna("")
    rows = {(row.format, row.field): row for row in audit.itertuples()}
    slices = 2 * SHAPE[2] + 4
    assert (rows["dicom", "0010,0010"].name, rows["dicom", "0010,0010"].became) == ("PatientName", "nothing")
    assert rows["dicom", "0010,0010"].files == slices
    assert (rows["dicom", "0010,0020"].became, rows["dicom", "0010,0020"].vr) == ("pseudonym", "LO")
    assert rows["dicom", "0011,1001"].name == "private"
    assert ("dicom", "0028,0030") not in rows
    assert rows["nifti", "descrip"].files == rows["nifti", "extension 6"].files == 12  # four scans and eight masks
    assert rows["nrrd", "other"].files == rows["nrrd", "#"].files == rows["nrrd", "content"].files == 1
    assert rows["metaimage", "comment"].files == 1


def cohort(data: Path) -> Path:
    """Eight usable patients in five formats, and files that are quarantined or broken, with names all over."""
    for folder in ("images", "PHIMask"):
        (data / folder).mkdir(parents=True)
    writers = [series, series, nifti, nifti, nifti, nifti, in_nrrd, in_metaimage]
    rows = []
    for number, writer in enumerate(writers):
        volume = head(number)
        name = writer(data / "images", number, volume)
        named_nifti(data / "PHIMask" / f"{name.split('.')[0]}_PHIMask.nii.gz", (volume > 0).astype(np.uint8))
        text = f"PHIFree {number}, {name}: PHIRow, born 03.02.1931 (19310203), seen by Dr. PHIDoctor PHIMüller. Clear lungs."
        columns = {
            "finding": number % 2,
            "note": f"PHIFree {number}",
            "ReaderName": f"PHIReader {number % 2}",
            "text": text,
            "surgeon": f"PHISurgeon {number % 2}",
            "hospital": f"PHIHospital {number % 2}",
            "ward": "PHIWard",
            "consultant": "PHIConsultant",
            "birth_year": 1931 + number % 2,
            "visit_date": "2019-11-23",
        }
        rows.append({"file": name, "who": f"PHIRow Müller {number % 8}", **columns})
    for number, fields in enumerate(({"Modality": "US"}, {"ImageType": ["DERIVED", "SECONDARY", "PHI SCREEN SAVE"]})):
        series(data / "images", 20 + number, head(0)[:, :, :1], **fields)
    series(data / "images", 22, head(0)[:, :, :1], BurnedInAnnotation="YES")
    series(data / "images", 23, head(0)[:, :, :1], broken=True)
    (data / "images" / "PHIFile_html.nii.gz").write_bytes(b"<html>PHIHtml</html>" * 30)
    pd.DataFrame(rows).to_csv(data / "PHIFile_labels.csv", index=False)
    return data


def head(number: int) -> np.ndarray:
    """A ball of a patient's own size in air, (X, Y, Z) int16 HU."""
    far = np.linalg.norm(np.indices(SHAPE).T - np.array(SHAPE) / 2, axis=-1).T
    noise = np.random.default_rng(number).integers(0, 90, SHAPE)
    return np.where(far < 5 + number % 3, 60 + noise, -1000 + noise // 9).astype(np.int16)


def series(folder: Path, number: int, volume: np.ndarray, broken: bool = False, **fields) -> str:
    def named(dataset, z):
        dataset.add_new((0x0011, 0x0010), "LO", "PHICreator")
        dataset.add_new((0x0011, 0x1001), "LO", "PHIPrivate")
        dataset.file_meta.SourceApplicationEntityTitle = "PHIMeta"
        if broken:
            dataset.add_new((0x0018, 0x1164), "LO", "PHINumber")
            dataset.PixelSpacing = None

    names = dict(PatientName="PHIName^A", PatientID=f"PHIId{number}", PatientBirthDate="19310203", StudyDate="19310203")
    names |= dict(InstitutionName="PHIClinic", ReferringPhysicianName="PHIDoctor^PHIMüller", StationName="PHIStation")
    names |= dict(
        StudyDescription="PHIStudy", SpecificCharacterSet="ISO_IR 192", StudyInstanceUID="1.2.826.0.1.99421.7"
    )
    names |= dict(Manufacturer="PHIClinic", series=f"1.2.826.0.1.99421.{number}", edit=named)
    write_series(folder / f"PHIFile_{number}", volume, **{**names, **fields})
    return f"PHIFile_{number}"


def named_nifti(path: Path, volume: np.ndarray) -> str:
    image = nib.Nifti1Image(volume, AFFINE)
    image.header["descrip"], image.header["aux_file"], image.header["intent_name"] = (
        "PHIDescrip",
        "PHIAuxFile",
        "PHIName",
    )
    image.header["db_name"] = "PHIId"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"PHIExtension"))
    nib.save(image, path)
    return path.name


def nifti(folder: Path, number: int, volume: np.ndarray) -> str:
    return named_nifti(folder / f"PHIFile_{number}.nii{'.gz' if number % 2 else ''}", volume)


def in_nrrd(folder: Path, number: int, volume: np.ndarray) -> str:
    lps = np.diag([-1, -1, 1, 1]) @ AFFINE
    fields = {"space": "left-posterior-superior", "space directions": lps[:3, :3].T, "space origin": lps[:3, 3]}
    path = folder / f"PHIFile_{number}.nrrd"
    nrrd.write(str(path), volume, {**fields, "encoding": "gzip", "content": "PHIContent", "PHIKeyOne": "PHIValue"})
    path.write_bytes(path.read_bytes().replace(b"type:", b"# PHIRemark\ntype:", 1))
    return path.name


def in_metaimage(folder: Path, number: int, volume: np.ndarray) -> str:
    image = sitk.GetImageFromArray(volume.transpose())
    image.SetSpacing((0.9, 0.7, 2.5))
    image.SetOrigin((-20.0, 30.0, 5.0))
    path = folder / f"PHIFile_{number}.mhd"
    sitk.WriteImage(image, str(path), useCompression=True)
    path.write_text(path.read_text().replace("NDims", "Comment = PHIRemark\nPHIKeyOne = PHIValue\nNDims", 1))
    return path.name


def pictures(data: Path) -> Path:
    data.mkdir()
    grey = np.random.default_rng(0).integers(0, 255, (4, 40, 30)).astype(np.uint8)
    chunks, exif = PngImagePlugin.PngInfo(), Image.Exif()
    chunks.add_text("PHIKeyOne", "PHIChunk", zip=True)
    chunks.add_itxt("Author", "PHIMüller")
    exif[0x013B], exif[0x010E] = "PHIExif", "PHIExif"
    Image.fromarray(grey[0]).save(data / "PHIFile_0.png", pnginfo=chunks)
    Image.fromarray(grey[1]).save(data / "PHIFile_1.png", exif=exif)
    Image.fromarray(grey[2]).save(data / "PHIFile_2.jpg", comment="PHIJpeg", exif=exif)
    Image.fromarray(grey[3]).save(data / "PHIFile_3.tif", tiffinfo={315: "PHITiff", 270: "PHITiff"})
    return data


def run(capfd, words: list[str], terminal: list[str] | None = None, message: str = "") -> int:
    """The command's exit code; what it printed holds no name, on the terminal of `index` none out of a header."""
    code = main(words)
    shown = capfd.readouterr()
    for text in (shown.out, shown.err):
        assert found_in(text.encode(), HEADER + PATHS if terminal is None else terminal) == [], text
    assert message in shown.err
    return code


def test_manifest_and_cache_are_their_owners_alone(manifest, cache):
    """Labels and pseudonyms stood in files that every user of the machine could read."""
    files = [path for folder in (manifest, cache.path) for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert {path.name: oct(path.stat().st_mode) for path in files if path.stat().st_mode & 0o077} == {}


def test_a_run_is_its_owners_alone(pretrained):
    """TensorBoard's files could be read by all; they lie in a folder that is closed to others."""
    files = [path for path in pretrained.rglob("*") if path.is_file()]
    assert [path for path in files if path.parent.name == "tensorboard"]
    open_to_all = [path for path in files if path.stat().st_mode & 0o077 and path.parent.stat().st_mode & 0o077]
    assert open_to_all == []


def leaks(folder: Path, secrets: list[str]) -> dict[str, list[str]]:
    """{file: the secrets in its name, its bytes or what they unpack to} for every file but sources.parquet."""
    found: dict[str, list[str]] = {}
    for path in folder.rglob("*"):
        if path.name == "sources.parquet":
            assert path.stat().st_mode & 0o777 == 0o600
            continue
        hits = found_in(str(path.relative_to(folder)).encode(), secrets)
        if path.is_file():
            hits += [hit for data in unpacked(path) for hit in found_in(data, secrets)]
        if hits:
            found[str(path.relative_to(folder))] = sorted(set(hits))
    return found


def found_in(data: bytes, secrets: list[str]) -> list[str]:
    low = data.lower()
    codes = ("utf-8", "latin-1", "utf-16-le", "utf-16-be")
    return [word for word in secrets if any(word.lower().encode(code) in low for code in codes)]


def unpacked(path: Path) -> Iterator[bytes]:
    """A file's bytes, and those it hides from a plain search by compression."""
    data = path.read_bytes()
    yield data
    if path.suffix == ".parquet":
        frame = pd.read_parquet(io.BytesIO(data))
        yield frame.to_csv().encode() + repr(frame.attrs).encode()
    if path.suffix == ".gz":
        yield gzip.decompress(data)
    if path.suffix == ".b2nd":
        stored = blosc2.open(str(path))
        yield repr(stored.schunk.vlmeta[:]).encode() + stored[()].tobytes()
    if path.suffix == ".png":
        yield repr(Image.open(path).info).encode()
    with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:  # .npz and torch's checkpoints
        yield from (archive.read(name) for name in archive.namelist())


@pytest.mark.parametrize("code", ["utf-8", "latin-1", "utf-16-le", "utf-16-be"])
def test_the_search_finds_what_it_is_to_find(tmp_path, code):
    """The tests above cannot pass by looking at nothing."""
    name = "phimüller".encode(code)
    (tmp_path / "a.txt").write_bytes(b"..." + name)
    pd.DataFrame({"a": ["PHIName"] * 99}).to_parquet(tmp_path / "b.parquet", compression="gzip")
    np.savez_compressed(tmp_path / "c.npz", x=np.frombuffer(name * 50, np.uint8))
    (tmp_path / "PHIFile").mkdir()
    assert set(leaks(tmp_path, HEADER + PATHS)) == {"a.txt", "b.parquet", "c.npz", "PHIFile"}
