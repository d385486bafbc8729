"""Crops are a function of seed and number alone; checkpoints survive; a resumed run equals an undisturbed one."""

import hashlib
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from medssl.core import runs
from medssl.core.atomic import exclusive
from medssl.core.errors import MedsslError
from medssl.datasets.splits import split
from medssl.encoders import ResidualUNet
from medssl.methods import Rotation, SimCLR, SimMIM
from medssl.preprocessing.cache import Cache
from medssl.preprocessing.crops import Crops, StepSampler
from medssl.preprocessing.datamodule import CropData
from medssl.training.callbacks import gradient_guard
from medssl.training.callbacks.checkpoints import SafeCheckpoints
from medssl.training.callbacks.gradient_guard import bfloat16_is_sound
from medssl.training.finetune import finetune
from medssl.training.models import pretrained_encoder
from medssl.training.pretrain import pretrain
from medssl.training.samples import pretraining_scans
from medssl.views.base import Compose, View
from medssl.views.intensity import Gamma
from tests.conftest import small_encoder
from tests.options import options


def test_crops_depend_on_seed_and_number_alone(cache: Cache) -> None:
    scans = list(cache.manifest["scan"])
    one, two = (Crops(cache, scans, (16, 16, 16), seed=5) for _ in range(2))
    backwards = {n: two[n] for n in reversed(range(40))}
    for n in range(40):
        assert torch.equal(one[n]["source"], backwards[n]["source"])
        assert one[n]["key"] == backwards[n]["key"]
    assert sorted(one[n]["scan"] for n in range(len(scans))) == list(
        range(len(scans))
    )  # an epoch meets every scan once
    assert one[0]["key"] != Crops(cache, scans, (16, 16, 16), seed=6)[0]["key"]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_do_not_depend_on_the_number_of_workers(cache: Cache, workers: int) -> None:
    crops = Crops(cache, list(cache.manifest["scan"]), (16, 16, 16), seed=1)
    found = [b["key"].tolist() for b in CropData(crops, 4, 3, start=1, workers=workers).train_dataloader()]
    assert found == [[crops[n]["key"] for n in range(step * 4, step * 4 + 4)] for step in (1, 2)]


def test_ranks_share_a_step_without_overlap() -> None:
    halves = [list(StepSampler(2, 5, 1, rank, 2)) for rank in (0, 1)]
    assert [sorted(a + b) for a, b in zip(*halves)] == [[4 * s + i for i in range(4)] for s in range(1, 5)]


def test_valid_marks_body_and_neither_air_nor_padding(cache: Cache) -> None:
    scan = cache.manifest["scan"][0]
    big = tuple(n + 8 for n in cache.shape(scan))
    sample = Crops(cache, [scan], big, seed=0)[0]
    whole = cache.read(scan)
    assert tuple(sample["source"].shape[1:]) == big
    assert sample["valid"][0, 4:-4, 4:-4, 4:-4].sum() == sample["valid"].sum() == cache.valid(whole).any(0).sum()


def test_half_of_the_labelled_crops_hold_a_structure_and_masks_follow(cache: Cache) -> None:
    crops = Crops(cache, list(cache.manifest["scan"]), (8, 8, 8), seed=0, masks=True)
    shown = [bool((crops[n]["mask"] > 0).any()) for n in range(60)]
    assert np.mean(shown) > 0.5
    sample = crops[3]
    scan = crops.scans[sample["scan"]]
    whole, mask = cache.read(scan)[0], cache.read_mask(scan)
    windows = np.lib.stride_tricks.sliding_window_view(whole, (8, 8, 8))
    at = np.argwhere((windows == sample["source"][0].numpy()).all((-1, -2, -3)))
    assert any(np.array_equal(mask[x : x + 8, y : y + 8, z : z + 8], sample["mask"][0].numpy()) for x, y, z in at)


