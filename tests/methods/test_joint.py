"""Joint: the weighted sum of what each part gives alone; teachers move; the record rebuilds it; the CLI reads it."""

import copy
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from medssl.cli.arguments import parse_arguments
from medssl.core.errors import MedsslError
from medssl.core.spec import describe, rebuild
from medssl.encoders import ResidualUNet
from medssl.methods import Joint, Method, PatientContrast, Rotation, SimCLR, SimMIM
from medssl.methods.check import synthetic_batch
from medssl.preprocessing.cache import Cache
from medssl.preprocessing.data_spec import DataSpec
from medssl.preprocessing.sample_fields import Partner
from medssl.training.config import TrainConfig
from medssl.training.module import PretrainingModule
from medssl.training.pretrain import pretrain
from medssl.views import recipes
from tests.options import options

SIZE = (16, 16, 16)


def small(dims: int = 3) -> ResidualUNet:
    return ResidualUNet(dims, width=4, blocks=(1, 1, 1))


def test_its_loss_is_the_weighted_sum_of_what_each_part_gives_alone() -> None:
    torch.manual_seed(0)
    joint = Joint(small(), [partial(SimMIM, place_weight=0.5, mask_block=4), SimCLR, SimMIM], weights=[1.0, 0.25, 2.0])
    joint.set_up_views(DataSpec(3, modality="MR"), SIZE)
    batch = synthetic_batch(joint.encoder, joint.source_size(SIZE), 3)
    computed = joint.loss(joint.make_views(dict(batch)))
    first = copy.deepcopy(joint.methods[0])
    first.set_up_views(DataSpec(3, modality="MR"), SIZE)
    alone = first.loss(first.make_views(dict(batch)))  # its own views, its own keys
    assert joint.names == ["SimMIM.0", "SimCLR", "SimMIM.2"]
    watched = joint.monitored_values()
    assert watched["loss.SimMIM.0"] == pytest.approx(float(alone), abs=1e-6)
    assert watched["loss.SimMIM.2"] != pytest.approx(float(alone), abs=1e-3)  # the second of a kind has luck of its own
    weighted = sum(w * watched[f"loss.{n}"] for n, w in zip(joint.names, joint.weights))
    assert float(computed) == pytest.approx(weighted, abs=1e-5)


def test_a_part_that_pairs_patients_gets_its_partners() -> None:
    joint = Joint(small(), [Rotation, PatientContrast])
    assert joint.sample_fields == PatientContrast(small()).sample_fields == (Partner(),)
    joint.set_up_views(DataSpec(3, modality="MR"), SIZE)
    batch = synthetic_batch(joint.encoder, joint.source_size(SIZE), 3)
    views = joint.make_views(dict(batch))["views"]
    others = joint.make_views({**batch, "partner": batch["partner"].flip(0)})["views"]
    assert [torch.equal(a, b) for a, b in zip(views, others)] == [True, True, False]
    with pytest.raises(MedsslError, match="the sample field partner is requested as .*patient.* and as .*neighbour"):
        Joint(small(), [PatientContrast, partial(PatientContrast, positives="neighbour")])


def test_its_loss_is_the_weighted_sum_of_the_published_formulae_in_float64(agrees) -> None:
    """SimMIM's mean absolute error over masked body and SimCLR's equation 1, in numpy; tolerance 1e-5."""
    torch.manual_seed(0)
    joint = Joint(small(), [partial(SimMIM, mask_block=4), partial(SimCLR, temperature=0.3)], weights=[2.0, 0.25])
    joint.set_up_views(DataSpec(3, modality="MR"), SIZE)
    batch = joint.make_views(synthetic_batch(joint.encoder, joint.source_size(SIZE), 4))
    masked, pairs = joint.batches(batch)
    with torch.no_grad():
        computed, mask = float(joint.loss(batch)), joint.methods[0].mask_of(masked)
        restored = joint.methods[0].predict(masked["views"][0], mask)[0].double().numpy()
        z = joint.methods[1].head(joint.encoder(torch.cat(pairs["views"]))).double().numpy()
    counted = (mask * masked["valid_views"][0]).double().numpy()
    of_simmim = (np.abs(restored - masked["views"][0].double().numpy()) * counted).sum() / counted.sum()
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    e = np.exp(z @ z.T / 0.3)
    contrast = np.mean([-np.log(e[i, (i + 4) % 8] / (e[i].sum() - e[i, i])) for i in range(8)])
    agrees("Joint", "weighted sum", computed, 2 * of_simmim + 0.25 * contrast)


def test_one_decoder_goes_along_and_two_do_not() -> None:
    joint = Joint(small(), [SimMIM, Rotation])
    assert joint.decoder is joint.methods[0].decoder
    assert joint.decoder is not None
    assert Joint(small(), [SimMIM, SimMIM]).decoder is None
    assert Joint(small(), [SimCLR, Rotation]).decoder is None


