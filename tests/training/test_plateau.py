"""A run with patience ends when its watched measure stops improving, and its learning rate falls before that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medssl.core.errors import MedsslError, Stopped
from medssl.encoders import ResidualUNet
from medssl.evaluation.representation import view_retrieval
from medssl.methods import SimMIM
from medssl.preprocessing.cache import Cache
from medssl.training.callbacks.health import Health
from medssl.training.config import Monitoring
from medssl.training.plateau import Plateau
from medssl.training.pretrain import pretrain
from tests.options import options

TINY = {"crop": (16, 16, 16), "accelerator": "cpu", "batch_size": 2, "warmup": 2, "steps": 60, "monitor_every": 2}


def test_the_rate_is_constant_until_the_plateau_and_then_falls_to_zero() -> None:
    plateau = Plateau(patience=2, steps=1200)
    assert (plateau.decay_from, plateau.end) == (1000, 1200)
    for step, value in ((10, 0.1), (20, 0.2), (30, 0.2005), (40, 0.2)):  # a gain of less than a hundredth is none
        plateau.observe(value, step)
    assert plateau.reached
    assert (plateau.best, plateau.best_step) == (0.2, 20)
    plateau.decay_from = 40
    assert plateau.end == 48
    assert [plateau.rate(step) for step in (0, 39, 40, 44, 48, 60)] == [1, 1, 1, 0.5, 0, 0]


def test_a_measure_that_keeps_improving_uses_all_steps_with_the_same_decay() -> None:
    plateau = Plateau(patience=1, steps=60)
    for step in range(10, 60, 10):
        plateau.observe(float(step), step)
    assert not plateau.reached
    assert (plateau.decay_from, plateau.end, plateau.rate(60)) == (50, 60, 0)
    plateau.observe(0.0, 55)  # while the rate falls nothing is decided any more
    assert not plateau.reached


def test_a_scan_is_found_by_its_other_view_as_the_formula_says() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(40, 8))
    assert view_retrieval(features, features) == 1
    assert view_retrieval(features, -features) == pytest.approx(1 / 40)
    other = features + random.normal(size=features.shape)
    a, b = features - features.mean(0), other - other.mean(0)
    inverse = []
    for i in range(40):
        cosines = [a[i] @ b[j] / np.linalg.norm(a[i]) / np.linalg.norm(b[j]) for j in range(40)]
        inverse.append(1 / (1 + sorted(cosines, reverse=True).index(cosines[i])))
    assert view_retrieval(features, other) == pytest.approx(np.mean(inverse))


@pytest.mark.parametrize("name", ["patience", "monitor_every"])
def test_numbers_below_one_are_refused(name: str) -> None:
    with pytest.raises(MedsslError, match=f"{name} is 0: expected a whole number above 0"):
        Monitoring(**{name: 0})


def test_a_run_stops_at_the_plateau_says_so_and_resumes_to_the_same_weights(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {2: 0.1, 4: 0.2}  # no improvement from step 6 on, so the third check without one is at step 10
    monkeypatch.setattr(Health, "_view_retrieval", lambda self, encoder: values.get(self.step_of_test, 0.2))
    measure = Health._measure
    monkeypatch.setattr(
        Health,
        "_measure",
        lambda self, trainer, *rest: (
            setattr(self, "step_of_test", trainer.global_step),
            measure(self, trainer, *rest),
        ),
    )
    whole = pretrain(cache.path, tmp_path / "whole", small(), SimMIM, **options(patience=3, **TINY))
    assert (whole.status, whole.cost["steps"], whole.metrics["plateau_at_step"]) == ("finished", 12, 10)
    assert "view_retrieval has not improved by 1% for 3 measurements at step 10" in str(whole.reason)
    curves = pd.read_csv(tmp_path / "whole" / "metrics.csv").set_index("step")
    assert curves.index[-1] == 12
    assert curves.loc[12, "view_retrieval"] == 0.2  # the encoder that is saved was measured
    assert curves.loc[9, "lr"] == curves.loc[3, "lr"] > curves.loc[12, "lr"]

    interrupt(monkeypatch, at_step=11)
    with pytest.raises(Stopped):
        pretrain(cache.path, tmp_path / "cut", small(), SimMIM, **options(patience=3, checkpoint_every=11, **TINY))
    monkeypatch.undo()
    resumed = pretrain(
        cache.path, tmp_path / "cut", small(), SimMIM, **options(patience=3, checkpoint_every=11, **TINY)
    )
    assert (resumed.id, resumed.reason, resumed.cost["steps"]) == (whole.id, whole.reason, 12)
    weights = [(tmp_path / name / "encoder.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]


def test_without_patience_nothing_changes_and_the_id_has_none(pretrained: Path) -> None:
    from medssl.core import runs

    run = runs.read(pretrained)
    assert (run.reason, run.cost["steps"]) == (None, 6)
    assert "patience" not in run.config
    assert "view_retrieval" not in run.metrics


def interrupt(monkeypatch: pytest.MonkeyPatch, at_step: int) -> None:
    from medssl.training.callbacks.checkpoints import CheckpointSaver

    save = CheckpointSaver.on_train_batch_end

    def stop(self, trainer, *rest) -> None:
        save(self, trainer, *rest)
        if trainer.global_step == at_step:
            raise Stopped("stopped by the test")

    monkeypatch.setattr(CheckpointSaver, "on_train_batch_end", stop)


def small() -> ResidualUNet:
    return ResidualUNet(3, width=4, blocks=(1, 1, 1))
