"""Pretrain an encoder on scans without labels.

    medssl pretrain --data CACHE --encoder ResidualUNet --method SimMIM --crop 32 32 32 --steps 500

    encoder = ResidualUNet(dims=3, width=16)
    run = medssl.pretrain("cache", "runs/simmim", encoder, SimMIM, train=TrainConfig(steps=500))
    run.metrics["effective_rank"]

    medssl pretrain --data CACHE --method auto --task segmentation --out runs/auto      # method, encoder and length as `medssl plan` says
    medssl pretrain --data CACHE --method SimMIM --init runs/other --out runs/continued # from the encoder of another run
    medssl pretrain --data CACHE --seeds 3 --out runs/simclr     # three runs; `--arms 'runs/simclr-{0,1,2}'` is one arm

The test patients of the cache's split are left out, so that a later study can score on them. The folder of the run holds
its record, `encoder.safetensors` (and `decoder.safetensors` if the pretext trained one), `method.safetensors` with the whole
method, the curves, a checkpoint, example images of methods that restore, and `seen.parquet`: the digests and outlines of the
scans that were trained on, by which a study finds out whether a test scan is among them, or nearly the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_only
from torch.utils.data import default_collate

from medssl.core import runs
from medssl.core.atomic import exclusive, write_atomically
from medssl.core.errors import MedsslError
from medssl.core.progress import console, format_duration
from medssl.core.spec import describe, twin
from medssl.datasets.near_duplicates import outlines
from medssl.datasets.splits import SplitSpec
from medssl.encoders import Encoder
from medssl.encoders.resenc import ResidualUNet
from medssl.methods import Method
from medssl.methods.shared.devices import device_count
from medssl.methods.simclr import SimCLR
from medssl.preprocessing.cache import Cache
from medssl.preprocessing.crops import Crops, FieldReader, source_within
from medssl.preprocessing.datamodule import CropData
from medssl.training.auto.plan import Given
from medssl.training.auto.resolve import resolve
from medssl.training.callbacks.checkpoints import CheckpointSaver, SafeCheckpoints
from medssl.training.callbacks.curves import Curves
from medssl.training.callbacks.gradient_guard import GradientGuard
from medssl.training.callbacks.health import Health
from medssl.training.callbacks.tensorboard import PrivateTensorBoard
from medssl.training.config import Hardware, Monitoring, Planning, TrainConfig
from medssl.training.continued import Parent
from medssl.training.devices import SharedNorms, check_same_devices, find_devices
from medssl.training.engine import StepBar, quiet_third_parties
from medssl.training.estimate import estimate
from medssl.training.examples import save_examples
from medssl.training.models import describe_method, describe_view, save_weights
from medssl.training.module import PretrainingModule
from medssl.training.recompute import recomputed
from medssl.training.samples import default_crop, pretraining_scans, seen_table, usable_samples


def pretrain(
    data: Path,
    out: Path,
    encoder: Encoder | None = None,
    method: Callable[[Encoder], Method] | Literal["auto"] = SimCLR,
    crop: tuple[int, ...] | None = None,
    train: TrainConfig = TrainConfig(),
    hardware: Hardware = Hardware(),
    split: SplitSpec = SplitSpec(),
    monitoring: Monitoring = Monitoring(),
    seed: int = 0,
    transductive: bool = False,
    resume: bool = True,
    init: Path | None = None,
    planning: Planning = Planning(),
    seeds: int | None = None,
) -> runs.Run:
    """Train `method(encoder)` on the unlabelled scans of a cache.

    Args:
        data: Cache made by `medssl prepare`.
        out: Folder of the run.
        encoder: Encoder to pretrain; a ResidualUNet that fits the scans by default, or with init that run's. Only its
            architecture is used; its weights are initialised anew from the seed, or come from init.
        method: Pretext task to pretrain with; auto takes what `medssl plan` says for these scans, this task and this machine, and
            the encoder, crop, batch, steps and patience with it, unless they are given.
        crop: Voxels along each axis; by default the largest crop that fits the scans and the encoder, up to 224 (2D) or 96
            (3D).
        train: The optimisation.
        hardware: Where the training runs.
        split: How the patients are split; the test patients are left out.
        monitoring: How the representation is measured during the run.
        seed: Seed of the weights, the crops and the views.
        transductive: Whether to pretrain on the test patients too (without their labels); every later table then says so.
        resume: Whether to continue the same run where it stopped; false starts it over.
        init: Folder of a finished pretraining run whose encoder's weights this one starts from.
        planning: What `--method auto` chooses by.
        seeds: How many runs to train one after the other, with seed, seed + 1, ..., into OUT-0, OUT-1, ... (named after their
            seeds), which `study --arms 'OUT-{0,1}'` takes as one arm; by default one run, into OUT itself.

    Returns:
        The record of the finished run; of the last one, with `seeds`.

    Raises:
        MedsslError: A setting cannot work; raised before the first step.
    """
    if seeds is not None:
        options = (encoder, method, crop, train, hardware, split, monitoring)
        further = (transductive, resume, init, planning)
        places = _places_of_seeds(Path(out), method, seed, seeds)
        return [pretrain(data, place, *options, each, *further) for each, place in places.items()][-1]
    quiet_third_parties()
    cache, out = Cache(Path(data)), Path(out)
    parent = Parent.read(Path(init)) if init is not None else None
    encoder = parent.architecture(encoder) if parent is not None else encoder
    about: dict[str, Any] = {}
    if isinstance(method, str):
        settled = Given(encoder, crop, train, monitoring, hardware, split, seed, transductive)
        chosen = resolve(cache, out, planning, settled, resume)
        encoder, build, crop, about = chosen.encoder, chosen.method, chosen.crop, chosen.about
        train, monitoring = chosen.train, chosen.monitoring
    else:
        build = method
    given = encoder or ResidualUNet(cache.dims, cache.channels)
    cache.data_spec.check_encoder(given)
    size = tuple(crop or default_crop(cache, given))
    pretext = _new_method(build, given, seed, parent)
    pretext.check(size, train.batch_size)
    pretext.set_up_views(cache.data_spec, size)
    manifest, field_readers = usable_samples(cache, pretext, pretraining_scans(cache, split, transductive))
    config = {
        **_method_record(pretext, given),
        "crop": size,
        **asdict(train),
        **split.to_record(),
        "devices": find_devices(hardware).count,
        "transductive": transductive or (parent is not None and parent.transductive),
        **_cohort_record(manifest, field_readers),
        "data_spec": cache.data_spec.to_record(),
        **_options_record(monitoring, parent),
    }
    parent_id = parent.run.id if parent is not None else None
    parts = {"kind": "pretrain", "config": config, "data": cache.digest, "seed": seed, "parent": parent_id}
    name = runs.identity(**parts)
    check_same_devices(out, parts, resume)
    finished = runs.finished_run(out, name, resume)
    if finished is not None:
        console.print(f"{out} is already finished; nothing to do")
        return finished
    continued = resume and runs.has_id(out, name)
    if parent is not None:
        parent.check_data(cache.data_spec)
    with _recording_on_rank_zero(out, config, cache, seed, continued, parent_id) as record:
        if record is not None:
            record.update(protocol=about)
        scans = list(manifest["scan"])
        source = source_within(cache, scans, pretext.source_size(size), size)
        crops = Crops(cache, scans, source, seed, fields=field_readers)
        health = Health(cache, scans, size, train, monitoring)
        try:
            with recomputed(pretext, hardware.checkpoint_activations):
                cost = _fit(pretext, crops, health, out, train, hardware, resume)
        finally:
            if record is not None:
                record.update(metrics=health.latest | health.outcome())
        if record is not None:
            _save(pretext, crops, manifest, out, parent)
            record.update(cost=cost, reason=health.plateau_reason())
    return runs.read(out)


def _places_of_seeds(out: Path, method: object, seed: int, seeds: int) -> dict[int, Path]:
    """Where the run of each seed lies."""
    if seeds < 1:
        raise MedsslError(f"--seeds is {seeds}: expected how many runs to train, such as 3")
    if method == "auto":
        raise MedsslError(
            "--seeds came with --method auto, which measures and chooses anew for each run: expected runs that differ in their "
            "seeds alone; give --seeds to the command that medssl plan prints"
        )
    return {each: out.parent / f"{out.name}-{each}" for each in range(seed, seed + seeds)}


def _new_method(method: Callable[[Encoder], Method], encoder: Encoder, seed: int, parent: Parent | None) -> Method:
    """The method on an encoder like the given one, with weights that the seed draws, or the parent run's.

    The weights are loaded before the method is built, so that its teacher, if it has one, starts from them too.
    """
    torch.manual_seed(seed)
    new = twin(encoder)
    if parent is not None:
        parent.load_into(new)
    return method(new)


def _method_record(method: Method, encoder: Encoder) -> dict[str, Any]:
    """The encoder and the method, with what the arguments leave out: the views, and the parts that receive no gradient."""
    stopped = {"stop_gradient": list(method.stop_gradient)} if method.stop_gradient else {}
    spec = describe_method(method) | {"views": [describe_view(view) for view in method._views], **stopped}
    return {"encoder": describe(encoder), "method": spec}


def _cohort_record(manifest: pd.DataFrame, field_readers: Sequence[FieldReader]) -> dict[str, Any]:
    """The number of scans, and a hash of their voxels and of the other fields of a sample."""
    fields = [repr(reader) for reader in field_readers]
    return {"scans": len(manifest), "cohort": runs.identity(scans=sorted(manifest["digest"]), fields=fields)}


def _options_record(monitoring: Monitoring, parent: Parent | None) -> dict[str, Any]:
    """What is recorded only of a run that has it, so that other runs keep their ids: patience, and the weights it starts from."""
    watched = (
        {"patience": monitoring.patience, "monitor_every": monitoring.monitor_every} if monitoring.patience else {}
    )
    return watched | ({"init_weights": parent.weights} if parent is not None else {})


def _remove_unfinished(out: Path) -> None:
    """Remove what another, unfinished run left, so that this one does not resume from it."""
    for name in ("last.ckpt", "metrics.csv"):
        (out / name).unlink(missing_ok=True)


@contextmanager
def _recording_on_rank_zero(
    out: Path, config: dict, cache: Cache, seed: int, continued: bool, parent: str | None
) -> Iterator[runs.Recorder | None]:
    """The open record in the first process of a multi-device run, None in the others."""
    if getattr(rank_zero_only, "rank", 0) == 0:
        with exclusive(out):
            if not continued:
                _remove_unfinished(out)
            key = cache.pseudonym_key
            with runs.recording(out, "pretrain", config, cache.digest, seed, parent, key) as record:
                yield record
    else:
        yield None


def _save(method: Method, crops: Crops, manifest: pd.DataFrame, out: Path, parent: Parent | None) -> None:
    """Write the weights, the digests of the scans that were seen, here and by the runs before, and example images."""
    save_weights(method.final_encoder, out / "encoder.safetensors")
    save_weights(method, out / "method.safetensors")  # all of it: to draw, restore or compare with later
    if method.decoder is not None:
        save_weights(method.decoder, out / "decoder.safetensors")
    seen = seen_table(manifest).assign(outline=outlines(crops.cache.read, manifest["scan"]))
    write_atomically(out / "seen.parquet", (parent.with_seen(seen) if parent is not None else seen).to_parquet())
    save_examples(method, crops, out / "examples.npz")


def _fit(
    method: Method, crops: Crops, health: Health, out: Path, train: TrainConfig, hardware: Hardware, resume: bool
) -> dict[str, Any]:
    """Train the method, from its checkpoint if it is resumed; returns speed, device and device memory."""
    checkpoint = out / "last.ckpt"
    start_step = SafeCheckpoints().load_checkpoint(checkpoint)["global_step"] if resume and checkpoint.exists() else 0
    trainer = _trainer(out, train, hardware, health, start_step)
    if trainer.is_global_zero or device_count() > 1:  # after an earlier training the trial gathers over devices
        _announce_duration(method, crops, health, train, start_step, trainer)
    accumulate = train.accumulate
    data = CropData(crops, train.batch_size, train.steps * accumulate, start_step * accumulate, hardware.workers)
    clock = time.perf_counter()
    trainer.fit(
        PretrainingModule(method, train, health.plateau.rate if health.plateau is not None else None),
        datamodule=data,
        ckpt_path=str(checkpoint) if start_step else None,
        weights_only=True,
    )
    samples = (trainer.global_step - start_step) * accumulate * train.batch_size * trainer.world_size
    return {
        "steps": trainer.global_step,
        "samples_per_s": round(samples / (time.perf_counter() - clock), 2),
        "device_memory_mib": torch.cuda.max_memory_allocated() >> 20 if torch.cuda.is_available() else None,
        "devices": trainer.world_size,
        "device": trainer.strategy.root_device.type,
    }


def _trainer(out: Path, train: TrainConfig, hardware: Hardware, health: Health, start_step: int) -> pl.Trainer:
    log_every = max(1, train.steps // 200)
    checkpoint_every, devices = hardware.checkpoint_every, find_devices(hardware)
    return pl.Trainer(
        max_steps=train.steps,
        max_epochs=-1,
        accelerator=hardware.accelerator,
        devices=hardware.devices,
        strategy=devices.strategy,
        precision=train.precision,  # type: ignore[arg-type]
        accumulate_grad_batches=train.accumulate,
        gradient_clip_val=1.0,
        use_distributed_sampler=False,
        plugins=[SafeCheckpoints(), SharedNorms(devices.kind)],
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        log_every_n_steps=log_every,
        default_root_dir=out,
        logger=PrivateTensorBoard(out, name="", version="tensorboard"),
        callbacks=[
            GradientGuard(),
            health,
            Curves(out / "metrics.csv", health, log_every, checkpoint_every, start_step),
            CheckpointSaver(out / "last.ckpt", checkpoint_every),
            StepBar(),
        ],
    )


def _announce_duration(
    method: Method, crops: Crops, health: Health, train: TrainConfig, start_step: int, trainer: pl.Trainer
) -> None:
    """Say how long the remaining steps will take, from a few trial steps."""
    say = rank_zero_only(console.print)
    if start_step:
        say(f"continuing after step {start_step} of {train.steps}")
    if start_step >= train.steps:
        return
    say("timing a few trial steps to estimate the duration ...")
    batches = (train.steps - start_step) * train.accumulate
    batch = default_collate([crops[i] for i in range(train.batch_size)])
    expected = estimate(method, batch, batches, trainer, lambda m, b: m.loss(m.make_views(b)))
    with trainer.strategy.precision_plugin.forward_context():
        monitoring_s = health.estimate_seconds(method, train.steps - start_step, trainer.world_size)
    say(
        f"{type(method).__name__} on {len(crops.scans)} scans, {batches} batches of {train.batch_size}: "
        f"{'about' if health.plateau is None else 'at most'} "
        f"{format_duration(expected['seconds'] + monitoring_s)} ({format_duration(monitoring_s)} of them to monitor the "
        f"representation) and {expected['memory_mib']:,.0f} MiB on {trainer.strategy.root_device.type}"
    )
