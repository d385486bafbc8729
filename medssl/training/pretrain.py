"""Pretrain an encoder on scans without labels.

    medssl pretrain --data CACHE --encoder ResidualUNet --method SimMIM --crop 32 32 32 --steps 500

    run = medssl.pretrain("cache", "runs/simmim", encoder=ResidualUNet(dims=3, width=16), method=SimMIM, steps=500)
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
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from rich.console import Console
from torch.utils.data import default_collate

from medssl.core import runs
from medssl.core.atomic import npz, write_atomically
from medssl.core.errors import MedsslError
from medssl.datasets.splits import split
from medssl.encoders import Encoder
from medssl.encoders.resenc import ResidualUNet
from medssl.methods import Method
from medssl.methods.simclr import SimCLR
from medssl.preprocessing.cache import Cache
from medssl.preprocessing.crops import Crops, crop_by_spacing, source_within
from medssl.preprocessing.fingerprint import ANISOTROPIC
from medssl.training.callbacks.health import Health, OnCollapse
from medssl.training.engine import (
    CropData,
    KeepCheckpoint,
    SafeCheckpoints,
    SoundGradients,
    StepBar,
    estimate,
    quiet_third_parties,
    spoken,
)
from medssl.training.models import save_weights

console = Console(stderr=True)


def pretrain(
    data: Path,
    out: Path,
    encoder: Encoder | None = None,
    method: Callable[[Encoder], Method] = SimCLR,
    crop: tuple[int, ...] | None = None,
    steps: int = 1000,
    batch_size: int = 32,
    lr: float = 1e-3,
    weight_decay: float = 0.05,
    warmup: int = 50,
    accumulate: int = 1,
    precision: str = "32-true",
    accelerator: str = "auto",
    devices: int | str = "auto",
    workers: int = 0,
    seed: int = 0,
    split_seed: int = 0,
    split_column: str | None = None,
    transductive: bool = False,
    label: str | None = None,
    checkpoint_every: int = 100,
    monitor_every: int | None = None,
    on_collapse: OnCollapse = "stop",
    resume: bool = True,
) -> runs.Run:
    """Train `method(encoder)` on the unlabelled scans of a cache; returns the finished run's record.

    data: a cache made by `medssl prepare`. out: the run's folder. encoder: a ResidualUNet that fits by default;
    it is taken as a description, its weights are drawn from `seed`.
    crop: voxels an axis; by default the largest that fits the scans and the encoder, up to 224 (2D) or 96 (3D).
    steps: optimiser steps, each of batch_size x accumulate x devices scans. transductive: pretrain on the test patients
    too; every later table says so. label: a label column watched by kNN during the run (it never enters the loss).
    monitor_every: steps between two looks at the representation, a quarter of the run by default. on_collapse: stop the run
    where all scans come to look alike to the encoder, or only warn. resume: go on where the very same run stopped;
    false starts it over.
    Raises MedsslError on a setting that cannot work, before the first step.
    """
    cache, out = Cache(Path(data)), Path(out)
    if steps < 1 or batch_size < 1 or accumulate < 1 or lr <= 0:
        raise MedsslError(
            f"steps {steps}, batch_size {batch_size}, accumulate {accumulate}, lr {lr}: expected numbers above 0"
        )
    given = encoder or ResidualUNet(cache.dims, cache.channels)
    cache.data_spec.check_encoder(given)
    size = tuple(crop or default_crop(cache, given))
    torch.manual_seed(seed)
    encoder = type(given)(**runs.describe(given)["init_args"])  # weights that the record's seed can draw again
    module = method(encoder)
    module.check(size, batch_size)
    module.set_up_views(cache.data_spec, size)
    allowed = pretraining_scans(cache, split_seed, transductive, split_column)
    if not allowed:
        raise MedsslError(
            "no scan to pretrain on: expected at least one of a training patient; look at the split's column"
        )
    rows = module.usable(cache.manifest[cache.manifest["scan"].isin(allowed)])
    told = module.crop_settings(rows)
    config = {
        "encoder": runs.describe(encoder), "method": runs.describe(module) | _about(module), "crop": size,
        "steps": steps, "batch_size": batch_size, "lr": lr, "weight_decay": weight_decay, "warmup": warmup,
        "accumulate": accumulate, "precision": precision, "split_seed": split_seed, "split_column": split_column, "devices": devices, "transductive": transductive,
        "scans": len(rows), "cohort": runs.identity(scans=sorted(rows["digest"]), told=told), "spacing_mm": cache.spacing_mm, "dims": cache.dims, "channels": cache.channels,
        "modality": cache.modality, "size": cache.size,
    }  # fmt: skip
    name = runs.identity(kind="pretrain", config=config, data=cache.digest, seed=seed, parent=None)
    finished = runs.finished(out, name, resume)
    if finished is not None:
        console.print(f"{out} is already finished; nothing to do")
        return finished
    if not (resume and runs.holds(out, name)):
        for left in ("last.ckpt", "metrics.csv"):  # of another attempt: never to be resumed from by this one
            (out / left).unlink(missing_ok=True)
    with _recording_on_rank_zero(out, config, cache.digest, seed) as record:
        module.optimise = {"lr": lr, "weight_decay": weight_decay, "warmup": warmup, "steps": steps}
        scans = list(rows["scan"])
        crops = Crops(cache, scans, source_within(cache, scans, module.source_size(size), size), seed, **told)
        watch = monitor_every or max(1, steps // 4)
        health = Health(cache, scans, size, label, watch, batch_size * accumulate, on_collapse)
        try:
            cost = _fit(module, crops, health, out, steps, batch_size, accumulate, precision, accelerator, devices, workers,
                        checkpoint_every, resume)  # fmt: skip
        finally:
            if record is not None:
                record.update(metrics=health.last)
        if record is not None:
            _save(module, crops, rows, out)
            record.update(cost=cost)
    return runs.read(out)


def _about(module: Method) -> dict[str, Any]:
    """What a method's arguments do not say of it: its views, and what its loss sends no gradient to."""
    stopped = {"stop_gradient": list(module.stop_gradient)} if module.stop_gradient else {}
    return {"views": str(module._views), **stopped}


