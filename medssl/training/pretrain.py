"""Pretrain an encoder on scans without labels.

    medssl pretrain --data CACHE --encoder ResidualUNet --method SimMIM --crop 32 32 32 --steps 500

    encoder = ResidualUNet(dims=3, width=16)
    run = medssl.pretrain("cache", "runs/simmim", encoder, SimMIM, train=TrainConfig(steps=500))
    run.metrics["effective_rank"]

The test patients of the cache's split are left out (inductive), so that a later study is honest. The folder holds the
record, `encoder.safetensors` (and `decoder.safetensors` where the pretext trained one), `method.safetensors` with all of
the method, the curves, a checkpoint, and `seen.parquet`: the digests of the scans it saw, by which a study knows whether
a test scan was among them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from torch.utils.data import default_collate

from medssl.core import runs
from medssl.core.atomic import npz_bytes, write_atomically
from medssl.core.errors import MedsslError
from medssl.core.progress import console, format_duration
from medssl.core.spec import describe, twin
from medssl.datasets.splits import SplitSpec
from medssl.encoders import Encoder
from medssl.encoders.resenc import ResidualUNet
from medssl.methods import Method
from medssl.methods.simclr import SimCLR
from medssl.preprocessing.cache import Cache
from medssl.preprocessing.crops import Crops, crop_by_spacing, source_within
from medssl.preprocessing.datamodule import CropData
from medssl.preprocessing.fingerprint import ANISOTROPIC
from medssl.preprocessing.sample_fields import readers, resolve, select_scans
from medssl.training.callbacks.checkpoints import CheckpointSaver, SafeCheckpoints
from medssl.training.callbacks.curves import Curves
from medssl.training.callbacks.gradient_guard import GradientGuard
from medssl.training.callbacks.health import Health
from medssl.training.config import Hardware, Monitoring, TrainConfig
from medssl.training.engine import StepBar, quiet_third_parties
from medssl.training.estimate import estimate
from medssl.training.models import describe_method, save_weights
from medssl.training.module import PretrainingModule


def pretrain(
    data: Path,
    out: Path,
    encoder: Encoder | None = None,
    method: Callable[[Encoder], Method] = SimCLR,
    crop: tuple[int, ...] | None = None,
    train: TrainConfig = TrainConfig(),
    hardware: Hardware = Hardware(),
    split: SplitSpec = SplitSpec(),
    monitoring: Monitoring = Monitoring(),
    seed: int = 0,
    transductive: bool = False,
    resume: bool = True,
) -> runs.Run:
    """Train `method(encoder)` on the unlabelled scans of a cache.

    Args:
        data: Cache made by `medssl prepare`.
        out: Folder of the run.
        encoder: Encoder to pretrain; a ResidualUNet that fits the scans by default. It is taken as a description: its
            weights are drawn from the seed.
        method: Pretext task to pretrain with.
        crop: Voxels along each axis; by default the largest crop that fits the scans and the encoder, up to 224 (2D) or 96
            (3D).
        train: The optimisation.
        hardware: Where the training runs.
        split: How the patients are split; the test patients are left out.
        monitoring: How the representation is measured during the run.
        seed: Seed of the weights, the crops and the views.
        transductive: Whether to pretrain on the test patients too; every later table then says so.
        resume: Whether to continue the same run where it stopped; false starts it over.

    Returns:
        The record of the finished run.

    Raises:
        MedsslError: A setting cannot work; raised before the first step.
    """
    cache, out = Cache(Path(data)), Path(out)
    given = encoder or ResidualUNet(cache.dims, cache.channels)
    cache.data_spec.check_encoder(given)
    size = tuple(crop or default_crop(cache, given))
    torch.manual_seed(seed)
    encoder = twin(given)  # weights that the record's seed can draw again
    pretext = method(encoder)
    pretext.check(size, train.batch_size)
    pretext.set_up_views(cache.data_spec, size)
    allowed = pretraining_scans(cache, split, transductive)
    if not allowed:
        raise MedsslError(
            "no scan to pretrain on: expected at least one of a training patient; look at the split's column"
        )
    fields = resolve(pretext.sample_fields)
    rows, remarks = select_scans(fields, cache.manifest[cache.manifest["scan"].isin(allowed)])
    for remark in remarks:
        rank_zero_only(console.print)(remark)
    field_readers = readers(fields, rows)
    config = {
        "encoder": describe(encoder), "method": describe_method(pretext) | _about(pretext), "crop": size,
        **asdict(train), **split.to_record(), "devices": hardware.devices, "transductive": transductive,
        "scans": len(rows), "cohort": runs.identity(scans=sorted(rows["digest"]), fields=[repr(r) for r in field_readers]),
        "data_spec": cache.data_spec.to_record(),
    }  # fmt: skip
    name = runs.identity(kind="pretrain", config=config, data=cache.digest, seed=seed, parent=None)
    finished = runs.finished_run(out, name, resume)
    if finished is not None:
        console.print(f"{out} is already finished; nothing to do")
        return finished
    if not (resume and runs.has_id(out, name)):
        for left in ("last.ckpt", "metrics.csv"):  # of another attempt: never to be resumed from by this one
            (out / left).unlink(missing_ok=True)
    with _recording_on_rank_zero(out, config, cache.digest, seed) as record:
        scans = list(rows["scan"])
        crops = Crops(
            cache, scans, source_within(cache, scans, pretext.source_size(size), size), seed, fields=field_readers
        )
        health = Health(cache, scans, size, train, monitoring)
        try:
            cost = _fit(pretext, crops, health, out, train, hardware, resume)
        finally:
            if record is not None:
                record.update(metrics=health.last)
        if record is not None:
            _save(pretext, crops, rows, out)
            record.update(cost=cost)
    return runs.read(out)


def _about(method: Method) -> dict[str, Any]:
    """What a method's arguments do not say of it: its views, and what its loss sends no gradient to."""
    stopped = {"stop_gradient": list(method.stop_gradient)} if method.stop_gradient else {}
    return {"views": str(method._views), **stopped}


