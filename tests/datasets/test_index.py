"""index: what lies in a folder, joined with labels, patients and masks; nothing guessed, nobody named."""

from __future__ import annotations

import stat

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from medssl.core.errors import MedsslError
from medssl.datasets.index import index
from medssl.datasets.labels import label_codes
from medssl.datasets.manifest import read_table, rejects_table, source_files
from medssl.preprocessing.cache import prepare
from medssl.scans.privacy import Pseudonyms, known_manufacturer
from tests.scans.scan_makers import ct_like, slice_dataset, tree, write_nifti, write_series

CONTRACT = (
    "scan patient modality format dims shape spacing_mm orientation slice_axis manufacturer site digest "
    "has_mask status "
    "reason"
)


def csv(path, rows):
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def by_file(out, manifest):
    """file name -> manifest row."""
    sources = pd.read_parquet(out / "sources.parquet").set_index("scan")
    names = {scan: files[0].rsplit("/", 1)[-1] for scan, files in sources.files.items()}
    return {names[row.scan]: row for row in manifest.itertuples()}


def test_the_manifest_holds_the_contract_and_private_files_are_private(tmp_path):
    manifest = index([tree(tmp_path / "data")], tmp_path / "m", mask="../labels/{name}", modality="MR")
    stored = pd.read_parquet(tmp_path / "m" / "manifest.parquet")
    assert set(CONTRACT.split()) <= set(stored.columns)
    assert len(stored) == 6
    assert (stored.status == "ok").all()
    assert stored.has_mask.all()
    assert list(manifest.scan) == list(stored.scan)
    assert list(stored["shape"].iloc[0]) == [14, 12, 10]
    for name in ("sources.parquet", "pseudonym.key"):
        assert stat.S_IMODE((tmp_path / "m" / name).stat().st_mode) == 0o600
    assert source_files(tmp_path / "m", stored.scan[2])[0].endswith("images/s2.nii.gz")
    with pytest.raises(MedsslError, match="not in this manifest"):
        source_files(tmp_path / "m", "nobody")


def test_order_does_not_depend_on_the_key_and_the_key_keeps_names(tmp_path):
    data = tree(tmp_path / "data", mask=False)
    first, again, other = (index([data], tmp_path / name) for name in ("a", "a", "b"))
    assert list(first.scan) == list(again.scan)
    assert list(first.scan) != list(other.scan)
    for out, manifest in (("a", first), ("b", other)):
        assert list(by_file(tmp_path / out, manifest)) == [f"s{number}.nii.gz" for number in range(6)]


def test_two_processes_find_what_one_does(tmp_path):
    data = tree(tmp_path / "data")
    write_series(tmp_path / "data" / "ct")
    one, two = (index([data], tmp_path / "m", mask="../labels/{name}", jobs=jobs) for jobs in (1, 2))
    pd.testing.assert_frame_equal(one, two)


def test_labels_match_exact_paths_unique_ends_and_bare_stems(tmp_path):
    for name in ("a/x.nii.gz", "a/y.nii.gz", "b/x.nii.gz", "z.nii"):
        write_nifti(tmp_path / "d" / name)
    rows = [
        {"file": "a/x.nii.gz", "who": "p1", "finding": "sick", "age": 40},
        {"file": "y.nii.gz", "who": "p1", "finding": "well", "age": 41},
        {"file": "z", "who": "p2", "finding": "sick", "age": 42},
        {"file": "x.nii.gz", "who": "p3", "finding": "sick", "age": 43},
        {"file": "gone.nii.gz", "who": "p4", "finding": "well", "age": 44},
    ]
    manifest = index(
        [tmp_path / "d"], tmp_path / "m", labels=csv(tmp_path / "l.csv", rows), patient="who", label=["finding"]
    )
    assert list(manifest["label.finding"]) == ["sick", "well", None, "sick"]
    assert list(manifest.status) == ["ok", "ok", "rejected", "ok"]
    assert manifest.patient[0] == manifest.patient[1] != manifest.patient[3]
    assert "label.age" not in manifest
    assert manifest.reason[2] == "no row in labels: patient unknown"
    warned = " ".join(manifest.attrs["warnings"])
    assert "1 label rows name no scan" in warned
    assert "1 label rows could mean several" in warned
    assert "gone" not in warned


