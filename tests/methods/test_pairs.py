"""Methods that compare views: each loss is the authors' formula, each teacher moves once per step and survives a restart."""

import subprocess
import sys
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from lightly.loss import NTXentLoss
from safetensors.torch import load_file
from torch import nn

from medssl.core import runs
from medssl.core.errors import MedsslError
from medssl.encoders import ResidualUNet, ResNet
from medssl.methods import BYOL, DINO, BarlowTwins, Method, MoCo, PatientContrast, SimCLR, SimSiam, VICReg
from medssl.methods.check import synthetic_batch
from medssl.methods.shared import teacher as teachers
from medssl.methods.shared.contrast import nt_xent, similarities
from medssl.preprocessing.cache import Cache
from medssl.preprocessing.crops import Crops
from medssl.preprocessing.data_spec import DataSpec
from medssl.preprocessing.sample_fields import Partner, PartnerReader, resolve, select_scans
from medssl.training.module import PretrainingModule
from medssl.training.pretrain import pretrain
from tests.options import options

SMALL = {"hidden": 32, "projection": 16}
METHODS = {
    "SimCLR": partial(SimCLR, projection=16),
    "MoCo v2": partial(MoCo, queue=16, **SMALL),
    "MoCo v3": partial(MoCo, version="v3", **SMALL),
    "BYOL": partial(BYOL, **SMALL),
    "SimSiam": partial(SimSiam, **SMALL),
    "BarlowTwins": partial(BarlowTwins, projection=32),
    "VICReg": partial(VICReg, projection=32),
    "DINO": partial(DINO, prototypes=32, hidden=32, bottleneck=8),
    "PatientContrast": partial(PatientContrast, projection=16),
}


def residual_unet(dims: int) -> ResidualUNet:
    return ResidualUNet(dims, width=4, blocks=(1, 1, 1))


def resnet(dims: int) -> ResNet:
    return ResNet(dims, depth=10, width=4, max_pool=False)


def prepared(name: str, count: int = 6, **settings) -> tuple[Method, dict]:
    """A method and a batch with its views made."""
    torch.manual_seed(1)
    method = METHODS[name](residual_unet(2), **settings)
    method.set_up_views(DataSpec(2, modality="MR"), (32, 32))
    return method, method.make_views(synthetic_batch(method.encoder, (48, 48), count))


def unit(z: np.ndarray) -> np.ndarray:
    return z / np.linalg.norm(z, axis=-1, keepdims=True)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def float64(x: torch.Tensor) -> np.ndarray:
    return x.detach().double().numpy()


def alike(a: np.ndarray, b: np.ndarray, similarity: str) -> float:
    if similarity == "cosine":
        return float(unit(a) @ unit(b))
    return float(a @ b if similarity == "dot" else -((a - b) ** 2).sum() / 2) / len(a)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_nt_xent_is_equation_1_of_simclr(similarity: str, agrees) -> None:
    method, batch = prepared("SimCLR", similarity=similarity, temperature=0.3)
    computed = float(method.loss(batch).detach())
    z = np.concatenate([float64(x) for x in method.projections(batch)])
    e = np.array([[np.exp(alike(a, b, similarity) / 0.3) for b in z] for a in z])
    expected = np.mean([-np.log(e[i, (i + 6) % 12] / (e[i].sum() - e[i, i])) for i in range(12)])
    agrees("SimCLR", "NT-Xent", computed, expected)


def test_nt_xent_of_pairs_without_groups_is_lightlys_and_groups_are_no_negatives(agrees) -> None:
    a, b = torch.randn(2, 5, 8, dtype=torch.float64)
    agrees("SimCLR", "NT-Xent, lightly", nt_xent(a, b, torch.arange(5), 0.2), NTXentLoss(0.2)(a, b))
    groups = np.array([0, 1, 0, 2, 1])
    z, who = unit(np.concatenate([a, b])), np.tile(groups, 2)
    e = np.exp(z @ z.T / 0.2)
    terms = [(e[i, (i + 5) % 10], e[i, who != who[i]].sum()) for i in range(10)]
    expected = np.mean([-np.log(positive / (positive + negative)) for positive, negative in terms])
    agrees("PatientContrast", "positives", nt_xent(a, b, torch.from_numpy(groups), 0.2), expected)