@contextmanager
def _recording_on_rank_zero(out: Path, config: dict, data: str, seed: int) -> Iterator[runs.Recorder | None]:
    """One process of a multi-device run keeps the record; the others get None."""
    if getattr(rank_zero_only, "rank", 0) == 0:
        with runs.recording(out, "pretrain", config, data, seed) as record:
            yield record
    else:
        yield None


def _save(method: Method, crops: Crops, rows: pd.DataFrame, out: Path) -> None:
    """Weights, what was seen, and a few pictures."""
    save_weights(method.final_encoder, out / "encoder.safetensors")
    save_weights(method, out / "method.safetensors")  # all of it: to draw, restore or compare with later
    if method.decoder is not None:
        save_weights(method.decoder, out / "decoder.safetensors")
    write_atomically(out / "seen.parquet", rows[["digest", "patient"]].to_parquet())
    _save_examples(method, crops, out)


def pretraining_scans(cache: Cache, split: SplitSpec = SplitSpec(), transductive: bool = False) -> list[str]:
    """The scans of the training patients, or of all patients if transductive."""
    allowed = cache.manifest["patient"].map(split.roles(cache.manifest)) == "train"
    return list(cache.manifest["scan"][allowed | transductive])


def default_crop(cache: Cache, encoder: Encoder) -> tuple[int, ...]:
    """The largest crop that the encoder's strides divide and the median scan holds, up to 224 (2D) or 96 (3D); in volumes
    of thick slices (anisotropic by more than 3) as many voxels, about as long in mm along every axis."""
    median = np.median([cache.shape(s) for s in cache.manifest["scan"]], axis=0)
    most = 224 if cache.dims == 2 else 96
    if cache.dims == 3 and max(cache.spacing_mm) > ANISOTROPIC * min(cache.spacing_mm):
        return crop_by_spacing(cache.spacing_mm, [int(n) for n in median], most, encoder.strides[-1])
    return tuple(int(max(s, min(n, most) // s * s)) for n, s in zip(median, encoder.strides[-1]))


def _fit(
    method: Method, crops: Crops, health: Health, out: Path, train: TrainConfig, hardware: Hardware, resume: bool
) -> dict[str, Any]:
    """Train the method to the end; returns the costs that only the trainer knows."""
    checkpoint = out / "last.ckpt"
    begun = SafeCheckpoints().load_checkpoint(checkpoint)["global_step"] if resume and checkpoint.exists() else 0
    quiet_third_parties()
    trainer = _trainer(out, train, hardware, health, begun)
    if trainer.is_global_zero:
        _announce_duration(method, crops, health, train, begun, trainer)
    accumulate = train.accumulate
    data = CropData(crops, train.batch_size, train.steps * accumulate, begun * accumulate, hardware.workers)
    clock = time.perf_counter()
    trainer.fit(
        PretrainingModule(method, train),
        datamodule=data,
        ckpt_path=str(checkpoint) if begun else None,
        weights_only=True,
    )
    samples = (train.steps - begun) * accumulate * train.batch_size * trainer.world_size
    return {
        "samples_per_s": round(samples / (time.perf_counter() - clock), 2),
        "device_memory_mib": torch.cuda.max_memory_allocated() >> 20 if torch.cuda.is_available() else None,
        "devices": trainer.world_size,
        "device": trainer.strategy.root_device.type,
    }


def _trainer(out: Path, train: TrainConfig, hardware: Hardware, health: Health, begun: int) -> pl.Trainer:
    log_every = max(1, train.steps // 200)
    checkpoint_every = hardware.checkpoint_every
    return pl.Trainer(
        max_steps=train.steps,
        max_epochs=-1,
        accelerator=hardware.accelerator,
        devices=hardware.devices,
        precision=train.precision,  # type: ignore[arg-type]
        accumulate_grad_batches=train.accumulate,
        gradient_clip_val=1.0,
        sync_batchnorm=torch.cuda.is_available(),
        use_distributed_sampler=False,
        plugins=[SafeCheckpoints()],
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        log_every_n_steps=log_every,
        default_root_dir=out,
        logger=TensorBoardLogger(out, name="", version="tensorboard"),
        callbacks=[
            GradientGuard(),
            health,
            Curves(out / "metrics.csv", health, log_every, checkpoint_every, begun),
            CheckpointSaver(out / "last.ckpt", checkpoint_every),
            StepBar(),
        ],
    )


def _announce_duration(
    method: Method, crops: Crops, health: Health, train: TrainConfig, begun: int, trainer: pl.Trainer
) -> None:
    """Say how long the remaining steps will take, from a few trial steps."""
    if begun:
        console.print(f"continuing after step {begun} of {train.steps}")
    if begun >= train.steps:
        return
    console.print("measuring how long it will take ...")
    batches = (train.steps - begun) * train.accumulate
    batch = default_collate([crops[i] for i in range(train.batch_size)])
    expected = estimate(method, batch, batches, trainer, lambda m, b: m.loss(m.make_views(b)))
    with trainer.strategy.precision_plugin.forward_context():
        monitoring_s = health.seconds(method, train.steps - begun, trainer.world_size)
    console.print(
        f"{type(method).__name__} on {len(crops.scans)} scans, {batches} batches of {train.batch_size}: about "
        f"{format_duration(expected['seconds'] + monitoring_s)} ({format_duration(monitoring_s)} of them to monitor the representation) and "
        f"{expected['memory_mib']:,.0f} MiB on {trainer.strategy.root_device.type}"
    )


@torch.no_grad()
def _save_examples(method: Method, crops: Crops, out: Path, count: int = 4) -> None:
    """A middle slice of a few restored scans, for the report."""
    method.eval()
    batch = method.make_views(default_collate([crops[i] for i in range(min(count, len(crops)))]))
    shown = method.reconstruct(batch)
    if shown:
        pictures = {}
        for kind, x in shown.items():
            for n, volume in enumerate(x[:, 0].float().numpy()):
                pictures[f"{kind}.{n}"] = volume if volume.ndim == 2 else volume[:, :, volume.shape[2] // 2]
        write_atomically(out / "examples.npz", npz_bytes(pictures))