def test_warnings_name_their_rows_on_the_terminal_only(tmp_path, capsys):
    write_nifti(tmp_path / "d" / "a.nii")
    rows = [{"file": "a.nii", "y": 1}, {"file": "miller.nii", "y": 2}]
    index([tmp_path / "d"], tmp_path / "m", labels=csv(tmp_path / "l.csv", rows))
    assert "miller.nii" in capsys.readouterr().err
    assert not any(b"miller" in path.read_bytes() for path in (tmp_path / "m").iterdir())


def test_rows_that_disagree_are_not_used(tmp_path):
    for name in "abc":
        write_nifti(tmp_path / "d" / f"{name}.nii")
    rows = [
        ("a.nii", "p1", 1),
        ("a.nii", "p1", 2),
        ("b.nii", "p2", 1),
        ("b.nii", "p2", 1),
        ("c.nii", None, 1),
    ]
    table = csv(tmp_path / "l.csv", [dict(zip(("file", "who", "y"), row)) for row in rows])
    manifest = index([tmp_path / "d"], tmp_path / "m", labels=table, patient="who", label=["y"])
    assert list(manifest.status) == ["rejected", "ok", "rejected"]
    assert "disagree" in manifest.reason[0]
    assert "has no patient" in manifest.reason[2]
    assert list(manifest["label.y"].fillna(-1)) == [-1, 1, 1]


def test_chosen_labels_and_wrong_columns(tmp_path):
    write_nifti(tmp_path / "d" / "a.nii")
    table = csv(tmp_path / "l.csv", [{"file": "a.nii", "finding": "x", "age": 3}])
    manifest = index([tmp_path / "d"], tmp_path / "m", labels=table, label=["age"])
    assert [name for name in manifest if name.startswith("label.")] == ["label.age"]
    for wrong in ({"label": ["findin"]}, {"key": "fil"}, {"patient": "agee"}):
        with pytest.raises(MedsslError, match=r"did you mean (finding|file|age)"):
            index([tmp_path / "d"], tmp_path / "m", labels=table, **wrong)


def test_classes_called_none_or_na_are_classes_and_among_numbers_they_are_no_value(tmp_path, capsys):
    for name in "abcd":
        write_nifti(tmp_path / "d" / f"{name}.nii")
    lines = [
        "file,who,kind,only,age,flag",
        "a,p1,None,NA,40,True",
        "b,NA,NA,NA,NA,NA",
        "c,null,cyst,NA,41.5,False",
        "d,p4,,NA,,",
    ]
    (tmp_path / "l.csv").write_text("\n".join(lines))
    labels = ["kind", "only", "age", "flag"]
    manifest = index([tmp_path / "d"], tmp_path / "m", labels=tmp_path / "l.csv", patient="who", label=labels)
    assert manifest.status.tolist() == ["ok"] * 4
    assert manifest["label.kind"].tolist() == ["None", "NA", "cyst", None]
    assert manifest["label.only"].tolist() == ["NA"] * 4
    assert manifest["label.age"].isna().tolist() == manifest["label.flag"].isna().tolist() == [False, True, False, True]
    assert label_codes(manifest, "kind")[1] == ["NA", "None", "cyst"]
    assert "the label 'kind' has the class 'NA': leave cells empty" in capsys.readouterr().err.replace("\n", " ")
    cache = prepare(tmp_path / "m", tmp_path / "c")
    assert cache.manifest["label.kind"].tolist() == ["None", "NA", "cyst", None]


def table_of(tmp_path, values):
    """The manifest of a scan for each value of the label `kind`."""
    for number in range(len(values)):
        write_nifti(tmp_path / "d" / f"{number}.nii")
    lines = ["file,kind", *(f"{number},{value}" for number, value in enumerate(values))]
    (tmp_path / "l.csv").write_text("\n".join(lines))
    return index([tmp_path / "d"], tmp_path / "m", labels=tmp_path / "l.csv", label=["kind"])