def test_the_encoder_is_one_and_its_weights_count_once() -> None:
    joint = Joint(small(), [SimMIM, Rotation, SimCLR])
    assert all(part.encoder is joint.encoder for part in joint.methods)
    weights = [id(p) for p in joint.parameters()]
    assert len(weights) == len(set(weights))
    groups = PretrainingModule(joint, TrainConfig()).configure_optimizers()["optimizer"].param_groups
    assert sum(len(group["params"]) for group in groups) == len(weights)


def test_what_cannot_work_is_said_before_the_first_step() -> None:
    with pytest.raises(MedsslError, match="two parts or more"):
        Joint(small(), [SimMIM])
    with pytest.raises(MedsslError, match="a number above 0"):
        Joint(small(), [SimMIM, SimCLR], [1.0])
    with pytest.raises(MedsslError, match="too small for Joint"):
        Joint(small(), [SimMIM, SimCLR]).check(SIZE, 1)
    with pytest.raises(MedsslError, match="unequal edges"):
        Joint(small(), [SimMIM, Rotation]).check((16, 16, 24), 4)


def test_the_command_line_and_the_record_say_the_same() -> None:
    words = ["--encoder", "ResNet", "--encoder.depth", "10", "--encoder.width", "4"]
    words += ["--method", "Joint", "--data", "c", "--out", "o"]
    parts = ["--method.parts", '[{"class_path": "SimMIM", "init_args": {"mask_block": 4}}, {"class_path": "Rotation"}]']
    settings = parse_arguments(pretrain, "medssl pretrain", words=[*words, *parts, "--method.weights", "1", "0.5"])
    arguments = describe(settings["method"](settings["encoder"]))["init_args"]
    assert arguments["weights"] == [1.0, 0.5]
    assert [part["class_path"].rpartition(".")[2] for part in arguments["parts"]] == ["SimMIM", "Rotation"]
    assert arguments["parts"][0]["init_args"]["mask_block"] == 4
    short = parse_arguments(pretrain, "medssl pretrain", words=[*words, "--method.parts", "SimCLR", "Rotation"])
    assert [type(p) for p in short["method"](short["encoder"]).methods] == [SimCLR, Rotation]
    with pytest.raises(MedsslError, match="there is no method.parts 'SimCRL'; did you mean SimCLR"):
        parse_arguments(pretrain, "medssl pretrain", words=[*words, "--method.parts", "SimCRL", "Rotation"])


def test_a_record_builds_it_again_and_builds_no_class_from_outside() -> None:
    joint = Joint(small(), [partial(SimMIM, mask_block=4), partial(SimCLR, temperature=0.5)], [1, 0.1])
    spec = describe(joint)
    again = rebuild(spec, Joint, encoder=small())
    assert describe(again) == spec
    assert again.methods[1].temperature == 0.5
    again.load_state_dict(joint.state_dict())
    spec["init_args"]["parts"][0]["class_path"] = "tests.methods.test_joint.Follower"
    with pytest.raises(MedsslError, match="outside medssl"):
        rebuild(spec, Joint, encoder=small())


class Follower(Method):
    """A part with a teacher that it moves after each step."""

    def __init__(self, encoder):
        super().__init__(encoder)
        self.teacher = copy.deepcopy(encoder).requires_grad_(False)
        self.steps, self.prepared = [], 0

    def views(self, data_spec, size):
        return (recipes.masked(data_spec, size),)

    def loss(self, batch):
        return (self.encoder(batch["views"][0]) - self.teacher(batch["views"][0])).square().mean() + 0.1

    def before_step(self):
        assert next(self.encoder.parameters()).grad is not None
        self.prepared += 1

    def after_step(self):
        self.steps.append((self.progress.step, self.progress.total_steps))
        for own, theirs in zip(self.teacher.parameters(), self.encoder.parameters()):
            own.data.lerp_(theirs.data, 0.5)


def test_parts_move_their_teachers_once_a_step_and_losses_are_curves_apart(cache: Cache, tmp_path: Path) -> None:
    kept = []

    def build(encoder):
        kept.append(Joint(encoder, [SimMIM, Follower], [1, 2]))
        return kept[0]

    run = pretrain(
        cache.path,
        tmp_path,
        small(),
        build,
        **options(crop=SIZE, steps=2, batch_size=2, accumulate=2, accelerator="cpu"),
    )
    part = kept[0].methods[1]
    assert part.steps == [(0, 2), (1, 2)]  # once per optimiser step, not once per batch
    assert part.prepared == 2
    assert run.config["method"]["init_args"]["parts"][0]["class_path"] == "SimMIM"
    assert (tmp_path / "decoder.safetensors").exists()
    assert pd.read_csv(tmp_path / "metrics.csv")["method.loss.SimMIM"].notna().all()
