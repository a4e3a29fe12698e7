"""Predictions and accuracies: what is counted, how sure it is, what it costs, and what is refused."""

from functools import partial

import pytest
import torch
from bad_input import BAD_EPS, BAD_IMAGES, BAD_MODELS, table
from helpers import batch, conv_net, dataset, few, images, labels, linear, loader, mixed_modes, refused, untouched
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import softmax
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)  # fmt: skip

from advutils import (
    Accuracy,
    WorstCase,
    accuracy,
    accuracy_vs_eps,
    describe,
    dlr,
    eval_mode,
    fgsm,
    grey,
    ledger,
    load_data,
    load_weights,
    make_loader,
    mcnemar,
    pgd,
    predict,
    random_noise,
    save_weights,
    square,
    survivors,
    targeted,
    vgg,
    wilson,
    worst_case,
)
from advutils.attacks.base import attack as as_attack
from advutils.attacks.gradient import fgsm_sweep
from advutils.utils.fusion import fuse_batch_norm
from advutils.utils.hashes import image_hashes


class Brightness(nn.Module):
    """Class 1 where the mean pixel is above one half."""

    def forward(self, x):
        light = x.mean((1, 2, 3)) - 0.5
        return torch.stack([-light, light], 1)


def flat(*levels, label=1, batch_size=4):
    """A loader of grey images, one for each level."""
    x = torch.tensor(levels)[:, None, None, None].expand(-1, 1, 4, 4).clone()
    return make_loader(TensorDataset(x, torch.full((len(x),), label)), batch_size=batch_size)


# predict


def test_predictions_are_the_softmax_of_the_logits_in_eval_mode():
    model, (x, _) = mixed_modes(conv_net()), batch()
    with untouched(model, x):
        probabilities = predict(model, x)
    with eval_mode(model), torch.no_grad():
        expected = torch.from_numpy(softmax(model(x).double().numpy(), axis=1))
    torch.testing.assert_close(probabilities.double(), expected, rtol=1e-5, atol=1e-6)
    assert not probabilities.requires_grad


def test_predictions_of_a_large_set_go_through_in_parts():
    model, x, sizes = linear(), images(1203), []
    model.register_forward_hook(lambda module, inputs, z: sizes.append(len(z)))
    probabilities = predict(model, x)
    assert max(sizes) <= 500 and sum(sizes) == 1203
    torch.testing.assert_close(probabilities[[0, 600, 1202]], predict(model, x[[0, 600, 1202]]))


@table(BAD_IMAGES)
def test_predict_refuses_bad_images(bad, fragment):
    with refused("x", fragment):
        predict(linear(), bad)


@table(BAD_MODELS)
def test_predict_refuses_bad_models(bad, fragment):
    with refused("model", fragment):
        predict(bad, batch(3)[0])


# the interval


@pytest.mark.parametrize("k, n", [(0, 1), (1, 1), (0, 10), (10, 10), (3, 10), (981, 1000), (1, 1000), (5000, 10000)])
def test_the_interval_is_wilsons(k, n):
    record = wilson(torch.arange(n) < k)
    low, high = stats.binomtest(k, n).proportion_ci(method="wilson")
    assert (record.value, record.n) == (k / n, n)
    assert (record.low, record.high) == pytest.approx((low, high), abs=2e-5)
    assert 0 <= record.low <= record.value <= record.high <= 1


def test_an_interval_of_nothing_is_refused():
    with refused("correct", "no images"):
        wilson(torch.empty(0, dtype=torch.bool))


def test_a_record_is_a_tuple_that_prints_its_interval():
    record = wilson(torch.arange(1000) < 981)
    value, low, high, n = record
    assert isinstance(record, Accuracy) and (value, n) == (0.981, 1000)
    assert str(record).split() == ["98.1%", "[97.1%,", "98.8%]", "n=1000"]
    with pytest.raises(AttributeError):
        record.value = 1


# what is counted


@pytest.mark.parametrize("batch_size", [1, 3, 4, 10, 64])
def test_accuracy_weighs_images_not_batches(batch_size):
    record = accuracy(Brightness(), flat(*[0.9] * 7, *[0.1] * 3, batch_size=batch_size))
    assert record.value == 0.7 and record.n == 10


