"""A training that was broken off and continued ends as if it had not been; and what is watched, ramped, averaged."""

import functools
from functools import partial

import pytest
import torch
from helpers import BreaksOff, batch, conv_net, dataset, linear, loader, measured, refused, same_weights, weights
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SubsetRandomSampler

from advutils.attacks.gradient import fgsm, pgd
from advutils.data import make_loader, shift
from advutils.evaluation import accuracy, predict
from advutils.models import vgg
from advutils.objectives import clean, mixed, trades
from advutils.training import fit
from advutils.utils.inference import eval_mode
from advutils.utils.weights import save_weights

PGD2 = partial(pgd, steps=2)


def slim():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return vgg(11, width=0.03, num_classes=4)


def tied_up():
    """A network of which a part is frozen, so that the optimizer has no state for it."""
    model = conv_net()
    model[0].requires_grad_(False)
    return model


def train(model, *, data=None, val=None, **kwargs):
    data = data or make_loader(dataset(24), batch_size=5, shuffle=True)
    options = dict(epochs=4, lr=0.01, progress=False) | kwargs
    return fit(model, data, val or loader(8, seed=1), **options)


def in_batches(data):
    order = RandomSampler(data, generator=torch.Generator().manual_seed(7))
    return DataLoader(data, batch_sampler=BatchSampler(order, 5, drop_last=False))


class Noisy(Dataset):
    """A data set that draws at each look."""

    def __len__(self):
        return 24

    def __getitem__(self, at):
        x, y = dataset(24)[at]
        return (x + 0.2 * torch.rand(1)).clamp(max=1), y


def watched_joined(model, x, y, *, eps):
    return mixed(model, x, y, eps=eps, attack=PGD2)


def climbed(model, x, y, *, eps):
    return trades(model, x, y, eps=eps, steps=1)


ROBUST = dict(eps=0.1, eps_warmup=2, ema_decay=0.9, eval_attacks={"FGSM": fgsm, "PGD": PGD2})
RUNS = {
    "plain": (conv_net, clean, {}),
    "shuffled by the global generator": (
        conv_net, clean, dict(data=lambda: DataLoader(dataset(24), batch_size=5, shuffle=True)),
    ),
    "shuffled by a sampler of batches": (conv_net, clean, dict(data=lambda: in_batches(dataset(24)))),
    "transformed at random": (conv_net, clean, dict(data=lambda: in_batches(Noisy()))),
    "ramp, average and watch": (conv_net, watched_joined, ROBUST),
    "TRADES": (conv_net, climbed, dict(ROBUST, eps_warmup=1.5)),
    "a VGG, channels last": (slim, watched_joined, dict(ROBUST, epochs=3)),
    "partly frozen": (tied_up, clean, dict(ema_decay=0.5)),
}  # fmt: skip


def run(name, model, objective=None, **kwargs):
    """The training of that name from its start, or from its state."""
    _, own, options = RUNS[name]
    fresh = {key: value() if key == "data" else value for key, value in options.items()}
    return train(model, objective=objective or own, **fresh, **kwargs)


@functools.cache
def undisturbed(name):
    """The network and the history of the training of that name that nothing happened to."""
    model = RUNS[name][0]()
    return model, run(name, model)


def ends_as_if_nothing_had_happened(name, model, history):
    whole, expected = undisturbed(name)
    assert measured(history) == measured(expected) and len(history.seconds) == len(expected.seconds)
    assert history.seconds == sorted(history.seconds)
    assert same_weights(whole, model) and torch.equal(whole.train_hashes, model.train_hashes)
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("calls", [6, 14])
@pytest.mark.parametrize("name", RUNS)
def test_a_training_that_was_broken_off_continues_to_the_same_weights_to_the_bit(name, calls, tmp_path):
    build, objective, _ = RUNS[name]
    with pytest.raises(KeyboardInterrupt):
        run(name, build(), BreaksOff(objective, calls), checkpoint=tmp_path / "state")
    continued = build()
    torch.manual_seed(123)  # another process has another random state
    before = torch.random.get_rng_state()
    history = run(name, continued, checkpoint=tmp_path / "state")
    ends_as_if_nothing_had_happened(name, continued, history)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize("name", RUNS)
