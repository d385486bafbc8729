"""Every step on the embedded phantom cohort: scans, pretraining, label-efficiency study, report, a model in use.

    medssl demo --out demo

Every step prints the command that it stands for, so the demo is also a short tour of medssl.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from medssl.cli import terminal
from medssl.core.atomic import exclusive
from medssl.core.errors import MedsslError
from medssl.datasets.index import index
from medssl.datasets.phantom.cohort import phantom
from medssl.encoders.resenc import ResidualUNet
from medssl.methods.simmim import SimMIM
from medssl.preprocessing.cache import prepare
from medssl.reporting.html.report import report
from medssl.studies.plan import StudyDesign
from medssl.studies.study import study
from medssl.training.config import FinetuneConfig, TrainConfig
from medssl.training.finetune import finetune
from medssl.training.predict import predict
from medssl.training.pretrain import pretrain

MARK = ".medssl-demo"
MASKS = "../../masks/{name}.nii.gz"
LABELS = ("lesion", "kind", "scanner")
PRETRAINING = TrainConfig(steps=200, batch_size=8, lr=2e-3)
FINETUNING = FinetuneConfig(steps=130, batch_size=2, lr=3e-3)
FINETUNING_OPTIONS = "--steps 130 --batch-size 2 --lr 3e-3"


def demo(out: Path = Path("demo"), patients: int = 40, seed: int = 0) -> str:
    """Run every step in one folder. When it is started again, it does only what is missing.

    Args:
        out: Folder of everything the demo makes.
        patients: Number of phantom patients.
        seed: Seed of the phantom cohort.

    Returns:
        A sentence that says where the report and the masks are.

    Raises:
        MedsslError: The folder holds files that no demo made.
    """
    out = Path(out)
    _claim_folder(out)
    with exclusive(out):
        _make_cohort(out / "scans", patients, seed)
        _prepare_cache(out)
        run = _pretrain(out)
        page = _compare_with_scratch(out, run)
        masks = _segment_one_patient(out, run)
    return f"report: {page}; masks on the grid of each scan: {masks}"


def _claim_folder(out: Path) -> None:
    if out.exists() and any(out.iterdir()) and not (out / MARK).exists():
        raise MedsslError(f"{out} holds files that no demo made: expected an empty or new folder; pass another --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).touch()


def _make_cohort(scans: Path, patients: int, seed: int) -> None:
    if not (scans / "labels.csv").exists():  # written last
        shutil.rmtree(scans, ignore_errors=True)
        _announce("make a cohort: DICOM series that look like CT, with masks, labels and reports")
        phantom(scans, patients=patients, seed=seed)


def _prepare_cache(out: Path) -> None:
    labels = out / "scans" / "labels.csv"
    _announce(
        "index: list the scans in a manifest",
        f"medssl index {out}/scans --labels {labels} --patient patient --label {' '.join(LABELS)} --mask {MASKS} "
        f"--out {out}/manifest",
    )
    manifest = index([out / "scans"], out / "manifest", labels=labels, patient="patient", label=LABELS, mask=MASKS)
    terminal.show_result("index", manifest, {"out": out / "manifest"})
    _announce("prepare: orient, resample, cache", f"medssl prepare {out}/manifest --spacing-mm 8 8 8 --out {out}/cache")
    cache = prepare(out / "manifest", out / "cache", spacing_mm=(8.0, 8.0, 8.0))
    terminal.show_result("prepare", cache, {"out": out / "cache"})


def _pretrain(out: Path) -> Path:
    run = out / "runs" / "simmim"
    _announce(
        "pretrain without labels",
        f"medssl pretrain --data {out}/cache --out {run} --encoder ResidualUNet --encoder.width 16 --encoder.blocks 1 1 1 1 "
        "--method SimMIM --crop 32 32 32 --steps 200 --batch-size 8 --lr 2e-3",
    )
    encoder = ResidualUNet(dims=3, width=16, blocks=(1, 1, 1, 1))
    pretrain(out / "cache", run, encoder, SimMIM, crop=(32, 32, 32), train=PRETRAINING)
    return run


def _compare_with_scratch(out: Path, run: Path) -> Path:
    _announce(
        "study: compare the pretrained encoder with training from scratch",
        f"medssl study --data {out}/cache --out {out}/study --task segmentation --arms scratch {run} --budgets 1p 100% "
        f"--draws 3 {FINETUNING_OPTIONS} --jobs 2",
    )
    arms, design = ["scratch", str(run)], StudyDesign(draws=3)
    table = study(
        out / "cache", out / "study", "segmentation", arms, ["1p", "100%"], train=FINETUNING, design=design, jobs=2
    )
    terminal.show_result("study", table, {})
    _announce("report", f"medssl report {out}/study --out {out}/report.html")
    return report(out / "study", out / "report.html")


def _segment_one_patient(out: Path, run: Path) -> Path:
    model, patient = out / "runs" / "model", sorted((out / "scans" / "dicom").iterdir())[-1]
    _announce(
        "finetune and predict: train one model and segment a folder of DICOM files",
        f"medssl finetune --data {out}/cache --out {model} --task segmentation --init {run} {FINETUNING_OPTIONS}\n"
        f"medssl predict {model} {patient} --out {out}/masks",
    )
    if not (model / "model.safetensors").exists():
        finetune(out / "cache", model, "segmentation", init=run, train=FINETUNING)
    predict(model, patient, out / "masks")
    return out / "masks"


def _announce(title: str, command: str | None = None) -> None:
    terminal.console.rule(title)
    if command:
        terminal.console.print(command, style="dim", highlight=False, soft_wrap=True)
