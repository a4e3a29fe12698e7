"""The slider shows what the models say, and its picture, drawn in a browser, shows what it was given."""

import math

import numpy as np
import pytest
import torch
from chromium import drawn, place, tile
from torch import nn
from torch.utils.data import TensorDataset

from advutils import fgsm, initialised, margin, predict, small_cnn, vgg
from advutils.plots import MODEL_COLORS, PROVED, WRONG
from advutils.widgets import slider
from advutils.widgets.pad import DigitPad
from advutils.widgets.panel import Panel, colors_of
from advutils.widgets.slider import ALL, EACH, NEAR, EpsilonSlider


@pytest.fixture
def digits():
    x = torch.rand(60, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x, torch.arange(60) % 4)


@pytest.fixture
def models():
    return {
        "clean VGG": initialised(lambda: vgg(11, width=0.05), seed=0).eval(),
        "linear": initialised(lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), seed=1).eval(),
    }


def picture(dashboard):
    """All that the page is told."""
    return {name: getattr(dashboard.picture, name) for name in ("scene", "shown", "pixels", "words")}


@pytest.fixture
def page(visit):
    """An empty page, which draws without an error."""
    visit.page.goto("about:blank")
    yield visit.page
    assert not visit.errors, "\n".join(visit.errors)


def test_what_is_shown_is_what_the_models_say_of_fgsm(models, digits):
    dashboard = EpsilonSlider(models, digits)
    dashboard.images.value = "2"
    assert dashboard.y.tolist() == [2] * 10
    assert torch.equal(dashboard.x, digits.tensors[0][2:42:4])
    for eps in (0.0, 0.2):
        dashboard.slider.value = eps
        for label, model in models.items():
            x_adv, probabilities = dashboard.shown[label]
            mine = fgsm(model, dashboard.x, dashboard.y, eps=eps)
            assert (x_adv != mine).float().mean() < 1e-3  # where a gradient is next to nothing, its sign is rounding's
            assert torch.allclose(probabilities, predict(model, x_adv), atol=1e-5)


def test_a_move_of_the_slider_takes_no_gradient_and_new_images_take_one_a_model(models, digits, monkeypatch):
    dashboard = EpsilonSlider(models, digits)
    calls, real = [], slider.input_gradient
    monkeypatch.setattr(slider, "input_gradient", lambda *args: calls.append(args) or real(*args))
    dashboard.slider.value = 0.2
    dashboard.look.value = "3"
    assert not calls
    dashboard.images.value = "1"
    assert len(calls) == len(models)


@pytest.mark.parametrize("kind", ["FGSM", "PGD", "noise"])
def test_every_attack_stays_in_its_ball_and_moves_with_the_slider(models, digits, kind):
    dashboard = EpsilonSlider(models, digits, curve=8)
    dashboard.attack.value = kind
    for eps in (0.05, 0.25):
        dashboard.slider.value = eps
        for x_adv, _ in dashboard.shown.values():
            assert 0.9 * eps < (x_adv - dashboard.x).abs().max() <= eps + 1e-6
            assert x_adv.min() >= 0 and x_adv.max() <= 1


def test_pgd_waits_until_the_slider_is_let_go_and_says_so(models, digits):
    dashboard = EpsilonSlider(models, digits, curve=8)
    assert dashboard.slider.continuous_update and "let go" not in dashboard.picture.words
    dashboard.attack.value = "PGD"
    assert not dashboard.slider.continuous_update and "let go" in dashboard.picture.words
    dashboard.attack.value = "noise"
    assert dashboard.slider.continuous_update


def test_near_the_boundary_are_those_read_correctly_with_the_least_margin(models, digits):
    dashboard = EpsilonSlider(models, digits)
    dashboard.images.value = NEAR
    x, y = digits.tensors
    with torch.no_grad():
        lead = margin(models["clean VGG"](x), y)
        shown = margin(models["clean VGG"](dashboard.x), dashboard.y)
    n = min(10, int((lead > 0).sum()))
    assert n > 1
    assert torch.allclose(shown[:n], lead[lead > 0].sort().values[:n], atol=1e-5)


def test_one_of_each_shows_every_class_and_next_goes_through_all(models, digits):
    dashboard = EpsilonSlider(models, digits)
    assert dashboard.images.value == EACH and dashboard.y.tolist() == [0, 1, 2, 3]
    first = dashboard.x
    for number in (2, 3, 4):
        dashboard.further.click()
        assert dashboard.look.value == str(number) and torch.equal(dashboard.x, first)
    dashboard.further.click()
    assert dashboard.look.value == "1" and not torch.equal(dashboard.x, first)
    assert dashboard.y.tolist() == [0, 1, 2, 3]
    dashboard.images.value = "0"
    for _ in range(10):
        dashboard.further.click()
    assert torch.equal(dashboard.x[:5], digits.tensors[0][40::4])  # the last five zeros, then from the beginning
    assert torch.equal(dashboard.x[5:], digits.tensors[0][0:20:4])


