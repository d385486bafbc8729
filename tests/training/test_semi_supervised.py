"""Semi-supervised algorithms: their losses against formulas in float64, what they may learn from, and what they refuse."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medssl.core.errors import MedsslError
from medssl.core.registry import SEMI_SUPERVISED
from medssl.evaluation.propagation import propagate
from medssl.evaluation.representation import embed
from medssl.preprocessing.cache import Cache
from medssl.studies.arms import split_call
from medssl.training.config import FinetuneConfig
from medssl.training.losses import soft_dice
from medssl.training.semi_supervised import base, self_training
from medssl.training.semi_supervised.base import build_algorithm, ramp_up, train_semi_supervised
from medssl.training.semi_supervised.copy_paste import boxes, mixture_loss
from medssl.training.semi_supervised.distillation import softened_cross_entropy
from medssl.training.semi_supervised.fixmatch import confident_cross_entropy
from medssl.training.semi_supervised.mean_teacher import consistency
from medssl.training.semi_supervised.mixmatch import mix, mixing_shares, mixmatch_loss, sharpen
from medssl.training.semi_supervised.self_training import certainty
from medssl.training.supervised import TrainingData
from medssl.training.tasks import Classification, Segmentation, task_named
from tests.conftest import small_encoder

SIZE = (16, 16, 16)
NAMES = [name.replace("_", "-") for name in SEMI_SUPERVISED.files()]


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def test_every_file_is_an_algorithm_by_its_name() -> None:
    assert NAMES == [
        "copy-paste",
        "distillation",
        "fixmatch",
        "label-propagation",
        "mean-teacher",
        "mixmatch",
        "self-training",
    ]


@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 4, 4, 4)])
def test_mean_teacher_is_the_mean_squared_difference_of_probabilities(shape: tuple[int, ...]) -> None:
    logits, teacher = drawn(*shape), drawn(*shape, seed=1).softmax(1)
    expected = ((softmax(logits.numpy()) - teacher.numpy()) ** 2).mean()
    assert float(consistency(logits, teacher)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shape", [(50, 3), (2, 3, 4, 4, 4)])
def test_fixmatch_counts_confident_places_alone_and_divides_by_all(shape: tuple[int, ...]) -> None:
    logits, guessed = drawn(*shape), (3 * drawn(*shape, seed=1)).softmax(1)
    confident = guessed.numpy().max(1) >= 0.8
    log_p = np.log(softmax(logits.numpy()))
    chosen = np.take_along_axis(log_p, guessed.numpy().argmax(1)[:, None], 1)[:, 0]
    assert 0 < confident.mean() < 1
    expected = -(chosen * confident).sum() / confident.size
    assert float(confident_cross_entropy(logits, guessed, 0.8)) == pytest.approx(expected, abs=1e-12)


def test_mixmatch_sharpens_mixes_and_adds_cross_entropy_and_squared_error() -> None:
    guessed = drawn(6, 4).softmax(1)
    powers = guessed.numpy() ** 2
    assert sharpen(guessed, 0.5).numpy() == pytest.approx(powers / powers.sum(1, keepdims=True), abs=1e-12)
    a, b, share = drawn(3, 1, 2, 2), drawn(3, 1, 2, 2, seed=1), torch.tensor([0.5, 0.75, 1.0], dtype=torch.float64)
    assert torch.allclose(mix(a, b, share)[1], 0.75 * a[1] + 0.25 * b[1])
    logits, unlabelled = drawn(5, 4), drawn(7, 4, seed=2)
    target, other = drawn(5, 4, seed=3).softmax(1), drawn(7, 4, seed=4).softmax(1)
    cross_entropy = -(target.numpy() * np.log(softmax(logits.numpy()))).sum(1).mean()
    squared = ((softmax(unlabelled.numpy()) - other.numpy()) ** 2).mean()
    assert float(mixmatch_loss(logits, target, unlabelled, other, 7.0)) == pytest.approx(
        cross_entropy + 7 * squared, abs=1e-12
    )


def test_mixing_shares_are_those_of_a_beta_distribution() -> None:
    shares = mixing_shares(torch.arange(4000), 0.75).numpy()
    reference = np.random.default_rng(0).beta(0.75, 0.75, 100_000)
    assert shares.min() >= 0.5
    assert shares.mean() == pytest.approx(np.maximum(reference, 1 - reference).mean(), abs=0.01)
    assert np.array_equal(shares, mixing_shares(torch.arange(4000), 0.75).numpy())


def test_distillation_is_the_cross_entropy_of_both_at_the_temperature() -> None:
    logits, teacher = drawn(5, 3), drawn(5, 3, seed=1)
    soft, own = softmax(teacher.numpy() / 2), np.log(softmax(logits.numpy() / 2))
    assert float(softened_cross_entropy(logits, teacher, 2.0)) == pytest.approx(-(soft * own).sum(1).mean(), abs=1e-12)


def test_self_training_weighs_a_prediction_by_its_certainty() -> None:
    soft = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.9, 0.1]], dtype=torch.float64)
    expected = 1 + (0.9 * math.log(0.9) + 0.1 * math.log(0.1)) / math.log(2)
    assert certainty(soft).tolist() == pytest.approx([1, 0, expected], abs=1e-9)
    logits, weight = drawn(3, 2), certainty(soft)
    own = np.log(softmax(logits.numpy()))
    loss = Classification(("no", "yes")).soft_loss(logits, soft, weight)
    assert float(loss) == pytest.approx(-(weight.numpy() * (soft.numpy() * own).sum(1)).mean(), abs=1e-12)


def test_label_propagation_teaches_each_unlabelled_scan_what_reached_it(by_task: dict[str, TrainingData]) -> None:
    data, algorithm = by_task["classification"], build_algorithm("label-propagation", "neighbours=2")
    model = data.task.build_model(small_encoder(), 0)
    algorithm.prepare(model, data, FinetuneConfig(), 0)
    scans = [*data.training, *data.unlabelled]
    labels = np.array([data.task.labels[scan] for scan in data.training] + [-1] * len(data.unlabelled))
    features = embed(model.encoder, data.cache, scans, SIZE)
    features = (features - features.mean(0)) / np.where(features.std(0) > 0, features.std(0), 1)
    soft = propagate(features, labels, 2, neighbours=2)[len(data.training) :]
    module = base.SemiSupervisedModule(model, data, FinetuneConfig(head_first=0.0), algorithm)
    crops = data.task.crops(data.cache, data.unlabelled, SIZE, 1, labelled=False)
    batch = torch.utils.data.default_collate([crops[i] for i in range(4)])
    module.supervised_loss = lambda _: torch.zeros(())  # type: ignore[method-assign]
    model.eval()
    log_p = model(module.strong(module.weak(batch), batch)).log_softmax(1)
    expected = -(torch.from_numpy(soft)[batch["scan"]] * log_p).sum(1).mean()
    assert float(algorithm.loss(module, {}, batch)) == pytest.approx(float(expected), abs=1e-5)


def test_label_propagation_stops_where_one_class_alone_is_labelled(by_task: dict[str, TrainingData]) -> None:
    data = by_task["classification"]
    first = data.task.labels[data.training[0]]
    same = [scan for scan in data.training if data.task.labels[scan] == first]
    model, one_class = data.task.build_model(small_encoder(), 0), replace(data, training=same)
    with pytest.raises(MedsslError, match="labelled scans show .* only, which would spread"):
        train_semi_supervised(model, one_class, FinetuneConfig(steps=1), 0, build_algorithm("label-propagation"))


def test_soft_targets_that_are_certain_cost_what_masks_cost() -> None:
    task = Segmentation(("1", "2"))
    logits = drawn(2, 3, 4, 4, 4)
    target = torch.randint(0, 3, (2, 1, 4, 4, 4), generator=torch.Generator().manual_seed(0))
    one_hot = F.one_hot(target[:, 0], 3).movedim(-1, 1).double()
    soft = task.soft_loss(logits, one_hot, torch.ones(2, 4, 4, 4, dtype=torch.float64))
    assert float(soft) == pytest.approx(float(task.loss(logits, target.double())), abs=1e-6)


def test_copy_paste_is_half_dice_and_cross_entropy_of_each_part() -> None:
    logits = drawn(2, 3, 4, 4)
    target = torch.randint(0, 3, (2, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    labelled = boxes(torch.arange(2), (4, 4), 0.5)
    p, t, inside = softmax(logits.numpy()), target[:, 0].numpy(), labelled[:, 0].numpy()
    log_p = np.take_along_axis(np.log(p), t[:, None], 1)[:, 0]

    def part(where: np.ndarray) -> float:
        cross_entropy = -(log_p * where).sum() / where.sum()
        dice = []
        for number in (1, 2):
            overlap, sizes = (
                (p[:, number] * (t == number) * where).sum(),
                ((p[:, number] + (t == number)) * where).sum(),
            )
            dice.append((2 * overlap + 1e-5) / (sizes + 1e-5))
        return (1 - np.mean(dice) + cross_entropy) / 2

    expected = part(inside) + 0.3 * part(~inside)
    assert float(mixture_loss(logits, target, labelled, 0.3)) == pytest.approx(expected, abs=1e-9)
    assert inside.sum((1, 2)).tolist() == [4, 4]


def test_dice_of_uncertain_voxels_counts_less() -> None:
    shares, target = (
        drawn(1, 2, 4, 4).softmax(1),
        F.one_hot(torch.arange(16).view(1, 4, 4) % 2, 2).movedim(-1, 1).double(),
    )
    weight = torch.linspace(0, 1, 16, dtype=torch.float64).view(1, 4, 4)
    p, t, w = shares[0, 1].numpy(), target[0, 1].numpy(), weight[0].numpy()
    expected = 1 - (2 * (w * p * t).sum() + 1e-5) / ((w * (p + t)).sum() + 1e-5)
    assert float(soft_dice(shares, target, weight)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("wrong", ["weight=-1", "teachers=2.5", "teachers=0"])
def test_an_option_outside_of_its_range_is_rejected(wrong: str) -> None:
    with pytest.raises(MedsslError, match="of self-training is .*: expected"):
        build_algorithm("self-training", wrong)


class Recorded(torch.nn.Module):
    """A model that remembers what it was given, and answers with logits of its first channel's mean."""

    def __init__(self, classes: int, name: str, log: list):
        super().__init__()
        self.encoder, self.name, self.log, self.classes = torch.nn.Identity(), name, log, classes
        self.scale = torch.nn.Parameter(torch.ones(classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.log.append((self.name, self.training, x.detach().clone()))
        return x.mean(tuple(range(1, x.ndim)))[:, None] * self.scale * torch.arange(1.0, self.classes + 1)


@pytest.mark.parametrize("name", ["fixmatch", "mean-teacher", "self-training", "distillation"])
def test_the_teacher_sees_weak_changes_and_the_student_the_same_crop_after_strong_ones(
    by_task: dict[str, TrainingData], name: str
) -> None:
    data, log = by_task["classification"], []
    student, teacher = Recorded(2, "student", log), Recorded(2, "teacher", log)
    algorithm: Any = build_algorithm(name)
    module = base.SemiSupervisedModule(student, data, FinetuneConfig(head_first=0.0), algorithm)  # type: ignore[arg-type]
    module.average = type("A", (), {"model": teacher})()  # type: ignore[assignment]
    if name == "self-training":
        algorithm.trained = [teacher.eval()]
    if name == "distillation":
        algorithm.teacher = teacher.eval()
    crops = data.task.crops(data.cache, data.unlabelled, SIZE, 1, labelled=False)
    batch = torch.utils.data.default_collate([crops[i] for i in range(4)])
    module.supervised_loss = lambda _: torch.zeros(())  # type: ignore[method-assign]
    loss = algorithm.loss(module, {}, batch)
    loss.backward()
    assert student.scale.grad is not None
    assert teacher.scale.grad is None
    weak = module.weak(batch)
    taught, learned = sorted(log, key=lambda entry: entry[1])  # a guess is made in evaluation mode
    assert (taught[0], learned[0]) == ("student" if name == "fixmatch" else "teacher", "student")
    assert (taught[1], learned[1]) == (False, True)  # a guess leaves the running statistics as they are
    assert torch.equal(taught[2], weak)
    assert torch.equal(learned[2], module.strong(weak, batch))
    assert not torch.equal(taught[2], learned[2])


def test_the_weight_rises_as_laine_and_aila_have_it() -> None:
    assert [ramp_up(t) for t in (0.0, 0.2, 0.4, 1.0)] == pytest.approx([math.exp(-5), math.exp(-1.25), 1, 1])


def test_a_call_is_split_and_wrong_ones_are_answered_with_what_there_is() -> None:
    assert split_call("mean-teacher(runs/a)") == ("mean-teacher", "runs/a", "")
    assert split_call("runs/a") is None
    assert build_algorithm("self-training", "teachers=3, weight=0.5").teachers == 3  # type: ignore[attr-defined]
    with pytest.raises(MedsslError, match="no semi-supervised algorithm 'mean-techer'.*did you mean mean-teacher"):
        build_algorithm("mean-techer")
    with pytest.raises(MedsslError, match="no option 'teacher'"):
        build_algorithm("self-training", "teacher=3")
    with pytest.raises(MedsslError, match="the option teachers of self-training is 'many': expected a number"):
        build_algorithm("self-training", "teachers=many")


@pytest.fixture(scope="module")
def by_task(cache: Cache) -> dict[str, TrainingData]:
    scans = list(cache.manifest["scan"])
    tasks: dict[str, Any] = {
        "classification": task_named("classification").from_cache(cache, "lesion"),
        "segmentation": task_named("segmentation").from_cache(cache),
    }
    return {n: TrainingData(cache, t, SIZE, scans[:4], (), scans[4:8]) for n, t in tasks.items()}


@pytest.mark.parametrize("task", ["classification", "segmentation"])
@pytest.mark.parametrize("name", NAMES)
def test_every_algorithm_trains_or_says_that_it_is_for_another_task(
    by_task: dict[str, TrainingData], name: str, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Classification, "predicted_classes", lambda *_: {0, 1})  # two steps teach no teacher anything
    monkeypatch.setattr(Segmentation, "predicted_classes", lambda *_: {0, 1})
    data, algorithm = by_task[task], build_algorithm(name)
    model = data.task.build_model(small_encoder(), 0)
    settings = FinetuneConfig(steps=2, batch_size=2)
    if task not in algorithm.tasks:
        with pytest.raises(MedsslError, match=f"cannot be used for {task}"):
            train_semi_supervised(model, data, settings, 0, algorithm)
        return
    before = [weight.clone() for weight in model.parameters()]
    train_semi_supervised(model, data, settings, 0, algorithm)
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters()))
    assert all(torch.isfinite(weight).all() for weight in model.parameters())


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_no_batch_of_unlabelled_scans_has_a_target(
    by_task: dict[str, TrainingData], task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, seen = by_task[task], []

    class Watching(base.SemiSupervised):
        def loss(self, module: Any, labelled: dict[str, Any], unlabelled: dict[str, Any]) -> torch.Tensor:
            seen.append((set(labelled), set(unlabelled)))
            return module.supervised_loss(labelled)

    model = data.task.build_model(small_encoder(), 0)
    train_semi_supervised(model, data, FinetuneConfig(steps=1, batch_size=2, growth=0), 0, Watching())
    (labelled, unlabelled), target = seen[0], {"classification": "target", "segmentation": "mask"}[task]
    assert target in labelled
    assert not {"target", "mask"} & unlabelled


def test_bad_input_is_answered(by_task: dict[str, TrainingData], monkeypatch: pytest.MonkeyPatch) -> None:
    data = by_task["classification"]
    none_left = TrainingData(data.cache, data.task, SIZE, data.training)
    model = data.task.build_model(small_encoder(), 0)
    settings = FinetuneConfig(steps=1, batch_size=2, growth=0)
    with pytest.raises(MedsslError, match="no training scan is unlabelled"):
        train_semi_supervised(model, none_left, settings, 0, build_algorithm("fixmatch"))
    monkeypatch.setattr(
        self_training, "train_model", lambda model, *_: model.head.bias.data.copy_(torch.tensor([9.0, 0]))
    )
    with pytest.raises(MedsslError, match="a teacher predicts one class only on 4 unlabelled scans, after 4 labelled"):
        train_semi_supervised(model, data, settings, 0, build_algorithm("self-training"))


def test_a_teacher_is_judged_on_scans_spread_over_a_manifest_in_the_order_of_the_classes(
    by_task: dict[str, TrainingData], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = by_task["classification"]
    right = dict(zip(data.unlabelled, np.eye(2)[[0, 0, 1, 1]]))
    monkeypatch.setattr(self_training, "CHECKED_SCANS", 2)
    monkeypatch.setattr(self_training, "train_model", lambda *_: None)
    monkeypatch.setattr(
        Classification, "predict", lambda self, model, cache, scans, *_: [right[scan] for scan in scans]
    )
    model = data.task.build_model(small_encoder(), 0)
    assert len(self_training.train_teachers(model, data, FinetuneConfig(), 0, 1)) == 1
