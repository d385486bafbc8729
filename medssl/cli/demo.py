"""The whole path on the embedded phantom cohort: scans in, pretraining, label-efficiency study, report, a model used.

    medssl demo --out demo

Every step prints the command it stands for, so that the demo is also the shortest tour of the tool.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from medssl.cli import terminal as show
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

console = show.console
MARK = ".medssl-demo"


def demo(out: Path = Path("demo"), patients: int = 40, seed: int = 0) -> str:
    """Run it all in the folder `out`; returns where the report is. Started again, it does only what is missing."""
    out = Path(out)
    if out.exists() and any(out.iterdir()) and not (out / MARK).exists():
        raise MedsslError(
            f"{out} holds something else than a demo: expected an empty or new folder; pass another --out"
        )
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).touch()
    if not (out / "scans" / "labels.csv").exists():
        shutil.rmtree(out / "scans", ignore_errors=True)
        _say("a cohort that looks like CT, as DICOM series with masks, labels and reports", None)
        phantom(out / "scans", patients=patients, seed=seed)
    labels = out / "scans" / "labels.csv"
    _say("index: headers into a manifest", f"medssl index {out}/scans --labels {labels} --patient patient "
         f"--mask ../../masks/{{name}}.nii.gz --out {out}/manifest")  # fmt: skip
    manifest = index(
        [out / "scans"], out / "manifest", labels=labels, patient="patient", mask="../../masks/{name}.nii.gz"
    )
    show.result("index", manifest, {"out": out / "manifest"})
    _say("prepare: orient, resample, cache", f"medssl prepare {out}/manifest --spacing-mm 8 8 8 --out {out}/cache")
    show.result("prepare", prepare(out / "manifest", out / "cache", spacing_mm=(8.0, 8.0, 8.0)), {"out": out / "cache"})
    run = out / "runs" / "simmim"
    net = "--encoder ResidualUNet --encoder.width 16 --encoder.blocks 1 1 1 1"
    _say("pretrain without labels", f"medssl pretrain --data {out}/cache --out {run} {net} --method SimMIM --crop 32 32 32 "
         "--steps 200 --batch-size 8 --lr 2e-3")  # fmt: skip
    encoder = ResidualUNet(dims=3, width=16, blocks=(1, 1, 1, 1))
    train = TrainConfig(steps=200, batch_size=8, lr=2e-3)
    pretrain(out / "cache", run, encoder, SimMIM, crop=(32, 32, 32), train=train)
    finetuning = FinetuneConfig(steps=130, batch_size=2, lr=3e-3)
    _say("study: what was it worth?", f"medssl study --data {out}/cache --out {out}/study --task segmentation --arms scratch {run} "
         "--budgets 1p 100% --draws 3 --steps 130 --batch-size 2 --lr 3e-3 --jobs 2")  # fmt: skip
    table = study(out / "cache", out / "study", "segmentation", ["scratch", str(run)], ["1p", "100%"],
                  train=finetuning, design=StudyDesign(draws=3), jobs=2)  # fmt: skip
    console.print(show.study_table(table))
    _say("report", f"medssl report {out}/study --out {out}/report.html")
    page = report(out / "study", out / "report.html")
    someone = sorted((out / "scans" / "dicom").iterdir())[-1]
    _say("use it: train one model and segment a folder of DICOM", f"medssl finetune --data {out}/cache --out {out}/runs/model "
         f"--task segmentation --init {run} --steps 130 --batch-size 2 --lr 3e-3\n"
         f"medssl predict {out}/runs/model {someone} --out {out}/masks")  # fmt: skip
    model = out / "runs" / "model"
    if not (model / "model.safetensors").exists():
        finetune(out / "cache", model, "segmentation", init=run, train=finetuning)
    predict(model, someone, out / "masks")
    return f"the report: {page}; masks on the scan's own grid: {out / 'masks'}"


def _say(title: str, command: str | None) -> None:
    console.rule(title)
    if command:
        console.print(command, style="dim", highlight=False, soft_wrap=True)
