"""The command line: fast help, messages with the nearest names, exit codes, and classes of the user's own."""

import functools
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from medssl.cli.arguments import build_parser, option_types
from medssl.cli.main import COMMANDS, main
from medssl.core import runs
from medssl.core.registry import METHODS
from medssl.preprocessing.cache import Cache
from medssl.studies.arms import parse_arm

ROOT = Path(__file__).parents[2]
OUTSIDE = '''
"""A method, an encoder and a view of somebody else's."""
import torch
from torch import nn
from medssl.encoders import Encoder
from medssl.methods import Method
from medssl.views.base import Compose, View, per_sample
from medssl.views.random import uniform
from medssl.views import recipes


class Negate(View):
    probability = 0.5

    def parameters_of(self, keys):
        return {"sign": uniform(keys, 1, -1, 1)[:, 0].sign()}

    def apply_to(self, x, params):
        return x * per_sample(params["sign"], x)


class Tiny(Encoder):
    def __init__(self, dims: int = 3, in_channels: int = 1, width: int = 4):
        super().__init__(dims, in_channels, (width,), ((2,) * dims,))
        self.width = width
        self.net = (nn.Conv2d if dims == 2 else nn.Conv3d)(in_channels, width, 3, 2, 1)

    def features(self, x):
        return [self.net(x)]


class Agree(Method):
    def __init__(self, encoder: Encoder, weight: float = 1.0):
        super().__init__(encoder)
        self.weight = weight

    def views(self, data_spec, size):
        return tuple(Compose([recipes.masked(data_spec, size), Negate()]) for _ in range(2))

    def loss(self, batch):
        a, b = (self.encoder(x) for x in batch["views"])
        return self.weight * (a - b).square().mean() + (1 - a.std(0)).clamp(min=0).mean()
'''


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "somebodys.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "somebodys"
    sys.modules.pop("somebodys", None)


@pytest.mark.long
def test_classes_from_outside_pass_the_checks_and_run_from_the_command_line(
    cache: Cache, outside: str, tmp_path: Path
) -> None:
    import somebodys  # type: ignore[import-not-found]

    from medssl.encoders import check_encoder
    from medssl.methods import check_method
    from medssl.views import check_view

    for dims in (2, 3):
        check_view(somebodys.Negate(), dims)
        check_encoder(somebodys.Tiny(dims))
        check_method(somebodys.Agree(somebodys.Tiny(dims)), (16,) * dims)
    run, model = tmp_path / "run", tmp_path / "study"
    code = main(
        [
            "pretrain",
            "--data",
            str(cache.path),
            "--out",
            str(run),
            "--encoder",
            "somebodys.Tiny",
            "--encoder.width",
            "6",
            "--method",
            "somebodys.Agree",
            "--method.weight",
            "0.5",
            "--crop",
            "16",
            "16",
            "16",
            "--steps",
            "2",
            "--batch-size",
            "2",
            "--accelerator",
            "cpu",
        ]
    )
    assert code == 0
    config = runs.read(run).config
    assert config["encoder"] == {
        "class_path": "somebodys.Tiny",
        "init_args": {"dims": 3, "in_channels": 1, "width": 6},
    }
    assert config["method"]["init_args"]["weight"] == 0.5
    common = [
        "study",
        "--data",
        str(cache.path),
        "--out",
        str(model),
        "--task",
        "segmentation",
        "--arms",
        "scratch",
        str(run),
        "--budgets",
        "1p",
        "--draws",
        "2",
        "--steps",
        "2",
        "--batch-size",
        "2",
    ]
    assert main(common) == 2  # a record never imports a class from outside ...
    assert main([*common, "--encoder", "somebodys.Tiny", "--encoder.width", "6"]) == 0  # ... the user may name it


MINE = """
from medssl.methods import Method
from medssl.views import recipes


class Mine(Method):
    '''Two views of a scan have the same features, which keep a deviation of 1.'''

    def views(self, data_spec, size):
        return tuple(recipes.contrastive(data_spec, size) for _ in range(2))

    def loss(self, batch):
        a, b = (self.encoder(x) for x in batch["views"])
        return (a - b).square().mean() + (1 - a.std(0)).clamp(min=0).mean()
"""