def test_survivors_come_in_the_loaders_order():
    data = flat(0.9, 0.4, 0.7, 0.2, 0.55)
    assert survivors(Brightness(), data).tolist() == [True, False, True, False, True]
    assert survivors(Brightness(), data, fgsm, eps=0.1).tolist() == [True, False, True, False, False]
    assert survivors(Brightness(), data, fgsm, eps=0.3).tolist() == [True, False, False, False, False]


def test_accuracy_is_the_mean_of_the_survivors():
    model, data = conv_net(), loader(11)
    for attack, eps in ((None, None), (fgsm, 0.1)):
        alive = survivors(model, data, attack, eps=eps)
        assert alive.dtype == torch.bool and alive.shape == (11,)
        assert accuracy(model, data, attack, eps=eps) == wilson(alive)


def test_robust_accuracy_scores_the_attacked_images():
    model, data = conv_net(), loader(11)
    expected = [(predict(model, fgsm(model, x, y, eps=0.2)).argmax(1) == y).tolist() for x, y in data]
    assert survivors(model, data, fgsm, eps=0.2).tolist() == sum(expected, [])
    assert accuracy(model, data, fgsm, eps=0) == accuracy(model, data)


def test_a_wrong_image_is_attacked_too_and_may_come_out_right():
    assert accuracy(Brightness(), flat(0.45, 0.45, 0.45), lambda model, x, y, *, eps: x + eps, eps=0.1).value == 1


def test_the_model_is_scored_in_eval_mode_and_left_as_it_was():
    model, data = mixed_modes(conv_net()), loader(30)
    with untouched(model):
        records = {accuracy(model, data) for _ in range(4)} | {accuracy(model, data, fgsm, eps=0)}
    assert len(records) == 1


def test_a_model_that_raises_is_left_untouched():
    model = mixed_modes(conv_net(channels=3))
    with untouched(model), pytest.raises(RuntimeError):
        accuracy(model, loader(4))


# the sweep


def test_accuracy_vs_eps_is_accuracy_at_each_eps_in_the_order_given():
    model, data, radii = conv_net(), loader(11), [0.3, 0, 0.05, 0.3]
    for attack in (fgsm, partial(fgsm), random_noise, partial(pgd, steps=2)):
        curve = accuracy_vs_eps(model, data, attack, radii)
        assert curve == [accuracy(model, data, attack, eps=eps) for eps in radii]
    assert accuracy_vs_eps(model, data, fgsm, iter(radii)) == accuracy_vs_eps(model, data, partial(fgsm), radii)


def test_a_known_curve():
    curve = accuracy_vs_eps(Brightness(), flat(0.55, 0.65, 0.75, 0.85, 0.95), fgsm, [0, 0.1, 0.2, 0.3, 0.5])
    assert [record.value for record in curve] == [1, 0.8, 0.6, 0.4, 0]


def test_fgsm_takes_one_gradient_an_image_for_the_whole_sweep():
    model, data = conv_net(), loader(11)
    for radii, forwards in (([0, 0.05, 0.1, 0.2, 0.3], 1 + 4), ([0.1, 0.2], 1 + 2), ([0.0], 1)):
        with ledger(model) as spent:
            accuracy_vs_eps(model, data, fgsm, radii)
        assert (spent.backwards, spent.forwards) == (11, 11 * forwards)


@pytest.mark.parametrize("n", [1, 7, 64, 250])
def test_the_logits_that_come_with_the_gradient_are_those_of_a_pass_of_their_own(n):
    x, y = (t[:n] for t in load_data("mnist-5k", train=False)[::4])
    for model in (conv_net().eval(), vgg(11, width=0.125).eval(), fuse_batch_norm(vgg(16, width=0.25).eval())):
        pairs = list(fgsm_sweep(model, x, y % 4, [0.1, 0.0, 0.2]))  # one of them knows four classes
        assert [logits is None for _, logits in pairs] == [True, False, True]
        x_adv, logits = pairs[1]
        with torch.no_grad():
            assert torch.equal(x_adv, x) and torch.equal(logits, model(x))


