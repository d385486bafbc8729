"""Losses, scores and digests of a small index, prepare, pretrain, study and report on the phantom, with fixed seeds.

    python -m tests.bit_equality before.json                      # on the tree as it was
    python -m tests.bit_equality after.json --against before.json # on the tree as it is; exit 1 where a number differs

For a change that must change no result. The numbers depend on the processor, so none are kept in the repository.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import medssl
from medssl.encoders.resenc import ResidualUNet
from medssl.methods.simclr import SimCLR
from medssl.methods.simmim import SimMIM
from medssl.studies.settings import StudyDesign
from medssl.training.config import FinetuneConfig, Hardware, TrainConfig

NOT_RESULTS = ("seconds", "memory", "samples_per", "cost", "wall")


def measure(out: Path) -> dict[str, Any]:
    """The numbers, by name; `out` is an empty folder."""
    numbers: dict[str, Any] = {}
    medssl.phantom(out / "scans", patients=14, shape=(32, 32, 24), spacing_mm=(10, 10, 12))
    (out / "manifest").mkdir()
    (out / "manifest" / "pseudonym.key").write_bytes(bytes(range(32)))
    labels = out / "scans" / "labels.csv"
    medssl.index(
        [out / "scans"],
        out / "manifest",
        labels=labels,
        patient="patient",
        label=["lesion", "kind", "scanner"],
        mask="../../masks/{name}.nii.gz",
    )
    manifest = pd.read_parquet(out / "manifest" / "manifest.parquet")
    numbers["index.rows"] = len(manifest)
    numbers["index.digest"] = digest(manifest.reindex(sorted(manifest), axis=1).to_csv(index=False).encode())
    numbers["prepare.digest"] = medssl.prepare(out / "manifest", out / "cache", spacing_mm=(10.0, 10.0, 10.0)).digest
    for method in (SimMIM, SimCLR):
        numbers |= pretraining(out, method)
    for task, options in (("segmentation", {}), ("classification", {"label": "lesion"})):
        numbers |= study(out, task, options)
    return numbers


def pretraining(out: Path, method: type) -> dict[str, Any]:
    name = method.__name__.lower()
    folder = out / "runs" / name
    encoder = ResidualUNet(dims=3, width=8, blocks=(1, 1, 1))
    train = TrainConfig(steps=8, batch_size=4, lr=2e-3)
    hardware = Hardware(accelerator="cpu", devices=1)
    run = medssl.pretrain(out / "cache", folder, encoder, method, (16, 16, 16), train, hardware)
    return {
        f"pretrain.{name}.losses": pd.read_csv(folder / "metrics.csv")["loss"].tolist(),
        f"pretrain.{name}.encoder": digest((folder / "encoder.safetensors").read_bytes()),
        f"pretrain.{name}.method": digest((folder / "method.safetensors").read_bytes()),
        f"pretrain.{name}.metrics": dict(run.metrics),
    }


def study(out: Path, task: str, options: dict[str, Any]) -> dict[str, Any]:
    arms = ["scratch", "random-frozen", str(out / "runs" / "simmim")]
    train, design = FinetuneConfig(steps=6, batch_size=2, warmup=2), StudyDesign(draws=2)
    folder = out / f"study-{task}"
    table = medssl.study(out / "cache", folder, task, arms, ["30%", "100%"], train=train, design=design, **options)
    numbers = [c for c in table if table[c].dtype.kind in "fiu" and not any(word in c for word in NOT_RESULTS)]
    names = [c for c in ("arm", "mode", "budget_name", "metric", "structure") if c in table]
    medssl.report(folder, out / f"{task}.html")
    text = re.sub(r"<[^>]+>", " ", (out / f"{task}.html").read_text())
    return {
        f"study.{task}.table": json.loads(table[names + numbers].to_json(orient="records", double_precision=15)),
        f"report.{task}.numbers": len(re.findall(r"\d\.\d+", text)),
    }


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--against", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        numbers = json.loads(json.dumps(measure(Path(folder)), default=str))
    options.out.write_text(json.dumps(numbers, indent=1))
    if options.against is None:
        return 0
    before = json.loads(options.against.read_text())
    wrong = [name for name in numbers if numbers[name] != before.get(name)]
    print(f"{len(numbers) - len(wrong)} of {len(numbers)} equal; differ: {', '.join(wrong) or 'none'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
