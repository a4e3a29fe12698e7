"""What the benchmark compares is the same: speed is never bought with a weaker attack. Its timings are no tests."""

import json
from functools import partial
from pathlib import Path

import bench
import matplotlib.pyplot as plt
import pytest
import torch
from peers import NAMES, original_loop, original_network, peer

from advutils import (
    Normalize,
    accuracy_vs_eps,
    fgsm,
    initialised,
    input_gradient,
    load_data,
    make_loader,
    pgd,
    predict,
    vgg,
)
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
def test_every_peer_makes_the_same_fgsm_images(model, digits, name):
    x, y = digits
    ours, theirs = fgsm(model, x, y, eps=0.1), peer(name, model, eps=0.1)(x, y)
    differ = (ours - theirs).abs() > 1e-5
    gradient = input_gradient(model, x, y).abs()
    assert not differ[gradient > 1e-4 * gradient.amax((1, 2, 3), keepdim=True)].any()
    assert differ.float().mean() < 0.01  # where the gradient is next to nothing


@pytest.mark.parametrize("name", NAMES)
def test_every_peer_makes_the_same_pgd_images(model, digits, name):
    x, y = digits
    options = dict(eps=0.1, steps=5, step_size=0.03)
    ours, theirs = pgd(model, x, y, random_start=False, **options), peer(name, model, **options)(x, y)
    assert ((ours - theirs).abs() > 1e-4).float().mean() < 0.02  # a sign that rounding turned is carried on
    right = [(predict(model, x_adv).argmax(1) == y).float().mean() for x_adv in (ours, theirs)]
    assert abs(right[0] - right[1]) < 0.02


def test_a_peer_that_made_other_images_would_be_noticed(model, digits):
    x, y = digits
    other = peer("torchattacks", model, eps=0.05)(x, y)
    assert ((fgsm(model, x, y, eps=0.1) - other).abs() > 1e-5).float().mean() > 0.5


def test_nothing_is_timed_beside_another_attack(model, digits):
    x, y = digits
    gradient = bench.gradient_only(model, x, y)()
    assert torch.equal(gradient.sign(), input_gradient(model, x, y).sign())
    ours = fgsm(model, x, y, eps=0.1)
    assert bench.differing(ours, peer("foolbox", model, eps=0.1)(x, y), gradient) < 0.01
    weaker = torch.where(gradient.abs() == gradient.abs().amax((1, 2, 3), keepdim=True), x, ours)
    with pytest.raises(SystemExit, match="another attack"):
        bench.differing(ours, weaker, gradient)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux alone keeps a process's peak there")
def test_a_training_that_leaks_shows_in_its_peak():
    assert bench.peak_of_training(3, "leaking") - bench.peak_of_training(1, "leaking") > 100


def test_multiplications_are_counted_without_those_by_the_padding():
    model = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3, stride=2, padding=1), torch.nn.Flatten(), torch.nn.Linear(12, 4)
    )
    x = torch.rand(5, 2, 4, 4)
    weights_used = torch.autograd.functional.jacobian(model[0], x[:1]).count_nonzero()  # an entry for each product
    assert bench.products_of(model, x) == 2 * 5 * (weights_used + 12 * 4)


def test_early_exit_leaves_the_same_images_right(model, digits):
    x, y = digits
    run = partial(pgd, model, x, y, eps=0.1, steps=10, random_start=False)
    right = [predict(model, run(early_exit=early)).argmax(1) == y for early in (False, True)]
    assert (right[1] <= right[0]).all() and (right[0] ^ right[1]).float().mean() < 0.02


def test_the_loop_of_the_original_finds_what_one_gradient_finds(model, digits):
    x, y = digits
    x, model = 0.3 + 0.4 * x, torch.nn.Sequential(Normalize(0.3, 0.4), model)  # it does not clip: leave it room
    correct, seconds = original_loop(model, x, y, [0, 0.02, 0.04])
    loader = make_loader(torch.utils.data.TensorDataset(x, y), batch_size=40)
    ours = accuracy_vs_eps(model, loader, fgsm, [0, 0.02, 0.04])
    assert correct[0] > correct[1] > correct[2] and len(seconds) == len(x)
    for count, record in zip(correct, ours):
        assert abs(count - record.value * record.n) <= 3  # where a sign is rounding's


def test_the_network_of_the_original_takes_one_channel_and_its_size():
    network = original_network()
    assert not network.training and sum(p.numel() for p in network.parameters()) > 130e6
    with torch.no_grad():
        assert network(torch.zeros(1, 1, 224, 224)).shape == (1, 10)


def test_the_mixed_step_in_the_naive_way_has_the_same_loss_but_for_the_mode_of_crafting(digits):
    x, y = digits
    network = initialised(partial(vgg, 11, width=0.0625), seed=0).eval()
    ours = bench.mixed(network, x, y, eps=0.1).item()
    assert bench.mixed_naively(network, x, y, eps=0.1).item() == pytest.approx(ours, rel=1e-3)


# what is reported


def test_a_paired_row_has_the_interval_of_its_median_and_its_bar_is_strict():
    ratios = [0.98, 0.99, 1.0, 1.01, 1.02] * 8
    level, slower = (bench.level_row("a", [r - less for r in ratios], "", least=1) for less in (0, 0.005))
    assert level["holds"] is True and 0.98 < level["low"] <= level["value"] <= level["high"] < 1.02
    assert slower["holds"] is False and slower["high"] >= 1
    assert bench.level_row("a", ratios, "")["holds"] is None


def test_paired_calls_take_turns_in_going_first():
    turns = []
    assert len(bench.paired_times(partial(turns.append, "a"), partial(turns.append, "b"), 3)) == 3
    assert turns == list("baabbaab")


def test_a_row_is_the_median_between_its_ends_and_keeps_its_bar_or_not():
    line = bench.row("a", [3, 1, 2], least=2)
    assert (line["value"], line["low"], line["high"], line["bar"], line["holds"]) == (2, 1, 3, "at least 2", True)
    assert bench.row("a", [3, 1, 2], least=2.1)["holds"] is False
    assert bench.row("a", [3, 1, 2], most=1.9)["holds"] is False and bench.row("a", [3, 1, 2], most=2)["holds"]
    assert bench.row("a", [1])["holds"] is None


def test_contenders_take_turns_and_the_first_round_does_not_count():
    turns = []
    taken = bench.seconds_of({name: partial(turns.append, name) for name in "abc"}, 7)
    rounds = ["".join(turns[at : at + 3]) for at in range(0, 24, 3)]
    assert {"".join(sorted(those)) for those in rounds} == {"abc"} and len(set(rounds)) > 2
    assert [len(times) for times in taken.values()] == [7, 7, 7] and list(taken) == list("abc")


@pytest.mark.parametrize("value, text", [
    (0.9998, "0.9998"), (1.00021, "1.0002"), (1.35, "1.35"), (0.0312, "0.0312"), (-3.21, "-3.21"), (1353.4, "1,353"),
])  # fmt: skip
def test_a_tie_is_told_from_a_lead(value, text):
    assert bench.spelled(value) == text


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