def test_patient_contrast_is_nt_xent_without_negatives_of_the_same_patient(agrees) -> None:
    method, batch = prepared("PatientContrast", temperature=0.3)
    batch["patient"] = torch.tensor([0, 1, 0, 2, 3, 1])
    computed = float(method.loss(batch).detach())
    z = unit(np.concatenate([float64(x) for x in method.projections(batch)]))
    e, who = np.exp(z @ z.T / 0.3), np.tile(batch["patient"].numpy(), 2)
    terms = [(e[i, (i + 6) % 12], e[i, who != who[i]].sum()) for i in range(12)]
    agrees("PatientContrast", "positives", computed, np.mean([-np.log(p / (p + negative)) for p, negative in terms]))


def test_one_temperature_means_the_same_for_all_similarities() -> None:
    """On vectors of length sqrt(D) dot and euclidean are the cosine, euclidean less 1."""
    a, b = (nn.functional.normalize(torch.randn(4, 9), dim=1) * 3 for _ in range(2))
    cosine = similarities(a, b)
    assert torch.allclose(similarities(a, b, "dot"), cosine, atol=1e-6)
    assert torch.allclose(similarities(a, b, "euclidean"), cosine - 1, atol=1e-6)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_moco_v2_is_info_nce_over_its_queue(similarity: str, agrees) -> None:
    """He et al. 2020, algorithm 1; two steps, so that the second asks the keys of the first."""
    method, batch = prepared("MoCo v2", similarity=similarity, temperature=0.3)
    queue, scans = float64(method.keys.entries), np.full(16, -1)
    for step in range(2):
        batch["scan"] = torch.arange(6) + 3 * step  # scans 3, 4, 5 come again
        keys = unit(float64(method.targets(batch["views"][1])))
        queries = float64(method.project(batch["views"][0]))
        computed = float(method.loss(batch).detach())
        raw = float64(method.targets(batch["views"][1]))
        expected = []
        for i, query in enumerate(queries):
            positive = np.exp(alike(query, raw[i], similarity) / 0.3)
            others = [alike(query, k, similarity) for k, s in zip(queue, scans) if s != batch["scan"][i]]
            expected.append(-np.log(positive / (positive + np.exp(np.array(others) / 0.3).sum())))
        agrees("MoCo", "v2", computed, np.mean(expected))
        queue[6 * step : 6 * step + 6], scans[6 * step : 6 * step + 6] = keys, batch["scan"]
    assert method.monitored_values()["queue_filled"] == pytest.approx(12 / 16)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_moco_v3_is_its_algorithm_1(similarity: str, agrees) -> None:
    """Chen, Xie and He 2021: ctr(q1, k2) + ctr(q2, k1), each 2 tau times a cross-entropy with the diagonal."""
    method, batch = prepared("MoCo v3", temperature=0.3, similarity=similarity)
    computed = float(method.loss(batch).detach())
    queries = [float64(method.predictor(z)) for z in method.projections(batch)]
    keys = [float64(k) for k in method.targets(*batch["views"]).chunk(2)]
    expected = 0.0
    for q, k in zip(queries, reversed(keys)):
        logits = np.array([[alike(a, b, similarity) / 0.3 for b in k] for a in q])
        expected += -2 * 0.3 * np.log(softmax(logits).diagonal()).mean()
    agrees("MoCo", "v3", computed, expected)


def test_byol_is_equation_2_both_ways(agrees) -> None:
    """Grill et al. 2020: the squared distance of the normalised prediction and the normalised target."""
    method, batch = prepared("BYOL")
    computed = float(method.loss(batch).detach())
    said = [unit(float64(method.predictor(z))) for z in method.projections(batch)]
    asked = [unit(float64(t)) for t in method.targets(*batch["views"]).chunk(2)]
    expected = sum(((q - z) ** 2).sum(1).mean() for q, z in zip(said, reversed(asked)))
    agrees("BYOL", "both ways", computed, expected)