def test_whole_numbers_are_the_same_classes_beside_an_empty_cell(tmp_path):
    """They were called 0.0 and 1.0 there, and 0 and 1 in a cohort without an empty cell."""
    manifest = table_of(tmp_path, ["1", "", "0", "NA"])
    assert label_codes(manifest, "kind")[1] == label_codes(read_table(tmp_path / "m" / "manifest.parquet"), "kind")[1]
    assert label_codes(manifest, "kind")[1] == ["0", "1"]


def test_a_space_that_nobody_sees_makes_no_class(tmp_path):
    manifest = table_of(tmp_path, ["cyst", "cyst ", " cyst", "  "])
    assert manifest["label.kind"].tolist() == ["cyst", "cyst", "cyst", None]


@pytest.mark.parametrize(
    "values", [("1", "1.0", "x"), ("Cyst", "cyst", "x"), ("caf\u00e9", "cafe\u0301", "x"), ("a\u200b", "a", "b")]
)
def test_classes_that_read_the_same_are_reported(tmp_path, capsys, values):
    table_of(tmp_path, values)
    assert "the label 'kind' has classes that differ in capitals" in capsys.readouterr().err.replace("\n", " ")


def test_an_infinite_label_is_refused(tmp_path):
    with pytest.raises(MedsslError, match="holds infinite numbers"):
        table_of(tmp_path, ["1", "inf", "0"])


def test_patients_named_in_two_ways_are_counted_and_not_named(tmp_path, capsys):
    for name in "abc":
        write_nifti(tmp_path / "d" / f"{name}.nii")
    (tmp_path / "l.csv").write_text("file,who\na,0017\nb,17\nc,18\n")
    index([tmp_path / "d"], tmp_path / "m", labels=tmp_path / "l.csv", patient="who")
    said = capsys.readouterr().err.replace("\n", " ")
    assert "1 patients are named in two ways" in said
    assert "0017" not in said


@pytest.mark.parametrize("word", ["NA", "Unknown", "?"])
def test_a_word_for_no_patient_is_reported(tmp_path, capsys, word):
    """All scans with it were one person, without a word."""
    for name in "abc":
        write_nifti(tmp_path / "d" / f"{name}.nii")
    (tmp_path / "l.csv").write_text(f"file,who\na,{word}\nb,{word}\nc,18\n")
    index([tmp_path / "d"], tmp_path / "m", labels=tmp_path / "l.csv", patient="who")
    said = capsys.readouterr().err.replace("\n", " ")
    assert "1 words that seem to mean no patient are patients" in said
    assert "18" not in said


@pytest.mark.parametrize(("name", "mask"), [("a" * 251 + ".png", "{stem}_mask.png"), ("a" * 251 + ".img", None)])
def test_a_name_so_long_that_no_other_fits_beside_it_stops_nothing(tmp_path, name, mask):
    """The mask, or the header, that was looked for had a name too long for any disk, which ended the command."""
    write_nifti(tmp_path / "d" / "scan.nii")
    Image.fromarray(np.arange(100, dtype=np.uint8).reshape(10, 10)).save(tmp_path / "d" / name, "PNG")
    assert (index([tmp_path / "d"], tmp_path / "m", mask=mask)["status"] == "ok").all()


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["file,finding,finding", "a,x,y"], "2 columns 'finding'"),
        (["file,finding, finding", "a,x,y"], "2 columns 'finding'"),
        (["file,,", "a,x,y"], "2 columns without a name"),
        (["file,finding", "a,x,y"], "row 2 of labels .* has 3 cells, there are 2 columns"),
        (["file,finding", "a,x", "b,x,"], "row 3 of labels .* has 3 cells"),
    ],
)
def test_two_columns_of_one_name_and_rows_too_long_are_refused(tmp_path, lines, words):
    """pandas called the second column finding.1, and took the first cell of a long row for its number."""
    write_nifti(tmp_path / "d" / "a.nii")
    (tmp_path / "l.csv").write_text("\n".join(lines))
    with pytest.raises(MedsslError, match=words):
        index([tmp_path / "d"], tmp_path / "m", labels=tmp_path / "l.csv", label=["finding"])


