"""Figures show the data that they were given."""

import matplotlib
import numpy as np
import pytest
import torch
from helpers import refused

from advutils import Accuracy, History, plots

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    matplotlib.pyplot.close("all")


@pytest.fixture
def digits():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(12, 1, 28, 28, generator=generator)
    return torch.utils.data.TensorDataset(x, torch.arange(12) % 4)


def test_gallery_shows_the_images_unscaled_and_marks_the_wrong_ones(digits):
    x = digits.tensors[0][:3] / 2  # no image reaches white, and none may be stretched to it
    fig = plots.gallery(x, ["a", "b", "c"], wrong=[False, True, False], columns=2, rows=["first", "second"])
    for ax, image in zip(fig.axes, x):
        assert np.array_equal(ax.images[0].get_array(), image[0])
        assert ax.images[0].get_clim() == (0, 1)
    assert [ax.get_title() for ax in fig.axes] == ["a", "✗ b", "c", ""]
    assert [ax.get_ylabel() for ax in fig.axes] == ["first", "", "second", ""]
    widths = [ax.spines["left"].get_linewidth() for ax in fig.axes[:3]]
    assert widths[1] > widths[0] == widths[2]


def test_equation_shows_the_perturbation_scaled_on_a_symmetric_scale_and_says_so(digits):
    x = digits.tensors[0][:2]
    delta = torch.full_like(x, -0.05)
    fig = plots.equation(x, delta, (x + delta).clamp(0, 1), [("1", "7"), ("2", "3")], scale=20)
    picture = fig.axes[1].images[0]
    assert np.allclose(picture.get_array(), -1) and picture.get_clim() == (-1, 1)
    assert "20" in fig.axes[1].get_title()
    maps = [torch.full((1, 4, 4), v) for v in (-2.0, 0.5)]
    assert {ax.images[0].get_clim() for ax in plots.signed(maps, ["a", "b"], columns=2).axes[:2]} == {(-2.0, 2.0)}
    x = torch.rand(1, 3, 32, 32)  # in colours
    assert np.array_equal(plots.gallery(x).axes[0].images[0].get_array(), x[0].permute(1, 2, 0))


def test_sweep_draws_each_value_with_its_interval_and_one_style_for_one_meaning():
    eps_values = [0, 0.1]
    records = [Accuracy(0.9, 0.85, 0.93, 100), Accuracy(0.0, 0.0, 0.04, 100)]
    results = {"clean VGG, FGSM": records, "clean VGG, PGD": records, "defended VGG, FGSM": records}
    fig = plots.sweep(eps_values, results, floor=0.11, trained_at=0.1)
    data, caps, bars = fig.axes[0].containers[0].lines
    assert np.allclose(data.get_ydata(), [0.9, 0.0]) and np.allclose(data.get_xdata(), eps_values)
    assert np.allclose([line[:, 1] for line in bars[0].get_segments()], [[0.85, 0.93], [0.0, 0.04]])
    a, b, c = (container.lines[0] for container in fig.axes[0].containers)
    assert a.get_color() == b.get_color() != c.get_color()
    assert a.get_linestyle() == c.get_linestyle() != b.get_linestyle()
    assert [0.11, 0.11] in [list(line.get_ydata()) for line in fig.axes[0].lines]
    apart = [curve.lines for curve in plots.sweep(eps_values, results, apart=0.02).axes[0].containers]
    assert all(np.allclose(data.get_xdata(), eps_values) for data, caps, bars in apart)
    places = [[line[0, 0] for line in bars[0].get_segments()] for data, caps, bars in apart]
    assert np.allclose(places, [[-0.02, 0.08], [0, 0.1], [0.02, 0.12]])


def test_curves_draw_what_the_history_holds():
    history = History([2, 1], [0.5, 0.7], [2.1, 1.2], [0.4, 0.6], [10, 20], [30, 60], [30, 60], [1.0, 2.5])
    loss, accuracy = plots.curves(history).axes
    assert [list(line.get_ydata()) for line in loss.lines] == [[2, 1], [2.1, 1.2]]
    assert [list(line.get_ydata()) for line in accuracy.lines] == [[0.5, 0.7], [0.4, 0.6]]
    for labels in (None, list("abcdef")):
        loss, accuracy = plots.curves(*[history] * 6, labels=labels).axes
        assert len(loss.lines) == len(accuracy.lines) == 12
    with refused("labels", "got 1", "accepts 2"):
        plots.curves(history, history, labels=["one"])


def test_a_surface_is_signed_about_zero_with_its_zero_line_and_marks():
    t = np.linspace(0, 1, 5)
    height = t[None, :] - 0.25 + 0 * t[:, None]  # rises along x alone
    fig = plots.surface(t, t, height, {"x": (0, 0), "FGSM": (1, 0)}, xlabel="across", ylabel="up")
    ax = fig.axes[0]
    mesh = ax.collections[0]
    assert np.allclose(np.ravel(mesh.get_array()), np.ravel(height)) and mesh.get_clim() == (-0.75, 0.75)
    crossing = np.concatenate([path.vertices for path in ax.collections[1].get_paths()])
    assert np.allclose(crossing[:, 0], 0.25)
    assert [text.get_text() for text in ax.texts] == ["x", "FGSM"]
    assert len(plots.surface(t, t, height + 1, {}, xlabel="", ylabel="", limit=2).axes[0].collections) == 1


def test_lines_draw_their_series():
    fig = plots.lines([0, 1], {"clean VGG": [1, 2], "else": [3, 4]}, xlabel="t", ylabel="loss")
    first, second = fig.axes[0].lines
    assert [list(line.get_ydata()) for line in (first, second)] == [[1, 2], [3, 4]]
    assert first.get_color() == plots.MODEL_COLORS["clean VGG"] != second.get_color()


def test_units_say_one_radius_in_three_ways():
    assert plots.units(0.1) == "epsilon = 0.100 of the pixel range = 25.5/255 = 0.200 on inputs in [-1, 1]"
