"""What comes next, along slices or frames: the losses, what must not be seen, and cohorts of sequences."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from medssl.core.errors import MedsslError
from medssl.datasets.index import index
from medssl.encoders import Encoder, ResidualUNet
from medssl.methods import MaskedMotion, Method, NextSlice
from medssl.preprocessing.cache import Cache, prepare
from medssl.preprocessing.sample_fields import resolve, select_scans
from medssl.training.pretrain import pretrain
from tests.methods.learning import restoration
from tests.methods.test_masked import ENCODERS, small_batch
from tests.options import options


@pytest.mark.parametrize("along", ["slices", "frames"])
def test_next_slice_counts_the_next_ones_alone_and_sees_none_of_what_is_to_come(along: str, agrees) -> None:
    """The mean absolute error in numpy, float64; tolerance 1e-5."""
    torch.manual_seed(0)
    method = NextSlice(ENCODERS["unet frames"](3), along, ahead=2)
    batch = small_batch(method, (8, 8, 16))
    to_come, asked = method.future_of(batch)
    x, axis = batch["views"][0], 1 if along == "frames" else 4
    with torch.no_grad():
        computed = float(method.loss(batch))
        predicted = method.predict(x, to_come).double().numpy()
        again = method.predict(torch.where(to_come, 9.0, x), to_come).double().numpy()
    assert np.array_equal(predicted, again)
    total = count = 0.0
    for b in range(3):
        first = x.shape[axis] - int(to_come[b].sum())
        assert 1 <= first <= x.shape[axis] - 2
        cut = [slice(None)] * 4
        cut[axis - 1] = slice(first, first + 2)
        body = np.broadcast_to(batch["valid_views"][0][b].numpy(), predicted[b].shape)[tuple(cut)]
        total += (np.abs(predicted[b] - x[b].double().numpy())[tuple(cut)] * body).sum()
        count += body.sum()
    agrees("NextSlice", "next slices", computed, total / count)
    assert int(asked.sum()) == 6
    shown = method.reconstruct(batch)
    assert torch.equal(shown["source"] != shown["corrupted"], (asked & (x != 0)).expand_as(x))
    assert torch.equal(shown["restored"] != shown["corrupted"], asked.expand_as(x))


def test_masked_motion_counts_masked_tubes_and_the_change_of_frames(agrees) -> None:
    """Yang et al. 2022 in numpy, float64: frames and their differences, where every frame is masked; tolerance 1e-5."""
    torch.manual_seed(0)
    method = MaskedMotion(ENCODERS["unet frames"](3), mask_block=4, motion_weight=0.5)
    batch = small_batch(method, (8, 8, 16))
    x, tubes = batch["views"][0], method.tubes_of(batch)
    with torch.no_grad():
        computed = float(method.loss(batch))
        predicted = method.predict(x, tubes).double().numpy()
        assert np.array_equal(method.predict(torch.where(tubes > 0, 9.0, x), tubes).double().numpy(), predicted)
    truth, counted = x.double().numpy(), (tubes * batch["valid_views"][0]).numpy()
    frames = np.mean([np.abs(predicted - truth)[:, t][counted[:, 0] > 0].mean() for t in range(5)])
    change = [np.abs((predicted[:, t + 1] - predicted[:, t]) - (truth[:, t + 1] - truth[:, t])) for t in range(4)]
    expected = frames + 0.5 * np.mean([c[counted[:, 0] > 0].mean() for c in change])
    agrees("MaskedMotion", "frames and differences", computed, expected)
    assert tubes.flatten(1).mean(1).tolist() == [0.75] * 3


def test_frames_are_looked_for_before_the_first_step(sequences: Cache, cache: Cache, tmp_path: Path) -> None:
    settings = {"crop": (16, 16, 16), "steps": 2, "batch_size": 2, "accelerator": "cpu"}
    encoder = ResidualUNet(3, 4, width=4, blocks=(1, 1))
    run = pretrain(sequences.path, tmp_path / "run", encoder, MaskedMotion, **options(**settings))
    assert run.status == "finished"
    with pytest.raises(
        MedsslError, match="MaskedMotion came with an encoder of 1 channel: expected one for each frame"
    ):
        pretrain(
            cache.path, tmp_path / "still", ResidualUNet(3, width=4, blocks=(1, 1)), MaskedMotion, **options(**settings)
        )
    fields = resolve(NextSlice(encoder, along="frames", ahead=1).sample_fields)
    count = len(cache.manifest)
    with pytest.raises(
        MedsslError, match=f"{count} of {count} scans to pretrain on hold one frame: the method expected sequences"
    ):
        select_scans(fields, cache.manifest)
    assert select_scans(fields, sequences.manifest)[0] is sequences.manifest


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """Ten NIfTI files of four frames, a ball that grows."""
    folder = tmp_path_factory.mktemp("sequences")
    reach = np.linalg.norm(np.stack(np.meshgrid(*[np.arange(20) - 9.5] * 3, indexing="ij")), axis=0)
    for n in range(10):
        noise = np.random.default_rng(n).normal(0, 0.05, (20, 20, 20, 4))
        frames = np.stack([1 / (1 + np.exp(reach - 4 - n / 5 - t)) for t in range(4)], axis=-1) + noise
        nibabel.save(
            nibabel.Nifti1Image((100 * frames).astype(np.float32), np.diag([4.0, 4, 4, 1])), folder / f"{n}.nii.gz"
        )
    index([folder], folder / "manifest", modality="MR")
    return prepare(folder / "manifest", folder / "cache")


@pytest.mark.slow
def test_masked_motion_learns_to_restore_sequences(sequences: Cache, tmp_path: Path) -> None:
    """Three seeds: in sequences it has not seen it restores better than the mean image (the phantoms hold one frame)."""
    for seed in range(3):
        made: list[Method] = []

        def make(given: Encoder, made: list[Method] = made) -> Method:
            made.append(MaskedMotion(given, mask_block=4))
            return made[0]

        encoder = ResidualUNet(3, 4, width=8, blocks=(1, 1, 1))
        pretrain(
            sequences.path,
            tmp_path / str(seed),
            encoder,
            make,
            **options(crop=(16, 16, 16), steps=200, batch_size=8, lr=2e-3, warmup=10, seed=seed, accelerator="cpu"),
        )
        ratio = restoration(made[0], sequences, seed)
        print(f"MaskedMotion, seed {seed}: error over that of the mean image {ratio:.3f}")
        assert ratio is not None
        assert ratio < 1
