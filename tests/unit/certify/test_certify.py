"""Bounds: nothing leaves them, in any precision; they are exact where they can be; what is proved is never broken."""

import copy
import itertools
from functools import partial

import pytest
import torch
from bad_input import BAD_EPS, BAD_IMAGES, table
from bound_propagation import BoundModelFactory, HyperRectangle
from helpers import batch, conv_net, digits, images, loader, refused, untouched
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from advutils import (
    Contrast,
    Normalize,
    accuracy,
    certified,
    certified_radius,
    clean,
    crown_bounds,
    fit,
    fuse_batch_norm,
    ibp,
    initialised,
    interval_bounds,
    ledger,
    make_loader,
    margin_bounds,
    pgd,
    tighten,
    trained,
    vgg,
)  # fmt: skip
from advutils.certify import RULES, batch_statistics, proven
from advutils.models import PadTo

RELU = nn.ReLU()
FRONTS = {
    "nothing": lambda c: [],
    "padded": lambda c: [PadTo(9), Normalize()],
    "negative deviation": lambda c: [Normalize([0.3] * c, torch.linspace(-0.5, 2, c))],
    "contrast": lambda c: [Contrast(20)],
    "falling contrast": lambda c: [Contrast(-3)],
}
MIDDLES = {  # from c channels to c channels
    "convolution": lambda c: [nn.Conv2d(c, c, 3, padding=1, bias=False)],
    "stride, dilation": lambda c: [nn.Conv2d(c, c, 2, stride=(1, 2), dilation=2, padding=2)],
    "groups": lambda c: [nn.Conv2d(c, c, (1, 3), groups=c, padding="same")],
    "reflect": lambda c: [nn.Conv2d(c, c, 3, padding=1, padding_mode="reflect")],
    "replicate": lambda c: [nn.Conv2d(c, c, 3, padding=1, padding_mode="replicate")],
    "circular": lambda c: [nn.Conv2d(c, c, 3, padding=1, padding_mode="circular")],
    "batch norm": lambda c: [nn.BatchNorm2d(c)],
    "bare batch norm": lambda c: [nn.BatchNorm2d(c, affine=False)],
    "the same layer again": lambda c: [RELU],
    "in place": lambda c: [nn.ReLU(inplace=True)],
    "max pooling": lambda c: [nn.MaxPool2d(2, stride=1, padding=1)],
    "max pooling, dilated": lambda c: [nn.MaxPool2d(2, dilation=2, stride=1, padding=1, ceil_mode=True)],
    "average pooling": lambda c: [nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)],
    "a negative divisor": lambda c: [nn.AvgPool2d(2, stride=1, padding=1, divisor_override=-3)],
    "adaptive": lambda c: [nn.AdaptiveAvgPool2d((4, 3))],
    "adaptive maximum": lambda c: [nn.AdaptiveMaxPool2d((3, 4))],
    "dropout": lambda c: [nn.Dropout(0.9), nn.Identity()],
    "a Sequential within": lambda c: [nn.Sequential(nn.Sequential(nn.Conv2d(c, c, 1)), RELU)],
}


