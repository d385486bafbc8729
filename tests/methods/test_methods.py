"""SimCLR, SimMIM and Rotation: each loss equals an independent reference."""

import numpy as np
import pytest
import torch

from medssl.core.errors import MedsslError
from medssl.encoders import ResidualUNet, ResNet
from medssl.methods import Rotation, SimCLR, SimMIM
from medssl.methods.check import synthetic_batch
from medssl.preprocessing.data_spec import DataSpec

ENCODERS = {
    "resnet": lambda d: ResNet(d, depth=10, width=4, max_pool=False),
    "unet": lambda d: ResidualUNet(d, width=4, blocks=(1, 1, 1)),
}


def test_nt_xent_equals_the_published_formula_in_float64(agrees) -> None:
    """Chen et al. 2020, equation 1, written out in numpy; tolerance 1e-5."""
    torch.manual_seed(1)
    method = SimCLR(ENCODERS["unet"](2), temperature=0.3)
    method.set_up_views(DataSpec(2, modality="MR"), (32, 32))
    batch = method.make_views(synthetic_batch(method.encoder, (48, 48), 5))
    with torch.no_grad():
        computed = float(method.loss(batch))
        z = method.head(method.encoder(torch.cat(batch["views"]))).double().numpy()
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    similar = np.exp(z @ z.T / 0.3)
    expected = np.mean([-np.log(similar[i, (i + 5) % 10] / (similar[i].sum() - similar[i, i])) for i in range(10)])
    agrees("SimCLR", "NT-Xent", computed, expected)


def test_simmim_counts_masked_body_voxels_only(agrees) -> None:
    """Xie et al. 2022: the mean absolute error over what was masked, here in numpy; air is never counted."""
    method = SimMIM(ENCODERS["unet"](3), mask_ratio=0.5)
    batch = synthetic_batch(method.encoder, (16, 16, 16), 3)
    batch["views"], batch["valid_views"] = [batch["source"]], [(torch.rand(3, 1, 16, 16, 16) > 0.4).float()]
    mask = method.mask_of(batch)
    assert mask.flatten(1).mean(1).tolist() == [0.5] * 3
    assert set(mask.unfold(2, 8, 8).unfold(3, 8, 8).unfold(4, 8, 8).flatten(5).mean(-1).unique().tolist()) == {0.0, 1.0}
    with torch.no_grad():
        restored = method.predict(batch["views"][0], mask)[0].double().numpy()
        computed = float(method.loss(batch))
    x, counted = batch["views"][0].double().numpy(), (mask * batch["valid_views"][0]).double().numpy()
    agrees("SimMIM", "masked voxels", computed, (np.abs(restored - x) * counted).sum() / counted.sum())
    other = torch.where(mask > 0, torch.rand_like(mask), batch["views"][0])
    assert torch.equal(
        method.predict(other, mask)[0], method.predict(batch["views"][0], mask)[0]
    )  # what is masked is not seen


def test_a_voxel_keeps_its_place_in_the_scan_through_crop_turn_and_zoom() -> None:
    """The picture is itself a map of places, so every view of it must show the place the target names."""
    method = SimMIM(ENCODERS["unet"](3), mask_block=4, place_weight=0.5)
    method.set_up_views(DataSpec(3, modality="MR", spacing_mm=(1.0, 1.0, 2.0)), (16, 16, 16))
    extent, start, source = (40, 30, 24), (10, 3, -2), (24, 24, 24)
    batch = synthetic_batch(method.encoder, source, 4)
    batch |= {"start": torch.tensor([start] * 4), "extent": torch.tensor([extent] * 4)}
    inside = [(torch.arange(s, s + n) >= 0) & (torch.arange(s, s + n) < e) for s, n, e in zip(start, source, extent)]
    batch["valid"] = torch.stack(torch.meshgrid(*inside, indexing="ij")).all(0)[None, None].repeat(4, 1, 1, 1, 1)
    axes = [torch.arange(s, s + n) / (e - 1) * 2 - 1 for s, n, e in zip(start, source, extent)]
    for axis, grid in enumerate(torch.meshgrid(*axes, indexing="ij")):
        batch["source"] = grid[None, None].repeat(4, 1, 1, 1, 1)
        made = method.make_views(dict(batch))
        apart = (made["views"][0][:, 0] - made["coordinate_views"][0][:, axis]).abs()[made["valid_views"][0][:, 0] > 0]
        assert apart.quantile(0.99) < 2 / (extent[axis] - 1), "more than a voxel off"


def test_the_error_in_place_is_weighted_in(agrees) -> None:
    method = SimMIM(ENCODERS["unet"](2), place_weight=0.25)
    method.set_up_views(DataSpec(2, modality="MR"), (32, 32))
    batch = method.make_views(synthetic_batch(method.encoder, (48, 48), 3))
    with torch.no_grad():
        computed = float(method.loss(batch))
        predicted = method.predict(batch["views"][0], method.mask_of(batch))
    restored, places, x, truth, body, mask = (
        t.double().numpy()
        for t in (
            *predicted,
            *(batch[k][0] for k in ("views", "coordinate_views", "valid_views")),
            method.mask_of(batch),
        )
    )
    error = (np.abs(restored - x) * body * mask).sum() / (body * mask).sum()
    off = (np.abs(places - truth) * body).sum() / (2 * body.sum())
    agrees("SimMIM", "places", computed, error + 0.25 * off)


def test_with_intensities_to_restore_every_voxel_of_body_counts(agrees) -> None:
    torch.manual_seed(0)
    method = SimMIM(ENCODERS["unet"](2), restore_intensity=True)
    batch = synthetic_batch(method.encoder, (32, 32), 3)
    batch["views"], batch["valid_views"] = [batch["source"]], [(torch.rand(3, 1, 32, 32) > 0.4).float()]
    with torch.no_grad():
        computed, shown = float(method.loss(batch)), method.reconstruct(batch)
    restored, x, body = (t.double().numpy() for t in (shown["restored"], batch["source"], batch["valid_views"][0]))
    agrees("SimMIM", "intensities", computed, (np.abs(restored - x) * body).sum() / body.sum())
    assert (shown["corrupted"] != shown["source"]).any()


def test_a_batch_of_air_alone_gives_zero_and_no_nan() -> None:
    method = SimMIM(ENCODERS["unet"](2))
    batch = synthetic_batch(method.encoder, (32, 32), 2)
    batch["views"], batch["valid_views"] = [batch["source"] * 0], [torch.zeros(2, 1, 32, 32)]
    assert float(method.loss(batch)) == 0.0


def test_rotation_can_be_learnt_and_chance_is_one_in_24() -> None:
    method = Rotation(ENCODERS["unet"](3))
    method.head[1].weight.data.zero_(), method.head[1].bias.data.zero_()
    batch = synthetic_batch(method.encoder, (16, 16, 16), 4)
    batch["views"] = [batch["source"]]
    assert float(method.loss(batch)) == pytest.approx(np.log(24), abs=1e-4)


def test_settings_that_cannot_work_are_said_before_the_first_step() -> None:
    encoder = ENCODERS["unet"](3)
    with pytest.raises(MedsslError, match="too small for SimCLR"):
        SimCLR(encoder).check((16, 16, 16), 1)
    with pytest.raises(MedsslError, match="unequal edges"):
        Rotation(encoder).check((16, 16, 32), 4)
    with pytest.raises(MedsslError, match="--crop 24 16 16"):
        SimMIM(encoder).check((22, 16, 16), 4)
    with pytest.raises(MedsslError, match="mask_ratio is 1.5"):
        SimMIM(encoder, mask_ratio=1.5)
