"""What `--checkpoint-activations` saves and costs: memory kept for the backward pass, and time of forward and backward.

    python -m tests.benchmarks.recompute [--quick]

Encoders of volumes of 64 x 64 x 64 voxels, two in a batch; both ways are timed in turns in one process. The last line is JSON:
`ratios`, `goals`, `met`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from medssl.encoders import Encoder, ResidualUNet, ResNet, ViT
from medssl.training.recompute import recomputed
from tests.training.test_recompute import kept_bytes

ENCODERS: dict[str, Callable[[], Encoder]] = {
    "ResidualUNet": lambda: ResidualUNet(dims=3),
    "ResNet 18": lambda: ResNet(dims=3, depth=18),
    "ViT, 8 blocks of 384": lambda: ViT(dims=3, patch=8, width=384, depth=8, heads=6),
}
MOST_TIME = 1.5  # a second forward pass beside a backward pass that takes twice as long adds a third


def pass_s(encoder: Encoder, x: Tensor, again: bool) -> float:
    """Seconds of one forward and backward pass."""
    encoder.zero_grad()
    with recomputed(encoder, again):
        begun = time.perf_counter()
        torch.stack([level.square().mean() for level in encoder.features(x)]).sum().backward()
        return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two rounds in place of five")
    rounds = 2 if parser.parse_args().quick else 5
    torch.set_num_threads(1)
    x = torch.randn(2, 1, 64, 64, 64, generator=torch.Generator().manual_seed(0))
    ratios, met = {}, True
    for name, build in ENCODERS.items():
        encoder = build().train()
        everything = kept_bytes(encoder, x)
        with recomputed(encoder):
            less = kept_bytes(encoder, x)
        pass_s(encoder, x, False)
        times = [pass_s(encoder, x, True) / pass_s(encoder, x, False) for _ in range(rounds)]
        ratios[name] = {"memory": round(less / everything, 2), "time": round(statistics.median(times), 2)}
        print(
            f"{name}: {everything >> 20} MiB kept, {less >> 20} with the option; {ratios[name]['time']} times the time"
        )
        met &= ratios[name]["memory"] < 1 and ratios[name]["time"] <= MOST_TIME
    print(json.dumps({"ratios": ratios, "goals": {"memory": 1, "time": MOST_TIME}, "met": met}))


if __name__ == "__main__":
    main()
