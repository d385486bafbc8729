"""Several devices give the weights of one with the same global batch; one record; a run goes on with the devices it began with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from medssl.core import runs
from medssl.core.errors import MedsslError
from medssl.encoders import ResidualUNet
from medssl.methods import SimMIM
from medssl.preprocessing.cache import Cache
from medssl.training.callbacks.curves import Curves
from medssl.training.config import Hardware
from medssl.training.devices import SharedBatchNorm, SharedNorms, find_devices, share
from medssl.training.pretrain import pretrain
from tests.options import options
from tests.training.two_processes import LIMIT, cases, compare, in_two_processes, train_all, weights_apart

FEW = ("MAE", "BarlowTwins")  # unused weights; batch norm. All methods: the slow test below


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one(cache: Cache, tmp_path: Path) -> None:
    for devices in ("1", "2"):
        (tmp_path / devices).mkdir()
    train_all(FEW, cache.path.parent, tmp_path / "1", devices=1, steps=3)
    in_two_processes(FEW, cache.path.parent, tmp_path / "2", steps=3)
    failed = [path.read_text() for path in tmp_path.glob("*/*.failed")]
    assert not failed
    apart = {name: weights_apart(tmp_path / "1" / name, tmp_path / "2" / name) for name in FEW}
    assert all(difference < LIMIT for difference in apart.values()), apart
    for name in FEW:
        one, two = (pd.read_csv(tmp_path / devices / name / "metrics.csv")["loss"] for devices in ("1", "2"))
        assert two.tolist() == pytest.approx(one.tolist(), abs=1e-3), name


@pytest.mark.slow
def test_every_method_in_two_processes_gives_the_weights_of_one(tmp_path: Path) -> None:
    apart = compare(list(cases()), tmp_path)
    assert {name: value for name, value in apart.items() if isinstance(value, str) or value > LIMIT} == {}


COMMAND = [sys.executable, "-W", "ignore", "-m", "medssl.cli.main", "pretrain"]
COMMON = "--accelerator cpu --crop 16 16 16 --steps 12 --batch-size 2 --checkpoint-every 2 --monitor-every 12"
VIT = "--encoder ViT --encoder.patch 4 --encoder.width 24 --encoder.depth 1 --encoder.heads 1"
RESNET = "--encoder ResNet --encoder.depth 10 --encoder.width 4 --encoder.max-pool false"


def command(cache: Cache, out: Path, *further: str) -> list[str]:
    return [*COMMAND, "--data", str(cache.path), "--out", str(out), *COMMON.split(), *" ".join(further).split()]


def interrupt(words: list[str], out: Path, how: signal.Signals) -> str:
    """Start a run, send the signal to its first process once it has written a checkpoint, and return what it said."""
    checkpoint = out / "last.ckpt"
    before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        os.kill(process.pid, how)
        _, said = process.communicate(timeout=300)  # the second process has the same pipes: it ends too
    assert process.returncode == (130 if how == signal.SIGTERM else -how), said
    return said


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [f"{VIT} --method MAE", f"{RESNET} --method SimCLR", f"{VIT} --method DINO", f"{VIT} --method IBOT"],
    ids=["MAE", "SimCLR", "DINO", "IBOT"],
)
def test_a_run_on_two_devices_that_was_killed_and_then_stopped_goes_on_bit_by_bit(
    cache: Cache, tmp_path: Path, method: str
) -> None:
    """One record, of the first process; the second one says nothing of its own."""
    whole = subprocess.run(
        command(cache, tmp_path / "whole", method, "--devices 2"), capture_output=True, text=True, timeout=900
    )
    assert whole.returncode == 0, whole.stderr
    assert whole.stdout.count("finished in") == 1
    assert "running" not in whole.stdout
    out = tmp_path / "cut"
    cut = command(cache, out, method, "--devices 2")
    interrupt(cut, out, signal.SIGKILL)
    assert runs.read(out).status == "running"
    assert interrupt(cut, out, signal.SIGTERM).count("run the same command again to continue") == 1
    assert runs.read(out).status == "stopped"
    alone = subprocess.run(command(cache, out, method, "--devices 1"), capture_output=True, text=True)
    assert alone.returncode == 2
    assert "holds this run on --devices 2, and --devices 1 came in" in alone.stderr
    subprocess.run(cut, check=True, capture_output=True, timeout=900)
    assert weights_apart(tmp_path / "whole", out) == 0
    assert (tmp_path / "whole/metrics.csv").read_text() == (out / "metrics.csv").read_text()
    assert runs.read(out).cost["devices"] == 2
    assert len(list(tmp_path.glob("cut/**/run.json"))) == 1


def test_the_curves_are_written_by_the_first_process_alone(tmp_path: Path) -> None:
    """The second one holds the rows before the step that was resumed, and wrote them over those of the first."""
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss\n1,0.5\n2,0.4\n")
    health: Any = None
    first, second = (Curves(path, health, 1, 2, start_step=2) for _ in range(2))
    first.rows.append({"step": 3, "loss": 0.3})
    ends: list[Any] = [SimpleNamespace(is_global_zero=True), SimpleNamespace(is_global_zero=False)]
    for end in (
        lambda curves, trainer: curves.on_train_end(trainer, None),
        lambda c, t: c.on_exception(t, None, Exception()),
    ):
        end(first, ends[0])
        end(second, ends[1])
        assert pd.read_csv(path)["step"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_goes_on_with_as_many_devices_as_it_began_with(cache: Cache, tmp_path: Path, finished: bool) -> None:
    settings = {"crop": (16, 16, 16), "steps": 2, "batch_size": 2, "accelerator": "cpu"}
    run = pretrain(cache.path, tmp_path / "a", ResidualUNet(3, width=4, blocks=(1, 1)), SimMIM, **options(**settings))
    assert run.config["devices"] == 1  # "auto" is recorded as what it was
    if not finished:
        record = tmp_path / "a/run.json"
        record.write_text(record.read_text().replace('"finished"', '"stopped"'))
        (tmp_path / "a/last.ckpt").touch()
    encoder = ResidualUNet(3, width=4, blocks=(1, 1))
    with pytest.raises(MedsslError, match="holds this run on --devices 1, and --devices 2 came in"):
        pretrain(cache.path, tmp_path / "a", encoder, SimMIM, **options(devices=2, **settings))


def test_devices_that_the_machine_lacks_are_refused() -> None:
    assert find_devices(Hardware("cpu", "auto")).count == 1
    assert find_devices(Hardware("cpu", 1)).strategy == "auto"
    for hardware in (Hardware("gpu", 99), Hardware("cpu", "many")):
        with pytest.raises(MedsslError, match="expected devices of this machine"):
            find_devices(hardware)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_shared_batch_norm_on_one_device_is_batch_norm(momentum: float | None) -> None:
    torch.manual_seed(0)
    plain = nn.BatchNorm2d(3, momentum=momentum)
    nn.init.normal_(plain.weight)
    shared = SharedBatchNorm(3, momentum=momentum)
    shared.load_state_dict(plain.state_dict())
    x = torch.randn(4, 3, 5, 5, requires_grad=True)
    for _ in range(2):
        for norm in (plain, shared):
            norm(x).pow(3).sum().backward()
        assert torch.allclose(plain(x), shared(x), atol=1e-5)
    assert torch.allclose(plain.weight.grad, shared.weight.grad, rtol=1e-4, atol=1e-4)
    for name, value in plain.state_dict().items():
        assert torch.allclose(value.float(), shared.state_dict()[name].float(), atol=1e-6), name
    assert torch.allclose(plain.eval()(x), shared.eval()(x), atol=1e-5)


def test_norms_are_replaced_for_a_training_and_put_back() -> None:
    class Own(nn.BatchNorm2d):
        """Does more than normalise."""

    norm = nn.BatchNorm2d(2)
    model = nn.ModuleDict({"a": norm, "b": nn.Sequential(norm, nn.BatchNorm1d(2)), "c": nn.InstanceNorm2d(2)})
    names, norms = list(model.state_dict()), SharedNorms("cpu")
    norms.apply(model)
    assert model["a"] is model["b"][0]
    assert [type(m) for m in (model["a"], model["b"][1], model["c"])] == [SharedBatchNorm] * 2 + [nn.InstanceNorm2d]
    assert list(model.state_dict()) == names
    model["a"](torch.ones(2, 2, 3, 3))
    norms.revert(model)
    assert model["a"] is model["b"][0] is norm
    assert float(norm.num_batches_tracked) == 1
    assert isinstance(share(norm, nn.SyncBatchNorm), nn.SyncBatchNorm)
    with pytest.raises(MedsslError, match="Own cannot share its statistics"):
        norms.apply(nn.Sequential(Own(2)))
