"""Does each method learn what lightly's does? The same encoder, weights, views, samples and optimiser, and two codes.

    python tests/benchmarks/beside_lightly.py --data DATA --out runs/beside              # all of them, 3 seeds
    python tests/benchmarks/beside_lightly.py --data DATA --out runs/beside --only DINO  # what is there is not done again
    python tests/benchmarks/beside_lightly.py --data DATA --out runs/beside --quick      # one short pair, about a minute

`DATA` is the folder that holds `chest_xray`. In each step one batch of films and its views, made by our recipes, go to our
method and to the same method of lightly's parts (`lightly_methods.py`), which begin with the same encoder. Then kNN and a
linear probe learn from the films of 10% of the training patients (the mean of ten draws) whether a film shows pneumonia;
the figure is the AUROC on films of the test patients, beside that of the untrained encoder (its batch norms with the
statistics of films).

Both agree where the 95% t interval of the seeds' paired differences holds 0. Prints a Markdown table; the last line is
JSON: `ratios` (the mean difference over half of its interval), `goals` (1), `met`.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import random
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student_t
from torch import nn
from torch.utils.data import default_collate

import medssl
import medssl.methods
from medssl.core.atomic import write_atomically
from medssl.datasets.splits import label_budgets
from medssl.encoders import Encoder, ResNet, ViT
from medssl.evaluation.metrics import auroc
from medssl.evaluation.representation import calibrate_norms, embed, knn_scores, linear_scores
from medssl.methods import Method
from medssl.preprocessing.cache import Cache
from medssl.preprocessing.crops import Crops, source_within
from medssl.training.config import TrainConfig
from medssl.training.engine import Group, adamw, quiet_third_parties
from medssl.training.samples import pretraining_scans
from tests.benchmarks.lightly_methods import RIVALS, Rival

SPLIT = medssl.SplitSpec(1)
LABEL = "label.finding"
PROBES = ("knn", "linear")
CODES = ("ours", "lightly", "untrained")
TOKENS = ("MAE", "IBOT", "SimMIM", "AIM")  # methods of patches, which need a ViT
SETTINGS: dict[str, dict[str, Any]] = {  # heads that suit so small an encoder; SimMIM as its paper and lightly have it
    "MAE": {"decoder_width": 96, "decoder_depth": 2},
    "AIM": {"head_width": 96, "head_depth": 2},
    "IBOT": {"prototypes": 256, "hidden_width": 256, "bottleneck": 128},
    "SimMIM": {"decoder_kind": "linear", "mask_block": 4},
}
BUDGET, DRAWS = "10%", 10  # of the training patients, whose films the probes learn from


@dataclass(frozen=True)
class Setting:
    """How every pair is trained.

    Attributes:
        pixels: Edge of a film.
        train: Steps, batch and optimiser.
    """

    pixels: int = 32
    train: TrainConfig = TrainConfig(steps=100, batch_size=64, warmup=10)

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels, self.pixels

    @property
    def name(self) -> str:
        return f"{self.pixels}px-{self.train.steps}x{self.train.batch_size}"


def films(data: Path, out: Path, setting: Setting) -> Cache:
    """The chest films, prepared at the setting's size; what is there already is taken as it is."""
    source, folder = data / "chest_xray", out / f"films-{setting.pixels}px"
    if not (folder / "cache" / "cache.json").exists():
        labels = {"labels": source / "images.csv", "patient": "patient", "label": ["finding"]}
        medssl.index([source], folder / "manifest", modality="DX", **labels)
        medssl.prepare(folder / "manifest", folder / "cache", size=setting.size)
    return Cache(folder / "cache")


def untrained(tokens: bool, seed: int) -> Encoder:
    """The encoder that both begin with, a ViT for methods of tokens."""
    torch.manual_seed(seed)
    return ViT(2, patch=4, width=64, depth=3, heads=4) if tokens else ResNet(2, 1, 10, 16, max_pool=False)


@functools.lru_cache
def untrained_scores(tokens: bool, seed: int, cache: Cache, setting: Setting) -> dict[str, float]:
    """AUROC of each probe on the encoder before training, whose batch norms get the statistics of films."""
    encoder = untrained(tokens, seed)
    calibrate_norms(encoder, cache, pretraining_scans(cache, SPLIT), setting.size)
    return scores(encoder, cache, setting)


def pair(name: str, setting: Setting, seed: int) -> tuple[Method, Rival]:
    """Our method and lightly's, on the same untrained encoder."""
    random.seed(seed)  # lightly's block masks
    encoder = untrained(name in TOKENS, seed)
    torch.manual_seed(seed)
    ours = getattr(medssl.methods, name)(copy.deepcopy(encoder), **SETTINGS.get(name, {}))
    torch.manual_seed(seed)
    return ours, RIVALS[name](copy.deepcopy(encoder), ours, setting.size)


class Pupil:
    """A method with its optimiser and schedule.

    Args:
        method: Ours or lightly's.
        train: The optimisation.
    """

    def __init__(self, method: Method | Rival, train: TrainConfig):
        self.method, self.parts = method.train(), adamw([Group(method)], train)
        method.progress.total_steps = train.steps

    def step(self, batch: dict[str, Any]) -> None:
        """One step of the optimiser, in the order and with the clipping of `medssl pretrain`."""
        optimizer, schedule = self.parts["optimizer"], self.parts["lr_scheduler"]["scheduler"]
        optimizer.zero_grad()
        loss = self.method.loss(batch)
        if not torch.isfinite(loss):
            raise SystemExit(f"{type(self.method).__name__}: the loss is {float(loss)}, expected a finite number")
        loss.backward()
        nn.utils.clip_grad_norm_(self.method.parameters(), 1.0)
        self.method.before_step()
        optimizer.step()
        schedule.step()
        self.method.after_step()
        self.method.progress.step += 1