def test_checkpoints_notice_damage(tmp_path: Path) -> None:
    checkpoints = SafeCheckpoints()
    checkpoints.save_checkpoint(state(w=torch.ones(4)), tmp_path / "a.ckpt")
    assert checkpoints.load_checkpoint(tmp_path / "a.ckpt")["global_step"] == 3
    content = bytearray((tmp_path / "a.ckpt").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(MedsslError, match="checksum"):
        checkpoints.load_checkpoint(tmp_path / "a.ckpt")


def state(**weights: torch.Tensor) -> dict:
    parts = {"state_dict": weights, "optimizer_states": [], "lr_schedulers": []}
    return {"global_step": 3, "pytorch-lightning_version": "2.6.6"} | parts


class Bomb:
    """Makes the folder `canary` when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


def packed(content: bytes) -> bytes:
    """A zip file with the same members, deflated: zeros shrink to a thousandth."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as given, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as deflated:
        for member in given.infolist():
            deflated.writestr(member.filename, given.read(member))
    return buffer.getvalue()


def saved(value: Any, **how: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **how)
    return buffer.getvalue()


def test_a_checkpoint_with_code_in_it_or_of_another_form_is_refused_in_words_and_nothing_runs(tmp_path: Path) -> None:
    bomb, path = Bomb(tmp_path / "canary"), tmp_path / "a.ckpt"
    for content in (
        saved(state() | {"bomb": bomb}),
        saved(state(w=bomb)),
        pickle.dumps(bomb),
        saved(state() | {"bomb": bomb}, _use_new_zipfile_serialization=False),
        packed(saved(state(w=torch.zeros(1 << 20)))),
        saved([1]),
        saved({"global_step": 2}),
        saved(state() | {"global_step": "2"}),
        b"",
        b"PK",
    ):
        path.write_bytes(hashlib.sha256(content).digest() + content)
        with pytest.raises(MedsslError, match="nothing in it was run"):
            SafeCheckpoints().load_checkpoint(path)
    path.write_bytes(b"short")
    with pytest.raises(MedsslError, match="checksum"):
        SafeCheckpoints().load_checkpoint(path)
    assert not (tmp_path / "canary").exists()


def test_a_run_is_not_continued_from_a_checkpoint_of_somebody_else(cache: Cache, tmp_path: Path) -> None:
    settings = options(crop=(16, 16, 16), steps=2, batch_size=2, accelerator="cpu")
    call = partial(pretrain, cache.path, tmp_path / "a", ResidualUNet(3, width=4, blocks=(1, 1)), SimMIM, **settings)
    call()
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    for checkpoint, words in (
        (state() | {"bomb": Bomb(tmp_path / "canary")}, "nothing in it was run"),
        (state(w=torch.ones(3)), "do not fit SimMIM"),
    ):
        (tmp_path / "a" / "run.json").write_text(json.dumps(record | {"status": "failed"}))
        SafeCheckpoints().save_checkpoint(checkpoint | {"global_step": 1}, tmp_path / "a" / "last.ckpt")
        with pytest.raises(MedsslError, match=words):
            call()
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"\x02" + b"\0" * 7 + b"{}"])
def test_weights_of_another_form_are_refused_in_words(pretrained: Path, tmp_path: Path, content: bytes) -> None:
    shutil.copytree(pretrained, tmp_path / "run")
    (tmp_path / "run" / "encoder.safetensors").write_bytes(content)
    with pytest.raises(MedsslError, match=r"encoder\.safetensors in run is damaged|weights do not fit"):
        pretrained_encoder(tmp_path / "run")


def test_pretraining_leaves_test_and_validation_patients_out(cache: Cache, pretrained: Path) -> None:
    roles = split(cache.manifest, 0)
    seen = pd.read_parquet(pretrained / "seen.parquet")
    assert set(seen["patient"]) == set(roles.index[roles == "train"])
    assert len(pretraining_scans(cache, transductive=True)) == len(cache.manifest)


def test_a_run_ends_in_record_weights_curves_and_pictures(pretrained: Path) -> None:
    run = runs.read(pretrained)
    assert run.status == "finished"
    assert run.metrics["effective_rank"] > 1
    assert {"seconds", "peak_memory_mib", "samples_per_s"} <= set(run.cost)
    curves = pd.read_csv(pretrained / "metrics.csv")
    assert curves["loss"].notna().any()
    assert curves["effective_rank"].notna().any()
    with np.load(pretrained / "examples.npz") as pictures:
        assert {"source.0", "corrupted.0", "restored.0"} <= set(pictures)
    assert {p.name for p in pretrained.iterdir()} >= {
        "encoder.safetensors",
        "decoder.safetensors",
        "seen.parquet",
    }