def test_labels_stand_in_the_order_of_their_file(tmp_path):
    names = [f"finding{letter}" for letter in "qwertyuiop"]
    for name in "ab":
        write_nifti(tmp_path / "d" / f"{name}.nii")
    table = csv(tmp_path / "l.csv", [{"file": f"{name}.nii"} | dict.fromkeys(names, name) for name in "ab"])
    manifest = index([tmp_path / "d"], tmp_path / "m", labels=table, label=names)
    assert [name for name in manifest if name.startswith("label.")] == [f"label.{name}" for name in names]


def test_no_column_is_kept_that_was_not_named_and_the_others_are_listed(tmp_path, capsys):
    names = ["surgeon", "hospital", "ward", "consultant", "born", "visit", "finding"]
    rows = [{"file": f"{n}.nii", **dict.fromkeys(names, "sick" if n % 2 else "well")} for n in range(4)]
    for n in range(4):
        write_nifti(tmp_path / "d" / f"{n}.nii")
    table = csv(tmp_path / "l.csv", rows)
    for label, kept in ((None, []), (["finding"], ["label.finding"])):
        manifest = index([tmp_path / "d"], tmp_path / "m", labels=table, label=label)
        assert [name for name in manifest if name.startswith("label.")] == kept
        shown = capsys.readouterr().err
        assert f"{7 - len(kept)} columns of the labels are left out (keep some with --label NAME..." in shown
        assert ", ".join(names[: 7 - len(kept)]) in shown  # all of them, not the first few
        assert "surgeon" not in " ".join(manifest.attrs["warnings"])


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (lambda n: f"P{n:04d}", "40 different texts"),
        (lambda n: "2021-03-04", "dates"),
        (lambda n: "4.3.21 12:30", "dates"),
        (lambda n: 20210304, "dates as numbers"),
        (lambda n: 7_310_000 + n, "40 different whole numbers"),
        (lambda n: "a sentence about one patient " * 3, "texts of more than 64 characters"),
    ],
)
def test_a_label_of_dates_identifiers_or_free_text_is_refused(tmp_path, value, problem):
    write_nifti(tmp_path / "d" / "0.nii")
    table = csv(tmp_path / "l.csv", [{"file": f"{n}.nii", "y": value(n)} for n in range(40)])
    with pytest.raises(MedsslError, match=f"the label 'y' holds {problem}"):
        index([tmp_path / "d"], tmp_path / "m", labels=table, label=["y"])
    assert not (tmp_path / "m" / "manifest.parquet").exists()


@pytest.mark.parametrize(
    "value", [lambda n: 20.5 + n, lambda n: n, lambda n: f"class {n % 8}", lambda n: 200_000 * (n % 2)]
)
def test_ages_measurements_and_classes_are_labels(tmp_path, value):
    write_nifti(tmp_path / "d" / "0.nii")
    table = csv(tmp_path / "l.csv", [{"file": f"{n}.nii", "y": value(n)} for n in range(40)])
    assert "label.y" in index([tmp_path / "d"], tmp_path / "m", labels=table, label=["y"])


def test_the_columns_of_patients_and_paths_are_no_labels(tmp_path):
    write_nifti(tmp_path / "d" / "0.nii")
    table = csv(tmp_path / "l.csv", [{"file": "0.nii", "who": "Ann", "text": "Clear."}])
    for options in ({"label": ["who"]}, {"label": ["file"]}, {"report": "who"}, {"label": ["text"], "report": "text"}):
        with pytest.raises(MedsslError, match="expected a"):
            index([tmp_path / "d"], tmp_path / "m", labels=table, patient="who", **options)


def test_folders_named_after_patients_are_no_classes(tmp_path):
    for n in range(30):
        write_nifti(tmp_path / "d" / f"patient {n}" / "a.nii")
    with pytest.raises(MedsslError, match="the label 'class' holds 30 different texts"):
        index([tmp_path / "d"], tmp_path / "m", classes_from_folders=True)
    assert not (tmp_path / "m" / "manifest.parquet").exists()


def test_patients_from_a_pattern_on_the_path(tmp_path):
    for name in ("sub-01/a.nii", "sub-01/b.nii", "sub-02/a.nii", "other/a.nii"):
        write_nifti(tmp_path / "d" / name)
    manifest = index([tmp_path / "d"], tmp_path / "m", patient=r"(sub-\d+)")
    assert list(manifest.status) == ["rejected", "ok", "ok", "ok"]
    assert manifest.patient[1] == manifest.patient[2] != manifest.patient[3]
    with pytest.raises(MedsslError, match="one \\(group\\)"):
        index([tmp_path / "d"], tmp_path / "m", patient=r"sub-\d+")