def test_what_other_measurements_cost():
    for attack, eps, forwards, backwards in (
        (None, None, 1, 0),
        (partial(pgd, steps=3, early_exit=False), 0.1, 4, 3),
        (random_noise, 0.1, 1, 0),
    ):
        model = conv_net()
        with ledger(model) as spent:
            accuracy(model, loader(10), attack, eps=eps)
        assert (spent.forwards, spent.backwards) == (10 * forwards, 10 * backwards)


# early exit


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


def test_early_exit_in_accuracy_spares_passes_and_no_image():
    model, data, spent_on = linear(), loader(40), []
    for attack in (pgd, partial(pgd, early_exit=False)):
        with ledger(model) as spent:
            alive = survivors(model, data, attack, eps=0.02)
        spent_on.append((alive, spent.backwards))
    (early, few_passes), (whole, passes) = spent_on
    assert passes == 40 * 40 and few_passes < 0.7 * passes
    assert not (early & ~whole).any() and early.any() and not early.all()


@pytest.mark.parametrize("attack", [partial(targeted, attack=partial(pgd, steps=3)), partial(square, n_queries=20)])
def test_early_exit_reaches_targets_and_queries_too(attack):
    model, data, costs = linear(), loader(40), []
    for early_exit in (True, False):
        with ledger(model) as spent:
            survivors(model, data, attack if early_exit else partial(attack, early_exit=False), eps=0.1)
        costs.append(spent.forwards)
    assert costs[0] < 0.7 * costs[1]


# the l_2 ball


def test_an_l2_attack_is_measured_in_its_ball():
    model, data, attack = conv_net(), loader(11), partial(pgd, steps=3, norm="l2")
    expected = []
    for index, (x, y) in enumerate(data):
        generator = torch.Generator().manual_seed(index)
        expected += (
            predict(model, attack(model, x, y, eps=1.5, generator=generator, early_exit=True)).argmax(1) == y
        ).tolist()
    assert survivors(model, data, attack, eps=1.5).tolist() == expected
    assert [record.n for record in accuracy_vs_eps(model, data, attack, [0, 0.5, 20])] == [11, 11, 11]
    with refused("eps", "1.5"):
        accuracy(model, data, partial(attack, norm="linf"), eps=1.5)


@as_attack(norm="l2")
def farther(model, x, y, *, eps, norm="l2", by=1.0):
    step = by * eps / x[0].numel() ** 0.5
    return torch.where(x > 0.5, x - step, x + step)


def test_an_attack_that_leaves_its_l2_ball_is_refused():
    assert accuracy(linear(), loader(4), farther, eps=1).n == 4
    with refused("attack", "1.01 away from x", "eps = 1"):
        accuracy(linear(), loader(4), partial(farther, by=1.01), eps=1)
    assert accuracy(linear(), loader(4), partial(farther, by=1.01, norm="linf"), eps=1).n == 4


@pytest.mark.parametrize("eps", [1e-3, 0.3, 2, 9, 1000])
def test_rounding_is_no_way_out_of_an_l2_ball(eps):
    model, data = linear(10, channels=3, size=40), loader(8, channels=3, size=40, classes=10)
    for attack in (partial(pgd, norm="l2", steps=3), partial(grey, norm="l2")):
        assert accuracy(model, data, attack, eps=eps).n == 8


def test_targets_in_the_l2_ball_are_measured_in_the_l2_ball():
    attack = partial(targeted, attack=partial(pgd, norm="l2", steps=2))
    assert accuracy(linear(), loader(4), attack, eps=1.5).n == 4
    with refused("attacks", "linf", "l2"):
        worst_case(linear(), loader(4), {"targets": attack, "FGSM": fgsm}, eps=0.1)


# the worst case

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
    assert isinstance(result, WorstCase) and result.cumulative == together
    assert list(result.individual) == list(result.cumulative) == ["clean", "grey", *SEVERAL]
    assert torch.equal(result.robust, alive) and result.accuracy == wilson(alive) == result.cumulative["Square"]
    assert 0 < result.accuracy.value < result.individual["clean"].value