SETTINGS = "steps=8, batch_size=2, crop=(16, 16, 16), checkpoint_every=3, accelerator='cpu', lr=0.003, warmup=2, monitor_every=4"
SCRIPT = """
import sys, time, torch
torch.set_num_threads(1)  # as in the test's own process: sums of floats depend on it
from medssl.encoders import ResidualUNet
from medssl.methods import SimMIM
from medssl.training.module import PretrainingModule
from medssl.training.pretrain import pretrain
from tests.options import options
step = PretrainingModule.training_step
def slow(self, batch, index):
    print("step", index, flush=True)
    time.sleep(0.3)
    return step(self, batch, index)
PretrainingModule.training_step = slow
pretrain(sys.argv[1], sys.argv[2], ResidualUNet(3, width=4, blocks=(1, 1)), SimMIM, **options(resume=sys.argv[3] == "resume", {settings}))
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_a_stopped_run_that_is_resumed_equals_an_undisturbed_one(cache: Cache, tmp_path: Path, how: int) -> None:
    keywords = eval(f"dict({SETTINGS})")
    pretrain(cache.path, tmp_path / "whole", ResidualUNet(3, width=4, blocks=(1, 1)), SimMIM, **options(**keywords))
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        SCRIPT.replace("{settings}", SETTINGS),
        str(cache.path),
        str(tmp_path / "cut"),
    ]
    with subprocess.Popen([*command, "new"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stdout or []:
            if line.startswith("step 5"):
                process.send_signal(how)
                break
        process.wait(180)
        assert process.returncode != 0
    assert (tmp_path / "cut" / "last.ckpt").exists()
    assert not (tmp_path / "cut" / "encoder.safetensors").exists()
    if how == signal.SIGTERM:
        assert "again to continue" in str(runs.read(tmp_path / "cut").reason)
    pretrain(
        cache.path,
        tmp_path / "cut",
        ResidualUNet(3, width=4, blocks=(1, 1)),
        SimMIM,
        **options(resume=True, **keywords),
    )
    whole, cut = (load_file(tmp_path / name / "encoder.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[k], cut[k]) for k in whole)
    assert (tmp_path / "whole" / "metrics.csv").read_text() == (tmp_path / "cut" / "metrics.csv").read_text()


def test_a_finished_run_is_not_done_again_and_never_overwritten_by_another(cache: Cache, tmp_path: Path) -> None:
    settings = {"crop": (16, 16, 16), "steps": 2, "batch_size": 2, "accelerator": "cpu"}
    pretrain(cache.path, tmp_path / "a", ResidualUNet(3, width=4, blocks=(1, 1)), SimMIM, **options(**settings))
    before = (tmp_path / "a" / "encoder.safetensors").stat().st_mtime_ns
    begun = time.time()
    pretrain(cache.path, tmp_path / "a", ResidualUNet(3, width=4, blocks=(1, 1)), SimMIM, **options(**settings))
    assert time.time() - begun < 2
    assert (tmp_path / "a" / "encoder.safetensors").stat().st_mtime_ns == before
    with pytest.raises(MedsslError, match="other settings"):
        pretrain(cache.path, tmp_path / "a", ResidualUNet(3, width=4, blocks=(1, 1)), SimCLR, **options(**settings))


class Ranged(SimMIM):
    """A method whose views depend on what is no argument of it."""

    high, wrapped = 1.7, staticmethod(lambda x: x + 1)

    def views(self, data_spec, size):
        (view,) = super().views(data_spec, size)
        return (Compose([view, Gamma(self.high), Wrapped(self.wrapped)]),)


class Wrapped(View):
    """A view that no record can hold."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def parameters_of(self, keys):
        return {}

    def apply_to(self, x, params):
        return x


