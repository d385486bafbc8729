"""medssl: self-supervised pretraining for medical scans, and an honest account of what it was worth.

The rooms, in reading order, which is import order: a file imports only from its own room and from those above it, and
no two files import each other (`tests/test_layout.py` holds both).

    core/           errors, whole writes, the run record, the registry; imports no torch
    scans/          files on disk -> one clean Scan each
    datasets/       folders -> manifest, labels, masks, splits by patient; the embedded phantom cohort
    preprocessing/  manifest -> cache -> crops
    views/          batched 2D/3D augmentations on the device the batch is on
    encoders/       2D/3D backbones behind one feature-pyramid contract, one family per file, and the decoder
    methods/        one pretext task (one paper) a file
    evaluation/     metrics, intervals, paired tests, probes of a representation
    training/       pretraining, fine-tuning, prediction
    weights/        public weights -> a run, with a receipt; one layout a file
    exports/        trained models for other libraries, one target a file, with a model card
    studies/        the label-budget grid: arms x budgets x draws, each cell a run
    reporting/      style, tables, figures, sentences; the HTML report, the dashboard
    cli/            the commands: the public functions, nothing else

The public names are imported when they are first used, so that `import medssl` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {  # name -> the module that defines it
    "MedsslError": "core.errors",
    "ScanError": "core.errors",
    "phantom": "datasets.phantom.cohort",
    "index": "datasets.index",
    "prepare": "preprocessing.cache",
    "Cache": "preprocessing.cache",
    "plan": "training.auto.plan",
    "pretrain": "training.pretrain",
    "finetune": "training.finetune",
    "TrainConfig": "training.config",
    "FinetuneConfig": "training.config",
    "Hardware": "training.config",
    "Monitoring": "training.config",
    "SplitSpec": "datasets.splits",
    "predict": "training.predict",
    "embed": "training.predict",
    "sample": "training.sample",
    "import_weights": "weights.importing",
    "receipt_of": "weights.importing",
    "export": "exports.export",
    "study": "studies.study",
    "StudyDesign": "studies.settings",
    "compare": "studies.compare",
    "probe": "studies.probe",
    "select": "studies.select",
    "forecast": "studies.forecast",
    "report": "reporting.html.report",
    "review": "reporting.dashboard.server",
    "demo": "cli.demo",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'medssl' has no attribute {name!r}")
    return getattr(importlib.import_module(f"medssl.{_PUBLIC[name]}"), name)