def train_both(ours: Method, theirs: Rival, cache: Cache, setting: Setting, seed: int) -> None:
    """Both on the same views of the same films, in turns."""
    scans = pretraining_scans(cache, SPLIT)
    ours.check(setting.size, setting.train.batch_size)
    ours.set_up_views(cache.data_spec, setting.size)
    crops = Crops(cache, scans, source_within(cache, scans, ours.source_size(setting.size), setting.size), seed)
    pupils, count = [Pupil(ours, setting.train), Pupil(theirs, setting.train)], setting.train.batch_size
    for step in range(setting.train.steps):
        batch = ours.make_views(default_collate([crops[step * count + i] for i in range(count)]))
        for pupil in pupils:
            pupil.step(batch)


def scores(encoder: Encoder, cache: Cache, setting: Setting) -> dict[str, float]:
    """AUROC of each probe on the films of the test patients, the mean of the draws of training patients."""
    manifest, roles = cache.manifest, SPLIT.roles(cache.manifest)
    features = embed(encoder, cache, list(manifest["scan"]), setting.size)
    classes = sorted(manifest[LABEL].unique())
    labels, patients = manifest[LABEL].map(classes.index).to_numpy(), manifest["patient"]
    subsets = label_budgets(roles, manifest.groupby("patient")[LABEL].unique().to_dict(), [BUDGET], draws=DRAWS)
    test, computed = (patients.map(roles) == "test").to_numpy(), []
    for _, subset in subsets.groupby("draw"):
        train = patients.isin(subset["patient"]).to_numpy()
        given = (features[train], labels[train], features[test], len(classes))
        computed.append([auroc(labels[test], guess(*given)[:, 1]) for guess in (knn_scores, linear_scores)])
    return dict(zip(PROBES, np.mean(computed, axis=0).tolist()))


def result(name: str, cache: Cache, setting: Setting, seed: int, out: Path) -> dict[str, Any]:
    """The scores of a pair; what stands in the output folder is not done again."""
    file = out / setting.name / f"{name}-{seed}.json"
    if file.exists():
        return json.loads(file.read_text())
    ours, theirs = pair(name, setting, seed)
    train_both(ours, theirs, cache, setting, seed)
    computed = {
        "method": name,
        "seed": seed,
        "ours": scores(ours.final_encoder, cache, setting),
        "lightly": scores(theirs.final_encoder, cache, setting),
        "untrained": untrained_scores(name in TOKENS, seed, cache, setting),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(computed).encode())
    return computed


def compared(results: list[dict[str, Any]], probe: str) -> dict[str, Any]:
    """Means and standard deviations over the seeds of one method, and the difference with half of its 95% interval."""
    values = {code: np.array([r[code][probe] for r in results]) for code in CODES}
    difference, count = values["ours"] - values["lightly"], len(results)
    half = float(student_t.ppf(0.975, count - 1) * difference.std(ddof=1) / np.sqrt(count)) if count > 1 else np.nan
    return {
        **{code: (float(v.mean()), float(v.std(ddof=1)) if count > 1 else np.nan) for code, v in values.items()},
        "difference": float(difference.mean()),
        "half": half,
        "ahead": int((values["ours"] > values["untrained"]).sum()),
        "lightly_ahead": int((values["lightly"] > values["untrained"]).sum()),
        "each": [round(float(d), 4) for d in difference],
    }


def row(name: str, probe: str, found: dict[str, Any], seeds: int) -> str:
    """A line of the table."""
    cells = [f"{found[code][0]:.3f} ± {found[code][1]:.3f}" for code in ("untrained", "ours", "lightly")]
    each = ", ".join(f"{d:+.3f}" for d in found["each"])
    agree = "yes" if abs(found["difference"]) <= found["half"] else "no"
    ahead = f"{found['ahead']} and {found['lightly_ahead']} of {seeds}"
    difference = f"{found['difference']:+.3f} ± {found['half']:.3f} ({each})"
    return f"| {name} | {probe} | {' | '.join(cells)} | {difference} | {agree} | {ahead} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds chest_xray")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=list(RIVALS), default=list(RIVALS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=Setting().train.steps)
    parser.add_argument("--pixels", type=int, default=Setting().pixels)
    parser.add_argument("--quick", action="store_true", help="SimCLR, two seeds of 10 steps")
    given = parser.parse_args()
    if given.quick:
        given.only, given.seeds, given.steps = given.only[:1], 2, 10
    warnings.filterwarnings("ignore", category=FutureWarning)
    quiet_third_parties()
    setting = Setting(given.pixels, replace(Setting().train, steps=given.steps))
    cache, ratios = films(given.data, given.out, setting), {}
    print("| method | probe | untrained | ours | lightly | ours - lightly (each seed) | agree | ahead of untrained |")
    print("|---|---|---|---|---|---|---|---|")
    for name in given.only:
        results = [result(name, cache, setting, seed, given.out) for seed in range(given.seeds)]
        for probe in PROBES:
            found = compared(results, probe)
            ratios[f"{name} {probe}"] = round(abs(found["difference"]) / found["half"], 2)
            print(row(name, probe, found, given.seeds), flush=True)
    met = all(ratio <= 1 for ratio in ratios.values())
    print(json.dumps({"ratios": ratios, "goals": dict.fromkeys(ratios, 1.0), "met": met}))


if __name__ == "__main__":
    main()