def test_one_model_can_be_shown_alone(models, digits):
    dashboard = EpsilonSlider(models, digits)
    both = picture(dashboard)
    dashboard.model.value = "linear"
    alone = picture(dashboard)
    assert list(dashboard.shown) == ["linear"]
    assert alone["scene"]["models"] == both["scene"]["models"][1:]  # in the same colour
    assert alone["scene"]["curve"]["values"] == both["scene"]["curve"]["values"][1:]
    assert 2 * len(alone["pixels"]) == len(both["pixels"])
    dashboard.model.value = ALL
    assert picture(dashboard) == both


def test_the_status_says_radius_and_result_in_words_for_a_screen_reader(models, digits):
    dashboard = EpsilonSlider(models, digits)
    dashboard.slider.value = 0.1
    right = {label: int((p.argmax(1) == dashboard.y).sum()) for label, (_, p) in dashboard.shown.items()}
    words = dashboard.picture.words
    assert "25.5/255" in words and "0.200 on inputs in [-1, 1]" in words
    for label, count in right.items():
        assert f"{label} reads {count} of 4 correctly" in words
    controls = (dashboard.images, dashboard.look, dashboard.attack, dashboard.model, dashboard.slider)
    assert all(control.description for control in controls)


def test_a_move_is_one_message_to_the_page(models, digits, monkeypatch):
    dashboard, sent = EpsilonSlider(models, digits), []
    monkeypatch.setattr(Panel, "_send", lambda self, message, buffers=None: sent.append(message), raising=False)
    dashboard.slider.value = 0.2
    assert [sorted(message["state"]) for message in sent] == [["shown", "words"]]  # and the pixels, as a buffer


def test_models_with_dropout_without_weights_or_of_another_precision_are_shown(digits):
    models = {"a": small_cnn().train(), "b": nn.Sequential(nn.Flatten(), nn.AvgPool1d(196)), "c": small_cnn().half()}
    dashboard = EpsilonSlider(models | {"d": small_cnn().double()}, digits, eps=0.1, curve=8)
    first = dashboard.shown["a"][1]
    dashboard.look.value = "2"
    assert torch.equal(dashboard.shown["a"][1], first)
    for _, probabilities in dashboard.shown.values():
        assert (probabilities.sum(1) - 1).abs().max() < 1e-3


@pytest.mark.parametrize("options, words", [
    (dict(models={}), "models: got none"), (dict(eps_max=8), "eps_max: got 8"), (dict(curve=0), "curve: got 0"),
    (dict(eps=0.5), "eps: got 0.5, beyond eps_max = 0.3; accepts"),
    (dict(models=torch.nn.Flatten()), "models: got Flatten; accepts {label"),
    (dict(models={"mine": lambda x: x}), "model: got function"), (dict(dataset=[]), "dataset: got no images"),
])  # fmt: skip
def test_the_slider_refuses_what_it_cannot_show(models, digits, options, words):
    with pytest.raises((TypeError, ValueError), match=words):
        EpsilonSlider(**(dict(models=models, dataset=digits) | options))


def test_the_bar_of_a_model_with_bounds_ends_where_an_attack_begins(models, digits):
    weight, classes = models["linear"][1].weight, torch.arange(10)
    with torch.no_grad():  # each of the first images is the template of its class
        weight.zero_()[:4] = digits.tensors[0][:4].flatten(1) - 0.5
    dashboard, linear = EpsilonSlider(models, digits), models["linear"]
    x, y = dashboard.x, dashboard.y
    for look in range(4):
        dashboard.look.value = str(look + 1)
        of_vgg, radius = dashboard.picture.shown["proved"]
        assert of_vgg == 0 and 0.1 < radius < 0.5
        told = (
            f"Nobody can change how linear reads the chosen image up to epsilon = {math.floor(1000 * radius) / 1000}."
        )
        assert told in dashboard.picture.words and "how clean VGG reads" not in dashboard.picture.words
        away = (weight - weight[y[look]]).sign().view(10, 1, 28, 28)  # the worst corner of the box for each class
        corners = {part: (x[look] + (radius + part) * away).clamp(0, 1) for part in (-1e-5, 2**-11)}
        read = {part: linear(images).argmax(1) for part, images in corners.items()}
        assert read[-1e-5].eq(y[look]).all() and read[2**-11][classes != y[look]].ne(y[look]).any()
    dashboard.show(x, (y + 1) % 4)  # what is misread is not proved
    assert dashboard.picture.shown["proved"] == [0, 0] and "Nobody" not in dashboard.picture.words