def test_simsiam_is_its_equation_2_and_stops_the_gradient(agrees) -> None:
    method, batch = prepared("SimSiam")
    computed = method.loss(batch)
    z = method.projections(batch)
    p = [unit(float64(method.predictor(x))) for x in z]
    expected = -sum((a * unit(float64(b))).sum(1).mean() for a, b in zip(p, reversed(z))) / 2
    agrees("SimSiam", "both ways", computed.detach(), expected)
    for last in method.predictor.parameters():
        last.data.zero_()  # a predictor that says nothing: all gradient that is left would be the targets'
    assert all(g.abs().max() == 0 for g in torch.autograd.grad(method.loss(batch), list(method.encoder.parameters())))


def test_barlow_twins_is_its_algorithm_1(agrees) -> None:
    method, batch = prepared("BarlowTwins", redundancy=0.01)
    computed = float(method.loss(batch).detach())
    a, b = ((z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5) for z in map(float64, method.projections(batch)))
    c = (a.T @ b / len(a) - np.eye(32)) ** 2
    expected = c.diagonal().sum() + 0.01 * (c.sum() - c.diagonal().sum())
    agrees("BarlowTwins", "cross-correlation", computed, expected, relative=True)


def test_vicreg_is_its_algorithm_1(agrees) -> None:
    method, batch = prepared("VICReg", invariance=20.0, variance=10.0, covariance=2.0)
    computed = float(method.loss(batch).detach())
    a, b = map(float64, method.projections(batch))
    expected = 20 * ((a - b) ** 2).mean()
    for z in (a, b):
        expected += 10 * np.maximum(0, 1 - np.sqrt(z.var(0, ddof=1) + 1e-4)).mean() / 2
        c = np.cov(z.T)
        expected += 2 * ((c**2).sum() - (c.diagonal() ** 2).sum()) / 32
    agrees("VICReg", "three terms", computed, expected, relative=True)


def test_dino_is_its_algorithm_1_with_local_views_and_a_moving_centre(agrees) -> None:
    method, batch = prepared("DINO")
    centre = np.zeros(32)
    for _ in range(2):
        computed = float(method.loss(batch).detach())
        views = [method.head(method.encoder(x)) for x in (torch.cat(batch["views"][:2]), torch.cat(batch["views"][2:]))]
        student = [float64(v) for part, n in zip(views, (2, 4)) for v in part.chunk(n)]
        teacher = [float64(v) for v in method.targets(*batch["views"][:2]).chunk(2)]
        pairs = [(t, s) for i, t in enumerate(teacher) for j, s in enumerate(student) if i != j]
        terms = [-(softmax((t - centre) / 0.04) * np.log(softmax(s / 0.1))).sum(1).mean() for t, s in pairs]
        agrees("DINO", "views", computed, np.mean(terms))
        centre = 0.9 * centre + 0.1 * np.concatenate(teacher).mean(0)
        agrees("DINO", "centre", np.abs(float64(method.dino.center).ravel() - centre).max(), 0)
        assert np.abs(centre).max() > 1e-3


def test_local_views_are_small_and_a_crop_that_has_none_is_refused() -> None:
    method = DINO(residual_unet(3), prototypes=8)
    method.set_up_views(DataSpec(3, modality="MR"), (32, 32, 32))
    made = method.make_views(synthetic_batch(method.encoder, (48, 48, 48), 2))
    assert [tuple(v.shape[2:]) for v in made["views"]] == [(32,) * 3] * 2 + [(12,) * 3] * 4
    with pytest.raises(MedsslError, match="--method.local_views 0"):
        method.check((8, 8, 8), 4)
    DINO(residual_unet(3), prototypes=8, local_views=0).check((8, 8, 8), 4)