@contextmanager
def _recording_on_rank_zero(out: Path, config: dict, data: str, seed: int) -> Iterator[runs.Recorder | None]:
    """One process of a multi-device run keeps the record; the others get None."""
    if getattr(rank_zero_only, "rank", 0) == 0:
        with runs.recording(out, "pretrain", config, data, seed) as record:
            yield record
    else:
        yield None


def _save(module: Method, crops: Crops, rows: pd.DataFrame, out: Path) -> None:
    """Weights, what was seen, and a few pictures."""
    save_weights(module.kept, out / "encoder.safetensors")
    save_weights(module, out / "method.safetensors")  # all of it: to draw, restore or compare with later
    if module.decoder is not None:
        save_weights(module.decoder, out / "decoder.safetensors")
    write_atomically(out / "seen.parquet", rows[["digest", "patient"]].to_parquet())
    _save_examples(module, crops, out)


def pretraining_scans(
    cache: Cache, split_seed: int = 0, transductive: bool = False, split_column: str | None = None
) -> list[str]:
    """The scans pretraining may see: the training patients', or everybody's when asked to be transductive."""
    roles = split(cache.manifest, split_seed, column=split_column)
    allowed = cache.manifest["patient"].map(roles) == "train"
    return list(cache.manifest["scan"][allowed | transductive])


