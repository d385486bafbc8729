"""The figures hold all that they say."""

import pytest
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from medssl.reporting import figures

LONG = "self-training(hippocampus_simmim), fine-tuned (this run)"


@pytest.mark.parametrize("names", [["scratch"], [LONG, LONG + " ", "scratch, fine-tuned"], ["a", "b", "c", "d", "e"]])
def test_a_legend_of_long_names_lies_within_the_figure(names: list[str]) -> None:
    with rc_context(figures.RC):
        figure = Figure(figsize=(6.2, 3.5), layout="constrained")
        axes = figure.add_subplot()
        figures._legend(figure, {name: axes.plot([1, 2], [0, 1])[0] for name in names}, columns=3)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        box = figure.legends[0].get_window_extent(canvas.get_renderer())
    assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert figure.bbox.y0 <= box.y0