def stroke(pad, *points):
    pad.down(*points[0])
    for point in points[1:]:
        pad.move(*point)
    pad.up()


def test_what_is_drawn_is_read_and_attacked_when_the_pen_is_lifted(models, digits):
    dashboard = EpsilonSlider(models, digits)
    pad = DigitPad(dashboard)
    before = dashboard.x
    pad.move(10, 10)  # the pen is in the air
    pad.down(112, 40)
    pad.move(112, 180)
    assert dashboard.x is before and pad.ink.getbbox() is not None
    pad.up()
    assert dashboard.x.shape == (1, 1, 28, 28)
    assert dashboard.x[0, 0, 5:23, 13:15].min() > 0.8 and dashboard.x[0, 0, :, :10].max() == 0
    assert int(dashboard.y) == int(predict(models["clean VGG"], dashboard.x).argmax())
    pad.meant.value = str(int(predict(models["linear"], dashboard.x).argmax()))
    assert "Nobody can change how linear reads the chosen image up to epsilon = 0." in dashboard.picture.words
    x_adv, _ = dashboard.shown["linear"]
    assert (x_adv - dashboard.x).abs().max() == pytest.approx(dashboard.slider.value, abs=1e-6)


def test_the_reader_says_which_digit_was_meant_and_a_wiped_pad_is_empty(models, digits):
    dashboard = EpsilonSlider(models, digits)
    pad = DigitPad(dashboard)
    pad.meant.value = "1"  # nothing is drawn yet
    assert len(dashboard.y) == 4
    stroke(pad, (112, 40), (112, 180))
    assert dashboard.y.tolist() == [1]
    pad.meant.value = "7"
    assert dashboard.y.tolist() == [7]
    pad.wipe.click()
    assert pad.ink.getbbox() is None and pad.meant.value == "?"  # the next one need not be a 7
    stroke(pad, (40, 112), (180, 112))
    assert dashboard.x[0, 0, 13:15, 6:22].min() > 0.8 and dashboard.x[0, 0, :8].max() == 0
    assert dashboard.y.tolist() == [dashboard.first_reads(dashboard.x)]
    dashboard.images.value = "2"  # the series' digits come back
    assert dashboard.y.tolist() == [2] * 10
    stroke(pad, (40, 112), (180, 112))
    assert dashboard.images.value is None  # so that "2" can be chosen again
    dashboard.further.click()
    assert dashboard.images.value == EACH and dashboard.y.tolist() == [0, 1, 2, 3]


MARGIN, COLUMN = 10, 5 * 84 + 4 * 5


def panel(x, y, x_adv, p, *, curve=None, labels=("clean VGG",), **kwargs):
    """A panel that shows the same for all of its models."""
    shown = Panel()
    shown.set_scene(colors_of(labels), curve=curve)
    shown.show(x, torch.tensor(y), [x_adv] * len(labels), [p] * len(labels), **kwargs)
    return shown


def one_hot(classes):
    return torch.eye(10)[torch.tensor(classes)]


def rgb(color):
    return tuple(int(color[at : at + 2], 16) for at in (1, 3, 5))


def test_the_pixels_are_the_attacked_images_and_the_perturbation_on_its_scale():
    x = torch.full((2, 1, 4, 4), 0.5)
    x_adv = x + torch.tensor([0.1, -0.1, 0.05, 0]).view(1, 1, 1, 4)
    told = panel(x, [0, 1], x_adv, one_hot([0, 2]), eps=0.1, chosen=1)
    values = np.frombuffer(told.pixels, np.uint8).reshape(-1, 4)
    assert values[:8].tolist() == [[153, 102, 140, 128]] * 8  # 255 times 0.6, 0.4, 0.55, 0.5
    assert values[8:].tolist() == [[255, 0, 191, 128]] * 4
    assert told.shown["predicted"] == [[0, 2]] and told.shown["bars"] == [one_hot([2])[0].tolist()]


@pytest.mark.browser
def test_tiles_show_the_attacked_images(page):
    x = torch.rand(10, 1, 28, 28)
    picture = drawn(page, panel(x / 2, range(10), x, one_hot(list(range(10))), eps=0.5))
    for i in range(10):
        assert np.array_equal(tile(picture, i)[1:-1, 1:-1], (255 * x[i, 0]).round().byte()[1:-1, 1:-1])


