"""What a paper needs beside the numbers of a study: a text on how it was made, and the works that it rests on.

    methods_text(run)        # paragraphs, from the record of the study alone
    citations(run)           # one line a work, those of its pretraining methods first

Imports no torch: the works are read from the head of the files that implement the methods.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medssl.core.runs import Run
from medssl.preprocessing.data_spec import DataSpec
from medssl.reporting.redaction import without_paths
from medssl.reporting.style import METRICS, counted
from medssl.studies.arms import split_call
from medssl.studies.results import pretraining_of
from medssl.training.tasks import task_named

PACKAGE = Path(__file__).parent.parent
METHODS = PACKAGE / "methods"
SEMI_SUPERVISED = PACKAGE / "training" / "semi_supervised"
STATISTICS = (
    "Weerahandi, Generalized confidence intervals, JASA 1993 (intervals over draws and patients).",
    "Hannig, Iyer and Patterson, Fiducial generalized confidence intervals, JASA 2006 (intervals over draws and patients).",
    "Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 1979.",
    "Fieller, Some problems in interval estimation, JRSS B 1954 (gap closed, labels saved).",
)
PURPOSES = {"train": "training", "validation": "validation", "test": "testing"}
OF_AUROC = (
    "DeLong, DeLong and Clarke-Pearson, Comparing the areas under two or more correlated receiver operating characteristic curves: a "
    "nonparametric approach, Biometrics 1988 (AUROC).",
    "Obuchowski, Nonparametric analysis of clustered ROC curve data, Biometrics 1997 (AUROC of clustered cases).",
)


def methods_text(run: Run) -> list[str]:
    """Return paragraphs on the data, the pretraining, the training and the statistics of a study."""
    parts = [_data(run), *_pretraining(run), _training(run), _statistics(run)]
    return [without_paths(part) for part in parts if part]


def citations(run: Run) -> list[str]:
    """Return the works that a study rests on: its methods, its semi-supervised arms, its statistics, this software."""
    methods = [name for about in run.config.get("pretraining", {}).values() if (name := _method(about))]
    calls = [split_call(str(arm)) for arm in run.config.get("arms", [])]
    files = [_file_of_class(METHODS, name) for name in methods]
    files += [SEMI_SUPERVISED / f"{call[0].replace('-', '_')}.py" for call in calls if call]
    works = [work for file in files if file and file.is_file() for work in _works(file)]
    statistics = [*STATISTICS, *(OF_AUROC if _metric(run) == "AUROC" else [])]
    software = f"medssl {run.versions.get('medssl', '')}: this software; see CITATION.cff in its source."
    return list(dict.fromkeys([*works, *statistics, software]))


def _data(run: Run) -> str:
    config, data_spec = run.config, DataSpec.from_record(run.config)
    spacing = data_spec.spacing_mm
    grid = f" on a grid of {' × '.join(f'{step:g}' for step in spacing)} mm" if spacing else ""
    patients = config.get("patients", {})
    roles = sorted(patients, key=[*PURPOSES, *patients].index)
    split = ", ".join(f"{patients[role]} for {PURPOSES.get(role, role)}" for role in roles)
    scored = f"{config.get('scored_scans', '–')} scans of {counted(config.get('scored_patients', 0), 'patient')}"
    return (
        f"Scans are {data_spec.dims}D {data_spec.modality}{grid}. Patients were split at random (seed "
        f"{config.get('split_seed', '–')}): {split or '–'}; all scans of a patient are in one part. Scores are those of {scored} "
        f"({config.get('score_on', 'test')})."
    )


def _pretraining(run: Run) -> Iterator[str]:
    for arm, runs in pretraining_of(run.config).items():
        about = run.config["pretraining"][arm]
        encoder = (about.get("encoder") or {}).get("class_path")
        how = [f"the method {_method(about)}" if _method(about) else "", f"the encoder {encoder}" if encoder else ""]
        size = [
            f"on {about['scans']} scans" if "scans" in about else "",
            f"for {about['steps']} steps" if "steps" in about else "",
            f"of {about['batch_size']} scans" if "batch_size" in about else "",
        ]
        described = " and ".join(part for part in how if part)
        yield (
            f"{arm} was pretrained without labels{f' with {described}' if described else ''} "
            f"{' '.join(part for part in size if part)}, in {counted(len(runs), 'run')}."
        )


def _training(run: Run) -> str:
    config = run.config
    given = config.get("given_options", config.get("asked", {}))
    names = ("steps", "batch_size", "lr", "crop", "trials")
    settings = "; ".join(f"{name.replace('_', ' ')} {_text(given[name])}" for name in names if name in given)
    draws = f", in {counted(given['draws'], 'draw')} of the labelled patients" if "draws" in given else ""
    return (
        f"The arms {', '.join(map(str, config.get('arms', [])))} were trained for {config.get('task', '–')} with the label budgets "
        f"{', '.join(map(str, config.get('budgets', [])))}{draws}. Budgets are nested, count patients, include the patients "
        f"used for validation, and are the same for every arm of a draw.{f' Settings given: {settings}.' if settings else ''} The "
        "test patients were scored once."
    )


def _statistics(run: Run) -> str:
    return (
        f"The primary metric is {_metric(run)}. 95% intervals take draws and test patients as crossed random effects, and the "
        "pretraining runs of an arm as a further one where there are several. Arms are compared with training from scratch in "
        "pairs, on the same draws and patients; p-values are two-sided and corrected over all comparisons by Holm's method."
    )


def _metric(run: Run) -> str:
    return METRICS[task_named(str(run.config.get("task", ""))).metric.name]


def _method(about: dict[str, Any]) -> str:
    return str((about.get("method") or {}).get("class_path", "")).rpartition(".")[2]


def _text(value: Any) -> str:
    return " × ".join(map(str, value)) if isinstance(value, list) else str(value)


def _file_of_class(folder: Path, name: str) -> Path | None:
    """The file in which a class is defined; None for a class of another package."""
    for file in sorted(folder.glob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.ClassDef) and node.name == name for node in tree.body):
            return file
    return None


def _works(file: Path) -> list[str]:
    """The paragraphs at the head of a file that name works: those with a year or a number of arXiv."""
    head = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    paragraphs = [" ".join(paragraph.split()) for paragraph in head.split("\n\n")]
    return [paragraph for paragraph in paragraphs if "arXiv" in paragraph or "et al." in paragraph]