def test_a_cell_interrupted_in_the_first_epoch_and_run_again_begins_anew(name, tmp_path):
    build, objective, options = RUNS[name]
    model, options = build(), options | dict(checkpoint=tmp_path / "state")
    options["data"] = options["data"]() if "data" in options else make_loader(dataset(24), batch_size=5, shuffle=True)
    with pytest.raises(KeyboardInterrupt):
        train(model, objective=BreaksOff(objective, 3), **options)
    ends_as_if_nothing_had_happened(name, model, train(model, objective=objective, **options))


def test_a_finished_state_returns_at_once(tmp_path):
    first, second, objective = conv_net(), conv_net(), BreaksOff(clean, 21)
    options = dict(objective=objective, checkpoint=str(tmp_path / "state"), ema_decay=0.9)
    history, before = train(first, **options), torch.random.get_rng_state()
    assert train(second, **options) == history and objective.left == 1  # else it would have raised
    assert same_weights(first, second) and torch.equal(first.train_hashes, second.train_hashes)
    assert not any(module.training or module._forward_hooks for module in second.modules())
    assert torch.equal(torch.random.get_rng_state(), before)


CHANGES = {
    "epochs": dict(epochs=5), "lr": dict(lr=0.02), "seed": dict(seed=1), "eps": dict(eps=0.2),
    "eps_warmup": dict(eps_warmup=0), "ema_decay": dict(ema_decay=None), "objective": dict(objective=climbed),
    "eval_attacks": dict(eval_attacks={"PGD": partial(pgd, steps=3)}),
    "augment": dict(augment=shift), "steps": dict(data=loader(24, batch_size=12)),
    "batch_size": dict(data=loader(24, batch_size=6)), "data": dict(data=loader(25, batch_size=5)),
    "network": dict(model=partial(conv_net, classes=5)),
    "layers": dict(model=lambda: nn.Sequential(*conv_net(), nn.Identity())),
}  # fmt: skip


@pytest.fixture(scope="module")
def robust_state(tmp_path_factory):
    """Three epochs of a training with all its options, and the state that they left."""
    path, options = tmp_path_factory.mktemp("robust") / "state", dict(objective=watched_joined, epochs=3, **ROBUST)
    train(conv_net(), checkpoint=path, **options)
    return options, path.read_bytes()


@pytest.mark.parametrize("entry", CHANGES)
def test_the_state_of_another_training_is_refused(entry, robust_state, tmp_path):
    options, data = robust_state
    (tmp_path / "state").write_bytes(data)
    options = options | CHANGES[entry]
    before, model = torch.random.get_rng_state(), options.pop("model", conv_net)()
    weights_before = weights(model).clone()
    with refused("checkpoint", str(tmp_path / "state"), entry):
        train(model, checkpoint=tmp_path / "state", **options)
    assert torch.equal(weights(model), weights_before) and (tmp_path / "state").read_bytes() == data
    assert torch.equal(torch.random.get_rng_state(), before) and not model._forward_hooks


def test_a_spoilt_state_is_named_not_used(tmp_path):
    path = tmp_path / "state"
    model = conv_net()
    train(model, epochs=1, checkpoint=path)
    data = path.read_bytes()
    at = data.index(model[0].weight.detach().numpy().tobytes())
    for spoilt in (data[:-1], data[:100], b"", b"pickle" * 100, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]):
        path.write_bytes(spoilt)
        with pytest.raises(ValueError, match="got ") as caught:
            train(conv_net(), epochs=1, checkpoint=path)
        assert str(path) in str(caught.value) and path.read_bytes() == spoilt
    save_weights(conv_net(), path)
    with pytest.raises(ValueError, match=r"no whole file \(BadZipFile\); accepts one that fit wrote"):
        train(conv_net(), epochs=1, checkpoint=path)


def test_any_number_that_is_accepted_can_be_written_to_the_state(tmp_path):
    lr, eps = torch.tensor([0.01, 0.1]).numpy()
    train(conv_net(), epochs=1, objective=mixed, checkpoint=tmp_path / "state", eps=eps, lr=lr)