@pytest.mark.long
def test_a_new_method_is_one_file_and_is_compared_under_its_own_name(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder holds that file and nothing else, and nothing in the package knows of it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    Path("my_file.py").write_text(MINE)
    assert [p.name for p in tmp_path.iterdir()] == ["my_file.py"]
    words = [
        "--data",
        str(cache.path),
        "--out",
        "compared",
        "--label",
        "lesion",
        "--methods",
        "SimCLR",
        "my_file.Mine",
        "--encoders",
        '[{"class_path": "ResNet", "init_args": {"depth": 10, "width": 4, "max_pool": false}}]',
        "--crop",
        "16",
        "16",
        "16",
        "--steps",
        "2",
        "--batch-size",
        "4",
        "--budgets",
        "50%",
        "--draws",
        "2",
    ]
    try:
        assert main(["compare", *words]) == 0
    finally:
        sys.modules.pop("my_file", None)
    table = pd.read_csv("compared/table.csv")
    scored = table.dropna(subset=["auroc"])
    assert set(scored["method"]) == {"SimCLR", "Mine", "random-frozen"}
    assert set(scored.loc[scored["method"] == "Mine", "probe"]) == {"knn", "linear"}
    assert (scored.loc[scored["method"] == "Mine", "seconds"] > 0).all()
    assert runs.read(Path("compared/runs/ResNet/Mine")).config["method"]["class_path"] == "my_file.Mine"


@pytest.mark.long
def test_the_python_of_the_readme_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Word for word but for smaller numbers, in a folder of the user's own."""
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    smaller = {
        "patients=100": "patients=10",
        "steps=200, batch_size=16": "steps=2, batch_size=2",
        "steps=300": "steps=2, batch_size=2",
        "width=16": "width=4",
        '["1p", "100%"]': '["1p"]',
        "draws=3": "draws=1",
    }
    assert all(example.count(text) == 1 for text in smaller)
    names: dict[str, Any] = {}
    exec(functools.reduce(lambda text, pair: text.replace(*pair), smaller.items(), example), names)
    assert len(names["table"].query("metric == 'dice'")) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretrain", "--data", "x", "--out", "y", "--method", "nowhere.Mine"], "expected nowhere.py in this folder"),
        (["pretrain", "--data", "x", "--out", "y", "--steps", "abc"], "--steps cannot be abc: expected a whole number"),
        (["prepare", "m", "--out", "y", "--spacing-mm", "2,2,2"], "for example --spacing-mm 1 1 1"),
        (["prepare", "m"], "missing: --out"),
        (["import", "f", "--as", "tim", "--out", "y"], "--as cannot be tim: expected one of auto, ctfm"),
        (["index", "x", "--out", "y", "--pateint", "z"], "did you mean --patient"),
        (["where", ".", "abc"], "holds no sources.parquet"),
    ],
)
def test_a_wrong_word_is_answered_with_what_to_type(
    words: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    assert main(words) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "jsonargparse" not in shown
    assert "Parser key" not in shown


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    code = "import sys; from medssl.cli.main import main; main(['--help']); print(sorted({'torch', 'monai', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture) -> None:
    assert main([command, "--help"]) == 0
    assert COMMANDS[command].help in capsys.readouterr().out


def test_help_shows_options_as_the_readme_writes_them_and_print_config_prints_a_config(
    capsys: pytest.CaptureFixture,
) -> None:
    main(["pretrain", "--help"])
    shown = set(re.findall(r"--[a-z][\w-]*", capsys.readouterr().out))
    assert {"--batch-size", "--print-config"} <= shown
    assert not [option for option in shown if "_" in option]
    main(["pretrain", "--data", "cache", "--out", "run", "--batch-size", "7", "--print-config"])
    assert yaml.safe_load(capsys.readouterr().out)["batch_size"] == 7
    main(["pretrain", "--data", "cache", "--out", "run", "--print-config=skip_default"])
    assert yaml.safe_load(capsys.readouterr().out) == {"data": "cache", "out": "run"}


def test_help_says_which_methods_are_experimental(capsys: pytest.CaptureFixture) -> None:
    main(["pretrain", "--help"])
    words = " ".join(capsys.readouterr().out.split())
    marked = set(re.findall(r"medssl\.methods\.(\w+) \(experimental\)", words))
    assert marked == {name for name, kind in METHODS.classes().items() if kind.experimental} != set()


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_option_of_every_command_is_explained(command: str) -> None:
    function = COMMANDS[command].load()
    explained = {action.dest: action.help for action in build_parser(function, command)._actions}
    assert [option for option in option_types(function) if len(explained[option] or "") < 8] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretrian"], "did you mean pretrain"),
        (["pretrain", "--stesp", "3"], "did you mean --steps"),
        (["pretrain", "--data", "x", "--out", "y", "--method", "SimCRL"], "did you mean SimCLR"),
        (["pretrain", "--data", "x", "--out", "y", "--encoder", "resnet"], "did you mean ResNet"),
        (["pretrain", "--data", "nowhere", "--out", "y"], "is not a cache"),
        (["pretrain", "--data", "x", "--out", "y", "--steps", "many"], "steps"),
        (["pretrain", "--data", "x", "--out", "y", "--method", "SimCLR", "--method.temprature", "1"], "temperature"),
        (["index", "nowhere", "--out", "m"], "nowhere"),
        (["prepare", "nowhere", "--out", "m"], "manifest.parquet"),
        (["report", "nowhere"], "nowhere"),
        (["study", "x"], "without an option"),
    ],
)
def test_mistakes_are_explained_with_exit_code_2(
    words: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    shown = capsys.readouterr()
    assert message in shown.err, shown.err
    assert shown.err.startswith("error: ")
    assert "Traceback" not in shown.err + shown.out


def test_folders_with_nothing_usable_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "notes.txt").write_text("hello")
    for folder in ("empty", "text"):
        assert main(["index", str(tmp_path / folder), "--out", str(tmp_path / "m")]) == 2
        assert "no scan" in capsys.readouterr().err


