"""Draws the rooms of the package and their imports: `python -m tests.docs.draw_rooms` writes the picture of the site."""

from __future__ import annotations

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.patches import Arc, FancyBboxPatch

from tests.import_graph import PACKAGE, boxes, imports, reading_order

OUT = PACKAGE / "docs" / "pages" / "rooms.svg"
HEIGHT, GAP, WIDTH = 0.62, 1.0, 3.0


def draw() -> None:
    """One box a room from top to bottom, one arc for each room that a room imports from."""
    order = reading_order(PACKAGE)
    plt.rcParams |= {"svg.hashsalt": "rooms", "svg.fonttype": "none", "font.family": "sans-serif"}
    figure, axes = plt.subplots(figsize=(7, 7.2))
    for number, room in enumerate(order):
        y = -GAP * number
        corner = (0, y - HEIGHT / 2)
        axes.add_patch(
            FancyBboxPatch(corner, WIDTH, HEIGHT, "round,pad=0,rounding_size=0.12", fc="#DCEAF5", ec="#0072B2")
        )
        axes.text(WIDTH / 2, y, room, ha="center", va="center", fontsize=12)
    for user, used in boxes(imports(PACKAGE)).edges:
        low, high = -GAP * order.index(user), -GAP * order.index(used)
        reach = high - low
        arc = Arc((WIDTH, (low + high) / 2), 0.8 * reach, reach - 0.2, theta1=-90, theta2=90, color="#555555", lw=0.8)
        axes.add_patch(arc)
        axes.plot(WIDTH + 0.02, high - 0.1, marker="<", color="#555555", markersize=4)
    axes.set(xlim=(-0.2, WIDTH + 4.6), ylim=(-GAP * len(order) + 0.3, GAP * 0.6), aspect="equal")
    axes.axis("off")
    figure.savefig(OUT, bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    draw()
