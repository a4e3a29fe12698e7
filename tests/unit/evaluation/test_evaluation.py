"""Predictions and accuracies: what is counted, how sure it is, what it costs, and what is refused."""

from functools import partial

import pytest
import torch
from bad_input import BAD_EPS, BAD_IMAGES, BAD_MODELS, table
from helpers import batch, conv_net, dataset, images, labels, linear, loader, mixed_modes, refused, untouched
from scipy import stats
from scipy.special import softmax
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset, WeightedRandomSampler

from advutils import describe, worst_case
from advutils.attacks.base import attack as as_attack
from advutils.attacks.black_box import grey, random_noise, square
from advutils.attacks.gradient import fgsm, pgd, targeted
from advutils.attacks.losses import dlr
from advutils.data import make_loader
from advutils.evaluation import Accuracy, accuracy, accuracy_vs_eps, mcnemar, predict, survivors, wilson
from advutils.training import ledger
from advutils.utils.hashes import image_hashes
from advutils.utils.inference import eval_mode


class Brightness(nn.Module):
    """Class 1 where the mean pixel is above one half, or another level."""

    def __init__(self, level=0.5):
        super().__init__()
        self.level = level

    def forward(self, x):
        light = x.mean((1, 2, 3)) - self.level
        return torch.stack([-light, light], 1)


def flat(*levels, label=1, batch_size=4):
    """A loader of grey images, one for each level."""
    x = torch.tensor(levels)[:, None, None, None].expand(-1, 1, 4, 4).clone()
    return make_loader(TensorDataset(x, torch.full((len(x),), label)), batch_size=batch_size)