@few
@given(seed=st.integers(0, 2**16), eps=st.floats(0, 1))
def test_together_can_only_fall_and_lies_below_each_alone(seed, eps):
    result = worst_case(conv_net(seed % 5), loader(20, seed=seed), SEVERAL, eps=eps)
    values = [record.value for record in result.cumulative.values()]
    assert values == sorted(values, reverse=True)
    assert all(result.cumulative[label].value <= alone.value for label, alone in result.individual.items())


def test_grey_in_the_worst_case_leaves_at_most_one_class():
    result = worst_case(linear(), loader(40), {"nothing": lambda model, x, y, *, eps: x}, eps=0.5)
    _, counts = labels(40).unique(return_counts=True)
    assert round(40 * result.individual["grey"].value) in {0, *counts.tolist()}
    assert result.accuracy.value <= result.individual["grey"].value


def test_a_helpful_attack_does_not_make_the_worst_case_better_than_clean():
    result = worst_case(Brightness(), flat(0.45, 0.45, 0.9), {"light": lambda model, x, y, *, eps: x + eps}, eps=0.1)
    assert result.individual["light"].value == 1 and result.robust.tolist() == [False, False, True]


def test_the_worst_case_in_l2_uses_l2s_grey():
    attacks = {"PGD": partial(pgd, steps=2, norm="l2"), "from x": partial(pgd, steps=2, norm="l2", random_start=False)}
    result = worst_case(linear(), loader(20), attacks, eps=1.5)
    assert result.individual["grey"] == accuracy(linear(), loader(20), partial(grey, norm="l2"), eps=1.5)


def test_a_worst_case_prints_a_line_for_each_attack():
    lines = str(worst_case(linear(), loader(20), SEVERAL, eps=0.1)).splitlines()
    assert "individual" in lines[0] and [line.split()[0] for line in lines[1:]] == ["clean", "grey", *SEVERAL]
    assert all("n=20" in line for line in lines[1:])


@pytest.mark.parametrize("bad", [None, [fgsm], fgsm, {}, {"clean": fgsm}, {"grey": fgsm}, {"a": fgsm, "grey": pgd}])
def test_a_worst_case_of_no_dict_or_of_reserved_labels_is_refused(bad):
    with refused("attacks"):
        worst_case(linear(), loader(4), bad, eps=0.1)


def test_a_worst_case_of_mixed_norms_or_no_attacks_is_refused():
    with refused("attacks", "l2", "linf"):
        worst_case(linear(), loader(4), {"a": fgsm, "b": partial(pgd, norm="l2")}, eps=0.1)
    with refused("attack", "pgd"):
        worst_case(linear(), loader(4), {"a": "pgd"}, eps=0.1)
    with refused("eps", "1.5"):
        worst_case(linear(), loader(4), {"a": fgsm}, eps=1.5)


def test_a_worst_case_over_a_loader_that_shuffles_pairs_the_same_images_or_refuses():
    model, data = linear(), dataset(60)
    straight = worst_case(model, make_loader(data, batch_size=60), {"FGSM": fgsm}, eps=0.02).accuracy
    try:
        shuffled = worst_case(model, make_loader(data, batch_size=60, shuffle=True, seed=1), {"FGSM": fgsm}, eps=0.02)
    except ValueError as error:
        assert "loader" in str(error)
    else:
        assert shuffled.accuracy == straight


SHUFFLED = {
    "a sampler of indices": lambda data: DataLoader(data, batch_size=8, sampler=SubsetRandomSampler(range(len(data)))),
    "batches in disorder": lambda data: DataLoader(data, batch_sampler=BatchSampler(RandomSampler(data), 8, False)),
    "a weighted draw": lambda data: DataLoader(data, batch_size=8, sampler=WeightedRandomSampler([1.0] * 40, 40)),
}


@pytest.mark.parametrize("build", SHUFFLED.values(), ids=SHUFFLED)
def test_a_worst_case_refuses_whatever_shuffles(build):
    with refused("loader", "shuffles"):
        worst_case(linear(), build(dataset(40)), {"noise": random_noise}, eps=0.0)


