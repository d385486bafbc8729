"""What a step of MAE costs beside one of SimMIM on the same ViT, three quarters of the patches masked.

    python tests/benchmarks/mae_cost.py [--quick] [--encoder vit_b]

Both see the same batch; forward and backward are timed in turns in one process, so that a busy machine slows both alike.
SimMIM has its paper's linear head, the cheapest there is; MAE a decoder of 4 blocks, 384 wide. The last line is JSON:
`ratios`, `goals`, `met`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch

from medssl.encoders import ViT
from medssl.methods import MAE, Method, SimMIM
from medssl.methods.check import synthetic_batch

GOAL = 0.45
ENCODERS = {
    "vit_b": {"width": 768, "depth": 12, "heads": 12},
    "vit_s": {"width": 384, "depth": 12, "heads": 6},
}
SETTINGS = {2: ((224, 224), 16), 3: ((96, 96, 96), 16)}  # the crop and the patch


def step_s(method: Method, batch: dict) -> float:
    """Seconds of one forward and backward pass."""
    method.zero_grad()
    begun = time.perf_counter()
    method.loss(dict(batch)).backward()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def measure(dims: int, encoder: str, rounds: int, count: int) -> tuple[float, float, float]:
    """Seconds of MAE's and of SimMIM's step, and the median of their ratios."""
    crop, patch = SETTINGS[dims]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    made = [ViT(dims, patch=patch, **ENCODERS[encoder]) for _ in range(2)]
    mae = MAE(made[0], decoder_depth=4, decoder_width=384, decoder_heads=6).to(device)
    simmim = SimMIM(made[1], mask_ratio=0.75, mask_block=patch, decoder_kind="linear").to(device)
    batch: dict = {
        k: v.to(device) for k, v in synthetic_batch(made[0], crop, count).items() if isinstance(v, torch.Tensor)
    }
    batch |= {"views": [batch["source"]], "valid_views": [batch["valid"].float()]}
    for method in (mae, simmim):
        step_s(method, batch)
    pairs = [(step_s(mae, batch), step_s(simmim, batch)) for _ in range(rounds)]
    return min(a for a, _ in pairs), min(b for _, b in pairs), statistics.median(a / b for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--encoder", default="vit_b", choices=list(ENCODERS))
    given = parser.parse_args()
    rounds, count = (3, 2) if given.quick else (7, 8)
    ratios = {}
    for dims in SETTINGS:
        mae, simmim, ratio = measure(dims, given.encoder, rounds, count)
        print(
            f"{dims}D {SETTINGS[dims][0]}, {given.encoder}: MAE {1000 * mae:.0f} ms, SimMIM {1000 * simmim:.0f} ms a step"
        )
        ratios[f"mae_over_simmim_{dims}d"] = round(ratio, 3)
    goals = dict.fromkeys(ratios, GOAL)
    print(json.dumps({"ratios": ratios, "goals": goals, "met": all(r <= GOAL for r in ratios.values())}))


if __name__ == "__main__":
    main()