def scripted(model, x, y, *, eps, script, at):
    """An attack that leaves as much of the validation images as the script says, epoch by epoch."""
    right = torch.where(torch.arange(len(x)) < script[at[0]], y, (y + 1) % 4)
    at[0] += 1
    return right[:, None, None, None].expand_as(x) / 4.0


class ReadsLabels(nn.Module):
    """Reads the class from the brightness, and has a weight that tells the epochs apart."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        level = 4 * x[:, 0, :1, 0]
        return -((level - torch.arange(4)) ** 2) * self.weight.abs()


@pytest.mark.parametrize("script, picked", [([3, 5, 4, 1], 2), ([3, 5, 5, 1], 3), ([2, 2, 2, 2], 4), ([7, 1, 6, 2], 1)])
def test_the_epoch_that_the_last_watched_attack_leaves_most_is_kept_the_later_of_equals(script, picked):
    model, at, passed = ReadsLabels(), [0], []
    attack = partial(scripted, script=script, at=at)

    def misleading(model, x, y, *, eps):
        passed.append(model.weight.item())
        return x

    data = make_loader(dataset(24), batch_size=24)
    history = train(model, data=data, eps=1, objective=lambda m, x, y, *, eps: (m.weight**2).sum() + 0 * m(x).sum(),
                    lr=0.1, eval_attacks={"other": misleading, "scripted": attack})  # fmt: skip
    assert (
        history.robust_val_accuracy["scripted"] == [n / 8 for n in script]
        and len(history.robust_val_accuracy["other"]) == 4
    )
    assert history.best_epoch == picked and len(set(passed)) == 4
    assert model.weight.item() == passed[picked - 1]


def test_watching_is_accuracy_on_the_validation_images_and_left_out_of_the_ledger():
    plain, model = conv_net(), conv_net()
    options = dict(objective=mixed, eps=0.1, epochs=2)
    alone, history = train(plain, **options), train(model, eval_attacks={"PGD": PGD2, "FGSM": fgsm}, **options)
    assert alone.forwards == history.forwards == history.backwards == [72, 144]
    assert list(history.robust_val_accuracy) == ["PGD", "FGSM"]
    found = history.robust_val_accuracy["FGSM"]
    assert len(found) == len(history.robust_val_accuracy["PGD"]) == 2 and found[history.best_epoch - 1] == max(found)
    assert accuracy(model, loader(8, batch_size=8, seed=1), fgsm, eps=0.1).value == max(found)
    assert history.best_epoch < 2 or torch.equal(weights(plain), weights(model))


def test_at_most_a_thousand_images_are_watched():
    seen = []

    def counting(model, x, y, *, eps):
        seen.append(x)
        return x

    val = loader(1500, batch_size=300, seed=1, size=2)
    fit(linear(size=2), loader(8, size=2), val, epochs=1, lr=0.01, objective=mixed, eps=0.1,
        eval_attacks={"spy": counting}, progress=False)  # fmt: skip
    assert sum(map(len, seen)) == 1000 and len(torch.cat(seen).flatten(1).unique(dim=0)) > 990


@pytest.mark.parametrize("average", [None, 0.9])
def test_validation_images_that_were_trained_on_are_refused_under_attack(average):
    with refused("loader", "24 images"):
        train(conv_net(), val=loader(24), objective=mixed, eps=0.1, ema_decay=average, eval_attacks={"FGSM": fgsm})


@pytest.mark.parametrize("ramp, grows", [(0, 1), (1, 5), (2, 10), (0.4, 2), (4, 20), (1.5, 7.5)])
def test_the_radius_grows_in_a_straight_line_and_reaches_eps(ramp, grows):
    radii = []

    def spy(model, x, y, *, eps):
        radii.append(eps)
        return clean(model, x, y)

    train(conv_net(), objective=spy, eps=0.3, eps_warmup=ramp)
    assert radii == pytest.approx([0.3 * min(1, (i + 1) / grows) for i in range(20)])
    assert all(0 < eps <= 0.3 for eps in radii) and radii[-1] == 0.3
    assert ramp != int(ramp) or all(eps == 0.3 for eps in radii[max(1, 5 * int(ramp)) - 1 :])


NAN = float("nan")


@pytest.mark.parametrize("argument, options", [
    ("eps", dict(eval_attacks={"FGSM": fgsm})), ("eps", dict(eps_warmup=1)), ("eps", dict(eps=8)),
    ("eps", dict(eps=-0.1)), ("eps_warmup", dict(eps=0.1, eps_warmup=5)), ("eps_warmup", dict(eps=0.1, eps_warmup=-1)),
    ("eps_warmup", dict(eps=0.1, eps_warmup=NAN)), ("ema_decay", dict(ema_decay=1.5)),
    ("ema_decay", dict(ema_decay="0.9")), ("eval_attacks", dict(eps=0.1, eval_attacks=[fgsm])),
    ("attack", dict(eps=0.1, eval_attacks={"FGSM": "fgsm"})),
])  # fmt: skip
def test_bad_options_are_refused_before_anything_is_trained(argument, options):
    model = conv_net()
    with refused(argument):
        train(model, objective=mixed, **options)
    assert torch.equal(weights(model), weights(conv_net()))
    with pytest.raises(TypeError, match="eps"):  # an objective gets none unless the training has one
        train(model, objective=mixed)
    with pytest.raises(TypeError, match="eps"):
        train(model, objective=clean, eps=0.1)


def test_averaged_weights_are_the_running_average_of_those_after_each_step():
    model, steps = linear(), []

    def spy(model, x, y):
        steps.append(weights(model).clone())
        return clean(model, x, y)

    raw = linear()
    train(raw, objective=spy)
    steps = [*steps[1:], weights(raw)]
    expected = steps[0]
    for n, new in enumerate(steps[1:], 1):
        decay = min(0.7, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * new
    history = train(model, ema_decay=0.7)
    torch.testing.assert_close(weights(model), expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(weights(raw), weights(model), rtol=1e-3)
    x, y = batch(8, seed=1)
    assert history.val_accuracy[-1] == (predict(model, x).argmax(1) == y).float().mean().item()


def test_averaged_weights_come_with_batch_norm_statistics_of_their_own():
    model, raw, seen = conv_net(), conv_net(), []

    def spy(model, x, y):
        seen.append(x)
        return clean(model, x, y)

    train(model, objective=spy, ema_decay=0.9)
    train(raw)
    statistics = model[1].running_mean.clone(), model[1].running_var.clone()
    last = seen[-5:]  # five batches an epoch, fewer than the 32 that would be remembered
    with eval_mode(model), torch.no_grad():
        maps = [model[0](x) for x in last]
    means = torch.stack([z.mean((0, 2, 3)) for z in maps]).mean(0)
    variances = torch.stack([z.var((0, 2, 3)) for z in maps]).mean(0)
    torch.testing.assert_close(statistics[0], means, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(statistics[1], variances, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(statistics[0], raw[1].running_mean, rtol=1e-3)
    assert model[1].momentum == 0.1


def noting(calls):
    """A learner's objective, defined anew each time its cell is run."""

    def mine(model, x, y):
        calls.append(len(x))
        return clean(model, x, y)

    return mine


def test_a_function_that_was_defined_anew_under_its_name_is_the_same_training(tmp_path):
    for calls in ([], []):
        history = train(conv_net(), objective=noting(calls), augment=lambda x: x + 0 * x, checkpoint=tmp_path / "state")
        assert len(history.seconds) == 4
    assert calls == []  # all of it was there already


PARTS = {
    "a sampler": (DataLoader(dataset(24), batch_size=4, sampler=SubsetRandomSampler(range(8))), 8),
    "small batches that somebody cut": (DataLoader(dataset(24), batch_sampler=[[0, 1, 2], [3, 4]] * 3), 15),
    "one large batch": (DataLoader(dataset(24), batch_sampler=[list(range(20))]), 20),
}


@pytest.mark.parametrize("part, drawn", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("side", ["data", "val"])
def test_a_loader_that_serves_a_part_of_its_data_set_is_refused(side, part, drawn):
    with refused("val" if side == "val" else "train", f"{drawn} of the 24"):
        train(conv_net(), **{side: part})
    whole = DataLoader(dataset(24), batch_sampler=[list(range(10)), list(range(10, 24))])
    assert train(conv_net(), data=whole, epochs=1).images == [24]
