"""Health equals its published formulas; a collapse stops the run within an epoch, and nothing else does."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from medssl.core import runs
from medssl.core.errors import MedsslError
from medssl.encoders import ResidualUNet, ResNet
from medssl.evaluation import representation as probes
from medssl.methods import Rotation, SimCLR, SimMIM
from medssl.preprocessing.cache import Cache
from medssl.training.callbacks.health import Health, has_collapsed, rank_and_std
from medssl.training.config import Monitoring, TrainConfig
from medssl.training.pretrain import pretrain
from medssl.training.samples import pretraining_scans
from tests.options import options

TINY = {"crop": (16, 16, 16), "accelerator": "cpu", "batch_size": 4, "warmup": 2}


class Collapsing(SimMIM):
    """From step 5 on the encoder's weights are zero, so all scans have the same features."""

    def loss(self, batch):
        if self.progress.step >= 5:
            with torch.no_grad():
                for weight in self.encoder.parameters():
                    weight.zero_()
        return super().loss(batch)


def test_alignment_and_uniformity_equal_the_published_formulas() -> None:
    """Wang and Isola 2020, with alpha 2 and t 2, written out over all pairs in torch, as in the paper's figure 5."""
    x, y = (torch.randn(20, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    a, b = F.normalize(x), F.normalize(y)
    aligned = (a - b).norm(p=2, dim=1).pow(2).mean()
    uniform = torch.pdist(a, p=2).pow(2).mul(-2).exp().mean().log()
    assert abs(probes.alignment(x.numpy(), y.numpy()) - float(aligned)) < 1e-9
    assert abs(probes.uniformity(x.numpy()) - float(uniform)) < 1e-9
    assert probes.alignment(x.numpy(), 3 * x.numpy()) < 1e-12
    assert probes.uniformity(np.ones((5, 3))) == pytest.approx(0)


def test_effective_rank_counts_directions() -> None:
    """RankMe's exp(entropy) of the singular values, on features of known rank."""
    random = np.random.default_rng(0)
    basis = np.linalg.qr(random.normal(size=(50, 8)))[0]
    basis = np.linalg.qr(basis - basis.mean(0))[0]
    assert probes.effective_rank(basis[:, :5] @ np.eye(5, 8) + 7) == pytest.approx(5, abs=1e-6)
    values = np.array([4.0, 2.0, 1.0, 1.0])
    p = values / values.sum()
    assert probes.effective_rank(basis[:, :4] * values) == pytest.approx(np.exp(-(p * np.log(p)).sum()), abs=1e-6)


def test_the_dense_probe_finds_what_is_there_and_nothing_where_there_is_nothing() -> None:
    random = np.random.default_rng(0)
    truth = random.random((8, 4, 4)) > 0.6
    noise = random.normal(size=(8, 5, 4, 4))
    shown = noise.copy()
    shown[:, 2] += 3 * truth
    patients = np.array([f"p{i // 2}" for i in range(8)])
    assert probes.dense_auroc(shown, truth, patients) > 0.95
    assert abs(probes.dense_auroc(noise, truth, patients) - 0.5) < 0.2
    assert probes.dense_auroc(shown, np.zeros_like(truth), patients) is None
    assert probes.dense_rank(np.ones((8, 5, 1, 1)) * noise[:, :, :1, :1] + np.zeros((8, 5, 4, 4))) == pytest.approx(1)
    assert probes.dense_rank(noise) > 4.5


def test_places_are_structures_where_most_of_them_is(cache: Cache) -> None:
    scan = cache.manifest["scan"][0]
    is_structure = probes.structures(cache, [scan], (16, 16, 16), (4, 4, 4))[0]
    start = [(n - 16) // 2 for n in cache.shape(scan)]
    mask = cache.read_mask(scan, start, (16, 16, 16)) > 0
    assert is_structure.any()
    assert np.array_equal(is_structure, mask.reshape(4, 4, 4, 4, 4, 4).mean((1, 3, 5)) > 0.5)


def test_a_collapse_stops_the_run_within_an_epoch_and_says_what_to_try(
    cache: Cache, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("medssl.training.callbacks.health.MIN_STEPS_BETWEEN", 4)
    with (
        pytest.warns(UserWarning, match="collapsing at step 8"),
        pytest.raises(MedsslError, match=r"step 12.*Try a lower --lr.*--on-collapse warn continues it"),
    ):
        pretrain(cache.path, tmp_path, small(), Collapsing, **options(steps=150, monitor_every=100, **TINY))
    run = runs.read(tmp_path)
    assert (run.status, run.metrics["collapsed_at_step"]) == ("failed", 8)
    assert "collapsing" in str(run.reason)
    assert len(pd.read_csv(tmp_path / "metrics.csv")) == 12
    assert not (tmp_path / "encoder.safetensors").exists()


def test_a_collapsing_run_is_stopped_or_only_warned_of_as_the_user_chooses(cache: Cache, tmp_path: Path) -> None:
    settings = TINY | {"steps": 16, "monitor_every": 4}
    with pytest.warns(UserWarning, match="collapsing"), pytest.raises(MedsslError, match="the run is stopped"):
        pretrain(cache.path, tmp_path / "stop", small(), Collapsing, **options(**settings))
    with pytest.warns(UserWarning, match="collapsing"):
        run = pretrain(cache.path, tmp_path / "warn", small(), Collapsing, **options(on_collapse="warn", **settings))
    stopped = runs.read(tmp_path / "stop")
    assert (run.status, stopped.status) == ("finished", "failed")
    assert run.id == stopped.id  # the setting only says whether the run may go on
    assert run.metrics["collapsed_at_step"] == stopped.metrics["collapsed_at_step"] == 8


@pytest.mark.parametrize(
    ("method", "encoder"),
    [
        (SimMIM, lambda: ResidualUNet(3, width=2, blocks=(1, 1))),
        (SimCLR, lambda: residual()),
        (Rotation, lambda: ResidualUNet(3, width=2, blocks=(1, 1))),
    ],
)
def test_no_false_alarm_in_the_first_steps_of_a_tiny_encoder(
    cache: Cache, tmp_path: Path, method, encoder, recwarn
) -> None:
    run = pretrain(cache.path, tmp_path, encoder(), method, **options(steps=4, monitor_every=1, **TINY))
    assert "collapsed_at_step" not in run.metrics
    assert not [w for w in recwarn if "collaps" in str(w.message)]


def test_everything_is_in_the_curves_and_in_the_record(cache: Cache, tmp_path: Path) -> None:
    run = pretrain(cache.path, tmp_path, small(), SimMIM, **options(steps=4, monitor_every=2, label="lesion", **TINY))
    global_measures = {"knn", "effective_rank", "alignment", "uniformity", "feature_std", "gradient_norm"}
    measures = {"loss", "dense_rank", "dense_auroc"} | global_measures
    assert measures <= set(run.metrics)
    assert all(np.isfinite(run.metrics[name]) for name in measures)
    curves = pd.read_csv(tmp_path / "metrics.csv").set_index("step")
    assert measures <= set(curves)
    assert curves.loc[[2, 4], list(measures)].notna().all().all()
    assert curves.loc[[1, 3], list(measures - {"loss"})].isna().all().all()


def test_the_gradient_norm_is_that_of_all_weights_before_clipping(cache: Cache, tmp_path: Path) -> None:
    norms = []

    class WithNorms(SimMIM):
        def before_step(self):
            norms.append(float(torch.cat([p.grad.flatten() for p in self.parameters()]).norm()))

    pretrain(cache.path, tmp_path, small(), WithNorms, **options(steps=3, monitor_every=1, **TINY))
    assert len(norms) == 3
    assert pd.read_csv(tmp_path / "metrics.csv")["gradient_norm"].tolist() == pytest.approx(norms, rel=1e-4)


def test_the_estimate_counts_every_measurement(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock of its own: a quick check takes one second, and the details of a measurement take three."""
    ticks = iter([0.0, 1.0, 5.0] * 2)
    monkeypatch.setattr("medssl.training.callbacks.health.time", SimpleNamespace(perf_counter=lambda: next(ticks)))

    def health_of(scans: list[str], every: int) -> Health:
        return Health(cache, scans, (16, 16, 16), TrainConfig(batch_size=4), Monitoring(monitor_every=every))

    health = health_of(pretraining_scans(cache), every=10)
    module, seen = SimMIM(small()), []
    module.encoder.register_forward_hook(lambda *_: seen.append(1))
    assert health.steps_between(devices=1) == 10
    assert health_of(["a"] * 10_000, every=10_000).steps_between(devices=2) == 625
    assert health_of(["a"] * 10, every=10_000).steps_between(devices=1) == 25
    all_scans = len(health.scans) / len(health.quick_scans)  # seconds of embedding them
    assert health.estimate_seconds(module, 10, 1) == pytest.approx(2 + (1 + all_scans) + 3)
    assert health.estimate_seconds(module, 1000, 1) == pytest.approx(101 + 100 * (1 + all_scans) + 300)
    assert seen


def test_bounds_are_relative_to_the_start() -> None:
    start = {"effective_rank": 1.3, "feature_std": 1e-3}
    assert not has_collapsed(start, start)
    assert not has_collapsed({"effective_rank": 1.1, "feature_std": 2e-4}, start)
    assert has_collapsed({"effective_rank": 1.01, "feature_std": 1e-3}, start)
    assert has_collapsed({"effective_rank": 1.3, "feature_std": 5e-6}, start)


def test_features_that_are_not_finite_raise_with_advice() -> None:
    with pytest.raises(MedsslError, match="not finite for 1 of 3 scans.*--precision 32-true"):
        rank_and_std(np.array([[0.0, 1.0], [np.nan, 2.0], [1.0, 1.0]]))


class LosesItsWeights(SimCLR):
    """Its weights are NaN after the first step, whose loss was finite."""

    def after_step(self) -> None:
        super().after_step()
        torch.nn.init.constant_(next(self.encoder.parameters()), float("nan"))


def test_weights_that_are_not_finite_stop_the_run_with_a_message(cache: Cache, tmp_path: Path) -> None:
    with pytest.raises(MedsslError, match="not finite for .* scans, so its weights are unusable"):
        pretrain(cache.path, tmp_path / "run", small(), LosesItsWeights, **options(steps=3, monitor_every=1, **TINY))
    assert runs.read(tmp_path / "run").status == "failed"


def small() -> ResidualUNet:
    return ResidualUNet(3, width=4, blocks=(1, 1, 1))


def residual() -> ResNet:
    return ResNet(3, depth=10, width=4, max_pool=False)
