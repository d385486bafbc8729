"""Restoring methods: every loss in float64 by its published formula, and what is corrupted."""

from functools import partial

import numpy as np
import pytest
import torch

from medssl.core.errors import MedsslError
from medssl.encoders import ResidualUNet, ResNet
from medssl.methods import VAE, Autoencoder, DenoisingAutoencoder, Method, ModelsGenesis
from medssl.methods.check import synthetic_batch
from medssl.methods.shared.masked_mean import masked_mean
from medssl.preprocessing.data_spec import DataSpec
from medssl.views.masking import random_box, shuffle_blocks
from medssl.views.random import make_keys

ENCODERS = {
    "resnet": lambda d: ResNet(d, depth=10, width=4, max_pool=False),
    "unet": lambda d: ResidualUNet(d, width=4, blocks=(1, 1, 1)),
}
CORRUPTING = {
    "DenoisingAutoencoder": DenoisingAutoencoder,
    "DenoisingAutoencoder, gaussian": partial(DenoisingAutoencoder, noise="gaussian", strength=0.2),
    "DenoisingAutoencoder, coarse": partial(DenoisingAutoencoder, noise="coarse", strength=0.2),
    "ModelsGenesis": ModelsGenesis,
}


def made(method: Method, size: tuple[int, ...], count: int = 3) -> dict:
    """A batch with views, in which some voxels are air."""
    torch.manual_seed(0)
    method.set_up_views(DataSpec(len(size), modality="MR"), size)
    batch = method.make_views(synthetic_batch(method.encoder, method.source_size(size), count))
    batch["valid_views"] = [(torch.rand_like(batch["views"][0][:, :1]) > 0.4).float()]
    return batch


@pytest.mark.parametrize("name", CORRUPTING)
def test_restoring_counts_the_squared_error_of_body_alone(name: str, agrees) -> None:
    """Reference: numpy in float64; tolerance 1e-5."""
    method = CORRUPTING[name](ENCODERS["unet"](3))
    batch = made(method, (16, 16, 16))
    with torch.no_grad():
        computed, shown = float(method.loss(batch)), method.reconstruct(batch)
    restored, x = shown["restored"].double().numpy(), batch["views"][0].double().numpy()
    body = batch["valid_views"][0].double().numpy()
    agrees(name.split(",")[0], "restoration", computed, ((restored - x) ** 2 * body).sum() / body.sum())
    other = batch | {"valid_views": [torch.ones_like(batch["valid_views"][0])]}
    assert abs(float(method.loss(other).detach()) - computed) > 1e-4, (
        "air would have made no difference: the test shows nothing"
    )


def test_a_batch_of_air_alone_gives_zero_and_no_nan() -> None:
    x = torch.rand(2, 1, 8, 8)
    assert float(masked_mean(x.square(), torch.zeros(2, 1, 8, 8))) == 0.0


def test_autoencoder_counts_every_voxel_and_nothing_leads_around_the_code(agrees) -> None:
    """Reference: numpy in float64; tolerance 1e-5. With the latent vector at 0 all scans are drawn alike."""
    method = Autoencoder(ENCODERS["unet"](2), latent=6)
    batch = made(method, (32, 32))
    x = batch["views"][0]
    with torch.no_grad():
        restored = method.restore(x).double().numpy()
        agrees("Autoencoder", "restoration", method.loss(batch), ((restored - x.double().numpy()) ** 2).mean())
        assert method.to_latent(method.encoder.features(x)).shape == (3, 6)
        for p in method.to_latent.parameters():
            p.zero_()
        blind = method.restore(x)
    assert torch.allclose(blind[0], blind[1], atol=1e-6)
    assert method.decoder is None


