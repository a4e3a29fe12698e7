"""What the benchmark compares is the same: speed is never bought with a weaker attack. Its timings are no tests."""

import json
from functools import partial

import bench
import matplotlib.pyplot as plt
import pytest
import torch
from peers import NAMES, peer

from advutils import fgsm, initialised, input_gradient, load_data, pgd, predict
from advutils.models import vgg
from advutils.utils.fusion import fuse_batch_norm

pytestmark = pytest.mark.integration
HOME = bench.HOME


@pytest.fixture(scope="module")
def digits():
    x, y = load_data("mnist-5k", train=False)[::16]
    return x, y


@pytest.fixture(scope="module")
def model():
    """A small VGG, trained for a few steps on digits: nothing of it is linear, and its gradients are not noise."""
    network = initialised(partial(vgg, 11, width=0.0625), seed=0)
    x, y = load_data("mnist-5k", train=True)[::4]
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3)
    for at in torch.randperm(1000, generator=torch.Generator().manual_seed(0)).repeat(3).split(50):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(x[at]), y[at]).backward()
        optimizer.step()
    return fuse_batch_norm(network.eval())


@pytest.mark.parametrize("name", NAMES)
def test_every_peer_makes_the_same_pgd_images(model, digits, name):
    x, y = digits
    options = dict(eps=0.1, steps=5, step_size=0.03)
    ours, theirs = pgd(model, x, y, random_start=False, **options), peer(name, model, **options)(x, y)
    assert ((ours - theirs).abs() > 1e-4).float().mean() < 0.02  # a sign that rounding turned is carried on
    right = [(predict(model, x_adv).argmax(1) == y).float().mean() for x_adv in (ours, theirs)]
    assert abs(right[0] - right[1]) < 0.02


def test_nothing_is_timed_beside_another_attack(model, digits):
    x, y = digits
    gradient = bench.gradient_only(model, x, y)()
    assert torch.equal(gradient.sign(), input_gradient(model, x, y).sign())
    ours = fgsm(model, x, y, eps=0.1)
    assert bench.differing(ours, peer("foolbox", model, eps=0.1)(x, y), gradient) < 0.01
    weaker = torch.where(gradient.abs() == gradient.abs().amax((1, 2, 3), keepdim=True), x, ours)
    with pytest.raises(SystemExit, match="another attack"):
        bench.differing(ours, weaker, gradient)


def test_a_paired_row_has_the_interval_of_its_median_and_its_bar_is_strict():
    ratios = [0.98, 0.99, 1.0, 1.01, 1.02] * 8
    level, slower = (bench.level_row("a", [r - less for r in ratios], "", least=1) for less in (0, 0.005))
    assert level["holds"] is True and 0.98 < level["low"] <= level["value"] <= level["high"] < 1.02
    assert slower["holds"] is False and slower["high"] >= 1
    assert bench.level_row("a", ratios, "")["holds"] is None


def test_a_row_is_the_median_between_its_ends_and_keeps_its_bar_or_not():
    line = bench.row("a", [3, 1, 2], least=2)
    assert (line["value"], line["low"], line["high"], line["bar"], line["holds"]) == (2, 1, 3, "at least 2", True)
    bars = [dict(least=2.1), dict(most=1.9), dict(most=2), {}]
    assert [bench.row("a", [3, 1, 2], **bar)["holds"] for bar in bars] == [False, False, True, None]


def test_what_is_published_is_what_was_measured():
    found = json.loads((HOME / "results.json").read_text(encoding="utf-8"))
    assert (HOME / "table.md").read_text(encoding="utf-8") == bench.table(found)
    for line in found["rows"]:
        assert line["low"] <= line["value"] <= line["high"] and line["machine"] in found["machines"]
        if line["bar"]:
            bar = float(line["bar"].split()[-1])
            assert line["holds"] == (line["value"] >= bar if "least" in line["bar"] else line["value"] <= bar)
    groups = {line["group"] for line in found["rows"]}
    assert groups <= bench.GROUPS.keys() and bench.figure(found).axes
    plt.close("all")
