"""The same person under two keys: a verdict that says so, never "none"."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import pandas as pd
import pytest

from medssl.core import runs
from medssl.core.errors import MedsslError
from medssl.datasets.index import index
from medssl.datasets.overlap import overlap
from medssl.methods.simmim import SimMIM
from medssl.preprocessing.cache import Cache, prepare
from medssl.training.pretrain import pretrain
from medssl.training.samples import seen_table
from tests.conftest import small_encoder
from tests.options import options
from tests.scans.scan_makers import ct_like, write_nifti

PATIENT = r"(sub\d)"


def cohort(root: Path, name: str, patients: range, key: Path | None, seed: int = 0) -> pd.DataFrame:
    for number in patients:
        write_nifti(root / name / f"sub{number}.nii", ct_like((16, 16, 16), seed=seed + number))
    index([root / name], root / f"{name}_m", patient=PATIENT, modality="CT", key_file=key)
    return prepare(root / f"{name}_m", root / f"{name}_c").manifest


def test_a_key_of_ones_own_names_a_patient_alike_in_every_manifest(tmp_path: Path) -> None:
    key = tmp_path / "keys" / "site.key"
    a = cohort(tmp_path, "a", range(3), key)
    b = cohort(tmp_path, "b", range(2, 5), key, seed=50)
    own = cohort(tmp_path, "own", range(3), None)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert not list(tmp_path.glob("[ab]_m/pseudonym.key"))
    assert len(set(a.patient) & set(b.patient)) == 1
    assert not set(a.patient) & set(own.patient)
    assert set(a.pseudonym_key) == set(b.pseudonym_key) != set(own.pseudonym_key)
    key_bytes = key.read_bytes()
    for path in (path for path in tmp_path.rglob("*") if path.is_file() and path != key):
        assert key_bytes not in path.read_bytes()


def test_the_verdict_is_a_number_or_that_it_cannot_be_known(tmp_path: Path) -> None:
    key, other = tmp_path / "one.key", tmp_path / "two.key"
    seen = seen_table(cohort(tmp_path, "seen", range(4), key))
    same_key = cohort(tmp_path, "same", range(3, 6), key, seed=50)
    none = cohort(tmp_path, "none", range(6, 8), key, seed=90)
    other_key = cohort(tmp_path, "other", range(3, 6), other, seed=50)
    copies = cohort(tmp_path, "copies", range(2, 6), other)
    assert overlap(same_key, seen).count == 1
    assert overlap(none, seen).count == 0
    assert overlap(other_key, seen).count is None
    assert "cannot be known" in str(overlap(other_key, seen))
    assert (overlap(copies, seen).count, str(overlap(copies, seen))) == (2, "2 scans or more")
    older = seen.drop(columns="pseudonym_key")
    assert overlap(none, older).count is None
    assert overlap(same_key, older).count == 1
    mixed = pd.concat([seen, seen.assign(pseudonym_key="0" * 12)])
    assert overlap(none, mixed).count is None


def test_a_manifest_is_not_made_again_with_another_key(tmp_path: Path) -> None:
    key = tmp_path / "site.key"
    cohort(tmp_path, "a", range(2), key)
    (tmp_path / "wrong.key").write_bytes(b"x" * 32)
    for wrong, words in ((None, "which is not there"), (tmp_path / "wrong.key", "this one is")):
        with pytest.raises(MedsslError, match=words):
            index([tmp_path / "a"], tmp_path / "a_m", patient=PATIENT, modality="CT", key_file=wrong)
    cohort(tmp_path, "own", range(2), None)
    with pytest.raises(MedsslError, match="a key of its own"):
        index([tmp_path / "own"], tmp_path / "own_m", patient=PATIENT, modality="CT", key_file=key)
    again = index([tmp_path / "a"], tmp_path / "a_m", patient=PATIENT, modality="CT", key_file=key)
    assert set(again.patient) == set(Cache(tmp_path / "a_c").manifest.patient)


@pytest.mark.long
def test_the_fingerprint_is_in_the_record_and_no_part_of_the_id(cache: Cache, pretrained: Path, tmp_path: Path) -> None:
    run = runs.read(pretrained)
    assert cache.pseudonym_key is not None
    assert run.pseudonym_key == cache.pseudonym_key
    assert set(pd.read_parquet(pretrained / "seen.parquet")["pseudonym_key"]) == {run.pseudonym_key}
    shutil.copytree(cache.path, tmp_path / "older")
    table = pd.read_parquet(tmp_path / "older" / "manifest.parquet").drop(columns="pseudonym_key")
    table.to_parquet(tmp_path / "older" / "manifest.parquet")
    assert Cache(tmp_path / "older").pseudonym_key is None
    settings = options(crop=(16, 16, 16), steps=6, batch_size=4, workers=0, accelerator="cpu")
    older = pretrain(tmp_path / "older", tmp_path / "run", small_encoder(), SimMIM, **settings)
    assert older.id == run.id
    assert older.pseudonym_key is None
    assert json.loads((tmp_path / "run" / "run.json").read_text())["pseudonym_key"] is None
