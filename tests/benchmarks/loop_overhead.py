"""What medssl's pretraining loop costs over a bare PyTorch loop with the same encoder, batch and precision.

    python tests/benchmarks/loop_overhead.py [--quick] [--precision bf16-mixed]

Both train the same SimMIM on random crops of the same cache with the same views and AdamW, in turns in one process, so
that a busy machine slows both alike. The last line is JSON: `ratios`, `goals`, `met`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from medssl.datasets.index import index
from medssl.datasets.phantom.cohort import phantom
from medssl.encoders import ResidualUNet
from medssl.methods import SimMIM
from medssl.preprocessing.cache import Cache, prepare
from medssl.preprocessing.crops import Crops, StepSampler
from medssl.training.config import Monitoring, TrainConfig
from medssl.training.pretrain import pretrain
from medssl.training.samples import pretraining_scans

CROP, BATCH, GOAL = (32, 32, 32), 8, 1.15


def bare(cache: Cache, steps: int, precision: str) -> float:
    """Seconds a step of the loop one would write by hand."""
    torch.manual_seed(0)
    module = SimMIM(ResidualUNet(3, width=16, blocks=(1, 1, 1, 1)))
    module.set_up_views(cache.data_spec, CROP)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    module.to(device)
    crops = Crops(cache, pretraining_scans(cache), module.source_size(CROP), 0)
    loader = DataLoader(crops, batch_sampler=StepSampler(BATCH, steps))
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    begun = time.perf_counter()
    for batch in loader:
        batch = {k: v.to(device) for k, v in batch.items()}
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16-mixed"):
            loss = module.loss(module.make_views(batch))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        loss.item()
    return (time.perf_counter() - begun) / steps


def ours(cache: Cache, steps: int, precision: str, out: Path) -> float:
    """Seconds a step of `medssl.training.pretrain`, its logs, its progress bar and its looks at the representation included."""
    encoder = ResidualUNet(3, width=16, blocks=(1, 1, 1, 1))
    train = TrainConfig(steps, BATCH, precision=precision)
    monitoring = Monitoring(monitor_every=max(50, steps // 10))
    run = pretrain(cache.path, out, encoder, SimMIM, CROP, train, monitoring=monitoring)
    return BATCH / run.cost["samples_per_s"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--precision", default="32-true", choices=["32-true", "bf16-mixed"])
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    steps, rounds = (20, 1) if given.quick else (100, 3)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        index([phantom(root / "scans", patients=12) / "dicom"], root / "manifest")
        cache = prepare(root / "manifest", root / "cache", spacing_mm=(6.0, 6.0, 6.0))
        bare(cache, 3, given.precision)
        pairs = [
            (bare(cache, steps, given.precision), ours(cache, steps, given.precision, root / f"run{n}"))
            for n in range(rounds)
        ]
    for n, (a, b) in enumerate(pairs):
        print(
            f"round {n}: bare {1000 * a:.0f} ms, medssl {1000 * b:.0f} ms a step of {BATCH} crops of {CROP}, {given.precision}"
        )
    ratio = statistics.median(b / a for a, b in pairs)
    print(
        json.dumps(
            {
                "ratios": {"pretrain_over_bare": round(ratio, 3)},
                "goals": {"pretrain_over_bare": GOAL},
                "met": ratio <= GOAL,
            }
        )
    )


if __name__ == "__main__":
    main()