def test_patients_from_dicom_else_each_its_own_with_a_warning(tmp_path):
    for number, who in enumerate(("A", "A", "B")):
        write_series(tmp_path / "d" / str(number), series=f"1.{number}", PatientID=who)
    write_nifti(tmp_path / "d" / "x.nii")
    manifest = index([tmp_path / "d"], tmp_path / "m")
    assert manifest.patient[0] == manifest.patient[1] != manifest.patient[2]
    assert manifest.patient.nunique() == 3
    assert any("1 scans name no patient" in text for text in manifest.attrs["warnings"])


def test_labels_and_masks_of_dicom_series_go_by_their_folder(tmp_path):
    for name in ("p1", "p2"):
        folder = write_series(tmp_path / "d" / "scans" / name, series=f"1.{name[1]}", step=2.5)
        affine = np.diag([-0.9, -0.7, 2.5, 1.0])
        affine[:3, 3] = 20, -30, 5
        mask = (ct_like() > 0).astype(np.uint8)
        # stored the other way round, as dcm2niix does
        turned = affine @ np.array([[1, 0, 0, 0], [0, -1, 0, 9], [0, 0, 1, 0], [0, 0, 0, 1.0]])
        write_nifti(tmp_path / "d" / "masks" / f"{name}.nii.gz", mask[:, ::-1], turned)
    table = csv(tmp_path / "l.csv", [{"file": "p1", "y": "a"}, {"file": "scans/p2", "y": "b"}])
    manifest = index([tmp_path / "d"], tmp_path / "m", labels=table, label=["y"], mask="../masks/{name}.nii.gz")
    assert folder.is_dir()
    assert len(manifest) == 2
    assert list(manifest["label.y"]) == ["a", "b"]
    assert manifest.has_mask.all()
    cache = prepare(tmp_path / "m", tmp_path / "c")
    read = cache.read_mask(cache.manifest.scan[0])
    image = cache.read(cache.manifest.scan[0])[0]
    assert ((image > 0) == (read > 0)).all()


def test_masks_are_never_scans_and_lonely_ones_are_rejected(tmp_path):
    data = tree(tmp_path / "d", count=3)
    (data / "images" / "s1.nii.gz").unlink()
    manifest = index([data], tmp_path / "m", mask="../labels/{name}")
    assert list(manifest.status) == ["ok", "ok", "rejected"]
    assert manifest.reason[2] == "a mask without an image: left out"
    beside = tmp_path / "beside"
    for name in ("a.nii.gz", "a_mask.nii.gz", "b_mask.nii.gz", "c.nii.gz"):
        write_nifti(beside / name, np.ones((4, 4, 4), np.uint8))
    manifest = index([beside], tmp_path / "m2", mask="{stem}_mask.nii.gz")
    rows = by_file(tmp_path / "m2", manifest)
    assert {name: (row.status, row.has_mask) for name, row in rows.items()} == {
        "a.nii.gz": ("ok", True),
        "b_mask.nii.gz": ("rejected", False),
        "c.nii.gz": ("ok", False),
    }


def test_a_mask_on_another_grid_rejects_its_scan(tmp_path):
    data = tree(tmp_path / "d", count=3)
    write_nifti(data / "labels" / "s0.nii.gz", np.zeros((14, 12, 9), np.uint8))
    moved = np.eye(4)
    moved[0, 3] = 0.3
    write_nifti(data / "labels" / "s1.nii.gz", np.zeros((14, 12, 10), np.uint8), moved)
    manifest = index([data], tmp_path / "m", mask="../labels/{name}")
    assert list(manifest.status) == ["rejected", "rejected", "ok"]
    assert "14x12x9, its image 14x12x10" in manifest.reason[0]
    assert "0.30 mm apart" in manifest.reason[1]