@pytest.mark.parametrize("name", ["SimCLR", "MoCo v3", "VICReg"])
def test_the_gradient_in_chunks_is_that_of_the_whole_batch(name: str) -> None:
    """Also where the head has batch norm: it sees the whole batch."""
    computed, seen = [], []
    for chunk in (0, 5):
        method, batch = prepared(name, 12, chunk=chunk)
        method, batch["views"] = method.double(), [x.double() for x in batch["views"]]
        method.encoder.register_forward_hook(lambda _, given, made: seen.append(len(given[0])))
        method.loss(batch).backward()
        computed.append([p.grad for p in method.parameters() if p.grad is not None])
        assert max(seen) == (chunk or 24)
        seen.clear()
    assert len(computed[0]) == len(computed[1]) > 0
    assert all(torch.allclose(a, b, atol=1e-10, rtol=1e-8) for a, b in zip(*computed))


def test_chunks_and_batch_norm_together_are_warned_of() -> None:
    with pytest.warns(UserWarning, match="--encoder.norm instance"):
        SimCLR(resnet(2), chunk=4).check((32, 32), 8)


SETTINGS = {"crop": (16, 16, 16), "batch_size": 4, "accelerator": "cpu", "lr": 1e-2, "warmup": 1, "monitor_every": 100}
SMALLEST = partial(ResidualUNet, 3, width=4, blocks=(1, 1))
TAUGHT = {
    "MoCo v2": partial(MoCo, queue=16, **SMALL),
    "DINO": partial(DINO, prototypes=16, hidden=16, bottleneck=8, local_views=1),
}


@pytest.mark.parametrize("name", TAUGHT)
def test_a_checkpoint_holds_teacher_queue_and_centre(name: str) -> None:
    """Two methods, one with the other's state, have the same loss; lightly's own queue would be left out."""
    method, batch = prepared(name)
    method.loss(batch)
    with torch.no_grad():
        for weight in method.teacher.parameters():
            weight.mul_(1.1)
    other = METHODS[name](residual_unet(2))
    assert not torch.equal(other.loss(batch), method.loss(batch))
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.loss(batch), method.loss(batch))


@pytest.mark.parametrize("name", ["MoCo v2", pytest.param("DINO", marks=pytest.mark.slow)])
def test_teacher_queue_and_centre_survive_a_restart(name: str, cache: Cache, tmp_path, monkeypatch) -> None:
    """Stopped after step 3 of 5 and gone on with, a run ends with the same weights and curves as an undisturbed one."""
    method = TAUGHT[name]
    step = PretrainingModule.training_step
    pretrain(cache.path, tmp_path / "whole", SMALLEST(), method, **options(steps=5, **SETTINGS))

    def stops(self, batch, index):
        if self.global_step == 3:
            raise MedsslError("pulled the plug")
        return step(self, batch, index)

    monkeypatch.setattr(PretrainingModule, "training_step", stops)
    with pytest.raises(MedsslError, match="plug"):
        pretrain(cache.path, tmp_path / "cut", SMALLEST(), method, **options(steps=5, checkpoint_every=3, **SETTINGS))
    monkeypatch.undo()
    pretrain(cache.path, tmp_path / "cut", SMALLEST(), method, **options(steps=5, checkpoint_every=3, **SETTINGS))
    whole, cut = (load_file(tmp_path / folder / "encoder.safetensors") for folder in ("whole", "cut"))
    assert all(torch.equal(whole[k], cut[k]) for k in whole)
    assert (tmp_path / "whole" / "metrics.csv").read_text() == (tmp_path / "cut" / "metrics.csv").read_text()