# pairs


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


def test_a_pair_does_not_depend_on_agreements_nor_on_the_order():
    assert mcnemar(*records(7, 2)) == mcnemar(*records(7, 2, both=90, neither=70))
    assert mcnemar(*records(7, 2)).p_value == mcnemar(*records(2, 7)).p_value
    assert mcnemar(*records(7, 2)).p_value == pytest.approx(2 * (1 + 9 + 36) / 2**9)
    assert str(mcnemar(*records(7, 2))) == "only the first: 7, only the second: 2, p = 0.18"


def test_a_pair_of_different_length_is_refused():
    with refused("second", "3 images beside 4"):
        mcnemar(torch.ones(4).bool(), torch.ones(3).bool())


# words


def test_a_function_is_described_with_what_is_bound_to_it():
    assert describe(pgd) == "pgd" and describe(None) == "none"
    assert describe(partial(pgd, steps=40, loss=dlr)) == "pgd(steps=40, loss=dlr)"
    assert describe(partial(targeted, attack=partial(pgd, norm="l2"))) == "targeted(attack=pgd(norm='l2'))"
    assert describe(partial(partial(pgd, steps=3), steps=4)) == "pgd(steps=4)"
    assert describe(linear()) == "Sequential"


# chance


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


def test_an_attack_that_insists_on_a_generator_gets_one():
    @as_attack(draws=True)
    def noisy(model, x, y, *, eps, generator):
        return random_noise(model, x, y, eps=eps, generator=generator)

    model, data = conv_net(), loader(11)
    assert accuracy(model, data, noisy, eps=0.3) == accuracy(model, data, random_noise, eps=0.3)


def test_a_random_attacks_result_repeats_whatever_the_global_random_state():
    model, data, attack = conv_net(), loader(40), partial(pgd, steps=1, step_size=0.001)
    results = []
    with torch.random.fork_rng():
        for seed in range(4):
            torch.manual_seed(seed)
            results.append(survivors(model, data, attack, eps=0.5).tolist())
    assert results.count(results[0]) == 4


def test_measuring_leaves_the_callers_random_state_alone():
    model, data, before = conv_net(), loader(11), torch.random.get_rng_state()
    accuracy(model, data)
    accuracy(model, data, partial(pgd, steps=1), eps=0.1)
    predict(model, images(3))
    assert torch.equal(torch.random.get_rng_state(), before)


# images the model was trained on


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


def test_an_image_is_recognised_after_rounding_and_in_any_order():
    x, y = batch(20)
    x = (x * 255).round() / 255
    data = make_loader(TensorDataset(x.flip(0) * (1 - 1e-6), y), batch_size=7)
    with refused("loader", "20 images"):
        accuracy(train_hashes(conv_net(), x), data)


def test_an_image_one_grey_level_away_is_another_image():
    x, y = batch(20)
    x = (x * 254).round() / 255
    other = x.clone()
    other[:, 0, 3, 3] += 1 / 255
    assert accuracy(train_hashes(conv_net(), x), make_loader(TensorDataset(other, y), batch_size=7)).n == 20


def test_the_overlap_is_refused_after_saving_and_loading_too(tmp_path):
    data = dataset(40)
    save_weights(train_hashes(conv_net(), data.tensors[0]), tmp_path / "weights.safetensors")
    model = conv_net(1)
    assert accuracy(model, make_loader(data, batch_size=16)).n == 40
    load_weights(model, tmp_path / "weights.safetensors")
    with refused("loader", "40 images"):
        accuracy(model, make_loader(data, batch_size=16))


def test_a_model_of_full_mnist_is_not_scored_on_mnist_5k():
    test = load_data("mnist-5k", train=False)
    everything = torch.cat([load_data("mnist-5k", train=True).tensors[0], test.tensors[0], torch.rand(500, 1, 28, 28)])
    with refused("loader", "1000 images (of 1000)", "mnist-5k"):
        accuracy(train_hashes(linear(10, size=28), everything), make_loader(test, batch_size=500))


# what is refused


def in_one_batch(x, y):
    return [(x, y)]