@pytest.mark.parametrize("beta", [1.0, 4.0])
def test_vae_is_the_negative_lower_bound_of_the_paper_in_float64(beta: float, agrees) -> None:
    """Kingma and Welling 2014, appendix B for the divergence and C.2 for the likelihood, written out in numpy."""
    method = VAE(ENCODERS["unet"](2), latent=5, beta=beta)
    batch = made(method, (32, 32))
    x = batch["views"][0]
    latents = []
    method.from_latent.register_forward_pre_hook(lambda _, given: latents.append(given[0]))
    with torch.no_grad():
        computed = float(method.loss(batch))
        restored = method.from_latent(latents[0], x.shape[2:]).double().numpy()
        numbers = method.to_latent(method.encoder.features(x)).double().numpy()
    mean, log_variance = np.split(numbers, 2, axis=1)
    divergence = -0.5 * (1 + log_variance - mean**2 - np.exp(log_variance)).sum()
    apart = (restored - x.double().numpy()) ** 2
    likelihood = -0.5 * np.log(2 * np.pi * apart.mean()) - apart / (2 * apart.mean())
    agrees("VAE", "lower bound", computed, beta * divergence / x.numel() - likelihood.mean())
    method.beta += x.numel() / len(x)  # in the loss a voxel's share of the divergence is small: here it counts whole
    with torch.no_grad():
        more = float(method.loss(batch)) - computed
    agrees("VAE", "divergence", more, divergence / len(x))


def test_vae_draws_its_latent_vector_around_the_mean_by_the_stated_deviation() -> None:
    method = VAE(ENCODERS["unet"](2), latent=64)
    batch = made(method, (32, 32), 200)
    latents = []
    method.from_latent.register_forward_pre_hook(lambda _, given: latents.append(given[0]))
    with torch.no_grad():
        method.loss(batch)
        latent = method.posterior(batch["views"][0])
    standard = ((latents[0] - latent.mean) / latent.stddev).numpy()
    assert abs(standard.mean()) < 0.03
    assert abs(standard.std() - 1) < 0.03


def test_samples_are_drawn_from_the_prior_by_seed() -> None:
    method = VAE(ENCODERS["unet"](3)).eval()
    first, again, other = (method.sample(3, (16, 24, 16), seed) for seed in (0, 0, 1))
    assert first.shape == (3, 1, 16, 24, 16)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])
    assert torch.equal(first[:2], method.sample(2, (16, 24, 16), 0)), "the first samples depend on how many are drawn"


def test_noise_is_of_the_stated_kind_and_strength() -> None:
    encoder, x, keys = ENCODERS["unet"](2), torch.rand(4, 1, 128, 128) + 1, make_keys(0, (torch.arange(4),))
    lost = DenoisingAutoencoder(encoder, "masking", 0.3).corrupt(x, keys)
    assert ((lost == 0) | (lost == x)).all()
    assert torch.allclose((lost == 0).float().flatten(1).mean(1), torch.tensor(0.3), atol=0.02)
    added = DenoisingAutoencoder(encoder, "gaussian", 0.2).corrupt(x, keys) - x
    assert torch.allclose(added.flatten(1).std(1), torch.tensor(0.2), rtol=0.03)
    coarse = DenoisingAutoencoder(encoder, "coarse", 0.2).corrupt(x, keys) - x
    steps = [(a[..., 1:] - a[..., :-1]).abs().mean() for a in (added, coarse)]
    assert steps[1] < 0.2 * steps[0], "coarse noise is not smooth"
    assert 0.08 < coarse.std() < 0.2  # linear interpolation takes some of the deviation away
    for kind in ("masking", "gaussian", "coarse"):
        method = DenoisingAutoencoder(encoder, kind, 0.2)
        assert torch.equal(method.corrupt(x, keys)[2:], method.corrupt(x[2:], keys[2:])), "damage depends on the batch"


