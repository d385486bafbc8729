"""Tables from somebody else: an id names a file, so each has the form of a pseudonym or the table is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medssl.core.atomic import read_npz
from medssl.core.errors import MedsslError
from medssl.datasets.index import index
from medssl.datasets.manifest import LARGEST_ROWS, read_table, source_files
from medssl.preprocessing.cache import Cache, prepare
from medssl.preprocessing.plan import show_fingerprint
from tests.scans.scan_makers import tree

FORMS = ["../../outside", "/tmp/outside", "..", "a" * 11, "A" * 12, "a" * 12 + "\n", "a" * 12 + "-01", "x", "", None, 7]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    index([tree(folder / "d", 2, mask=False)], folder / "m", modality="MR")
    prepare(folder / "m", folder / "c")
    return folder


def edit(folder: Path, name: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    table = pd.read_parquet(folder / name)
    change(table).to_parquet(folder / name)


def renamed(column: str, value: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        values = [value if value is None else str(value), *table[column][1:]]
        return table.assign(**{column: pd.Series(values, dtype=object)})

    return change


@pytest.mark.parametrize("value", FORMS)
def test_a_scan_that_is_not_a_pseudonym_is_refused_and_nothing_is_written_elsewhere(
    made: Path, tmp_path: Path, value: object
) -> None:
    for name in ("m", "c"):
        shutil.copytree(made / name, tmp_path / "in" / name)
    before = sorted(tmp_path.rglob("*"))
    for table in ("manifest.parquet", "sources.parquet"):
        edit(tmp_path / "in" / "m", table, renamed("scan", value))
    edit(tmp_path / "in" / "c", "manifest.parquet", renamed("scan", value))
    for use in (
        lambda: prepare(tmp_path / "in" / "m", tmp_path / "in" / "c"),
        lambda: show_fingerprint(tmp_path / "in" / "m"),
        lambda: Cache(tmp_path / "in" / "c"),
        lambda: source_files(tmp_path / "in" / "m", "a" * 12),
    ):
        with pytest.raises(MedsslError, match="not pseudonyms, the first in row 0"):
            use()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("column", ["patient", "site"])
def test_a_patient_or_site_with_a_name_is_refused(made: Path, tmp_path: Path, column: str) -> None:
    shutil.copytree(made / "c", tmp_path / "c")
    edit(tmp_path / "c", "manifest.parquet", renamed(column, "MILLER^ANN"))
    with pytest.raises(MedsslError, match=f"column {column}") as refused:
        Cache(tmp_path / "c")
    assert "MILLER" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: pd.concat([table, table[:1]]), "1 scans twice"),
        (lambda table: table.drop(columns="status"), "no column status"),
        (lambda table: table.drop(columns="scan"), "no column scan"),
        (lambda table: table.assign(scan=["a" * 12, "b" * 12]), "does not list 2 scans"),
    ],
)
def test_a_manifest_of_another_shape_is_refused(made: Path, tmp_path: Path, change: Callable, words: str) -> None:
    shutil.copytree(made / "m", tmp_path / "m")
    edit(tmp_path / "m", "manifest.parquet", change)
    with pytest.raises(MedsslError, match=words):
        prepare(tmp_path / "m", tmp_path / "c")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" * 40, b"scan\nx\n"])
def test_a_file_that_is_no_table_is_refused(made: Path, tmp_path: Path, content: bytes) -> None:
    for name in ("m", "c"):
        shutil.copytree(made / name, tmp_path / name)
        (tmp_path / name / "manifest.parquet").write_bytes(content)
    for use in (lambda: prepare(tmp_path / "m", tmp_path / "new"), lambda: Cache(tmp_path / "c")):
        with pytest.raises(MedsslError, match="is not a table"):
            use()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"complete": true, "settings": 3}'])
def test_a_broken_description_of_a_cache_is_refused(made: Path, tmp_path: Path, content: str) -> None:
    shutil.copytree(made / "c", tmp_path / "c")
    (tmp_path / "c" / "cache.json").write_text(content)
    for use in (lambda: Cache(tmp_path / "c"), lambda: prepare(made / "m", tmp_path / "c")):
        with pytest.raises(MedsslError, match=r"cache\.json in c is broken|format unknown"):
            use()


def test_a_table_that_unpacks_to_more_than_any_manifest_is_refused_before_it_is_read(tmp_path: Path) -> None:
    table = pa.table(
        {"scan": pa.array(["0" * 12]).dictionary_encode().take(pa.array(np.zeros(LARGEST_ROWS + 1, np.int8)))}
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    assert (tmp_path / "rows.parquet").stat().st_size < 1 << 20
    with pytest.raises(MedsslError, match="decompression bomb"):
        read_table(tmp_path / "rows.parquet")


def test_arrays_that_unpack_to_more_than_is_allowed_are_refused_before_they_are_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(1 << 20), y=np.arange(3))
    assert (read_npz(tmp_path / "a.npz")["y"] == [0, 1, 2]).all()
    with pytest.raises(ValueError, match="unpacks to more than 1048576 bytes"):
        read_npz(tmp_path / "a.npz", largest=1 << 20)
    np.savez(tmp_path / "b.npz", x=np.array([{}], object))
    with pytest.raises(ValueError, match="allow_pickle"):
        read_npz(tmp_path / "b.npz")