def drawn(layers, seed, scale=1.0, bias=1.0):
    """The layers with weights of both signs, batch norm of arbitrary statistics among them."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(*layers).eval()
    for name, value in itertools.chain(model.named_parameters(), model.named_buffers()):
        if value.is_floating_point() and not name.endswith(("mean", "std")) or "running_mean" in name:
            noise = torch.randn(value.shape, generator=generator)
            value.data = noise.abs() + 0.1 if name.endswith("running_var") else noise * scale
        if name.endswith("bias"):
            value.data *= bias
    return model.requires_grad_(False)


def classifier(front, middle, seed, *sizes):
    layers = FRONTS[front](2) + [layer for name in middle for layer in MIDDLES[name](2)] + [nn.Flatten()]
    width = nn.Sequential(*layers).eval()(torch.zeros(1, 2, 5, 6)).shape[1]
    return drawn([*layers, nn.Linear(width, 7), nn.BatchNorm1d(7), RELU, nn.Linear(7, 3)], seed, *sizes)


def inside(model, lower, upper, seed, points=30):
    """Points of the box: inner ones, corners, faces, and where single outputs are driven up and down the slope."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(points, *lower.shape[1:], generator=generator)
    share[::3], share[1::3] = share[::3].round(), (3 * share[1::3] - 1).clamp(0, 1)
    yield from (lower + (upper - lower) * share).split(10)
    model = copy.deepcopy(model)
    for layer in model.modules():
        layer.inplace = False  # some layers cannot be differentiated where the next one works in place
    for sign, output in itertools.product((-1, 1), range(model(lower).flatten(1).shape[1])):
        x = ((lower + upper) / 2).clone()
        for _ in range(3):
            x = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(model(x.clone()).flatten(1)[:, output].sum(), x)
            x = torch.where(sign * slope > 0, upper, lower)
        yield x.detach()


networks = st.tuples(
    st.sampled_from(sorted(FRONTS)), st.lists(st.sampled_from(sorted(MIDDLES)), max_size=4), st.integers(0, 999)
)


@settings(max_examples=60)
@given(networks, st.sampled_from([0.0, 1e-7, 0.01, 0.3, 1.0]), st.sampled_from([(0.3, 1), (1, 1e5), (300, 1)]))
def test_nothing_leaves_the_bounds(network, eps, sizes):
    """Not by the last bit: of the network in single and double precision, folded, and in another memory format."""
    model, x = classifier(*network, *sizes), images(1, channels=2, size=6, seed=network[2])[:, :, :5]
    lower, upper = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
    low, high = interval_bounds(model, lower, upper)
    double, other = copy.deepcopy(model).double(), copy.deepcopy(model).to(memory_format=torch.channels_last)
    margins = [margin_bounds(model, x, torch.tensor([k]), eps=eps) for k in range(3)]
    for point in inside(model, lower, upper, network[2]):
        point = point.clamp(lower, upper)
        answers = model(point.clone()), fuse_batch_norm(model)(point.clone()), double(point.double()), other(point)
        for z in answers:
            assert (low <= z).all() and (z <= high).all()
            for k, margin in enumerate(margins):
                assert (margin <= z[:, [k]] - z).all()
    exact_low, exact_high = interval_bounds(double, lower.double(), upper.double())
    assert (low <= exact_low).all() and (exact_high <= high).all()


LOOSE = ("reflect", "replicate", "circular")  # a pixel that comes twice may cancel in part, which intervals do not see
ONE_LAYER = {f"{front} in front": FRONTS[front] for front in FRONTS if front not in ("nothing", "padded")}
ONE_LAYER |= {name: build for name, build in MIDDLES.items() if name not in LOOSE}
ONE_LAYER |= {"padding": lambda c: [PadTo(3)], "dense": lambda c: [nn.Flatten(), nn.Linear(8, 3)],
              "flat batch norm": lambda c: [nn.Flatten(), nn.BatchNorm1d(8)]}  # fmt: skip
CORNERS = torch.tensor(list(itertools.product((0.0, 1.0), repeat=8))).view(-1, 2, 2, 2)


@pytest.mark.parametrize("build", ONE_LAYER.values(), ids=ONE_LAYER)
def test_the_bounds_of_one_layer_are_reached_at_corners(build):
    layers = build(2)[:1] if nn.Flatten not in map(type, build(2)) else build(2)
    model = drawn(layers, seed=1)
    lower, upper = images(2, channels=2, size=2).sort(0).values.split(1)
    ends = model(lower + (upper - lower) * CORNERS).aminmax(dim=0)
    for bound, end in zip(interval_bounds(model, lower, upper), ends):
        torch.testing.assert_close(bound[0], end, rtol=1e-4, atol=1e-5)
    model, x = drawn(layers, seed=2, bias=1e5), images(400, channels=2, size=2)  # a box of one point holds its rounding
    (low, high), exact = interval_bounds(model, x, x), copy.deepcopy(model).double()(x.double())
    assert (low <= exact).all() and (exact <= high).all()


