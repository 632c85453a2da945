"""The picture of `optrepro minimize`."""

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optrepro.exhibits import style, trajectory
from optrepro.experiments.descent import minimize
from optrepro.problems.functions import vlse


def drawn(name: str, optimizer: str = "adam", budget: int = 12) -> Figure:
    f, chosen = vlse.get(name), minimize.optimizer(optimizer)
    surface = minimize.surface(f) if f.dim == 2 else None
    path = minimize.minimize(f, chosen, budget, seed=0)
    figure = trajectory.figure(path, surface, f"{chosen.config.label} on {f.title}", chosen.key)
    figure.draw_without_rendering()
    return figure


@pytest.mark.parametrize("name", ["rosenbrock", "easom", "forrester", "hartmann6"])
def test_nothing_sticks_out_and_every_axis_is_labelled(name: str) -> None:
    figure = drawn(name)
    page, tight = figure.bbox_inches, figure.get_tightbbox()
    assert page.width * 25.4 <= style.PAGE_WIDTH
    assert page.x0 - 0.01 <= tight.x0 < tight.x1 <= page.x1 + 0.01
    assert page.y0 - 0.01 <= tight.y0 < tight.y1 <= page.y1 + 0.01
    for axes in figure.findobj(Axes):
        assert axes.get_xlabel()
        assert axes.get_ylabel()


def test_the_path_is_drawn_on_contours_in_two_dimensions_only() -> None:
    assert [axes.get_title("left") for axes in drawn("booth").axes] == ["Path", "Regret"]
    assert [axes.get_title("left") for axes in drawn("hartmann6").axes] == ["Regret"]


def test_every_evaluation_is_a_point_in_both_panels() -> None:
    path, regret = drawn("booth", budget=12).axes
    assert len(path.lines[0].get_xdata()) == 12
    assert regret.lines[0].get_xdata().tolist() == list(range(1, 13))


def test_the_surface_is_that_of_the_function_with_its_minimizers() -> None:
    f = vlse.get("booth")
    surface = minimize.surface(f)
    grid, minimizers = surface[surface.kind == "grid"], surface[surface.kind == "minimizer"]
    assert (minimizers.x0.tolist(), minimizers.x1.tolist()) == ([1.0], [3.0])
    row = grid.iloc[7 * minimize.RESOLUTION + 100]
    assert row.value == pytest.approx((row.x0 + 2 * row.x1 - 7) ** 2 + (2 * row.x0 + row.x1 - 5) ** 2)


def test_a_single_evaluation_at_the_minimum_can_be_drawn() -> None:
    panels = [axes for axes in drawn("easom", budget=1).axes if axes.lines]
    assert panels
    assert all(len(line.get_xdata()) for axes in panels for line in axes.lines)
