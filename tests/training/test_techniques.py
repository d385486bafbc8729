"""Each technique of fine-tuning against what its paper says, and the schedule that they share."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from medssl.core.errors import MedsslError
from medssl.encoders import ResNet, ViT
from medssl.evaluation.representation import embed
from medssl.preprocessing.cache import Cache
from medssl.training.config import FinetuneConfig, TrainConfig
from medssl.training.engine import Group, adamw
from medssl.training.supervised import SupervisedModule, TrainingData, train_model
from medssl.training.tasks import task_named
from medssl.training.techniques.averaging import Average
from medssl.training.techniques.balancing import balanced
from medssl.training.techniques.layer_decay import groups
from medssl.training.techniques.low_rank import add_adapters, merge_adapters
from medssl.training.techniques.pasting import paste_structures
from medssl.training.techniques.probe_start import start_from_probe
from medssl.views.random import make_keys
from medssl.views.spatial import Resample
from medssl.views.thick_slices import ThickSlices
from tests.conftest import small_encoder

SIZE = (16, 16, 16)


@pytest.fixture(scope="module")
def lesion(cache: Cache) -> TrainingData:
    task = task_named("classification").from_cache(cache, "lesion")
    return TrainingData(cache, task, SIZE, list(cache.manifest["scan"])[:8])


def small_resnet() -> ResNet:
    return ResNet(dims=3, depth=10, width=4, max_pool=False)


def test_steps_grow_with_the_labelled_scans_and_scratch_has_nothing_that_is_for_a_pretrained_encoder() -> None:
    settings = FinetuneConfig(
        steps=100, growth=0.5, encoder_share=0.1, layer_decay=0.7, probe_start=True, adapter_rank=2
    )
    assert [settings.for_scans(n).steps for n in (1, 4, 100)] == [100, 200, 1000]
    assert settings.for_random_start() == FinetuneConfig(steps=100, growth=0.5, head_first=0.0)


@pytest.mark.parametrize(
    "wrong",
    [{"encoder_share": -0.1}, {"head_first": 1.5}, {"averaging": 1.0}, {"layer_decay": 0}, {"adapter_rank": -1}],
)
def test_a_setting_outside_of_its_range_is_rejected(wrong: dict[str, Any]) -> None:
    with pytest.raises(MedsslError, match="expected"):
        FinetuneConfig(**wrong)


def test_a_group_that_starts_later_has_a_warm_up_of_its_own() -> None:
    late, early = nn.Linear(2, 2), nn.Linear(2, 2)
    built = adamw([Group(late, 0.5, start=20), Group(early)], TrainConfig(steps=100, lr=1.0, warmup=10))
    optimizer, schedule = built["optimizer"], built["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(100):
        rates.append([group["lr"] for group in optimizer.param_groups[::2]])
        optimizer.step()
        schedule.step()
    first, second = np.array(rates).T
    assert (first[:20] == 0).all()
    assert first[20] == pytest.approx(0.1 * 0.5 * second[20])
    assert (np.diff(first[20:29]) > 0).all()
    assert first[30:] == pytest.approx(0.5 * second[30:])
    assert second[:10] == pytest.approx(np.arange(1, 11) / 10)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_an_encoder_at_a_share_of_zero_never_changes_and_one_that_wakes_late_does(
    lesion: TrainingData, share: float
) -> None:
    model = lesion.task.build_model(small_resnet(), 0)
    before = {name: values.clone() for name, values in model.encoder.state_dict().items()}
    train_model(model, lesion, FinetuneConfig(steps=6, growth=0, warmup=1, encoder_share=share, head_first=0.5), 0)
    changed = [name for name, values in model.encoder.state_dict().items() if not torch.equal(values, before[name])]
    assert bool(changed) == bool(share)


def test_the_encoder_has_no_gradient_while_the_head_learns_alone(lesion: TrainingData) -> None:
    seen = []

    class Watched(SupervisedModule):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            seen.append(any(weight.grad is not None for weight in self.model.encoder.parameters()))

    from medssl.preprocessing.datamodule import CropData
    from medssl.training.supervised import labelled_crops, trainer

    settings = FinetuneConfig(steps=4, growth=0, warmup=1, head_first=0.5)
    module = Watched(lesion.task.build_model(small_resnet(), 0), lesion, settings)
    trainer(settings, False).fit(module, datamodule=CropData(labelled_crops(lesion, settings, 0), 4, 4))
    assert seen == [False, False, True, True]


def test_an_average_keeps_its_share_of_itself_at_each_step() -> None:
    model = nn.BatchNorm1d(1)
    average = Average(model, 0.2)
    expected = 1.0
    for step in range(1, 6):
        with torch.no_grad():
            model.weight.fill_(float(step + 1))
        model.num_batches_tracked += 1
        average.update(model)
        keep = min(0.2, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * (step + 1)
    assert float(average.model.weight) == pytest.approx(expected)
    assert int(average.model.num_batches_tracked) == 5


def test_the_average_is_the_model_in_the_end(lesion: TrainingData, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Average] = []
    monkeypatch.setattr(
        Average, "update", lambda self, model, real=Average.update: (kept.append(self), real(self, model))
    )
    model = lesion.task.build_model(small_resnet(), 0)
    train_model(model, lesion, FinetuneConfig(steps=5, growth=0, averaging=0.99), 0)
    assert len(kept) == 5
    assert all(torch.equal(a, b) for a, b in zip(kept[0].model.state_dict().values(), model.state_dict().values()))
    train_model(model, lesion, FinetuneConfig(steps=5, growth=0, averaging=0.0), 0)
    assert len(kept) == 5


def test_every_class_is_drawn_equally_often() -> None:
    classes = {f"s{i}": int(i >= 7) for i in range(10)}
    drawn = balanced(list(classes), classes)
    assert [sum(classes[scan] == number for scan in drawn) for number in (0, 1)] == [7, 7]
    assert set(drawn) == set(classes)
    assert balanced(["a", "b"], {"a": 0, "b": 0}) == ["a", "b"]


@pytest.mark.parametrize("encoder", [small_resnet(), small_encoder(), ViT(dims=3, patch=8, width=24, depth=2, heads=1)])
def test_learning_rates_fall_from_the_last_layer_to_the_first(encoder: Any) -> None:
    built = adamw(groups(encoder, 0.5, 0.7), TrainConfig(lr=1.0, warmup=1))["optimizer"]
    rate = {id(weight): group["lr"] for group in built.param_groups for weight in group["params"]}
    assert set(rate) == {id(weight) for weight in encoder.parameters()}
    layers = [next(iter(layer.parameters())) for layer in encoder.layers()]
    expected = [0.5 * 0.7 ** (len(layers) - i) for i in range(len(layers))]
    assert [rate[id(weight)] for weight in layers] == pytest.approx(expected)


def test_adapters_change_little_of_the_encoder_and_merge_into_the_same_function(lesion: TrainingData) -> None:
    encoder = small_resnet().eval()
    x = torch.randn(2, 1, *SIZE)
    before, total = encoder(x), sum(weight.numel() for weight in encoder.parameters())
    add_adapters(encoder, 1)
    assert torch.allclose(encoder(x), before)  # B is 0
    assert sum(weight.numel() for weight in encoder.parameters() if weight.requires_grad) < 0.2 * total
    for name, weight in encoder.named_parameters():
        if weight.requires_grad and ".b." in name:
            nn.init.normal_(weight, std=0.1)
    changed = encoder(x)
    assert not torch.allclose(changed, before)
    merge_adapters(encoder)
    assert torch.allclose(encoder(x), changed, atol=1e-5)
    assert encoder.state_dict().keys() == small_resnet().state_dict().keys()


@pytest.mark.parametrize("encoder", [small_resnet(), small_encoder(), ViT(dims=3, patch=8, width=24, depth=2, heads=1)])
def test_a_model_with_adapters_ends_as_an_ordinary_one(lesion: TrainingData, encoder: Any) -> None:
    model = lesion.task.build_model(encoder, 0)
    names = model.state_dict().keys()
    trained = train_model(model, lesion, FinetuneConfig(steps=4, growth=0, adapter_rank=2, averaging=0.9), 0)
    assert model.state_dict().keys() == names == trained.earlier.keys()
    model.load_state_dict(trained.earlier)


def test_the_head_starts_as_the_logistic_regression_on_the_features(lesion: TrainingData) -> None:
    model = lesion.task.build_model(small_resnet(), 0)
    start_from_probe(model, lesion.cache, lesion.training, lesion.task.labels, SIZE)
    features = embed(model.encoder, lesion.cache, lesion.training, SIZE)
    scaled = (features - features.mean(0)) / np.where(features.std(0) > 0, features.std(0), 1)
    numbers = [lesion.task.labels[scan] for scan in lesion.training]
    expected = LogisticRegression(C=0.1, max_iter=2000).fit(scaled, numbers).predict_proba(scaled)
    with torch.no_grad():
        given = model.head(torch.from_numpy(features)).softmax(1).numpy()
    assert given == pytest.approx(expected, abs=1e-3)


def test_a_probe_start_is_for_classification(cache: Cache) -> None:
    task = task_named("segmentation").from_cache(cache)
    data = TrainingData(cache, task, SIZE, list(cache.manifest["scan"])[:2])
    with pytest.raises(MedsslError, match="probe_start is set for segmentation"):
        train_model(task.build_model(small_encoder(), 0), data, FinetuneConfig(steps=2, probe_start=True), 0)


def test_the_earlier_state_is_that_after_two_thirds_of_the_steps(
    lesion: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[torch.Tensor] = []
    real = SupervisedModule.optimizer_step

    def watched(self: Any, *args: Any, **kwargs: Any) -> None:
        real(self, *args, **kwargs)
        states.append(self.model.head.weight.detach().clone())

    monkeypatch.setattr(SupervisedModule, "optimizer_step", watched)
    model = lesion.task.build_model(small_resnet(), 0)
    trained = train_model(model, lesion, FinetuneConfig(steps=6, growth=0, averaging=0.0), 0)
    assert [torch.equal(trained.earlier["head.weight"], state) for state in states] == [False] * 3 + [True] + [
        False
    ] * 2
    assert torch.equal(model.head.weight, states[-1])


@pytest.mark.parametrize("augmentation", ["standard", "strong"])
def test_strong_augmentation_deforms_and_lowers_the_resolution(lesion: TrainingData, augmentation: Any) -> None:
    model = lesion.task.build_model(small_resnet(), 0)
    view = SupervisedModule(model, lesion, FinetuneConfig(augmentation=augmentation)).view
    elastic = [part.elastic_mm > 0 for part in view.modules() if isinstance(part, Resample)]
    thick = [isinstance(part, ThickSlices) for part in view.modules()]
    assert (elastic, any(thick)) == ([augmentation == "strong"], augmentation == "strong")


def test_pasted_structures_bring_their_labels_and_their_voxels_along_and_nothing_else_changes() -> None:
    target = torch.randint(0, 4, (64, 1, 6, 6)).float()
    x = target + 10 * torch.arange(64).view(-1, 1, 1, 1)  # tens: whose crop; ones: which structure
    keys = make_keys(0, (torch.arange(64),))
    pasted, labels = paste_structures(x, target, keys, 0.5)
    own = pasted // 10 == torch.arange(64).view(-1, 1, 1, 1)
    assert torch.equal(pasted % 10, labels)
    assert torch.equal(pasted[own], x[own])
    assert torch.equal(pasted[~own], x.roll(1, 0)[~own])
    assert (labels[~own] > 0).all()
    changed = (~own).flatten(1).any(1).float().mean()
    assert 0.25 < changed < 0.55  # half of the crops, less those whose draw chose no structure (1 in 8)
    whole = [(~own)[i][x.roll(1, 0)[i] % 10 == s].float().mean().item() for i in range(64) for s in (1, 2, 3)]
    assert set(whole) == {0.0, 1.0}  # a structure is pasted whole or not at all
    for share, batch in ((0.0, slice(None)), (1.0, slice(0, 1))):
        assert torch.equal(paste_structures(x[batch], target[batch], keys[batch], share)[0], x[batch])


def test_pasting_is_for_segmentation_and_changes_its_training(cache: Cache, lesion: TrainingData) -> None:
    with pytest.raises(MedsslError, match="pasting is 0.5 for classification"):
        train_model(lesion.task.build_model(small_resnet(), 0), lesion, FinetuneConfig(steps=1, pasting=0.5), 0)
    task = task_named("segmentation").from_cache(cache)
    data, weights = TrainingData(cache, task, SIZE, list(cache.manifest["scan"])[:4]), []
    for share in (0.0, 1.0):
        model = task.build_model(small_encoder(), 0)
        train_model(model, data, FinetuneConfig(steps=2, growth=0, batch_size=2, pasting=share), 0)
        weights.append(torch.cat([w.flatten() for w in model.parameters()]))
    assert not torch.equal(*weights)


def test_an_encoder_of_one_layer_has_no_layer_decay() -> None:
    class Plain(ResNet):
        def layers(self) -> list[nn.Module]:
            return [self]

    with pytest.raises(MedsslError, match="Plain has one layer only"):
        groups(Plain(dims=2, depth=10, width=4), 1.0, 0.7)


def test_a_probe_of_three_classes_leaves_out_the_one_that_no_scan_shows(cache: Cache) -> None:
    task = task_named("classification").from_cache(cache, "scanner")
    assert task.outputs == 3
    for shown in ({0, 1, 2}, {0, 2}):
        scans = [scan for scan in cache.manifest["scan"] if task.labels[scan] in shown]
        model = task.build_model(small_resnet(), 0)
        start_from_probe(model, cache, scans, task.labels, SIZE)
        with torch.no_grad():
            given = model.head(torch.from_numpy(embed(model.encoder, cache, scans, SIZE))).argmax(1)
        assert set(given.tolist()) <= shown
        right = np.mean([int(g) == task.labels[scan] for g, scan in zip(given, scans)])
        assert right > 1 / len(shown)