def test_every_rule_is_tested():
    layers = [layer for build in (*FRONTS.values(), *ONE_LAYER.values()) for layer in build(2)]
    assert RULES.keys() == {type(part) for layer in layers for part in layer.modules()} - {nn.Sequential}


@pytest.mark.parametrize("shared", [False, True], ids=["neurons of other pixels", "neurons of the same pixels"])
def test_two_neurons(shared):
    """Intervals are exact where no pixel is used twice; where one is, they are wider than the truth, never narrower."""
    model = drawn([nn.Flatten(), nn.Linear(8, 2), RELU, nn.Linear(2, 2)], seed=6)
    if not shared:
        model[1].weight.data *= torch.tensor([[1.0] * 4 + [0] * 4, [0] * 4 + [1.0] * 4])
    lower, upper = images(2, channels=2, size=2).sort(0).values.split(1)
    (low,), (high,) = interval_bounds(model, lower, upper)
    grid = lower + (upper - lower) * torch.cat([CORNERS, torch.rand(5000, 2, 2, 2)])
    ends = model(grid).aminmax(dim=0)
    slack = torch.cat([ends.min - low, high - ends.max])
    assert slack.min() >= 0 and (slack.max() > 0.1 if shared else slack.max() < 1e-4)


def test_the_margins_of_a_linear_network_are_exact():
    model, x, y = drawn([nn.Flatten(), nn.Linear(8, 4)], seed=0), images(1, channels=2, size=2), torch.tensor([2])
    z = model((x - 0.3).clamp(0, 1) + ((x + 0.3).clamp(0, 1) - (x - 0.3).clamp(0, 1)) * CORNERS)
    truth = (z[:, [2]] - z).amin(0)
    torch.testing.assert_close(margin_bounds(model, x, y, eps=0.3)[0], truth, rtol=1e-4, atol=1e-4)
    low, high = interval_bounds(model, (x - 0.3).clamp(0, 1), (x + 0.3).clamp(0, 1))
    assert (low[:, [2]] - high < truth - 0.1)[0, [0, 1, 3]].all()  # what folding the last layer gains


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_another_library_finds_the_same_bounds():
    model = drawn([nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 5)], seed=2)
    x, radius = torch.rand(6, 12), torch.rand(6, 12)
    theirs = BoundModelFactory().build(copy.deepcopy(model)).ibp(HyperRectangle(x - radius, x + radius))
    for ours, other in zip(interval_bounds(model, x - radius, x + radius), (theirs.lower, theirs.upper)):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-3)


def test_what_rounding_decides_is_not_proved():
    """Single and double precision read other classes: large terms cancel within the network, or between two logits."""
    inner = drawn([nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 2)], seed=0, scale=100)
    for layer, sign in ((inner[1].weight, 1), (inner[1].bias, 1), (inner[2].weight.T, -1)):
        layer.data[32:] = sign * layer[torch.arange(31, -1, -1)]
    outer = drawn([nn.Flatten(), nn.Linear(64, 2)], seed=0, scale=100, bias=0)
    outer[1].weight.data[1] = outer[1].weight[0].nextafter(torch.tensor([-999.0, 999.0]).repeat(32))
    inner[2].bias.data, (x, _) = torch.tensor([0, 1e-3]), batch(200)
    for model in (inner, outer):
        y = model(x).argmax(1)
        wrong = copy.deepcopy(model).double()(x.double()).argmax(1) != y
        for bounds in (margin_bounds, crown_bounds):
            assert wrong.any() and not (proven(model, x, y, eps=0.0, bounds=bounds) & wrong).any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_of_another_precision(dtype):
    model, (x, y) = conv_net().eval(), batch(40)
    y = model(x).argmax(1)
    sure = proven(model.to(dtype), x, y, eps=1e-3)
    assert sure.any() == (dtype == torch.float64)  # half precision rounds too much for a proof