def test_a_teacher_moves_once_a_step_under_accumulation_and_the_record_shows_it(
    cache: Cache, tmp_path, monkeypatch
) -> None:
    moved = []
    monkeypatch.setattr(teachers, "update_momentum", lambda model, teacher, m: moved.append(m))
    pretrain(cache.path, tmp_path / "a", SMALLEST(), METHODS["BYOL"], **options(steps=3, accumulate=2, **SETTINGS))
    assert moved == pytest.approx([0.99, 0.995, 1.0])  # a half cosine from 0.99 to 1
    record = runs.read(tmp_path / "a").config["method"]
    assert (record["init_args"]["momentum"], record["stop_gradient"]) == (0.99, ["teacher"])
    assert pd.read_csv(tmp_path / "a" / "metrics.csv")["method.momentum"].is_monotonic_increasing


def test_the_teacher_is_the_moving_average_and_dinos_is_what_the_run_keeps(cache: Cache, tmp_path, monkeypatch) -> None:
    """Every step replayed in float64 from the student's weights."""
    seen, update = [], teachers.update_momentum
    method = partial(TAUGHT["DINO"], momentum=0.5)

    def spied(student, teacher, m):
        before = float64(next(teacher.parameters()))
        update(student, teacher, m)
        expected = m * before + (1 - m) * float64(next(student.parameters()))
        seen.append(np.abs(float64(next(teacher.parameters())) - expected).max())

    monkeypatch.setattr(teachers, "update_momentum", spied)
    made = []
    pretrain(
        cache.path,
        tmp_path / "a",
        SMALLEST(),
        lambda e: made.append(method(e)) or made[0],
        **options(steps=4, **SETTINGS),
    )
    assert len(seen) == 4
    assert max(seen) < 1e-6
    saved, student, teacher = load_file(tmp_path / "a" / "encoder.safetensors"), made[0].encoder, made[0].teacher[0]
    assert all(torch.equal(saved[k], v) for k, v in teacher.state_dict().items())
    assert any(not torch.equal(saved[k], v) for k, v in student.state_dict().items())


def test_partners_are_other_scans_of_the_patient_on_one_grid_or_next_in_the_series() -> None:
    rows = pd.DataFrame(
        {
            "scan": ["a", "b", "c", "d-000", "d-001", "d-002"],
            "patient": ["p", "p", "p", "q", "q", "q"],
            "shape": [[8, 8, 8], [8, 8, 8], [9, 8, 8], [4, 4, 4], [4, 4, 4], [4, 4, 4]],
        }
    )
    computed = {p: Partner(p).partners(rows) for p in ("patient", "aligned", "neighbour")}
    assert computed["patient"] == {
        "a": ["b", "c"],
        "b": ["a", "c"],
        "c": ["a", "b"],
        "d-000": ["d-001", "d-002"],
        "d-001": ["d-000", "d-002"],
        "d-002": ["d-000", "d-001"],
    }
    assert {k: v for k, v in computed["aligned"].items() if "d" not in k} == {"a": ["b"], "b": ["a"], "c": []}
    assert computed["neighbour"] == {
        "a": [],
        "b": [],
        "c": [],
        "d-000": ["d-001"],
        "d-001": ["d-000", "d-002"],
        "d-002": ["d-001"],
    }


def test_a_partner_is_cut_from_the_same_place_or_some_slices_further(cache: Cache) -> None:
    manifest = cache.manifest
    scans, size = list(manifest["scan"]), (12, 12, 8)
    patients = dict(zip(manifest["scan"], manifest["patient"]))
    partners = Partner().partners(manifest)
    crops = Crops(cache, scans, size, seed=2, fields=[PartnerReader(partners, 0)])
    assert 0 < sum(map(bool, partners.values())) < len(scans)
    for n in range(len(scans)):
        sample = crops[n]
        scan, start = scans[sample["scan"]], sample["start"].tolist()
        assert all(patients[other] == patients[scan] for other in partners[scan])
        mates = [cache.read(other, start, size) for other in partners[scan] or [scan]]  # one shape: one place
        assert any(np.array_equal(sample["partner"].numpy(), mate) for mate in mates)
    moved = Crops(cache, scans, size, seed=2, fields=[PartnerReader({}, 3)])
    for n in range(8):
        sample = moved[n]
        scan, (x, y, z) = scans[sample["scan"]], sample["start"].tolist()
        reads = {dz: cache.read(scan, (x, y, z + dz), size) for dz in range(-3, 4)}
        assert any(np.array_equal(sample["partner"].numpy(), reads[dz]) for dz in reads)
    assert any(not torch.equal(moved[n]["partner"], moved[n]["source"]) for n in range(8))