def test_predictions_are_the_softmax_of_the_logits_in_eval_mode_in_parts():
    model, x, sizes = mixed_modes(conv_net()), images(1203), []
    with untouched(model, x):
        hook = model.register_forward_hook(lambda module, inputs, z: sizes.append(len(z)))
        probabilities = predict(model, x)
        hook.remove()
    assert max(sizes) <= 500 and sum(sizes) == 1203 and not probabilities.requires_grad
    with eval_mode(model), torch.no_grad():
        expected = torch.from_numpy(softmax(model(x).double().numpy(), axis=1))
    torch.testing.assert_close(probabilities.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("k, n", [(0, 1), (1, 1), (0, 10), (10, 10), (3, 10), (981, 1000), (1, 1000), (5000, 10000)])
def test_the_interval_is_wilsons(k, n):
    record = wilson(torch.arange(n) < k)
    low, high = stats.binomtest(k, n).proportion_ci(method="wilson")
    assert (record.value, record.n) == (k / n, n)
    assert (record.low, record.high) == pytest.approx((low, high), abs=2e-5)
    assert 0 <= record.low <= record.value <= record.high <= 1


def test_records_are_tuples_that_print_what_they_hold():
    record = wilson(torch.arange(1000) < 981)
    value, low, high, n = record
    assert isinstance(record, Accuracy) and (value, n) == (0.981, 1000)
    assert str(record).split() == ["98.1%", "[97.1%,", "98.8%]", "n=1000"]
    assert str(mcnemar(*records(7, 2))) == "only the first: 7, only the second: 2, p = 0.18"


@pytest.mark.parametrize("batch_size", [1, 3, 4, 10, 64])
def test_accuracy_weighs_images_not_batches_and_survivors_come_in_the_loaders_order(batch_size):
    data, model = flat(*[0.9] * 4, *[0.1] * 3, 0.7, 0.7, 0.55, batch_size=batch_size), Brightness()
    record = accuracy(model, data)
    assert record.value == 0.7 and record.n == 10
    for eps, expected in ((0.1, "1111000110"), (0.3, "1111000000")):
        assert survivors(model, data, fgsm, eps=eps).tolist() == [letter == "1" for letter in expected]


def test_accuracy_is_the_mean_of_the_survivors_of_the_attacked_images():
    model, data = conv_net(), loader(11)
    expected = [(predict(model, fgsm(model, x, y, eps=0.2)).argmax(1) == y).tolist() for x, y in data]
    alive = survivors(model, data, fgsm, eps=0.2)
    assert alive.dtype == torch.bool and alive.tolist() == sum(expected, [])
    assert accuracy(model, data, fgsm, eps=0.2) == wilson(alive)
    assert accuracy(model, data, fgsm, eps=0) == accuracy(model, data)


def test_accuracy_vs_eps_is_accuracy_at_each_eps_in_the_order_given():
    model, data, radii = conv_net(), loader(11), [0.3, 0, 0.05, 0.3]
    for attack in (fgsm, partial(fgsm), random_noise, partial(pgd, steps=2)):
        curve = accuracy_vs_eps(model, data, attack, radii)
        assert curve == [accuracy(model, data, attack, eps=eps) for eps in radii]
    assert accuracy_vs_eps(model, data, fgsm, iter(radii)) == accuracy_vs_eps(model, data, partial(fgsm), radii)


def test_fgsm_takes_one_gradient_an_image_for_the_whole_sweep_and_others_what_they_say():
    model, data, radii = conv_net(), loader(11), [0, 0.05, 0.1, 0.2, 0.3]
    three_steps = partial(pgd, steps=3, early_exit=False)
    for measure, forwards, backwards in (
        (partial(accuracy_vs_eps, attack=fgsm, eps_values=radii), 1 + 4, 1),
        (partial(accuracy_vs_eps, attack=fgsm, eps_values=[0.0]), 1, 1),
        (accuracy, 1, 0),
        (partial(accuracy, attack=three_steps, eps=0.1), 4, 3),
        (partial(accuracy, attack=random_noise, eps=0.1), 1, 0),
    ):
        with ledger(model) as spent:
            measure(model, data)
        assert (spent.forwards, spent.backwards) == (11 * forwards, 11 * backwards)


@pytest.mark.parametrize("attack", [fgsm, partial(pgd, steps=3, random_start=False), random_noise], ids=describe)
def test_in_a_nested_sweep_what_is_left_at_a_larger_radius_is_left_at_a_smaller_one(attack):
    model, data, radii = conv_net(), loader(40), [0.3, 0.05, 0.1, 0.3]
    alive = {eps: survivors(model, data, attack, eps=eps) for eps in radii}
    alive[0.1] = alive[0.1] | alive[0.3]
    alive[0.05] = alive[0.05] | alive[0.1]
    curve = accuracy_vs_eps(model, data, attack, radii, nested=True)
    assert curve[1].value >= curve[2].value >= curve[0].value and curve[0] == curve[3]
    if attack is not random_noise:  # a smaller batch draws other noise
        assert curve == [wilson(alive[eps]) for eps in radii]


def test_a_nested_sweep_attacks_only_what_has_fallen_at_every_larger_radius():
    met = []

    @as_attack()
    def darken(model, x, y, *, eps):
        met.append((eps, len(x)))
        return (x - eps).clamp(min=0)

    model, data, radii = Brightness(), flat(0.95, 0.85, 0.65, 0.55, 0.1, batch_size=5), [0.1, 0.2, 0.3, 0.4]
    expected = accuracy_vs_eps(model, data, darken, radii)
    assert [record.value for record in expected] == [0.6, 0.4, 0.4, 0.2] and [n for _, n in met] == [5] * 4
    met.clear()
    assert accuracy_vs_eps(model, data, darken, radii, nested=True) == expected
    assert met == [(0.4, 5), (0.3, 4), (0.2, 3), (0.1, 3)]


def test_a_nested_sweep_cannot_rise_where_a_broken_attack_does():
    @as_attack()
    def gives_up(model, x, y, *, eps):
        return x - (eps if eps < 0.3 else 0)

    model, data, radii = Brightness(), flat(0.9, 0.65, 0.55, 0.4), [0.1, 0.2, 0.3, 0.4]
    assert [record.value for record in accuracy_vs_eps(model, data, gives_up, radii)] == [0.5, 0.25, 0.75, 0.75]
    assert [record.value for record in accuracy_vs_eps(model, data, gives_up, radii, nested=True)] == [0.75] * 4


def test_a_sweep_that_knows_nothing_of_a_bound_option_is_not_used():
    @as_attack(sweep=lambda model, x, y, eps_values: pytest.fail("the sweep was used"))
    def attack(model, x, y, *, eps, option=1):
        return x

    assert accuracy_vs_eps(linear(), loader(4), partial(attack, option=2), [0.1, 0.2])[0].n == 4


@as_attack(early_exit=True)
def asks(model, x, y, *, eps, early_exit=False, told):
    told.append(early_exit)
    return x


def test_an_attack_that_knows_early_exit_is_asked_for_it_unless_it_is_told_otherwise():
    told = []
    attack = partial(asks, told=told)
    accuracy(linear(), loader(4), attack, eps=0.1)
    accuracy(linear(), loader(4), partial(attack, early_exit=False), eps=0.1)
    accuracy(linear(), loader(4), partial(partial(attack, early_exit=False), told=told), eps=0.1)
    accuracy_vs_eps(linear(), loader(4), attack, [0.1, 0.2])
    assert told == [True, False, False, True, True]


@pytest.mark.parametrize(
    "attack", [pgd, partial(targeted, attack=partial(pgd, steps=3)), partial(square, n_queries=20)], ids=describe
)
def test_early_exit_in_accuracy_spares_passes_and_no_image(attack):
    model, data, spent_on = linear(), loader(40), []
    for asked in (attack, partial(attack, early_exit=False)):
        with ledger(model) as spent:
            alive = survivors(model, data, asked, eps=0.02)
        spent_on.append((alive, spent.forwards))
    (early, few_passes), (whole, passes) = spent_on
    assert few_passes < 0.7 * passes
    assert not (early & ~whole).any() and early.any() and not early.all()


def test_an_l2_attack_is_measured_in_its_ball():
    model, data, attack, expected = mixed_modes(conv_net()), loader(11), partial(pgd, steps=3, norm="l2"), []
    for index, (x, y) in enumerate(data):
        generator = torch.Generator().manual_seed(index)
        x_adv = attack(model, x, y, eps=1.5, generator=generator, early_exit=True)
        expected += (predict(model, x_adv).argmax(1) == y).tolist()
    with untouched(model):
        assert survivors(model, data, attack, eps=1.5).tolist() == expected
    assert [record.n for record in accuracy_vs_eps(model, data, attack, [0, 0.5, 1000])] == [11, 11, 11]
    targets = partial(targeted, attack=attack)
    assert accuracy(model, data, targets, eps=1.5).n == 11
    for measure in (partial(accuracy, attack=partial(attack, norm="linf")), partial(worst_case, attacks={"a": fgsm})):
        with refused("eps", "1.5"):
            measure(model, data, eps=1.5)
    with refused("attacks", "linf", "l2"):
        worst_case(model, data, {"targets": targets, "FGSM": fgsm}, eps=0.1)


@as_attack(norm="l2")
def farther(model, x, y, *, eps, norm="l2", by=1.0):
    step = by * eps / x[0].numel() ** 0.5
    return torch.where(x > 0.5, x - step, x + step)


def test_an_attack_that_leaves_its_l2_ball_is_refused():
    assert accuracy(linear(), loader(4), farther, eps=1).n == 4
    with refused("attack", "1.01 away from x", "eps = 1"):
        accuracy(linear(), loader(4), partial(farther, by=1.01), eps=1)
    assert accuracy(linear(), loader(4), partial(farther, by=1.01, norm="linf"), eps=1).n == 4


SEVERAL = {"FGSM": fgsm, "PGD": partial(pgd, steps=3), "noise": random_noise, "Square": partial(square, n_queries=10)}


def test_the_worst_case_is_the_and_of_the_survivors():
    model, data = linear(), loader(40)
    result = worst_case(model, data, SEVERAL, eps=0.02)
    alive, together = survivors(model, data), {}
    together["clean"] = wilson(alive)
    for label, attack in ({"grey": grey} | SEVERAL).items():
        alone = survivors(model, data, attack, eps=0.02)
        assert result.individual[label] == wilson(alone)
        alive = alive & alone
        together[label] = wilson(alive)
    assert result.cumulative == together
    assert list(result.individual) == list(result.cumulative) == ["clean", "grey", *SEVERAL]
    assert torch.equal(result.robust, alive) and result.accuracy == wilson(alive) == result.cumulative["Square"]
    assert 0 < result.accuracy.value < result.individual["clean"].value
    lines = str(result).splitlines()
    assert "individual" in lines[0] and [line.split()[0] for line in lines[1:]] == ["clean", "grey", *SEVERAL]
    assert all("n=40" in line for line in lines[1:])
    in_l2 = worst_case(model, data, {"PGD": partial(pgd, steps=2, norm="l2")}, eps=1.5)
    assert in_l2.individual["grey"] == accuracy(model, data, partial(grey, norm="l2"), eps=1.5)


def test_a_cascade_finds_the_same_worst_case_and_attacks_survivors_only():
    model, data, met = linear(), loader(40), {}

    def spied(label, attack):
        @as_attack()
        def spy(model, x, y, *, eps):
            met[label] = met.get(label, 0) + len(x)
            return attack(model, x, y, eps=eps)

        return spy

    attacks = {
        label: spied(label, attack)
        for label, attack in {"FGSM": fgsm, "PGD": partial(pgd, steps=3, random_start=False), "again": fgsm}.items()
    }
    whole, cascade = (worst_case(model, data, attacks, eps=0.02, cascade=on) for on in (False, True))
    assert cascade.cumulative == whole.cumulative and torch.equal(cascade.robust, whole.robust)
    assert cascade.individual == {} and cascade.accuracy == whole.accuracy
    left = [round(40 * cascade.cumulative[label].value) for label in ("grey", "FGSM", "PGD")]
    assert met == {label: 40 + n for label, n in zip(attacks, left)} and 40 > left[0] > left[1] > 0
    assert [line.split()[:2] for line in str(cascade).splitlines()[2:3]] == [["grey", f"{left[0] / 0.4:.1f}%"]]


def test_a_part_of_the_attacks_may_be_a_cascade_and_an_unknown_label_is_refused():
    model, data, met = linear(), loader(40), []

    @as_attack()
    def spy(model, x, y, *, eps):
        met.append(len(x))
        return fgsm(model, x, y, eps=eps)

    attacks = {"early": spy, "late": spy, "last": partial(spy)}
    found = worst_case(model, data, attacks, eps=0.02, cascade=["late"])
    whole = worst_case(model, data, attacks, eps=0.02)
    assert list(found.individual) == ["clean", "grey", "early", "last"] and found.cumulative == whole.cumulative
    left = round(40 * found.cumulative["early"].value)
    assert 0 < left < 40 and sum(met) == 40 + left + 40 + 3 * 40
    assert found.individual["last"] == whole.individual["last"]
    with pytest.raises(ValueError, match="cascade: got 'later'"):
        worst_case(model, data, attacks, eps=0.02, cascade=["later"])


def test_a_cascade_goes_on_when_nothing_is_left():
    result = worst_case(Brightness(), flat(0.1, 0.2), {"FGSM": fgsm, "PGD": pgd}, eps=0.1, cascade=True)
    assert result.robust.tolist() == [False, False] and result.cumulative["PGD"].value == 0
    assert [record.value for record in accuracy_vs_eps(Brightness(), flat(0.1), fgsm, [0.1, 0.2], nested=True)] == [
        0,
        0,
    ]


def test_a_wrong_image_is_attacked_too_and_a_helpful_attack_does_not_help_the_worst_case():
    def light(model, x, y, *, eps):
        return x + eps

    result = worst_case(Brightness(), flat(0.45, 0.45, 0.9), {"light": light}, eps=0.1)
    assert result.individual["light"].value == 1 and result.robust.tolist() == [False, False, True]


def cut(data):
    return DataLoader(data, batch_sampler=BatchSampler(RandomSampler(data), 8, False))


SHUFFLED = {
    "a loader that shuffles": lambda data: make_loader(data, batch_size=8, shuffle=True),
    "batches in disorder": cut,
    "a weighted draw": lambda data: DataLoader(data, batch_size=8, sampler=WeightedRandomSampler([1.0] * 40, 40)),
}


@pytest.mark.parametrize("cascade", [False, True])
@pytest.mark.parametrize("build", SHUFFLED.values(), ids=SHUFFLED)
def test_a_worst_case_pairs_its_attacks_image_by_image_in_whatever_order_they_come(build, cascade):
    """Two attacks that darken complementary halves of the images leave none of them; paired badly, they leave some."""

    def darken(which, model, x, y, *, eps):
        bright = x.mean((1, 2, 3), keepdim=True) > 0.4
        return torch.where(bright == which, x - eps, x)

    levels = torch.linspace(0.31, 0.49, 40)[:, None, None, None].expand(-1, 1, 4, 4).clone()
    loader = build(TensorDataset(levels, torch.ones(40, dtype=torch.int64)))
    halves = {"bright": partial(darken, True), "dark": partial(darken, False)}
    result = worst_case(Brightness(0.3), loader, halves, eps=0.2, cascade=cascade)  # grey makes them brighter
    assert result.accuracy.value == 0 and 0 < result.cumulative["bright"].value < 1


def records(only_first, only_second, both=3, neither=2):
    first = [True] * only_first + [False] * only_second + [True] * both + [False] * neither
    second = [False] * only_first + [True] * only_second + [True] * both + [False] * neither
    return torch.tensor(first), torch.tensor(second)


@pytest.mark.parametrize("a, b", [(0, 0), (1, 0), (3, 3), (10, 2), (2, 10), (40, 25), (0, 12), (900, 1000), (3000, 0)])
def test_a_pair_is_compared_by_mcnemars_exact_test(a, b):
    result = mcnemar(*records(a, b))
    assert (result.only_first, result.only_second) == (a, b)
    expected = stats.binomtest(a, a + b).pvalue if a + b else 1
    assert result.p_value == pytest.approx(expected, rel=1e-9) and result.p_value <= 1


def test_a_function_is_described_with_what_is_bound_to_it():
    assert describe(pgd) == "pgd" and describe(None) == "none"
    assert describe(partial(pgd, steps=40, loss=dlr)) == "pgd(steps=40, loss=dlr)"
    assert describe(partial(targeted, attack=partial(pgd, norm="l2"))) == "targeted(attack=pgd(norm='l2'))"
    assert describe(partial(partial(pgd, steps=3), steps=4)) == "pgd(steps=4)"
    assert describe(linear()) == "Sequential"


def test_each_batch_gets_a_generator_seeded_with_its_index():
    seeds = []

    @as_attack(draws=True)
    def noisy(model, x, y, *, eps, generator=None):
        seeds.append(generator.initial_seed())
        return x

    accuracy(conv_net(), loader(11), noisy, eps=0.1)
    assert seeds == [0, 1, 2]
    accuracy(conv_net(), loader(11), partial(noisy, generator=torch.Generator().manual_seed(8)), eps=0.1)
    assert seeds[3:] == [8, 8, 8]


def test_a_random_attacks_result_repeats_whatever_the_global_random_state_and_leaves_it():
    model, data, attack, results = conv_net(), loader(40), partial(pgd, steps=1, step_size=0.001), []
    for seed in range(4):
        torch.manual_seed(seed)
        before = torch.random.get_rng_state()
        results.append(survivors(model, data, attack, eps=0.5).tolist())
        assert torch.equal(torch.random.get_rng_state(), before)
    assert results.count(results[0]) == 4


def train_hashes(model, x):
    model.train_hashes = image_hashes(x)
    return model


def test_scoring_on_training_images_is_refused():
    data = dataset(40)
    model = train_hashes(conv_net(), data.tensors[0])
    for attack, eps in ((None, None), (fgsm, 0.1)):
        with refused("loader", "40 images (of 40)", "held-out"):
            accuracy(model, make_loader(data, batch_size=16), attack, eps=eps)
    with refused("loader", "40 images"):
        accuracy_vs_eps(model, make_loader(data, batch_size=16), fgsm, [0.1])
    assert accuracy(model, loader(40, seed=1)).n == 40


def test_one_double_in_two_hundred_is_tolerated_and_two_are_not():
    x, y = batch(400)
    model, data = conv_net(), make_loader(TensorDataset(x[200:], y[200:]), batch_size=64)
    assert accuracy(train_hashes(model, x[:201]), data).n == 200
    with refused("loader", "2 images (of 200)"):
        accuracy(train_hashes(model, x[:202]), data)


def test_an_image_is_recognised_after_rounding_and_in_any_order_but_not_one_grey_level_away():
    x, y = batch(20)
    x = (x * 254).round() / 255
    with refused("loader", "20 images"):
        accuracy(train_hashes(conv_net(), x), [(x.flip(0) * (1 - 1e-6), y)])
    other = x.clone()
    other[:, 0, 3, 3] += 1 / 255
    assert accuracy(train_hashes(conv_net(), x), [(other, y)]).n == 20


@table(BAD_IMAGES)
def test_bad_images_are_refused(bad, fragment):
    with refused("loader's images", fragment):
        accuracy(linear(), [(bad, labels(3))])
    with refused("x", fragment):
        predict(linear(), bad)


@pytest.mark.parametrize("bad, argument, fragment", [
    ([0, 1, 2], "loader's labels", "list"), (torch.tensor([0.0, 1, 2]), "loader's labels", "float32"),
    (torch.rand(3, 4), "loader's labels", "class indices"), (torch.tensor([0, 1]), "loader's labels", "(2,)"),
    (torch.tensor([0, 1, 4]), "y", "label 4"), (torch.tensor([0, 1, -100]), "y", "label -100"),
])  # fmt: skip
@pytest.mark.parametrize("attack, eps", [(None, None), (fgsm, 0.1)])
def test_bad_labels_in_a_loader_are_refused(bad, argument, fragment, attack, eps):
    with refused(argument, fragment):
        accuracy(linear(), [(images(3), bad)], attack, eps=eps)


@table(BAD_MODELS)
def test_bad_models_are_refused(bad, fragment):
    for measure in (
        partial(predict, x=images(3)),
        partial(accuracy, loader=loader(3)),
        partial(accuracy_vs_eps, loader=loader(3), attack=fgsm, eps_values=[0.1]),
    ):
        with refused("model", fragment):
            measure(bad)


@table(BAD_EPS)
def test_bad_eps_is_refused(bad, fragment):
    with refused("eps", fragment):
        accuracy(linear(), loader(), fgsm, eps=bad)
    with refused("eps", fragment):
        accuracy_vs_eps(linear(), loader(), fgsm, [0.1, bad])


REFUSED = {
    "eps without an attack": (lambda: accuracy(linear(), loader(), eps=0.1), "attack", "None with eps=0.1"),
    "no attack in a sweep": (lambda: accuracy_vs_eps(linear(), loader(), None, [0.1]), "attack", "None"),
    "an attack's name": (lambda: accuracy(linear(), loader(), "fgsm", eps=0.1), "attack", "fgsm"),
    "one radius": (lambda: accuracy_vs_eps(linear(), loader(), fgsm, 0.1), "eps_values", "0.1"),
    "no radius": (lambda: accuracy_vs_eps(linear(), loader(), fgsm, []), "eps_values", "[]; accepts a list of radii"),
    "an empty loader": (lambda: accuracy(linear(), []), "loader", "no images"),
    "a data set": (lambda: accuracy(linear(), dataset()), "loader's images", "x.unsqueeze(0)"),
    "records of other images": (lambda: mcnemar(torch.ones(4).bool(), torch.ones(3).bool()), "second", "3 images"),
    "an interval of nothing": (lambda: wilson(torch.empty(0, dtype=torch.bool)), "correct", "no images"),
    "a worst case of no attack": (lambda: worst_case(linear(), loader(), {}, eps=0.1), "attacks", "{}"),
    "a worst case of one attack": (lambda: worst_case(linear(), loader(), fgsm, eps=0.1), "attacks", "fgsm"),
    "a reserved label": (lambda: worst_case(linear(), loader(), {"grey": fgsm}, eps=0.1), "attacks", "'grey'"),
    "a worst case of a name": (lambda: worst_case(linear(), loader(), {"a": "pgd"}, eps=0.1), "attack", "pgd"),
}


@pytest.mark.parametrize("measure, argument, fragment", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_measured_is_refused(measure, argument, fragment):
    with refused(argument, fragment):
        measure()


BAD_ATTACKS = {
    "leaves the ball": (lambda model, x, y, *, eps: 0.5 * x + 0.2, "attack", "away from x"),
    "a little farther than eps": (lambda model, x, y, *, eps: x + (x < 0.5) * (eps + 1e-4), "attack", "eps = 0.1"),
    "leaves the pixel range": (lambda model, x, y, *, eps: x + eps, "attack's images", "[0, 1]"),
    "NaN": (lambda model, x, y, *, eps: x * torch.nan, "attack's images", "NaN"),
    "works in place": (lambda model, x, y, *, eps: x.add_(2 * eps).clamp_(0, 1), "attack", "away from x"),
    "drops images": (lambda model, x, y, *, eps: x[1:], "attack", "(3, 1, 8, 8)"),
    "returns a pair": (lambda model, x, y, *, eps: (x, y), "attack's images", "tuple"),
    "double precision": (lambda model, x, y, *, eps: x.double(), "attack's images", "float64"),
}


@pytest.mark.parametrize("attack, argument, fragment", BAD_ATTACKS.values(), ids=BAD_ATTACKS)
def test_an_attack_that_breaks_the_threat_model_is_refused(attack, argument, fragment):
    for measure in (partial(accuracy, eps=0.1), partial(accuracy_vs_eps, eps_values=[0.1])):
        with refused(argument, fragment):
            measure(linear(), loader(4), attack)