def default_crop(cache: Cache, encoder: Encoder) -> tuple[int, ...]:
    """The largest crop that the encoder's strides divide and the median scan holds, up to 224 (2D) or 96 (3D); in volumes
    of thick slices (anisotropic by more than 3) as many voxels, about as long in mm along every axis."""
    median = np.median([cache.shape(s) for s in cache.manifest["scan"]], axis=0)
    most = 224 if cache.dims == 2 else 96
    if cache.dims == 3 and max(cache.spacing_mm) > ANISOTROPIC * min(cache.spacing_mm):
        return crop_by_spacing(cache.spacing_mm, [int(n) for n in median], most, encoder.strides[-1])
    return tuple(int(max(s, min(n, most) // s * s)) for n, s in zip(median, encoder.strides[-1]))


class Curves(pl.Callback):
    """Loss, learning rate and health, a row a step, in `metrics.csv`; a resumed run goes on where its checkpoint stood."""

    def __init__(self, path: Path, health: Health, every: int, checkpoint_every: int, begun: int):
        self.path, self.health, self.every, self.checkpoint_every = path, health, every, checkpoint_every
        kept = pd.read_csv(path).query("step <= @begun") if begun and path.exists() else pd.DataFrame()
        self.rows: list[dict[str, float]] = kept.to_dict("records")

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        step = trainer.global_step
        if not trainer.is_global_zero or trainer.fit_loop._should_accumulate():
            return
        if step % self.every == 0 or step == trainer.max_steps:
            logged = {"loss": round(float(trainer.callback_metrics["loss"]), 6)}
            logged |= {f"method.{name}": round(value, 6) for name, value in module.watch().items()}
            if step == self.health.looked:
                logged |= {k: round(v, 6) for k, v in self.health.last.items() if k != "loss"}
            self.rows.append({"step": step, "lr": trainer.optimizers[0].param_groups[0]["lr"], **logged})
        if step % self.checkpoint_every == 0:
            self._write()  # before the checkpoint, so that a run resumed from it has all rows up to it

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        self._write()

    def on_exception(self, trainer: pl.Trainer, module: Any, exception: BaseException) -> None:
        self._write()

    def _write(self) -> None:
        if self.rows:
            write_atomically(self.path, pd.DataFrame(self.rows).to_csv(index=False).encode())


def _fit(
    module: Method, crops: Crops, health: Health, out: Path, steps: int, batch_size: int, accumulate: int,
    precision: str, accelerator: str, devices: int | str, workers: int, checkpoint_every: int, resume: bool,
) -> dict[str, Any]:  # fmt: skip
    checkpoint = out / "last.ckpt"
    io = SafeCheckpoints()
    begun = io.load_checkpoint(checkpoint)["global_step"] if resume and checkpoint.exists() else 0
    quiet_third_parties()
    trainer = pl.Trainer(
        max_steps=steps, max_epochs=-1, accelerator=accelerator, devices=devices, precision=precision,  # type: ignore[arg-type]
        accumulate_grad_batches=accumulate, plugins=[io], enable_checkpointing=False, use_distributed_sampler=False, sync_batchnorm=torch.cuda.is_available(),
        enable_model_summary=False, enable_progress_bar=False, log_every_n_steps=max(1, steps // 200), gradient_clip_val=1.0, default_root_dir=out,
        logger=TensorBoardLogger(out, name="", version="tensorboard"),
        callbacks=[SoundGradients(), health, Curves(out / "metrics.csv", health, max(1, steps // 200), checkpoint_every, begun), KeepCheckpoint(checkpoint, checkpoint_every),
                   StepBar()],
    )  # fmt: skip
    if trainer.is_global_zero and begun:
        console.print(f"going on after step {begun} of {steps}")
    if trainer.is_global_zero and begun < steps:
        console.print("measuring how long it will take ...")
        _tell(module, crops, health, batch_size, (steps - begun) * accumulate, trainer)
    data = CropData(crops, batch_size, steps * accumulate, begun * accumulate, workers)
    clock = time.perf_counter()
    trainer.fit(module, datamodule=data, ckpt_path=str(checkpoint) if begun else None, weights_only=True)
    seen = (steps - begun) * accumulate * batch_size * trainer.world_size
    used = torch.cuda.max_memory_allocated() >> 20 if torch.cuda.is_available() else None
    spent = time.perf_counter() - clock
    return {"samples_per_s": round(seen / spent, 2), "device_memory_mib": used, "devices": trainer.world_size,
            "device": trainer.strategy.root_device.type}  # fmt: skip


def _tell(module: Method, crops: Crops, health: Health, batch_size: int, batches: int, trainer: pl.Trainer) -> None:
    batch = default_collate([crops[i] for i in range(batch_size)])
    expected = estimate(module, batch, batches, trainer, lambda m, b: m.loss(m.make_views(b)))
    with trainer.strategy.precision_plugin.forward_context():
        looking = health.seconds(module, batches // trainer.accumulate_grad_batches, trainer.world_size)
    console.print(
        f"{type(module).__name__} on {len(crops.scans)} scans, {batches} batches of {batch_size}: about "
        f"{spoken(expected['seconds'] + looking)} ({spoken(looking)} of them to watch the representation) and {expected['memory_mib']:,.0f} MiB on {trainer.strategy.root_device.type}"
    )


@torch.no_grad()
def _save_examples(module: Method, crops: Crops, out: Path, count: int = 4) -> None:
    """A middle slice of a few restored scans, for the report."""
    module.eval()
    batch = module.make_views(default_collate([crops[i] for i in range(min(count, len(crops)))]))
    shown = module.reconstruct(batch)
    if shown:
        pictures = {}
        for kind, x in shown.items():
            for n, volume in enumerate(x[:, 0].float().numpy()):
                pictures[f"{kind}.{n}"] = volume if volume.ndim == 2 else volume[:, :, volume.shape[2] // 2]
        write_atomically(out / "examples.npz", npz(pictures))