def test_models_genesis_damages_as_often_as_the_paper_says() -> None:
    """Shares of 400 scans, each kind of damage alone; tolerance three standard errors."""
    keys, x = make_keys(0, (torch.arange(400),)), torch.rand(400, 1, 14, 14)
    encoder = ENCODERS["unet"](2)
    off = {"nonlinear": 0.0, "shuffle": 0.0, "paint": 0.0}
    for name, chance in (("nonlinear", 0.9), ("shuffle", 0.5), ("paint", 0.9)):
        seen = ModelsGenesis(encoder, **off | {name: chance}).corrupt(x, keys)
        changed = (seen != x).flatten(1).any(1).float().mean()
        # one in four shuffles is of single voxels; one in twenty scans painted inwards (a fifth) has no box
        expected = chance * {"nonlinear": 1.0, "shuffle": 0.75, "paint": 0.99}[name]
        assert abs(changed - expected) < 3 * (expected * (1 - expected) / 400) ** 0.5


def test_painting_covers_boxes_inwards_and_all_but_boxes_outwards() -> None:
    keys, size = make_keys(0, (torch.arange(60),)), (21, 21, 21)
    method = ModelsGenesis(ENCODERS["unet"](3))
    inward = torch.arange(60) % 2 == 0
    covered = method.covered(keys, size, inward)[:, 0].float().flatten(1).mean(1)
    assert covered[inward].max() <= 5 / 27  # five boxes of a third an axis at most
    assert 0 < covered[inward].mean() < covered[~inward].mean()
    assert covered[~inward].max() <= 1 - (8 / 21) ** 3  # one box is kept at least
    for least, most in ((1 / 6, 1 / 3), (3 / 7, 4 / 7)):
        for one in random_box(keys[:20], size, (least, most)):
            filled = one.nonzero()
            edges = filled.amax(0) - filled.amin(0) + 1
            assert int(edges.prod()) == int(one.sum()), "no box"
            assert edges.min() >= 21 * least - 1
            assert edges.max() <= 21 * most + 1


@pytest.mark.parametrize("dims", [2, 3])
def test_shuffling_moves_voxels_within_a_tenth_of_the_scan_and_loses_none(dims: int) -> None:
    edge = 40
    grid = torch.stack(torch.meshgrid(*[torch.arange(float(edge))] * dims, indexing="ij"))[None].repeat(
        6, *[1] * (dims + 1)
    )
    keys = make_keys(0, (torch.arange(6),))
    moved = shuffle_blocks(grid, keys)
    assert (moved - grid).abs().max() <= edge // 10 - 1
    assert (moved != grid).any()
    number = sum(grid[:, a] * edge**a for a in range(dims)).flatten(1)
    again = sum(moved[:, a] * edge**a for a in range(dims)).flatten(1)
    assert torch.equal(again.sort(1).values, number.sort(1).values), "channels came apart, or voxels were lost"
    assert torch.equal(shuffle_blocks(grid[2:3], keys[2:3]), moved[2:3])


def test_settings_that_cannot_work_are_said_before_the_first_step() -> None:
    encoder = ENCODERS["unet"](2)
    with pytest.raises(MedsslError, match="latent is 0"):
        Autoencoder(encoder, latent=0)
    with pytest.raises(MedsslError, match=r"has 64 values.*copy; pass --method.latent 4"):
        Autoencoder(encoder).check((8, 8), 4)
    with pytest.raises(MedsslError, match=r"has 64 values.*--method.latent 4"):
        VAE(encoder).check((8, 8), 4)
    with pytest.raises(MedsslError, match="latent is 0, beta is 1"):
        VAE(encoder, latent=0)
    with pytest.raises(MedsslError, match="strength is 1.0"):
        DenoisingAutoencoder(encoder, strength=1.0)
    with pytest.raises(MedsslError, match="inward is 2"):
        ModelsGenesis(encoder, inward=2)
    with pytest.raises(MedsslError, match="all 0"):
        ModelsGenesis(encoder, nonlinear=0, shuffle=0, paint=0)
    with pytest.raises(MedsslError, match="--crop 32 32"):
        DenoisingAutoencoder(encoder).check((33, 30), 4)
