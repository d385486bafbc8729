"""An import is a run like any other; what is wrong with a file is said before anything is written."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pandas as pd
import pytest
import torch
import torchvision

from medssl.core import runs
from medssl.core.errors import MedsslError
from medssl.encoders import ResidualUNet, ResNet
from medssl.preprocessing.data_spec import DataSpec
from medssl.preprocessing.expected import ExpectedScans, check_expected, same_spacing
from medssl.training.continued import Parent
from medssl.weights.importing import import_weights, receipt_of
from medssl.weights.reading import read_file
from tests.weights.makers import imported, randomise

R18 = "layer1.0.conv1.weight"


@pytest.fixture(scope="module")
def resnet18() -> dict[str, torch.Tensor]:
    """An eighth as wide as torchvision's, whose names it has."""
    classifier = {"fc.weight": torch.rand(3, 64), "fc.bias": torch.rand(3)}
    return dict(randomise(ResNet(2, 3, depth=18, width=8).net).state_dict()) | classifier


def test_an_import_is_a_run_with_source_receipt_and_expected_scans(resnet18: dict, tmp_path: Path) -> None:
    run, encoder = imported(resnet18, tmp_path)
    assert (run.kind, run.status, run.is_start) == ("import", "finished", True)
    assert run.config["source"]["layout"] == "torchvision"
    assert run.config["source"]["sha256"] == run.data
    assert encoder.in_channels == 1
    receipt = receipt_of(run)
    assert receipt.share == 1
    assert receipt.random.tensors == 0
    assert receipt.left_out["classifier"].names == ("fc.weight", "fc.bias")
    assert receipt.loaded.parameters == sum(v.numel() for v in resnet18.values() if v.is_floating_point()) - 195
    assert any(line.startswith("left random 0 tensors") for line in receipt.lines())
    assert len(pd.read_parquet(tmp_path / "run" / "seen.parquet")) == 0
    assert str(tmp_path) not in (tmp_path / "run" / "run.json").read_text()
    again = import_weights(str(tmp_path / "weights.pth"), tmp_path / "run", as_="torchvision")
    assert again.started == run.started


def test_pretraining_can_start_from_an_import(resnet18: dict, tmp_path: Path) -> None:
    imported(resnet18, tmp_path)
    parent = Parent.read(tmp_path / "run")
    encoder = parent.architecture()
    parent.load_into(encoder)
    assert torch.equal(encoder.state_dict()[f"encoder.net.{R18}"], resnet18[R18])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: {f"backbone.encoder.{k}": v for k, v in s.items()},
            "no conv1.weight of a ResNet, but backbone.encoder.conv1",
        ),
        (
            lambda s: {k: v for k, v in s.items() if not k.startswith("layer3.1")},
            r"\(2, 2, 1, 2\) blocks in its four stages",
        ),
        (
            lambda s: s | {R18: torch.zeros(8, 8, 1, 1)},
            "1 of 120 tensors have other shapes.*layer1.0.conv1.weight: 8 x 8 x 1 x 1",
        ),
        (lambda s: {"epoch": 3}, "holds no tensors by name, but epoch"),
        (lambda s: list(s.values()), "holds a list: expected a dictionary"),
    ],
)
def test_another_architecture_is_named(resnet18: dict, change, message: str, tmp_path: Path) -> None:
    with pytest.raises(MedsslError, match=message):
        imported(change(resnet18), tmp_path, as_="torchvision")
    assert not (tmp_path / "run").exists()


def test_what_the_file_lacks_is_counted_and_refused_below_95_percent(resnet18: dict, tmp_path: Path) -> None:
    large, small = (
        {n: v for n, v in resnet18.items() if not n.startswith(gone)} for gone in ("layer4.1.conv2", "layer2.1.conv")
    )
    with pytest.raises(
        MedsslError,
        match=r"79\.3% of the encoder's parameters.*expected 95%.*layer4\.1\.conv2\.weight.*--allow-partial",
    ):
        imported(large, tmp_path / "a", as_="torchvision")
    assert receipt_of(imported(large, tmp_path / "b", as_="torchvision", allow_partial=True)[0]).random.tensors == 1
    receipt = receipt_of(imported(small, tmp_path / "c", as_="torchvision")[0])
    assert receipt.random.names == ("net.layer2.1.conv1.weight", "net.layer2.1.conv2.weight")
    assert 0.95 < receipt.share < 1


def test_auto_says_what_the_file_looks_like_where_it_is_not_clear(tmp_path: Path) -> None:
    names = {f"mine.{i}.weight": torch.zeros(1) for i in range(9)}
    with pytest.raises(
        MedsslError, match=r"mine\.0\.weight.*mine\.4\.weight, \.\.\.: expected one of .*torchvision.*nearest is none"
    ):
        imported(names, tmp_path)