def test_debug_shows_the_traceback_and_a_bug_in_medssl_exits_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert main(["pretrian", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setattr("medssl.cli.doctor.doctor", lambda: 1 / 0)
    assert main(["doctor"]) == 1
    shown = capsys.readouterr().err
    assert "ZeroDivisionError" in shown
    assert "Traceback" not in shown


def test_the_exit_code_of_index_shows_rejected_scans_and_where_finds_files(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    patients = sorted((cohort / "dicom").iterdir())
    assert main(["index", str(patients[0]), "--out", str(tmp_path / "m")]) == 0
    copy = tmp_path / "copy"
    copy.mkdir()
    for n, path in enumerate(sorted(patients[1].rglob("*.dcm"))):
        if n != 5:  # a slice is missing
            (copy / f"{n}.dcm").write_bytes(path.read_bytes())
    assert main(["index", str(patients[0]), str(copy), "--out", str(tmp_path / "m2")]) == 3
    assert "missing" in capsys.readouterr().out.replace("\n", " ")
    scan = pd.read_parquet(tmp_path / "m" / "manifest.parquet")["scan"][0]
    assert main(["where", str(tmp_path / "m"), scan]) == 0
    assert ".dcm" in capsys.readouterr().out


def test_a_config_file_gives_what_the_options_do(cache: Cache, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(
        textwrap.dedent(f"""
        data: {cache.path}
        encoder: {{class_path: ResidualUNet, init_args: {{width: 4, blocks: [1, 1]}}}}
        method: {{class_path: SimMIM, init_args: {{mask_ratio: 0.7}}}}
        crop: [16, 16, 16]
        steps: 2
        batch_size: 2
        accelerator: cpu
    """)
    )
    assert main(["pretrain", "--config", str(config), "--out", str(tmp_path / "a"), "--steps", "1"]) == 0
    run = runs.read(tmp_path / "a")
    assert run.config["steps"] == 1
    assert run.config["method"]["init_args"]["mask_ratio"] == 0.7


def test_several_seeds_are_runs_of_one_arm_and_what_is_finished_is_left(
    cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = f"pretrain --data {cache.path} --out {tmp_path}/a --encoder ResidualUNet --encoder.width 4 --encoder.blocks [1,1]"
    words += " --method SimMIM --crop 16 16 16 --steps 2 --batch-size 2 --accelerator cpu --seeds"
    assert main([*words.split(), "1"]) == 0
    before = (tmp_path / "a-0/run.json").read_bytes()
    assert main([*words.split(), "2"]) == 0
    told = "".join(capsys.readouterr().out.split())  # a long path is wrapped
    assert re.findall(r"finishedin.*?/(a-\d)", told) == ["a-0", "a-1"]
    assert (tmp_path / "a-0/run.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-0", "a-1"]
    assert [runs.read(tmp_path / f"a-{n}").seed for n in (0, 1)] == [0, 1]
    assert (
        parse_arm(f"{tmp_path}/a-{{0,1}}").name == "a-{0,1}"
    )  # which refuses runs that differ in more than their seeds


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--seeds", "0"], "--seeds is 0: expected"), (["--seeds", "2", "--method", "auto"], "came with --method auto")],
)
def test_seeds_that_cannot_be_are_refused(words: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["pretrain", "--data", "nowhere", "--out", "a", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_config_of_medssl_is_found_by_name_and_a_misspelt_name_gets_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    common = ["--data", "nowhere", "--out", "o"]
    assert main(["pretrain", "--config", "hippocampus_simmim", *common]) == 2
    assert "is not a cache" in capsys.readouterr().err  # the config was read; the data are missing
    assert main(["pretrain", "--config", "hipocampus_simmim", *common]) == 2
    assert "did you mean hippocampus_simmim" in capsys.readouterr().err


def test_doctor_names_what_it_checked(capsys: pytest.CaptureFixture) -> None:
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "torch" in shown
    assert "GPU" in shown