@pytest.mark.browser
def test_colour_images_are_drawn_framed_where_misread_and_told_to_a_screen_reader(page):
    x, y, p = torch.rand(3, 3, 32, 32), [1, 50, 99], torch.eye(100)[[1, 50, 98]]
    picture = drawn(page, panel(x, y, x, p, labels=["a", "b"], eps=8 / 255, chosen=1, words="reads 2 of 3"))
    assert np.array_equal(picture[place(2)][43, 43], (255 * x[2, :, 16, 16]).round())
    wrong, right = (picture[place(i)][0, 40] for i in (2, 0))
    assert tuple(wrong) == rgb(WRONG) and tuple(right) != rgb(WRONG)
    status, image = page.get_by_role("status"), page.get_by_role("img")
    assert status.inner_text() == image.get_attribute("aria-label") == "reads 2 of 3"
    assert status.get_attribute("aria-live") == "polite"


@pytest.mark.browser
def test_the_perturbation_is_red_where_it_adds_and_blue_where_it_takes(page):
    x = torch.full((1, 1, 28, 28), 0.5)
    change = torch.where(torch.arange(28) < 14, 0.1, -0.1)
    picture = drawn(page, panel(x, [0], x + change, one_hot([0]), eps=0.1))
    reds = (picture[..., 0] - picture[..., 2] > 60).nonzero()
    blues = (picture[..., 2] - picture[..., 0] > 60).nonzero()
    patch = reds[1][(reds[0] > 130)]
    assert len(patch) > 3000 and patch.max() < blues[1][blues[0] > 130].min() + 60


@pytest.mark.browser
def test_a_green_bar_goes_as_far_as_what_is_proved(page):
    x, curve, lengths = torch.zeros(1, 1, 28, 28), dict(radii=[0, 0.3], values=[[0.5, 0.5]] * 2, title=""), []
    for radius in (0, 0.1, 0.2):
        told = panel(x, [0], x, one_hot([0]), curve=curve, labels=("a", "b"), eps=0.3, proved=(0, radius))
        green = abs(drawn(page, told) - rgb(PROVED)).max(2) < 3
        lengths.append(int(green.sum(1).max()))
    axis = 2 * COLUMN + 26 - 44 - 14  # its length in pixels
    assert lengths[0] == 0 and abs(lengths[1] - axis / 3) < 25 and abs(lengths[2] - 2 * axis / 3) < 25


@pytest.mark.browser
def test_what_is_proved_is_named_also_where_the_bar_fills_the_axis(page):
    x, curve, named = torch.zeros(1, 1, 28, 28), dict(radii=[0, 0.3], values=[[0.5, 0.5]], title=""), []
    for radius in (0.1, 0.5):
        told = panel(x, [0], x, one_hot([0]), curve=curve, eps=0.3, proved=(radius,))
        green = abs(drawn(page, told) - rgb(PROVED)).max(2) < 60
        named.append(int((green.sum(1) * (green.sum(1) < 40)).sum()))  # of the letters, not of the bar
    assert named[1] >= named[0] > 30


@pytest.mark.browser
def test_bars_are_as_high_as_the_probabilities(page):
    x, heights = torch.zeros(1, 1, 28, 28), []
    for share in (0.25, 0.5, 1.0):
        p = torch.full((1, 10), (1 - share) / 9)
        p[0, 3] = share
        picture = drawn(page, panel(x, [3], x, p, eps=0.1))[MARGIN + 60 :]
        heights.append((picture == rgb(MODEL_COLORS["clean VGG"])).all(2).any(1).sum())
    assert np.allclose(np.diff(heights) / np.diff([0.25, 0.5, 1.0]), 110, atol=5)


@pytest.mark.browser
def test_the_marker_stands_at_epsilon_and_on_the_curve(page):
    x, marks = torch.zeros(1, 1, 28, 28), []
    curve = dict(radii=[0, 0.15, 0.3], values=[[1, 0.5, 0]], title="accuracy")
    pictures = [drawn(page, panel(x, [0], x, one_hot([0]), eps=eps, curve=curve)) for eps in (0.0, 0.15, 0.3)]
    plain = np.median(pictures, axis=0)  # each marker stands alone at its place
    for picture in pictures:
        moved = (np.abs(picture - plain)[-150:].sum(2) > 90).nonzero()
        round_part = moved[0][np.abs(moved[1] - np.median(moved[1])) >= 2]  # the disc is wider than the line
        marks.append((np.median(moved[1]), np.median(round_part)))
    (left, high), (middle, half), (right, low) = marks
    assert left < middle < right and middle == pytest.approx((left + right) / 2, abs=1.5)
    assert high < half < low and half == pytest.approx((high + low) / 2, abs=3)