@pytest.fixture(scope="module")
def bounded():
    """A small network trained with bounds, and 100 digits that it did not see."""
    model = nn.Sequential(
        Normalize(), nn.Conv2d(1, 6, 4, stride=2), nn.BatchNorm2d(6), RELU, nn.Conv2d(6, 8, 4, stride=2), RELU,
        nn.Flatten(), nn.Dropout(0.1), nn.Linear(200, 10),
    )  # fmt: skip
    model = initialised(lambda: tighten(model), seed=0)
    train, val = (make_loader(TensorDataset(*digits(n, train=n > 100)), batch_size=50) for n in (1200, 100))
    options = dict(objective=partial(ibp, full_eps=0.1), eps=0.1, eps_warmup=3, progress=False)
    history = fit(model, train, val, epochs=6, lr=0.01, **options)
    assert history.forwards == history.backwards == [3 * n for n in history.images]
    return model, *digits(100, train=False)


def test_no_attack_breaks_a_proof(bounded):
    model, x, y = bounded
    for eps in (0.01, 0.05, 0.1, 0.2):
        sure = proven(model, x, y, eps=eps)
        stays = model(pgd(model, x, y, eps=eps, steps=20, restarts=3)).argmax(1) == y
        assert stays[sure].all() and (eps > 0.1 or sure.float().mean() > 0.3), sure.float().mean()
        served = [(x[:60], y[:60]), (x[60:], y[60:])]
        assert certified(model, served, eps=eps).value == pytest.approx(sure.float().mean().item())
        assert certified(model, served, eps=eps).value <= accuracy(model, served, pgd, eps=eps).value


def test_the_certified_radius_is_the_largest_that_is_proved(bounded):
    for model, x, y in (bounded, (trained("clean-small-cnn", progress=False), *digits(20, train=False))):
        y = y.clone()
        y[0] = (model(x[:1]).argmax(1) + 1) % 10
        radius, rough = certified_radius(model, x, y, steps=12), certified_radius(model, x, y, steps=4)
        assert radius[0] == 0 < radius.max() < 1 and ((rough <= radius) & (radius < rough + 2**-4)).all()
        assert proven(model, x, y, eps=radius.view(-1, 1, 1, 1))[radius > 0].all()
        assert not proven(model, x, y, eps=(radius + 2**-12).view(-1, 1, 1, 1)).any()
        for eps in (2**-9, 2**-4):
            assert certified(model, [(x, y)], eps=eps).value == pytest.approx((radius >= eps).float().mean().item())
        for share in (0.5, 1.0):  # all that is smaller is proved with it
            assert proven(model, x, y, eps=(share * radius).view(-1, 1, 1, 1))[radius > 0].all()
        for i in range(1, 6):
            x_adv = pgd(model, x[[i]], y[[i]], eps=radius[i].item(), steps=10)
            assert radius[i] == 0 or model(x_adv).argmax(1) == y[i]
    blind = nn.Sequential(nn.Flatten(), drawn([nn.Linear(784, 10)], seed=0, scale=0)[0])
    blind[1].bias.data[3] = 1
    assert certified_radius(blind, x, y * 0 + 3, steps=5).eq(1 - 2**-5).all()  # no attack changes this one
    model, x, y = bounded
    many = certified_radius(model, x.repeat(6, 1, 1, 1), y.repeat(6), steps=3)  # in more than one batch
    assert torch.equal(many, certified_radius(model, x, y, steps=3).repeat(6))