def test_views_enter_the_identity_of_a_run_with_all_their_settings(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A changed range, which is no argument of the method, returned the run that was made with the old one."""
    settings = options(crop=(16, 16, 16), steps=1, batch_size=2, accelerator="cpu")
    call = partial(pretrain, cache.path, tmp_path / "a", ResidualUNet(3, width=4, blocks=(1, 1)), Ranged, **settings)
    first = call()
    assert call().started == first.started
    for name, value in (("high", 1.9), ("wrapped", staticmethod(lambda x: x + 2))):
        with monkeypatch.context() as changed:
            changed.setattr(Ranged, name, value)
            with pytest.raises(MedsslError, match="made with other settings"):
                call()
    assert call().started == first.started
    assert "1.7" in json.dumps(first.config["method"]["views"])
    assert " at 0x" not in json.dumps(first.config)


def test_another_run_never_resumes_from_what_an_aborted_one_left(cache: Cache, tmp_path: Path) -> None:
    settings = {"crop": (16, 16, 16), "steps": 2, "batch_size": 2, "accelerator": "cpu"}
    out = tmp_path / "a"
    SafeCheckpoints().save_checkpoint({"global_step": 2}, out / "last.ckpt")
    pretrain(cache.path, out, ResidualUNet(3, width=4, blocks=(1, 1)), SimMIM, **options(**settings))
    assert not (out / "last.ckpt").exists()
    assert len(pd.read_csv(out / "metrics.csv")) == 2


def test_accumulation_takes_whole_steps_and_the_same_samples(cache: Cache, tmp_path: Path) -> None:
    settings = {"crop": (16, 16, 16), "steps": 3, "accelerator": "cpu", "lr": 1e-3}
    made = []
    for name, batch, accumulate in (("whole", 4, 1), ("parts", 2, 2)):
        pretrain(
            cache.path,
            tmp_path / name,
            ResidualUNet(3, width=4, blocks=(1, 1)),
            SimMIM,
            **options(batch_size=batch, accumulate=accumulate, **settings),
        )
        made.append(load_file(tmp_path / name / "encoder.safetensors"))
    assert len(pd.read_csv(tmp_path / "parts" / "metrics.csv")) == 3
    first = next(iter(made[0]))
    assert torch.allclose(made[0][first], made[1][first], atol=3e-3)  # masks hold equally many blocks, bodies not quite


def test_an_encoder_for_other_scans_is_refused_before_training(cache: Cache, tmp_path: Path) -> None:
    with pytest.raises(MedsslError, match=r"--encoder\.dims 3"):
        pretrain(cache.path, tmp_path / "a", ResidualUNet(2, width=4), SimMIM)
    assert not (tmp_path / "a").exists()


def test_the_run_is_named_by_the_scans_it_sees_not_by_their_number(cache: Cache, tmp_path: Path, monkeypatch) -> None:
    scans, found = list(cache.manifest["scan"]), []
    for part in (scans[:6], scans[6:12]):
        monkeypatch.setattr(sys.modules["medssl.training.pretrain"], "pretraining_scans", lambda *_, part=part: part)
        run = pretrain(
            cache.path,
            tmp_path / part[0],
            small(),
            Rotation,
            **options(crop=(8, 8, 8), steps=1, batch_size=2, accelerator="cpu"),
        )
        found.append((run.id, run.config["scans"]))
    assert found[0][0] != found[1][0]
    assert found[0][1] == found[1][1] == 6


def small() -> ResidualUNet:
    return ResidualUNet(3, width=4, blocks=(1, 1))


@pytest.mark.parametrize("depth", [1, 3, 4, 5])
def test_bfloat16_gradients_are_right_for_maps_that_are_not_refused(depth: int) -> None:
    assert bfloat16_is_sound(depth)


@contextmanager
def suppress_not_finite() -> Iterator[None]:
    """Lets a run end as one whose weights are not finite, and in no other way than that or well."""
    try:
        yield
    except MedsslError as error:
        if "not finite" not in str(error):
            raise


@pytest.mark.parametrize("sound", [True, False])
def test_bfloat16_is_refused_where_its_gradients_are_wrong(
    cache: Cache, tmp_path: Path, monkeypatch, sound: bool
) -> None:
    really_sound = gradient_guard.bfloat16_is_sound
    monkeypatch.setattr(gradient_guard, "bfloat16_is_sound", lambda: sound)

    def go(name: str, encoder, crop=(16, 16, 16), precision: str = "bf16-mixed"):
        settings = {"crop": crop, "steps": 1, "batch_size": 4, "accelerator": "cpu", "precision": precision}
        return pretrain(cache.path, tmp_path / name, encoder, SimMIM, **options(**settings))

    deep, flat = ResidualUNet(3, width=4, blocks=(1, 1, 1, 1)), ResidualUNet(3, width=4, blocks=(1, 1, 1))
    assert go("flat", flat).status == "finished"
    assert go("exact", deep, precision="32-true").status == "finished"
    if sound:  # the guard lets it run; where this torch's gradients are wrong all the same, the weights may end as NaN
        wrong = nullcontext() if really_sound() else suppress_not_finite()
        with wrong:
            assert go("deep", deep).status == "finished"
    else:
        with pytest.raises(MedsslError, match="bf16 came with a 3D feature map of \\(2, 2, 2\\) voxels.*32-true"):
            go("deep", deep)


@pytest.mark.parametrize(
    ("kernel", "depth", "refused"), [(3, 2, True), (3, 1, False), (3, 3, False), (5, 4, True), (1, 2, False)]
)
def test_maps_less_deep_than_the_kernel_are_refused_where_weights_learn(kernel: int, depth: int, refused: bool) -> None:
    conv, x = nn.Conv3d(1, 1, kernel, padding="same"), torch.zeros(1, 1, depth, 8, 8)
    conv.register_forward_pre_hook(gradient_guard._check_depth)
    with pytest.raises(MedsslError, match="less deep than the kernel") if refused else nullcontext():
        conv(x)
    with torch.no_grad():
        conv(x)
    conv(x) if not refused else conv.requires_grad_(False)(x)


@pytest.mark.parametrize("command", ["pretrain", "finetune"])
def test_one_process_at_a_time_writes_a_folder(cache, tmp_path, command):
    """Two of them ended well and left a curve with a hole."""
    out, about = tmp_path / "run", {"encoder": small_encoder(), "crop": (16, 16, 16)}
    work = {
        "pretrain": lambda: pretrain(cache.path, out, method=SimMIM, **about, **options(steps=1, workers=0)),
        "finetune": lambda: finetune(cache.path, out, "segmentation", budget="2p", **about),
    }[command]
    with exclusive(out), pytest.raises(MedsslError, match="another process is writing to run: expected this one alone"):
        work()
    assert [path.name for path in out.iterdir()] == [".lock"]