def test_the_second_view_is_the_partners_and_the_share_is_said(cache: Cache, tmp_path, capfd) -> None:
    method, batch = prepared("PatientContrast")
    views, other = batch["views"], method.make_views({**batch, "partner": batch["partner"].flip(0)})["views"]
    assert [torch.equal(a, b) for a, b in zip(views, other)] == [True, False]
    pretrain(cache.path, tmp_path / "a", SMALLEST(), METHODS["PatientContrast"], **options(steps=1, **SETTINGS))
    assert "scans (" in (said := capfd.readouterr().err)
    assert "have a partner; the others are paired with a second view of themselves" in " ".join(said.split())


def test_a_cohort_without_partners_is_warned_of(cache: Cache) -> None:
    alone = cache.manifest.drop_duplicates("patient")
    with pytest.warns(UserWarning, match="plain SimCLR"):
        select_scans(resolve(METHODS["PatientContrast"](SMALLEST()).sample_fields), alone)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (partial(SimCLR, temperature=0.0), "temperature is 0.0"),
        (partial(MoCo, queue=0), "version v3"),
        (partial(BYOL, momentum=1.5), "momentum is 1.5"),
        (partial(DINO, local_share=1.0), "local_share is 1.0"),
    ],
)
def test_settings_that_cannot_work_are_refused(method, message: str) -> None:
    with pytest.raises(MedsslError, match=message):
        method(residual_unet(2))


TWO_DEVICES = """
import sys, torch, torch.distributed as dist
from lightly.loss import BarlowTwinsLoss, NTXentLoss, VICRegLoss
from medssl.methods.shared.contrast import info_nce, nt_xent
rank, world, meeting = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if world > 1:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
torch.manual_seed(0)
x, y, groups = *torch.randn(2, 8, 6, dtype=torch.float64), torch.tensor([0, 1, 0, 2, 1, 3, 4, 0])
own = slice(rank * 8 // world, (rank + 1) * 8 // world)
losses = {
    "simclr": lambda a, b: NTXentLoss(0.2, gather_distributed=True)(a, b),
    "grouped": lambda a, b: nt_xent(a, b, groups[own], 0.2, "euclidean"),
    "moco v3": lambda a, b: info_nce(a, b, 0.2),
    "vicreg": VICRegLoss(gather_distributed=True),
}
for name, loss in losses.items():
    weight = torch.eye(6, dtype=torch.float64, requires_grad=True)
    loss(x[own] @ weight, y[own] @ weight).backward()
    if world > 1:
        dist.all_reduce(weight.grad)  # as DDP does: the mean of the devices' gradients
    if rank == 0:
        print(name, *(weight.grad / world).flatten().tolist(), sep=",")
"""


@pytest.mark.slow
def test_two_devices_have_the_gradient_of_one_with_the_whole_batch(tmp_path) -> None:
    """Negatives and statistics are gathered: two processes of 4 samples each against one of 8."""
    command = [sys.executable, "-W", "ignore", "-c", TWO_DEVICES]
    alone = subprocess.run([*command, "0", "1", ""], capture_output=True, text=True, check=True).stdout
    both = [
        subprocess.Popen([*command, rank, "2", str(tmp_path / "meet")], stdout=subprocess.PIPE, text=True)
        for rank in "01"
    ]
    together, _ = (process.communicate(timeout=300)[0] for process in both)
    assert len(together.splitlines()) == len(alone.splitlines()) == 4
    for one, two in zip(alone.splitlines(), together.splitlines()):
        (name, *expected), (_, *computed) = one.split(","), two.split(",")
        assert np.array(computed, float) == pytest.approx(np.array(expected, float), abs=1e-10), name
