"""medssl: self-supervised pretraining for medical scans, and an honest account of what it was worth.

Reading order is import order: a file imports only from those above it in this list.

    errors.py       what medssl says when it cannot go on
    disk.py         writes that are whole or not there at all
    runs.py         the run record and table(); imports no torch
    scans/          files on disk -> clean volumes: index, prepare, Cache
    datasets/       named collections; the embedded phantom cohort
    splits.py       patient-level splits, nested stratified label budgets
    views/          batched 2D/3D augmentations on the device the batch is on
    encoders/       2D/3D backbones behind one feature-pyramid contract, and the decoder
    crops.py        seeded random crops of a cache, in an order that survives a restart
    training.py     loader, optimiser, checkpoints, estimates
    methods/        one pretext task (one paper) a file
    stats.py        intervals over draws x patients, paired tests, labels saved
    probes.py       kNN, linear probe, effective rank
    health.py       the representation watched during pretraining; a collapse stops the run
    models.py       an encoder with a head, applied to whole scans
    pretrain.py     cache + encoder + method -> run
    scores.py       surface distances of one prediction
    finetune.py     encoder -> classifier or segmenter
    predict.py      a model on new scans
    sample.py       new scans out of a generative model
    probing.py      probes beyond a study: clusters, anomaly, regression, zero-shot, retrieval
    cells.py        one cell of a study: train, score once, keep every case
    summary.py      a study's cells -> its table
    study.py        the label-budget grid: arms x budgets x draws, each cell a run
    compare.py      every method under one budget, probed: one table
    report*.py      the self-contained HTML report
    review*.py      what the dashboard shows, and its server
    sheet.py        what the views of a recipe look like, as a picture
    show.py         results on a terminal
    demo.py         the whole path on the phantom cohort
    doctor.py       what this machine has
    cli.py          the commands: those functions, nothing else

The public names are imported when they are first used, so that `import medssl` costs nothing.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_WHERE = {
    "index": "scans.index", "prepare": "scans.cache", "Cache": "scans.cache", "phantom": "datasets.phantom",
    "pretrain": "pretrain", "finetune": "finetune", "Recipe": "finetune", "predict": "predict", "embed": "predict", "sample": "sample", "probe": "probing",
    "study": "study", "compare": "compare", "report": "report", "review": "review", "demo": "demo", "MedsslError": "errors", "ScanError": "errors",
}  # fmt: skip

__all__ = list(_WHERE)


class _Package(ModuleType):
    """Lets `medssl.pretrain` be the function although a file of that name is imported on the way to it."""

    def __setattr__(self, name: str, value: Any) -> None:
        public = name in _WHERE and isinstance(value, ModuleType)
        super().__setattr__(name, getattr(value, name) if public else value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'medssl' has no attribute {name!r}")
    return getattr(importlib.import_module(f"medssl.{_WHERE[name]}"), name)