@pytest.mark.parametrize(
    "name, eps, bounds",
    [
        ("mixed-fgsm-0.1", 0.001, margin_bounds),
        ("clean-small-cnn", 0.005, margin_bounds),
        ("clean-small-cnn", 0.01, crown_bounds),
    ],
)
def test_published_networks_are_never_more_certified_than_robust(name, eps, bounds):
    model, served = trained(name, progress=False), [digits(20, train=False)]
    attack = partial(pgd, steps=10, restarts=2)
    proved = certified(model, served, eps=eps, bounds=bounds).value
    assert proved <= accuracy(model, served, attack, eps=eps).value
    assert bounds is margin_bounds or proved > certified(model, served, eps=eps).value


def test_images_that_miss_ball_or_range_by_a_rounding_are_in_the_box():
    """What the package takes for an image of the ball, at the slope of a contrast that would show it."""
    for x, moved in ((0.0, -1e-6), (1.0, 1e-6), (0.5, 1e-6), (0.5, -1e-6)):
        model, x = (
            nn.Sequential(Normalize(x, 1e-5), *drawn([nn.Flatten(), nn.Linear(8, 2)], seed=0)),
            x + 0 * CORNERS[:1],
        )
        for y in ([0], [1]):
            z = model(x + moved)
            for bounds, centre in itertools.product((margin_bounds, crown_bounds), (x, x + moved)):
                assert (bounds(model, centre, torch.tensor(y), eps=0.0) <= z[:, y] - z).all()


@pytest.mark.parametrize("full_eps, weight", [(None, 0.25), (0.1, 0.25), (0.4, 0.625)])
def test_ibp_is_what_its_paper_writes(full_eps, weight):
    """With batch norm as it is in the clean pass, and left in the mode in which it was."""
    model, (x, y) = conv_net().train(), batch(20)
    model[3].p = 0.0
    with batch_statistics(model) as found:
        model(x)
    frozen = copy.deepcopy(model).eval()
    for layer, twin in zip(model, frozen):
        if layer in found:
            twin.running_var, twin.running_mean = (value.detach() for value in found[layer])
    torch.testing.assert_close(frozen(x), model(x), rtol=1e-4, atol=1e-4)
    bounds = margin_bounds(frozen, x, y, eps=0.2)
    expected = weight * F.cross_entropy(frozen(x), y) + (1 - weight) * F.cross_entropy(-bounds, y)
    options = dict(eps=0.2, kappa=0.25, full_eps=full_eps)
    loss = ibp(model, x, y, **options)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    weight, step = model[0].weight, torch.randn_like(model[0].weight)
    slope = (torch.autograd.grad(loss, weight)[0] * step).sum().item()
    ends = []
    for h in (1e-3, -2e-3):
        weight.data += h * step
        ends.append(ibp(model, x, y, **options).item())
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-3, rel=0.05)  # through the batch's statistics too
    with untouched(model.eval(), x, y):
        loss = ibp(model, x, y, **options)
    torch.testing.assert_close(ibp(model, x, y, eps=0.0), clean(model, x, y), rtol=1e-3, atol=1e-3)


def test_the_ledger_counts_both_ends():
    model, (x, y) = conv_net(), batch(5)
    with ledger(model) as passes:
        ibp(model, x, y, eps=0.1).backward()
        assert (passes.forwards, passes.backwards) == (15, 15)
        certified(model, [(x, y)], eps=0.1)
        interval_bounds(model, x, x)
    assert (passes.forwards, passes.backwards) == (35, 15)
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())


def test_tightened_weights_keep_intervals_from_exploding():
    """In the order of figures of batch norm that has not yet seen a batch; one that has blows them up again."""
    plain, tight = vgg(16, width=0.25), tighten(vgg(16, width=0.25))
    x, y = digits(20)
    losses = [ibp(model.eval(), x, y, eps=0.3, kappa=0.0).item() for model in (plain, tight)]
    assert losses[0] > 1e5 > 10 > losses[1], losses
    weight = tighten(nn.Sequential(nn.Conv2d(8, 500, 3)))[0].weight
    assert weight.std().item() == pytest.approx((2 * torch.pi) ** 0.5 / 72, rel=0.02)
    assert not tighten(nn.Linear(3, 3)).bias.any()


