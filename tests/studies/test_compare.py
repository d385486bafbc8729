"""The comparison is one table of every method, whole when started again, and lists what could not run."""

import importlib
from pathlib import Path

import pandas as pd
import pytest

import medssl.methods
from medssl.cli.arguments import parse_arguments
from medssl.core.errors import MedsslError
from medssl.encoders import ResidualUNet, ResNet
from medssl.methods import CLIP, Method, SimCLR, SimMIM
from medssl.preprocessing.cache import Cache
from medssl.training.config import TrainConfig

module = importlib.import_module("medssl.studies.compare")
compare = module.compare
TINY = {"crop": (16, 16, 16), "train": TrainConfig(steps=2, batch_size=4), "budgets": ["50%"], "draws": 2}


class TakesNoEncoder(Method):
    """A method that cannot be used with any encoder."""

    def __init__(self, encoder):
        raise MedsslError("TakesNoEncoder takes no encoder: expected nothing")

    def views(self, data_spec, size):
        return ()

    def loss(self, batch):
        return batch["source"].sum()


def test_one_table_of_what_ran_and_what_did_not_and_nothing_is_done_twice(cache: Cache, tmp_path: Path) -> None:
    encoder = ResNet(3, depth=10, width=2, max_pool=False)
    given = {"label": "lesion", "methods": [SimMIM, CLIP, TakesNoEncoder, SimCLR], "encoders": [encoder], **TINY}
    table = compare(cache.path, tmp_path, **given)
    scored = table.dropna(subset=["auroc"])
    assert set(scored["method"]) == {"SimMIM", "SimCLR", "random-frozen"}
    assert set(scored["probe"]) == {"knn", "linear"}
    assert (scored.loc[scored["method"] != "random-frozen", "seconds"] > 0).all()
    notes = table[table["auroc"].isna()].set_index("method")["note"]
    assert "no reports in this cache" in notes["CLIP"]
    assert "takes no encoder" in notes["TakesNoEncoder"]
    made = {
        p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.name in ("encoder.safetensors", "predictions.parquet")
    }
    again = compare(cache.path, tmp_path, **given)
    assert {p: p.stat().st_mtime_ns for p in made} == made
    pd.testing.assert_frame_equal(again, table)
    assert len(pd.read_csv(tmp_path / "table.csv")) == len(table)


class Fails(SimCLR):
    """A method that every encoder can be used with, and whose loss cannot go on."""

    def loss(self, batch):
        raise MedsslError("the loss of Fails is nan")


def test_a_failed_method_is_reported_and_not_run_on_the_next_encoder(cache: Cache, tmp_path: Path) -> None:
    encoders = [ResNet(3, depth=10, width=2, max_pool=False), ResidualUNet(3, width=4, blocks=(1, 1))]
    given = {"label": "lesion", "encoders": encoders}
    table = compare(cache.path, tmp_path, methods=[Fails, SimCLR], **given, **TINY)
    assert "loss of Fails is nan" in table.set_index("method").loc["Fails", "note"]
    assert not (tmp_path / "runs" / "ResidualUNet").exists()
    other = compare(
        cache.path, tmp_path, methods=[SimCLR, SimMIM], **given, **TINY | {"train": TrainConfig(steps=3, batch_size=4)}
    )
    # A run of other settings is not taken for this one.
    notes = other[other["auroc"].isna()].set_index("method")["note"]
    assert list(notes.index) == ["SimCLR"]
    assert "made with other settings" in notes["SimCLR"]
    assert set(other["method"].dropna()) == {"SimCLR", "SimMIM", "random-frozen"}


def test_the_command_line_names_methods_and_encoders() -> None:
    words = ["--data", "c", "--out", "o", "--label", "x", "--methods", "SimCLR", "SimMIM", "--encoders", "ResNet"]
    settings = parse_arguments(compare, "medssl compare", words=words)
    assert [type(m(e)).__name__ for e in settings["encoders"] for m in settings["methods"]] == ["SimCLR", "SimMIM"]
    with pytest.raises(MedsslError, match="there is no methods 'SimCRL'; did you mean SimCLR"):
        parse_arguments(compare, "medssl compare", words=[*words[:6], "--methods", "SimCRL"])


def test_by_default_every_method_is_compared(cache: Cache) -> None:
    names = [name for name, _ in module._method_names(None, module.default_encoders(cache))]
    assert set(names) == set(medssl.methods.__all__) - {"Method", "check_method"}