def test_bad_mask_patterns_are_refused(tmp_path):
    data = tree(tmp_path / "d", count=1)
    for pattern, words in (
        ("{nam}", "did you mean name"),
        ("{name}", "leads from"),
        ("masks", "leads"),
        ("{", "path"),
    ):
        with pytest.raises(MedsslError, match=words):
            index([data], tmp_path / "m", mask=pattern)


def test_classes_from_folders(tmp_path):
    for name in ("cat/a.png", "dog/a.png", "dog/b.png"):
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "d" / name)
    manifest = index([tmp_path / "d"], tmp_path / "m", classes_from_folders=True, modality="DX")
    assert list(manifest["label.class"]) == ["cat", "dog", "dog"]
    assert set(manifest.modality) == {"DX"}


def test_nothing_usable_is_an_error(tmp_path):
    for name in ("empty", "text", "broken"):
        (tmp_path / name).mkdir()
    (tmp_path / "text" / "a.txt").write_text("hello")
    (tmp_path / "broken" / "a.nii.gz").write_text("hello")
    for name, words in {
        "gone": "does not exist",
        "empty": "no scan in",
        "text": "no scan",
        "broken": "none of 1",
    }.items():
        with pytest.raises(MedsslError, match=words):
            index([tmp_path / name], tmp_path / "m" / name)
    with pytest.raises(MedsslError, match="did you mean MR"):
        index([tmp_path / "text"], tmp_path / "m", modality="MRI")


