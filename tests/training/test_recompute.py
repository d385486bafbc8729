"""Blocks that are computed again in the backward pass: the same weights to the last bit, with less kept in memory."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from medssl.cli.main import main
from medssl.core.errors import MedsslError
from medssl.encoders import Encoder, ResidualUNet, ResNet, ViT
from medssl.preprocessing.cache import Cache
from medssl.training.recompute import blocks, recomputed

ENCODERS: dict[str, Callable[[], Encoder]] = {
    "ResNet": lambda: ResNet(dims=2, depth=18, width=8, max_pool=False),  # batch norm
    "ResidualUNet": lambda: ResidualUNet(dims=2, width=8, blocks=(1, 2, 2)),
    "ViT": lambda: ViT(dims=2, patch=8, width=48, depth=4, heads=2),
}


def kept_bytes(encoder: Encoder, x: Tensor) -> int:
    """Bytes of all that a forward pass keeps for the backward pass, weights apart; each storage counts once."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*encoder.parameters(), *encoder.buffers())}
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        levels = encoder.features(x)
        kept = sum(storages.values())
    del levels
    return kept


def trained(encoder: Encoder, x: Tensor, again: bool) -> Encoder:
    """The encoder after two steps."""
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(encoder.train().parameters(), lr=0.1)
    with recomputed(encoder, again):
        for _ in range(2):
            optimizer.zero_grad()
            sum(level.square().mean() for level in encoder.features(x)).backward()
            optimizer.step()
    return encoder


@pytest.mark.parametrize("name", ENCODERS)
def test_two_steps_give_the_same_weights_and_running_statistics(name: str) -> None:
    encoder = ENCODERS[name]()
    x = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    start = copy.deepcopy(encoder.state_dict())
    plain, again = (trained(copy.deepcopy(encoder), x, wanted).state_dict() for wanted in (False, True))
    assert plain.keys() == again.keys() == start.keys()
    assert all(torch.equal(plain[key], again[key]) for key in plain)
    assert any(not torch.equal(plain[key], start[key]) for key in plain)


def test_a_dropped_unit_is_dropped_again() -> None:
    net = nn.Sequential(*(nn.Sequential(nn.Linear(16, 16), nn.Dropout(0.5), nn.Linear(16, 16)) for _ in range(2)))
    x, gradients = torch.ones(8, 16), []
    for wanted in (False, True):
        net.zero_grad()
        torch.manual_seed(3)
        with recomputed(net, wanted):
            net(x).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in net.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients))


@pytest.mark.parametrize(("name", "share"), [("ResNet", 0.5), ("ResidualUNet", 0.75), ("ViT", 0.25)])
def test_less_is_kept_for_the_backward_pass(name: str, share: float) -> None:
    encoder, x = ENCODERS[name](), torch.randn(4, 1, 32, 32)
    everything = kept_bytes(encoder, x)
    with recomputed(encoder):
        less = kept_bytes(encoder, x)
    assert 0 < less < share * everything
    assert kept_bytes(encoder, x) == everything  # the encoder is as it was


def test_a_copy_made_meanwhile_computes_with_its_own_weights() -> None:
    encoder, x = ENCODERS["ResNet"]().train(), torch.randn(2, 1, 32, 32)
    with recomputed(encoder):
        copied = copy.deepcopy(encoder)
        for parameter in copied.parameters():
            parameter.data.zero_()
        assert not copied.features(x)[-1].any()
        assert encoder.features(x)[-1].any()


def test_a_network_without_blocks_is_refused() -> None:
    assert blocks(nn.Sequential(nn.Linear(2, 2), nn.ReLU())) == []
    with pytest.raises(MedsslError, match="--accumulate"), recomputed(nn.Linear(2, 2)):
        pass


def test_pretraining_gives_the_same_weights(cache: Cache, tmp_path: Path) -> None:
    common = [
        "pretrain",
        "--data",
        str(cache.path),
        "--method",
        "MoCo",
        "--crop",
        "16",
        "16",
        "16",
        "--accelerator",
        "cpu",
    ]
    common += ["--encoder", "ResNet", "--encoder.dims", "3", "--encoder.depth", "10", "--encoder.width", "4"]
    common += ["--encoder.max_pool", "false", "--steps", "3", "--batch-size", "4", "--on-collapse", "warn", "--out"]
    assert main([*common, str(tmp_path / "plain")]) == 0
    assert main([*common, str(tmp_path / "again"), "--checkpoint-activations", "true"]) == 0
    plain, again = (load_file(tmp_path / name / "method.safetensors") for name in ("plain", "again"))
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[key], again[key]) for key in plain)