class Own(nn.ReLU):
    def forward(self, x):
        return -x


def hooked():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    model[1].register_forward_hook(lambda layer, inputs, output: -output)
    return model


END = [nn.Flatten(), nn.Linear(64, 4)]
BAD = {
    "a layer of one's own": (lambda: nn.Sequential(Own(), *END), "Own() as layer 0"),
    "a layer without a rule": (lambda: nn.Sequential(nn.Softplus(), *END), "Softplus"),
    "a module of one's own": (lambda: Own(), "Own"),
    "no module": (lambda: images, "function"),
    "no layer": (lambda: nn.Sequential(), "Sequential"),
    "a hook": (hooked, "Linear(in_features=64, out_features=4, bias=True) as layer 1"),
    "indices": (lambda: nn.Sequential(nn.MaxPool2d(2, return_indices=True), nn.Flatten()), "MaxPool2d"),
    "the batch's statistics": (lambda: nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False)), "BatchNorm2d"),
    "normalised weights": (lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 1, 1))), "Conv2d"),
    "no last layer": (lambda: nn.Sequential(nn.Flatten(), nn.ReLU()), "ReLU() after features (3, 64)"),
    "one logit": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), "out_features=1"),
    "a map of logits": (lambda: nn.Sequential(nn.Flatten(2), nn.Linear(64, 4)), "features (3, 1, 64)"),
    "a flat batch": (lambda: nn.Sequential(nn.Flatten(0), nn.Linear(192, 4)), "features (192,)"),
}


@table(BAD)
def test_other_networks_are_refused(bad, fragment):
    x, y = batch(3)
    for bound in (partial(margin_bounds, eps=0.1), partial(proven, eps=0.1), certified_radius):
        with refused("model", fragment):
            bound(bad(), x, y)
    with refused("model", fragment):
        certified(bad(), loader(3, 3), eps=0.1)


@table(BAD_IMAGES)
def test_bad_images_are_refused(bad, fragment):
    for bound in (partial(margin_bounds, eps=0.1), certified_radius):
        with refused("x", fragment):
            bound(conv_net(), bad, batch(3)[1])


@table(BAD_EPS)
def test_a_bad_radius_is_refused(bad, fragment):
    with refused("eps", fragment):
        ibp(conv_net(), *batch(3), eps=bad)
    with refused("eps", fragment):
        certified(conv_net(), loader(3), eps=bad)


def test_other_bad_arguments_are_refused():
    model, (x, y) = conv_net(), batch(3)
    with refused("y", "label 4"):
        margin_bounds(model, x, y.fill_(4), eps=0.1)
    for name, value in dict(kappa=1.5, full_eps=0).items():
        with refused(name):
            ibp(model, x, y * 0, eps=0.1, **{name: value})
    norm = nn.BatchNorm1d(4)
    twice = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), norm, nn.ReLU(), nn.Linear(4, 4), norm, nn.Linear(4, 4))
    with refused("model", "at two places"):
        ibp(twice.train(), x, y * 0, eps=0.1)
    loss = ibp(twice.eval(), x, y * 0, eps=0.0, kappa=0.0).item()
    assert loss == pytest.approx(clean(twice, x, y * 0).item(), rel=1e-4)
    with refused("steps"):
        certified_radius(model, x, y * 0, steps=0)
    with refused("loader", "no images"):
        certified(model, [], eps=0.1)
    with refused("model"):
        tighten(None)
    small = trained("clean-small-cnn", progress=False)
    with refused("loader", "trained on"):
        certified(small, [digits(20)], eps=0.1)
