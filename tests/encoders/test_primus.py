"""Primus has the names and the tokens of dynamic-network-architectures, and encodes what is kept alone."""

from __future__ import annotations

import pytest
import torch
from dynamic_network_architectures.architectures.primus import Primus as OriginalPrimus
from dynamic_network_architectures.architectures.primus import PrimusX

from medssl.core.errors import MedsslError
from medssl.encoders import Primus, check_encoder

SIZE = (16, 24, 8)


def small(channels: int = 1) -> Primus:
    return Primus(3, channels, SIZE, 4, width=48, depth=2, heads=2)


@pytest.mark.parametrize("channels", [1, 3])
def test_tokens_equal_the_original_s_with_the_same_weights(channels: int) -> None:
    torch.manual_seed(0)
    theirs = OriginalPrimus(channels, 48, (4, 4, 4), 2, 2, 2, input_shape=SIZE).eval()
    ours = small(channels).eval()
    kept = {name: value for name, value in theirs.state_dict().items() if not name.startswith("up_projection.")}
    ours.net.load_state_dict(kept, strict=True)
    maps: list[torch.Tensor] = []
    theirs.up_projection.register_forward_pre_hook(lambda module, given: maps.append(given[0]))
    x = torch.randn(2, channels, *SIZE)
    theirs(x)
    assert torch.allclose(ours.features(x)[-1], maps[0], atol=1e-6)


def test_only_kept_patches_are_encoded_and_each_knows_its_place() -> None:
    torch.manual_seed(0)
    encoder, x = small().eval(), torch.randn(2, 1, *SIZE)
    everything = torch.arange(48).expand(2, 48)
    assert torch.allclose(encoder.tokens(x, everything.flip(1)).flip(1), encoder.tokens(x), atol=1e-5)
    past = torch.ones(2, 48, 48, dtype=torch.bool).tril()
    changed = x.clone()
    changed[:, :, 12:, 20:, 4:] += 1  # the last patch
    assert torch.allclose(
        encoder.tokens(changed, attend=past)[:, :47], encoder.tokens(x, attend=past)[:, :47], atol=1e-5
    )
    assert not torch.allclose(encoder.tokens(changed)[:, :47], encoder.tokens(x)[:, :47], atol=1e-4)


def test_another_crop_has_its_own_positions_and_the_contract_holds() -> None:
    check_encoder(small(), (8, 12, 16))


def test_rotary_positions_of_another_crop_are_those_of_a_network_made_for_it_where_the_scale_is_the_same() -> None:
    """timm divides a place by the crop's patches and multiplies by those of the reference: half the patches, twice the step."""
    twice = small()._rotary((8, 12, 4), torch.zeros(1))
    own = small()._rotary((4, 6, 2), torch.zeros(1))
    assert torch.allclose(twice.unflatten(0, (8, 12, 4))[::2, ::2, ::2].flatten(0, 2), own, atol=1e-6)


def test_presets_are_the_published_sizes() -> None:
    with torch.device("meta"):
        ours = Primus(3, 1, (32, 32, 32), preset="M")
        theirs = PrimusX(1, 2, "M", (8, 8, 8), (32, 32, 32))
    kept = {n: p.shape for n, p in theirs.state_dict().items() if not n.startswith("up_projection.")}
    assert {n: p.shape for n, p in ours.net.state_dict().items()} == kept


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(MedsslError, match="6 x heads divides"):
        Primus(width=64, heads=4)
    with pytest.raises(MedsslError, match="dims is 2"):
        Primus(2)
    with pytest.raises(MedsslError, match="--crop"):
        small()(torch.randn(1, 1, 10, 24, 8))
