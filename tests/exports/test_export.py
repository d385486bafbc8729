"""`medssl export`: the command, what it refuses, the model card, and safetensors."""

import json
import re
import zipfile
from pathlib import Path

import pytest
import torch

import medssl
from medssl.cli.main import main
from medssl.core import runs
from medssl.core.errors import MedsslError
from medssl.core.registry import TARGETS
from medssl.encoders import ResidualUNet, ResNet, ViT
from medssl.exports.export import target_named
from medssl.preprocessing.data_spec import DataSpec
from tests.exports.made import KINDS, loaded, make_run, scan


@pytest.mark.parametrize("kind", KINDS)
def test_safetensors_give_what_the_run_gives(kind: str, tmp_path: Path) -> None:
    network = make_run(tmp_path / "run", ResidualUNet(dims=3, width=4, blocks=(1, 1)), kind)
    files = medssl.export(tmp_path / "run", "safetensors", tmp_path / "out")
    assert {line.split()[0] for line in files} == {"model.safetensors", "config.json", "README.md"}
    x = scan(network if kind == "encoder" else network.encoder)
    assert torch.equal(loaded(tmp_path / "out")(x), network(x))


def test_the_command_writes_a_pretraining_run(pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "exported"
    assert main(["export", str(pretrained), "--to", "safetensors", "--out", str(out), "--license", "CC-BY-4.0"]) == 0
    assert "model.safetensors" in capsys.readouterr().out
    card = (out / "README.md").read_text()
    run = runs.read(pretrained)
    assert "license: CC-BY-4.0" in card
    assert f"{run.config['scans']} scans of" in card
    assert "SimMIM" in card


def test_the_card_names_no_place_patient_or_machine(pretrained: Path, cache, tmp_path: Path) -> None:
    medssl.export(pretrained, "safetensors", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text() + (tmp_path / "out" / "config.json").read_text()
    assert str(tmp_path) not in text
    assert str(cache.path) not in text
    assert not re.search(r"(^|[\s'\"(])/\w+/\w+", text)
    for name in (*cache.manifest["patient"], *cache.manifest["scan"], runs.read(pretrained).pseudonym_key):
        assert name not in text


def test_names_from_data_are_no_markdown_in_the_card(tmp_path: Path) -> None:
    """A class called ![x](http://host) made whoever read the card fetch a picture."""
    make_run(tmp_path / "run", ResNet(dims=2, depth=10, width=4), "segmenter")
    record = tmp_path / "run" / "run.json"
    about = json.loads(record.read_text())
    about["config"] |= {"classes": ["![x](http://a)", "<img src=x>"], "split_column": "a `b` ![x](http://b)"}
    record.write_text(json.dumps(about))
    medssl.export(tmp_path / "run", "safetensors", tmp_path / "out", license="x\n![x](http://c)")
    card = (tmp_path / "out" / "README.md").read_text()
    assert all(name in card for name in ("`![x](http://a)`", "`<img src=x>`", "`` a `b` ![x](http://b) ``"))
    without_code = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", card.partition("\n---\n")[2])
    assert "![" not in without_code
    assert "<img" not in without_code


@pytest.mark.parametrize("target", ["safetensors", "onnx", "monai"])
def test_no_file_names_the_place_of_the_code_or_the_user(target: str, tmp_path: Path) -> None:
    """torch notes of each node which line of which file made it, with the path to medssl in the user's own folders."""
    for package in target_named(target).needs:
        pytest.importorskip(package, reason=f"{package} is an optional package")
    make_run(tmp_path / "run", ResNet(dims=2, depth=10, width=4), "segmenter")
    medssl.export(tmp_path / "run", target, tmp_path / "out")
    places = [str(Path(medssl.__file__).parent), str(Path(torch.__file__).parent), str(Path.home()), str(tmp_path)]
    for file in (path for path in (tmp_path / "out").rglob("*") if path.is_file()):
        contents = [file.read_bytes()]
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                contents += [archive.read(name) for name in archive.namelist()]
        assert not [place for place in places for content in contents if place.encode() in content], file.name


def test_the_card_quotes_a_study_and_says_where_there_is_none(tmp_path: Path) -> None:
    make_run(tmp_path / "run", ResNet(dims=2, depth=10, width=4), "classifier")
    points = {"inductive": {"met": True, "evidence": "no test scan was pretrained on"}}
    with runs.recording(tmp_path / "study", "study", {}, "0" * 64, 0) as record:
        record.update(protocol=points)
    medssl.export(tmp_path / "run", "safetensors", tmp_path / "with", study=tmp_path / "study")
    medssl.export(tmp_path / "run", "safetensors", tmp_path / "without")
    assert "inductive: met (no test scan was pretrained on)" in (tmp_path / "with" / "README.md").read_text()
    assert "not measured in a study" in (tmp_path / "without" / "README.md").read_text()
    assert "not stated" in (tmp_path / "without" / "README.md").read_text()
    with pytest.raises(MedsslError, match="finished study"):
        medssl.export(tmp_path / "run", "safetensors", tmp_path / "other", study=tmp_path / "run")
    assert not (tmp_path / "other").exists()


def test_the_card_of_imported_weights_has_their_licence(tmp_path: Path) -> None:
    make_run(tmp_path / "run", ResNet(dims=2, depth=10, width=4), "encoder")
    record = tmp_path / "run" / "run.json"
    content = json.loads(record.read_text()) | {"kind": "import"}
    content["config"]["source"] = {"layout": "timm", "licence": "Apache-2.0", "sha256": "0" * 64}
    record.write_text(json.dumps(content))
    medssl.export(tmp_path / "run", "safetensors", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: Apache-2.0" in card
    assert "imported as timm" in card


def test_intensities_in_the_config_are_those_of_the_model(tmp_path: Path) -> None:
    from numpy import interp, linspace

    from medssl.views import recipes
    from medssl.views.random import make_keys

    make_run(tmp_path / "run", ResNet(dims=2, depth=10, width=4), "encoder", DataSpec(2, 1, "CT"))
    medssl.export(tmp_path / "run", "safetensors", tmp_path / "out")
    points = json.loads((tmp_path / "out" / "config.json").read_text())["input"]["intensity"]["points"]
    hu = torch.linspace(-1024, 3000, 500)
    view = recipes.plain(DataSpec(2, 1, "CT"))
    shown = view(hu.reshape(1, 1, 20, 25), view.draw(make_keys(0, (torch.arange(1),)))).flatten()
    assert abs(interp(linspace(-1024, 3000, 500), *zip(*points)) - shown.numpy()).max() < 1e-6


@pytest.mark.parametrize("status", ["running", "failed", "study"])
def test_a_run_that_is_not_finished_is_refused(status: str, tmp_path: Path) -> None:
    make_run(tmp_path / "run", ViT(dims=2, patch=4, width=24, depth=1), "encoder")
    record = tmp_path / "run" / "run.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps(content | ({"kind": "study"} if status == "study" else {"status": status})))
    with pytest.raises(MedsslError, match=f"{status}.*: expected a finished pretraining run or fine-tuned model"):
        medssl.export(tmp_path / "run", "safetensors", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_folder_with_files_is_refused_and_an_empty_one_is_taken(tmp_path: Path) -> None:
    make_run(tmp_path / "run", ViT(dims=2, patch=4, width=24, depth=1), "encoder")
    out = tmp_path / "out"
    out.mkdir()
    medssl.export(tmp_path / "run", "safetensors", out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(MedsslError, match="not empty: expected a new folder"):
        medssl.export(tmp_path / "run", "safetensors", out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_an_unknown_target_and_a_missing_package_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "run", ViT(dims=2, patch=4, width=24, depth=1), "encoder")
    with pytest.raises(MedsslError, match="no target 'safetensor'; did you mean safetensors"):
        medssl.export(tmp_path / "run", "safetensor", tmp_path / "out")
    monkeypatch.setattr(TARGETS.load("Safetensors"), "needs", ("nothing_of_that_name",))
    with pytest.raises(MedsslError, match="needs nothing_of_that_name"):
        medssl.export(tmp_path / "run", "safetensors", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_stays_where_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "run", ViT(dims=2, patch=4, width=24, depth=1), "encoder")

    def fail(*_: object) -> None:
        raise OSError(28, "no space left on the device")

    monkeypatch.setattr(TARGETS.load("Safetensors"), "write", fail)
    with pytest.raises(OSError, match="no space"):
        medssl.export(tmp_path / "run", "safetensors", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