@table(BAD_IMAGES)
def test_bad_images_in_a_loader_are_refused(bad, fragment):
    with refused("loader's images", fragment):
        accuracy(linear(), in_one_batch(bad, labels(3)))


@pytest.mark.parametrize(
    "bad, argument, fragment",
    [
        ([0, 1, 2], "loader's labels", "list"),
        (torch.tensor([0.0, 1, 2]), "loader's labels", "float32"),
        (torch.rand(3, 4), "loader's labels", "class indices"),
        (torch.tensor([0, 1]), "loader's labels", "(2,)"),
        (torch.tensor([0, 1, 4]), "y", "label 4"),
        (torch.tensor([0, 1, -100]), "y", "label -100"),
    ],
)
@pytest.mark.parametrize("attack, eps", [(None, None), (fgsm, 0.1)])
def test_bad_labels_in_a_loader_are_refused(bad, argument, fragment, attack, eps):
    with refused(argument, fragment):
        accuracy(linear(), in_one_batch(images(3), bad), attack, eps=eps)


@table(BAD_MODELS)
def test_bad_models_are_refused(bad, fragment):
    with refused("model", fragment):
        accuracy(bad, loader(3))
    with refused("model", fragment):
        accuracy_vs_eps(bad, loader(3), fgsm, [0.1])


@table(BAD_EPS)
def test_bad_eps_is_refused(bad, fragment):
    with refused("eps", fragment):
        accuracy(linear(), loader(), fgsm, eps=bad)
    with refused("eps", fragment):
        accuracy_vs_eps(linear(), loader(), fgsm, [0.1, bad])


def test_eps_without_an_attack_is_refused():
    with refused("attack", "None", "eps=0.1"):
        accuracy(linear(), loader(), eps=0.1)


def test_a_sweep_without_an_attack_is_refused():
    with refused("attack", "None"):
        accuracy_vs_eps(linear(), loader(), None, [0.1])


def test_an_attack_that_is_no_callable_is_refused():
    with refused("attack", "fgsm"):
        accuracy(linear(), loader(), "fgsm", eps=0.1)


@pytest.mark.parametrize("bad", [0.1, None])
def test_a_sweep_wants_a_list_of_radii(bad):
    with refused("eps_values"):
        accuracy_vs_eps(linear(), loader(), fgsm, bad)


@pytest.mark.parametrize("attack, eps", [(None, None), (fgsm, 0.1)])
def test_an_empty_loader_is_refused(attack, eps):
    with refused("loader", "no images"):
        accuracy(linear(), [], attack, eps=eps)
    with refused("loader", "no images"):
        accuracy_vs_eps(linear(), [], fgsm, [0.1])


def test_a_data_set_in_place_of_a_loader_is_refused():
    with refused("loader's images", "x.unsqueeze(0)"):
        accuracy(linear(), dataset())


BAD_ATTACKS = {
    "leaves the ball": (lambda model, x, y, *, eps: 0.5 * x + 0.2, "attack", "away from x"),
    "a little farther than eps": (lambda model, x, y, *, eps: x + (x < 0.5) * (eps + 1e-4), "attack", "eps = 0.1"),
    "leaves the pixel range": (lambda model, x, y, *, eps: x + eps, "attack's images", "[0, 1]"),
    "NaN": (lambda model, x, y, *, eps: x * torch.nan, "attack's images", "NaN"),
    "drops images": (lambda model, x, y, *, eps: x[1:], "attack", "(3, 1, 8, 8)"),
    "returns a pair": (lambda model, x, y, *, eps: (x, y), "attack's images", "tuple"),
    "double precision": (lambda model, x, y, *, eps: x.double(), "attack's images", "float64"),
}


@pytest.mark.parametrize("attack, argument, fragment", BAD_ATTACKS.values(), ids=BAD_ATTACKS)
def test_an_attack_that_breaks_the_threat_model_is_refused(attack, argument, fragment):
    for measure in (partial(accuracy, eps=0.1), partial(accuracy_vs_eps, eps_values=[0.1])):
        with refused(argument, fragment):
            measure(linear(), loader(4), attack)
