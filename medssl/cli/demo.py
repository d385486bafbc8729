"""Every step on embedded phantoms: scans, pretraining, a label-efficiency study, a report, a model in use.

    medssl demo --out demo

Phantoms without labels cost nothing, and one with labels stands for a reader's time. The study compares training from that
one patient alone with training that also learns from the others without their labels. A scan is one slice, so that all of it
ends within minutes on two cores. Every step prints the command that it stands for, so the demo is also a short tour of medssl.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from medssl.cli import terminal
from medssl.core.atomic import exclusive, write_atomically
from medssl.core.errors import MedsslError
from medssl.datasets.index import index
from medssl.datasets.phantom.cohort import phantom
from medssl.datasets.splits import SplitSpec
from medssl.encoders.resnet import ResNet
from medssl.methods.volume_fusion import VolumeFusion
from medssl.preprocessing.cache import prepare
from medssl.reporting.figures import label_curves
from medssl.reporting.findings import findings
from medssl.reporting.html.report import report
from medssl.studies.settings import StudyDesign
from medssl.studies.study import study
from medssl.training.config import FinetuneConfig, TrainConfig
from medssl.training.finetune import finetune
from medssl.training.predict import predict
from medssl.training.pretrain import pretrain

MARK = ".medssl-demo"
MASKS = "../../masks/{name}.nii.gz"
LABELS = ("scanner",)
SHAPE, SPACING_MM, CROP = (64, 64, 1), (5.0, 5.0, 6.0), (64, 64)
ENCODER_OPTIONS = "--encoder ResNet --encoder.dims 2 --encoder.depth 10 --encoder.width 16 --encoder.max-pool false"
PRETRAINING = TrainConfig(steps=120, batch_size=16, lr=2e-3)
FINETUNING = FinetuneConfig(steps=300, batch_size=4, lr=3e-3, growth=0.15)
FINETUNING_OPTIONS = "--crop 64 64 --steps 300 --batch-size 4 --lr 3e-3 --growth 0.15"
SEMI_SUPERVISED = "self-training(scratch, teachers=1)"
BUDGETS, DRAWS = ["1p", "100%"], 3


def demo(out: Path = Path("demo"), patients: int = 240, seed: int = 0) -> str:
    """Run every step in one folder. When it is started again, it does only what is missing.

    Args:
        out: Folder of everything the demo makes.
        patients: Number of phantom patients.
        seed: Seed of the phantom cohort, the split and the draws.

    Returns:
        What the study showed, and where the picture, the report and the masks are.

    Raises:
        MedsslError: The folder holds files that no demo made.
    """
    out = Path(out)
    _claim_folder(out)
    with exclusive(out):
        return _run(out, patients, seed)


def _run(out: Path, patients: int, seed: int) -> str:
    _make_cohort(out / "scans", patients, seed)
    _prepare_cache(out)
    run = _pretrain(out, seed)
    table = _compare_arms(out, run, seed)
    _announce("report", f"medssl report {out}/study --out {out}/report.html")
    page = report(out / "study", out / "report.html")
    masks = _segment_one_patient(out, run, seed)
    main = table[table["metric"] == "dice"]
    picture = out / "label_efficiency.svg"
    write_atomically(picture, label_curves(main, "Dice").file("svg"))
    sentence, detail = findings(main, "Dice")
    return f"{sentence} {detail}\npicture: {picture}; report: {page}; masks on the grid of each scan: {masks}"


def _claim_folder(out: Path) -> None:
    if out.exists() and any(out.iterdir()) and not (out / MARK).exists():
        raise MedsslError(f"{out} holds files that no demo made: expected an empty or new folder; pass another --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).touch()


def _make_cohort(scans: Path, patients: int, seed: int) -> None:
    if not (scans / "labels.csv").exists():  # written last
        shutil.rmtree(scans, ignore_errors=True)
        _announce("make a cohort: DICOM files that look like slices of CT, with masks and labels")
        phantom(scans, patients=patients, seed=seed, shape=SHAPE, spacing_mm=SPACING_MM, jobs=2)


def _prepare_cache(out: Path) -> None:
    labels = out / "scans" / "labels.csv"
    _announce(
        "index: list the scans in a manifest",
        f"medssl index {out}/scans --labels {labels} --patient patient --label {' '.join(LABELS)} --mask {MASKS} "
        f"--out {out}/manifest",
    )
    manifest = index([out / "scans"], out / "manifest", labels=labels, patient="patient", label=LABELS, mask=MASKS)
    terminal.show_result("index", manifest, {"out": out / "manifest"})
    _announce("prepare: orient, scale, cache", f"medssl prepare {out}/manifest --out {out}/cache")
    cache = prepare(out / "manifest", out / "cache")
    terminal.show_result("prepare", cache, {"out": out / "cache"})


def _pretrain(out: Path, seed: int) -> Path:
    run = out / "runs" / "fusion"
    _announce(
        "pretrain without labels",
        f"medssl pretrain --data {out}/cache --out {run} {ENCODER_OPTIONS} "
        f"--method VolumeFusion --crop {' '.join(map(str, CROP))} --steps {PRETRAINING.steps} --batch-size 16 --lr 2e-3 "
        f"--split-seed {seed} --seed {seed}",
    )
    encoder, split = ResNet(dims=2, depth=10, width=16, max_pool=False), SplitSpec(seed)
    pretrain(out / "cache", run, encoder, VolumeFusion, crop=CROP, train=PRETRAINING, split=split, seed=seed)
    return run


def _compare_arms(out: Path, run: Path, seed: int) -> pd.DataFrame:
    """The study of the demo: one labelled patient, or all, with and without what the others show."""
    arms = ["scratch", str(run), SEMI_SUPERVISED]
    quoted = " ".join(f"'{arm}'" if "(" in arm else arm for arm in arms)
    _announce(
        "study: what do scans without labels add to one labelled patient?",
        f"medssl study --data {out}/cache --out {out}/study --task segmentation --arms {quoted} "
        f"--budgets {' '.join(BUDGETS)} --draws {DRAWS} {FINETUNING_OPTIONS} --split-seed {seed} --seed {seed} --jobs 2",
    )
    design, split = StudyDesign(draws=DRAWS, seed=seed), SplitSpec(seed)
    settings: dict[str, Any] = {"crop": CROP, "train": FINETUNING, "design": design, "split": split, "jobs": 2}
    table = study(out / "cache", out / "study", "segmentation", arms, BUDGETS, **settings)
    terminal.show_result("study", table, {})
    return table


def _segment_one_patient(out: Path, run: Path, seed: int) -> Path:
    model, patient = out / "runs" / "model", sorted((out / "scans" / "dicom").iterdir())[-1]
    _announce(
        "finetune and predict: train one model and segment a folder of DICOM files",
        f"medssl finetune --data {out}/cache --out {model} --task segmentation --init {run} --budget 5p {FINETUNING_OPTIONS} "
        f"--split-seed {seed}\nmedssl predict {model} {patient} --out {out}/masks",
    )
    if not (model / "model.safetensors").exists():
        settings: dict[str, Any] = {"budget": "5p", "crop": CROP, "train": FINETUNING, "split": SplitSpec(seed)}
        finetune(out / "cache", model, "segmentation", init=run, **settings)
    predict(model, patient, out / "masks")
    return out / "masks"


def _announce(title: str, command: str | None = None) -> None:
    terminal.console.rule(title)
    if command:
        terminal.console.print(command, style="dim", highlight=False, soft_wrap=True)
