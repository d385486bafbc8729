"""One cell of a study: train, score the test patients once, and store the prediction of every case.

    run_cell(plan, plan.cells[0])         # writes STUDY/cells/ID, unless it is done or another process works on it

Several processes may work on the cells of one plan: a lock file in each cell's folder keeps them apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from medssl.core import runs
from medssl.core.atomic import npz_bytes, write_atomically
from medssl.core.errors import MedsslError
from medssl.evaluation.propagation import propagated_scores
from medssl.evaluation.representation import (
    calibrate_norms,
    class_mean_scores,
    cluster_scores,
    embed,
    knn_scores,
    linear_scores,
)
from medssl.studies import masks
from medssl.studies.arms import Mode
from medssl.studies.plan import Cell, Plan
from medssl.studies.probe_choice import choose
from medssl.studies.summary import LAST_THIRD
from medssl.studies.trials import Trial, best, folds_of, samples_in_trials, try_settings
from medssl.training.config import FinetuneConfig
from medssl.training.supervised import Trained, TrainingData

PROBES = {"linear": linear_scores, "knn": knn_scores}
UNLABELLED_PROBES = {  # use the other training scans as well
    "class-mean": class_mean_scores,
    "kmeans": cluster_scores,
    "propagation": propagated_scores,
}
CHOSEN = "chosen"  # the one of them, or the linear probe, that suits the budget


def run_cell(plan: Plan, cell: Cell) -> None:
    """Train, score and record one cell; skip a cell that is done or that another process works on."""
    folder = plan.folder(cell)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            if not is_done(folder):
                _train_and_score(plan, cell, folder)
    except Timeout:
        return


def is_done(folder: Path) -> bool:
    return (folder / "run.json").exists() and runs.read(folder).status == "finished"


def _train_and_score(plan: Plan, cell: Cell, folder: Path) -> None:
    counts = {"train_scans": len(cell.training), "validation_scans": len(cell.validation)}
    config = asdict(cell) | {"task": plan.task.name, "training": None, "validation": None} | counts
    key = plan.cache.pseudonym_key
    with runs.recording(folder, "cell", config, plan.cache.digest, plan.seed, cell.parent, key) as record:
        clock = time.perf_counter()
        chosen, choice = _chosen_probe(plan, cell) if cell.mode == CHOSEN else _chosen_settings(plan, cell)
        predictions, last_third = _predictions(plan, chosen)
        seconds = time.perf_counter() - clock
        cases, metrics = plan.task.score(plan.cache, plan.scored, predictions)
        if last_third is not None:
            metrics[LAST_THIRD] = last_third()
        if cell.draw == 0 and cell.selector is None:
            for name, arrays in plan.task.examples(plan.cache, plan.scored, predictions, cases).items():
                write_atomically(folder / name, npz_bytes(arrays))
            if plan.task.keeps_examples:
                masks.write(folder, dict(zip(plan.scored, predictions)))
        write_atomically(folder / "predictions.parquet", cases.to_parquet())
        seen = _crops_seen(plan, cell, chosen.settings)
        passed = seen["labelled_samples"] + seen["unlabelled_samples"]
        speed = {"samples_per_s": round(passed / seconds, 2)}
        record.update(metrics=metrics, cost=speed | seen, config=choice)


def _crops_seen(plan: Plan, cell: Cell, settings: FinetuneConfig) -> dict[str, int]:
    """How many samples the training passed, teachers and trials included, and how many of the labelled ones in trials.

    A probe sees each scan once.
    """
    if cell.mode != "finetune":
        labelled = len(cell.training) + len(cell.validation)
        unlabelled = len(plan.training_scans) if _reads_unlabelled(cell.mode) else 0
        return {"labelled_samples": labelled, "unlabelled_samples": unlabelled, "trial_samples": 0}
    arm, tries = plan.arms[cell.arm], plan.to_try(cell)
    in_trials = samples_in_trials(tries, arm.trainings)
    unlabelled = settings.samples + samples_in_trials(tries) if arm.unlabelled_needed else 0
    return {
        "labelled_samples": arm.trainings * settings.samples + in_trials,
        "unlabelled_samples": unlabelled,
        "trial_samples": in_trials,
    }


def _reads_unlabelled(mode: Mode) -> bool:
    """Whether a probe reads the training scans outside of the budget too."""
    return mode == CHOSEN or mode in UNLABELLED_PROBES


def _chosen_settings(plan: Plan, cell: Cell) -> tuple[Cell, dict[str, Any]]:
    """The cell with the settings that its trials chose, and the record of the trials; the cell itself where there are none."""
    tried = _trials(plan, cell)
    if not tried:
        return cell, {}
    settings = best(tried).settings
    record = {"tried": [trial.to_record() for trial in tried], "chosen": asdict(settings)}
    return replace(cell, settings=settings), record


def _chosen_probe(plan: Plan, cell: Cell) -> tuple[Cell, dict[str, Any]]:
    """The cell with the probe that is chosen for it, on patients of its budget alone, and the record of the choice."""
    patient, known = _patients(plan), [*cell.training, *cell.validation]

    def score(mode: Mode, held_out: set[str]) -> float:
        scans = [scan for scan in known if patient[scan] in held_out]
        rest = [scan for scan in known if patient[scan] not in held_out]
        return plan.task.primary_score(plan.cache, scans, _probed(plan, replace(cell, mode=mode), rest, scans))

    probe, scores = choose({patient[scan]: plan.task.seen[patient[scan]] for scan in known}, cell.draw, score)
    return replace(cell, mode=probe), {"chosen_probe": probe, "probe_scores": scores}


def _patients(plan: Plan) -> dict[str, str]:
    return dict(zip(plan.cache.manifest["scan"], plan.cache.manifest["patient"]))


def _trials(plan: Plan, cell: Cell) -> list[Trial]:
    """The cell's trials, each trained and scored on patients of the cell's budget alone; none where it takes the recipe."""
    if not cell.trials:
        return []
    patient = _patients(plan)
    seen = {patient[scan]: plan.task.seen[patient[scan]] for scan in cell.training}

    def score(settings: FinetuneConfig, held_out: set[str]) -> float:
        scans = [scan for scan in cell.training if patient[scan] in held_out]
        rest = [scan for scan in cell.training if patient[scan] not in held_out]
        model, _ = _trained(plan, replace(cell, settings=settings, training=tuple(rest), validation=()))
        predictions = plan.task.predict(model, plan.cache, scans, plan.size, settings.precision)
        return plan.task.validation_score(plan.cache, scans, predictions)

    return try_settings(plan.to_try(cell), folds_of(seen, cell.draw), score)


def _draw_seed(plan: Plan, cell: Cell) -> int:
    """The same in every arm of a draw, so that arms are paired."""
    return 100_003 * plan.seed + 2 * cell.draw


def _predictions(plan: Plan, cell: Cell) -> tuple[list[Any], Callable[[], float] | None]:
    """Class probabilities or a mask for each scored scan; and what measures the last third of the training."""
    if cell.mode != "finetune":  # a probe chooses no checkpoint, so it learns from the whole budget
        return _probed(plan, cell, [*cell.training, *cell.validation], plan.scored), None
    model, trained = _trained(plan, cell)
    predictions = plan.task.predict(model, plan.cache, plan.scored, plan.size, cell.settings.precision)
    return predictions, partial(_change_in_last_third, plan, cell, model, trained.earlier)


def _trained(plan: Plan, cell: Cell) -> tuple[Any, Trained]:
    """The model of a cell's arm, trained with the cell's settings."""
    arm, seed = plan.arms[cell.arm].in_draw(cell.draw), _draw_seed(plan, cell)
    unlabelled = plan.unlabelled(cell) if arm.unlabelled_needed else []
    data = TrainingData(plan.cache, plan.task, plan.size, cell.training, cell.validation, unlabelled)
    model = arm.model(plan.task, plan.new_encoder(cell.arm), seed)
    if arm.redrawn:
        calibrate_norms(model.encoder, plan.cache, plan.training_scans, plan.size)
    return model, arm.train(model, data, cell.settings, seed)


def _change_in_last_third(plan: Plan, cell: Cell, model: Any, earlier: dict[str, Any]) -> float:
    """The primary metric of the trained model minus that of its state after two thirds of the steps.

    It is measured on the split's validation patients, who are in no budget, so that the test patients are read once; NaN
    where they do not show every class.
    """
    scans, scores = plan.validation_scans, []
    try:
        plan.task.check_scored(scans)
    except MedsslError:
        return float("nan")
    for state in (None, earlier):
        if state is not None:
            model.load_state_dict(state)
        predictions = plan.task.predict(model, plan.cache, scans, plan.size, cell.settings.precision)
        scores.append(plan.task.primary_score(plan.cache, scans, predictions))
    return scores[0] - scores[1]


def _probed(plan: Plan, cell: Cell, known: Sequence[str], scans: Sequence[str]) -> list[Any]:
    """Class probabilities of scans, by a probe that learns from known ones."""
    vectors = _features(plan, cell)
    train, test = (np.stack([vectors[scan] for scan in each]) for each in (known, scans))
    codes = np.array([plan.task.labels[scan] for scan in known])
    if cell.mode in PROBES:
        return list(PROBES[cell.mode](train, codes, test, plan.task.outputs))
    unlabelled = np.stack([vectors[scan] for scan in plan.training_scans])
    return list(UNLABELLED_PROBES[cell.mode](train, codes, test, plan.task.outputs, unlabelled))


def _features(plan: Plan, cell: Cell) -> dict[str, np.ndarray]:
    """Scan -> feature vector, of all scans that some cell needs; the first probe of an encoder embeds them."""
    arm = plan.arms[cell.arm].in_draw(cell.draw)
    key = (cell.arm, cell.draw if arm.redrawn else cell.parent)
    if key not in plan.features:
        encoder = arm.encoder(
            plan.new_encoder(cell.arm), _draw_seed(plan, cell) if arm.redrawn else 100_003 * plan.seed
        )
        if arm.redrawn:
            calibrate_norms(encoder, plan.cache, plan.training_scans, plan.size)
        needed = {scan for other in plan.cells for scan in (*other.training, *other.validation)} | set(plan.scored)
        if any(_reads_unlabelled(other.mode) for other in plan.cells):
            needed |= set(plan.training_scans)
        scans = sorted(needed)
        plan.features[key] = dict(zip(scans, embed(encoder, plan.cache, scans, plan.size)))
    return plan.features[key]
