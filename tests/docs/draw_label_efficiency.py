"""Draws the README's picture from the tables of the results pages: `python -m tests.docs.draw_label_efficiency`.

The numbers are read from the pages, where each table stands beside the command that made it.
"""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "medssl" / "docs" / "pages" / "results"
OUT = RESULTS.parent / "label_efficiency.png"
PANELS = {  # page -> title, metric, arm in the table -> legend
    "pneumoniamnist.md": (
        "PneumoniaMNIST: normal against pneumonia",
        "AUROC",
        {
            "scratch, fine-tuned": "from scratch",
            "simclr, fine-tuned": "pretrained with SimCLR",
            "simclr, label propagation": "SimCLR and label propagation",
            "self-training(simclr), fine-tuned": "SimCLR and self-training",
        },
    ),
    "chest_films.md": (
        "Chest films: normal against pneumonia",
        "AUROC",
        {
            "scratch, fine-tuned": "from scratch",
            "simclr, fine-tuned": "pretrained with SimCLR",
            "self-training(simclr), fine-tuned": "SimCLR and self-training",
            "imagenet-128, linear probe": "ImageNet's weights, linear probe",
            "imagenet-128, label propagation": "ImageNet's weights and label propagation",
        },
    ),
    "hippocampus.md": (
        "Hippocampus MRI: segmentation",
        "Dice",
        {
            "scratch, fine-tuned": "from scratch",
            "simmim, fine-tuned": "pretrained with SimMIM",
            "self-training(simmim), fine-tuned": "SimMIM and self-training",
        },
    ),
}
COLOURS = ("#000000", "#7F7F7F", "#0072B2", "#D55E00", "#009E73")


def rows(page: Path) -> list[tuple[int, str, float, float, float]]:
    """(labelled patients, arm, mean, low, high) of each row of a results table."""
    pattern = r"^\| \S+ \| (\d+) \| [\d.]+ \| \d+ \| ([^|]+?) \| ([\d.]+) \[([\d.]+), ([\d.]+)\]"
    matches = re.findall(pattern, page.read_text(), re.MULTILINE)
    return [(int(patients), arm, float(mean), float(low), float(high)) for patients, arm, mean, low, high in matches]


def draw() -> None:
    figure, panels = plt.subplots(1, len(PANELS), figsize=(5.2 * len(PANELS), 4.2))
    for axes, (page, (title, metric, arms)) in zip(panels, PANELS.items()):
        table = rows(RESULTS / page)
        for number, (arm, legend) in enumerate(arms.items()):
            own = sorted(row for row in table if row[1] == arm)
            patients = [
                row[0] * 1.04 ** (number - 1.5) for row in own
            ]  # side by side, so that no interval hides another
            below, above = ([row[2] - row[3] for row in own], [row[4] - row[2] for row in own])
            axes.errorbar(
                patients,
                [row[2] for row in own],
                (below, above),
                marker="o",
                markersize=4,
                capsize=2,
                color=COLOURS[number],
                label=legend,
            )
        axes.set(
            title=title, xlabel="labelled patients", ylabel=f"{metric} on test patients, 95% interval", xscale="log"
        )
        axes.legend(frameon=False, fontsize=8, loc="lower right")
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(OUT, dpi=110)


if __name__ == "__main__":
    draw()