def test_a_whole_pickled_module_is_refused_with_how_to_convert_it(tmp_path: Path) -> None:
    with pytest.raises(MedsslError, match=r"(?s)names torchvision\.models\.resnet\.ResNet.*torch\.save\(m\.state_dict"):
        imported(torchvision.models.resnet18(), tmp_path)


class Bomb:
    def __reduce__(self) -> tuple:
        return (open, ("canary", "w"))


def test_a_program_in_a_pickle_never_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MedsslError, match="more than weights"):
        imported({"state_dict": Bomb()}, tmp_path)
    assert not Path("canary").exists()


def test_numbers_of_numpy_are_read_and_nothing_else_of_it(resnet18: dict, tmp_path: Path) -> None:
    import numpy as np

    torch.save({"loss": np.float64(0.5), "curve": np.zeros(3), "state_dict": resnet18}, tmp_path / "a.pth")
    assert read_file(tmp_path / "a.pth").content["loss"] == 0.5


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pth", b"", "is empty"),
        ("a.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "pointer of Git LFS"),
        ("a.safetensors", b"<!DOCTYPE html><html>", "a web page"),
        ("a.safetensors", b"\x08\0\0\0\0\0\0\0{}", "damaged, cut off"),
        ("a.pth", b"\x80\x02}q\x00(", "damaged, cut off"),
    ],
)
def test_a_file_that_holds_no_weights_is_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MedsslError, match=message):
        read_file(tmp_path / name)


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_a_truncated_file_is_named(resnet18: dict, kept: float, tmp_path: Path) -> None:
    torch.save(resnet18, tmp_path / "a.pth")
    whole = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(MedsslError, match="damaged, cut off"):
        read_file(tmp_path / "a.pth")


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medssl.weights.reading.LARGEST_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 100_000)
    with pytest.raises(MedsslError, match="unpacks to more"):
        read_file(tmp_path / "a.pth")


def test_a_name_on_the_hub_without_a_network_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    asked = []

    def unreachable(self, name: str, timeout: float):
        asked.append(name)
        raise OSError("no route to host")

    monkeypatch.setattr(hub.HfApi, "model_info", unreachable)
    with pytest.raises(
        MedsslError, match=r"owner/net could not be fetched .*\(OSError\).*fetch the file on another machine"
    ):
        import_weights("hf:owner/net", tmp_path / "run")
    assert asked == ["owner/net"]
    with pytest.raises(MedsslError, match="names no repository"):
        import_weights("hf:net", tmp_path / "run")
    with pytest.raises(MedsslError, match="nowhere.pth does not exist"):
        import_weights(str(tmp_path / "nowhere.pth"), tmp_path / "run")


def test_weights_for_hu_refuse_other_scans_and_another_spacing_is_said() -> None:
    expected = ExpectedScans("CT", (1.5, 1.5, 2.0), (96, 96, 96), (-175.0, 250.0))
    config = {"expects": expected.to_record()}
    with pytest.raises(MedsslError, match="expect CT in HU, -175 to 250: these scans are MR"):
        check_expected(config, DataSpec(3, modality="MR"))
    with pytest.warns(UserWarning, match="--spacing-mm 1.5 1.5 2"):
        check_expected(config, DataSpec(3, modality="CT", spacing_mm=(1.0, 1.0, 1.0)))
    assert not same_spacing(config, DataSpec(3, modality="CT", spacing_mm=(1.0, 1.0, 1.0)))
    assert ExpectedScans.from_record(config) == expected
    photographs = {"expects": ExpectedScans(size=(224, 224)).to_record()}
    with pytest.warns(UserWarning, match="--size 224 224"):
        check_expected(photographs, DataSpec(2, modality="DX", size=(64, 64)))
    assert same_spacing(photographs, DataSpec(2, modality="DX", spacing_mm=(0.14, 0.14)))


def test_the_wrong_encoder_of_the_user_is_refused(resnet18: dict, tmp_path: Path) -> None:
    with pytest.raises(MedsslError, match="another architecture"):
        imported(resnet18, tmp_path, as_="torchvision", encoder=ResNet(2, depth=18, width=16))
    with pytest.raises(MedsslError, match="no tensor of the file fits the encoder by its name"):
        imported(resnet18, tmp_path, as_="torchvision", encoder=ResidualUNet(2, width=4))


def test_a_folder_of_another_run_is_not_overwritten(resnet18: dict, tmp_path: Path) -> None:
    imported(resnet18, tmp_path)
    with pytest.raises(MedsslError, match="nothing was changed"):
        imported({k: v + 1 for k, v in resnet18.items()}, tmp_path)
    assert runs.read(tmp_path / "run").status == "finished"