def test_one_bad_file_stops_nothing_and_is_shown_with_its_path(tmp_path):
    data = tree(tmp_path / "d", count=2, mask=False)
    (data / "images" / "s1.nii.gz").write_bytes(b"junk")
    manifest = index([data], tmp_path / "m")
    assert list(manifest.status) == ["ok", "rejected"]
    console = Console(width=300, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(rejects_table(tmp_path / "m"))
    assert "s1.nii.gz" in console.export_text()


SECRET = "MILLER"


def test_no_byte_of_a_name_reaches_manifest_or_cache(tmp_path, capsys):
    def private(dataset, z):
        dataset.add_new((0x0011, 0x0010), "LO", f"{SECRET} CREATOR")
        dataset.add_new((0x0011, 0x1001), "LO", SECRET)
        dataset.PixelSpacing = [0.7, 0.9]

    names = dict(PatientName=f"{SECRET}^A", PatientID=f"{SECRET}1", InstitutionName=f"{SECRET} CLINIC", edit=private)
    names |= dict(Manufacturer=f"{SECRET} INC", StudyDescription=SECRET, BodyPartExamined=SECRET)
    write_series(tmp_path / SECRET / "good", series="1.1", **names)
    write_series(tmp_path / SECRET / "bad", series="1.2", depths=[0, 1, 2, 3, 9, 10, 11, 12], **names)
    slice_dataset(np.zeros((4, 4)), (0, 0, 0), PatientName=SECRET, Rows=None).save_as(tmp_path / SECRET / "x.dcm")
    (tmp_path / SECRET / "y.dcm").write_bytes(b"\0" * 128 + b"DICM" + SECRET.encode() * 9)
    index([tmp_path / SECRET], tmp_path / "m", patient=None)
    prepare(tmp_path / "m", tmp_path / "c")
    written = [path for folder in ("m", "c") for path in (tmp_path / folder).rglob("*") if path.is_file()]
    leaks = [path.name for path in written if SECRET.encode() in path.read_bytes()]
    assert leaks == ["sources.parquet"]
    assert SECRET not in capsys.readouterr().err


def test_pseudonyms(tmp_path):
    names = Pseudonyms(tmp_path / "key")
    assert names.of("patient", "1") == Pseudonyms(tmp_path / "key").of("patient", "1")
    assert names.of("patient", "1") != names.of("scan", "1")
    assert names.of("patient", "1") != Pseudonyms(tmp_path / "other").of("patient", "1")
    assert len(names.of("patient", "1")) == 12
    assert len((tmp_path / "key").read_bytes()) == 32
    (tmp_path / "key").write_bytes(b"short")
    with pytest.raises(MedsslError, match="5 bytes"):
        Pseudonyms(tmp_path / "key")


def test_header_words_are_fixed_words():
    assert known_manufacturer("GE MEDICAL SYSTEMS") == "GE"
    assert known_manufacturer("JOHN SMITH") == "other"
    assert known_manufacturer("") is None


def test_a_column_modality_of_the_labels_is_taken(tmp_path):
    data = tree(tmp_path / "data", count=3, mask=False) / "images"
    labels = tmp_path / "labels.csv"
    labels.write_text("file,modality\ns0.nii.gz,ct\ns1.nii.gz,MR\ns2.nii.gz,\n")
    manifest = index([data], tmp_path / "m", labels=labels)
    assert manifest.modality.tolist() == ["CT", "MR", "OT"]
    assert set(index([data], tmp_path / "given", labels=labels, modality="US").modality) == {"US"}
    labels.write_text("file,modality\ns0.nii.gz,T1w\n")
    manifest = index([data], tmp_path / "words", labels=labels)
    assert set(manifest.modality) == {"OT"}
    assert any("no DICOM codes, so it is not used" in warning for warning in manifest.attrs["warnings"])


def test_values_like_hounsfield_units_without_a_modality_are_asked_about(tmp_path):
    body = np.full((20, 20, 20), -1000, np.int16)
    body[5:15, 5:15, 5:15] = 40
    for name, array in {"ct": body, "mr": body + 1000, "noise": np.arange(8000).reshape(20, 20, 20)}.items():
        write_nifti(tmp_path / name / "a.nii.gz", array.astype(np.int16))
    asked = {
        (name, modality): any(
            "give --modality CT" in warning
            for warning in index([tmp_path / name], tmp_path / f"m{name}{modality}", modality=modality).attrs[
                "warnings"
            ]
        )
        for name in ("ct", "mr", "noise")
        for modality in (None, "CT")
    }
    assert [case for case, was in asked.items() if was] == [("ct", None)]


def test_hippocampus(shared, tmp_path):
    data = shared("hippocampus")
    manifest = index(
        [data],
        tmp_path / "m",
        data / "volumes.csv",
        patient="subject",
        mask="../labels/{name}",
        modality="MR",
    )
    ok = manifest[manifest.status == "ok"]
    assert len(ok) == 168
    assert ok.patient.nunique() == 110
    assert ok.has_mask.all()
    assert set(ok.orientation) == {"RAS"}
    rejected = set(manifest.scan[manifest.status == "rejected"])
    traps = {scan for scan in manifest.scan if "/traps/" in source_files(tmp_path / "m", scan)[0]}
    assert rejected == traps
    assert len(traps) == 3


def test_chest_xray(shared, tmp_path):
    data = shared("chest_xray")
    manifest = index(
        [data], tmp_path / "m", labels=data / "images.csv", patient="patient", label=["subtype"], modality="DX"
    )
    assert (manifest.status == "ok").sum() == 4759
    assert manifest.patient.nunique() == 2676
    assert manifest["label.subtype"].value_counts().to_dict() == {
        "bacteria": 2175,
        "normal": 1341,
        "virus": 1243,
    }


def test_pneumoniamnist(shared, tmp_path):
    manifest = index([shared("pneumoniamnist")], tmp_path / "m", modality="DX")
    assert manifest["label.split"].value_counts().to_dict() == {"train": 4708, "test": 624, "val": 524}
    assert manifest["label.label"].nunique() == 2
    assert manifest.patient.nunique() == 5856


def test_mednist(shared, tmp_path):
    manifest = index([shared("mednist")], tmp_path / "m", classes_from_folders=True)
    assert len(manifest) == 1200
    assert manifest["label.class"].value_counts().to_dict() == dict.fromkeys(
        ("AbdomenCT", "BreastMRI", "CXR", "ChestCT", "Hand", "HeadCT"), 200
    )


def test_spinal_cord_masks(shared, tmp_path):
    manifest = index([shared("spinal_cord")], tmp_path / "m", mask="{stem}_seg-manual.nii.gz", modality="MR")
    rows = by_file(tmp_path / "m", manifest)
    assert rows["t2.nii.gz"].has_mask
    assert rows["t2.nii.gz"].orientation == "PSR"
    assert rows["dmri.nii.gz"].frames == 7
    assert "t2_seg-manual.nii.gz" not in rows
