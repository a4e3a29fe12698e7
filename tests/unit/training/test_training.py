"""`fit` and its ledger: it learns, repeats to the bit, counts what it costs, and says no in time."""

import collections
from functools import partial

import pytest
import torch
from helpers import (
    BreaksOff,
    RaisesAt,
    batch,
    conv_net,
    dataset,
    digits,
    images,
    linear,
    loader,
    measured,
    refused,
    weights,
)
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, default_collate

from advutils.attacks.gradient import fgsm, pgd
from advutils.data import make_loader, shift
from advutils.evaluation import accuracy, predict
from advutils.models import vgg
from advutils.objectives import adversarial, clean, mixed
from advutils.training import History, fit, ledger
from advutils.utils import hooks
from advutils.utils.hashes import image_hashes


def trained_net(*, seed=0, train=None, **kwargs):
    model = conv_net()
    options = dict(epochs=2, lr=0.01, progress=False) | kwargs
    train = train or make_loader(dataset(24), batch_size=5, shuffle=True)
    return model, fit(model, train, loader(8, seed=1), seed=seed, **options)


def test_thirty_two_digits_are_learnt_by_heart():
    x, y = digits(64)
    train, val = TensorDataset(x[:32], y[:32]), TensorDataset(x[32:], y[32:])
    model = vgg(11, width=0.125)
    history = fit(
        model, make_loader(train, batch_size=16, shuffle=True), make_loader(val, batch_size=32),
        epochs=20, lr=0.01, progress=False,
    )  # fmt: skip
    assert history.train_accuracy[-1] == 1 and history.train_loss[-1] < 0.3 < history.train_loss[0]
    assert (predict(model, x[:32]).argmax(1) == y[:32]).all()


def test_the_seed_alone_decides_the_weights_and_the_callers_random_state_is_left():
    def run(around, seed=0, **options):
        torch.manual_seed(around)
        before = torch.random.get_rng_state()
        trained = trained_net(seed=seed, augment=partial(shift, pixels=1), **options)
        assert torch.equal(torch.random.get_rng_state(), before)
        return weights(trained[0]), measured(trained[1])

    for objective in (clean, partial(mixed, eps=0.1, attack=partial(pgd, steps=1))):
        (first, history), (second, again) = (run(around, objective=objective) for around in (1, 2))
        assert torch.equal(first, second) and history == again
    assert not torch.equal(run(1, seed=0)[0], run(1, seed=1)[0])
    with pytest.raises(RuntimeError, match="out of paper"):
        fit(RaisesAt(conv_net(), 2), loader(), loader(), epochs=1, lr=0.01, progress=False)


def test_history_has_an_entry_an_epoch_and_the_model_ends_in_eval_mode_without_hooks():
    model, history = trained_net(epochs=3)
    assert not any(module.training or module._forward_hooks for module in model.modules())
    assert isinstance(history, History)
    curves = {key: value for key, value in vars(history).items() if isinstance(value, list)}
    assert {key: len(value) for key, value in curves.items()} == dict.fromkeys(curves, 3) and len(curves) == 8
    assert history.robust_val_accuracy == {} and history.best_epoch == 3
    assert history.images == [24, 48, 72]
    assert 0 < history.seconds[0] < history.seconds[1] < history.seconds[2]
    assert all(0 <= share <= 1 for share in history.train_accuracy + history.val_accuracy)


def test_the_last_entries_are_the_models_own_loss_and_accuracy_on_plain_images():
    model, history = trained_net(augment=torch.zeros_like)
    x, y = batch(8, seed=1)
    with torch.no_grad():
        logits = model(x)
    assert history.val_loss[-1] == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-5)
    assert history.val_accuracy[-1] == (logits.argmax(1) == y).float().mean().item()
    x, y = (tensor[::3] for tensor in batch(24))  # as many training images as there are validation images
    with torch.no_grad():
        assert history.train_loss[-1] == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-5)


def test_the_objective_gets_the_augmented_images_and_a_model_in_train_mode():
    got, modes, kept = [], [], batch(6)

    def objective(model, x, y):
        got.append(x)
        modes.append({module.training for module in model.modules()})
        return clean(model, x.mul_(0.5), y)  # in place

    train = DataLoader(dataset(6), batch_size=6, collate_fn=lambda pairs: kept)  # serves what it keeps
    options = dict(objective=objective, augment=lambda x: x.sub_(1).neg_(), progress=False)
    fit(conv_net().eval(), train, loader(8, seed=1), epochs=2, lr=0.01, **options)
    assert torch.equal(torch.cat(got), (1 - images(6)).repeat(2, 1, 1, 1) * 0.5) and modes == [{True}] * 2
    assert torch.equal(kept[0], images(6))


def test_the_model_knows_what_it_was_trained_on_and_nothing_else():
    model, _ = trained_net(augment=lambda x: 1 - x)
    assert torch.equal(model.train_hashes, image_hashes(images(24)).unique())
    with refused("loader", "24 images"):
        accuracy(model, loader(24))
    assert accuracy(model, loader(8, seed=1)).n == 8
    fit(model, loader(10, seed=5), loader(8, seed=1), epochs=1, lr=0.01, progress=False)
    both = torch.cat([images(24), images(10, seed=5)])
    assert torch.equal(model.train_hashes, image_hashes(both).unique())


def test_a_training_that_was_interrupted_is_remembered_too():
    model, objective = conv_net(), BreaksOff(clean, 3)
    with pytest.raises(KeyboardInterrupt):
        fit(model, loader(24), loader(8, seed=1), epochs=1, lr=0.01, objective=objective, progress=False)
    assert torch.isin(image_hashes(images(24)[:8]), model.train_hashes).all()


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_any_number_of_steps_will_do(steps):
    model = linear()
    before = weights(model)
    fit(model, loader(steps, batch_size=1), loader(3, seed=1), epochs=1, lr=0.1, progress=False)
    assert not torch.equal(weights(model), before)


def test_the_learning_rate_goes_up_and_down_again(monkeypatch):
    rates, step = [], torch.optim.AdamW.step

    def watched(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    trained_net(epochs=4, lr=0.01)
    top = rates.index(max(rates))
    assert len(rates) == 20 and max(rates) == pytest.approx(0.01, rel=0.05) and 2 <= top <= 6
    assert rates[0] < 0.002 and rates[-1] < 0.001
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)


OBJECTIVES = {
    "clean": (clean, 1, 1),
    "mixed": (partial(mixed, eps=0.1), 3, 3),
    "mixed with PGD": (partial(mixed, eps=0.1, attack=partial(pgd, steps=4)), 6, 6),
    "mixed with itself": (partial(mixed, eps=0.1, attack=lambda model, x, y, *, eps: x), 2, 2),
}


@pytest.mark.parametrize("objective, forwards, backwards", OBJECTIVES.values(), ids=OBJECTIVES)
def test_the_ledger_counts_images_through_the_network(objective, forwards, backwards):
    _, history = trained_net(objective=objective)
    assert history.images == [24, 48]
    assert history.forwards == [24 * forwards, 48 * forwards]
    assert history.backwards == [24 * backwards, 48 * backwards]


def test_a_ledger_counts_inside_its_block_alone():
    model, (x, y) = conv_net(), batch(5)
    predict(model, x)
    with ledger(model) as spent:
        predict(model, x)
        assert (spent.forwards, spent.backwards) == (5, 0)
        fgsm(model, x, y, eps=0.1)
        assert (spent.forwards, spent.backwards) == (10, 5)
        clean(model, x, y).backward()
        assert (spent.forwards, spent.backwards) == (15, 10)
    fgsm(model, x, y, eps=0.1)
    assert (spent.forwards, spent.backwards) == (15, 10)


class Wrapped(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)


class Engine:
    """What `fit` asks of an Accelerator, with every call written down."""

    def __init__(self):
        self.prepared, self.losses = [], []

    def prepare(self, model, optimizer):
        self.prepared.append((model, optimizer))
        self.network, self.steps = Wrapped(model), []
        optimizer.register_step_post_hook(lambda *_: self.steps.append(1))
        return self.network, optimizer

    def backward(self, loss):
        self.losses.append(loss.item())
        loss.backward()


def test_an_engine_owns_the_network_and_the_backward_pass():
    engine, model, seen = Engine(), conv_net(), []

    def objective(network, x, y):
        seen.append((network, x))
        return clean(network, x, y)

    train = loader(6, batch_size=3)
    history = fit(
        model, train, loader(4, seed=1), epochs=3, lr=0.01, objective=objective, accelerator=engine, progress=False
    )
    [(given, optimizer)] = engine.prepared
    assert given is model and isinstance(optimizer, torch.optim.Optimizer)
    assert all(network is engine.network for network, _ in seen)
    assert torch.equal(torch.cat([x for _, x in seen[:2]]), images(6))
    assert len(engine.losses) == len(engine.steps) == len(seen) == 6
    assert history.forwards == history.backwards == [6, 12, 18]
    assert not model.training


def poisons(model, x, y):
    loss = clean(model, x, y)
    model[1].bias.data.fill_(torch.nan)
    return loss


@pytest.mark.parametrize(
    "lr, objective, n", [(1e30, clean, 40), (0.1, poisons, 4)], ids=["at a step", "at the last one"]
)
def test_a_training_that_diverges_says_so(lr, objective, n):
    with pytest.raises(FloatingPointError, match="epoch 1.*lr"):
        fit(linear(), loader(n), loader(4), epochs=1, lr=lr, objective=objective, progress=False)


def serving(change_x=None, change_y=None):
    x, y = batch()
    return make_loader(TensorDataset(change_x(x) if change_x else x, change_y(y) if change_y else y), batch_size=4)


def with_label(bad):
    return lambda y: torch.cat([y[:-1], torch.tensor([bad])])


LOADERS = {
    "empty": (DataLoader(dataset(0), batch_size=4), "", "empty"),
    "a list": ([batch()], "", "accepts"),
    "a generator": ((x for x in ()), "", "accepts"),
    "grey levels": (serving(lambda x: x * 255), "loader's images", "255"),
    "normalised": (serving(lambda x: 2 * x - 1), "loader's images", "-1"),
    "NaN": (serving(lambda x: x / 0), "loader's images", "NaN"),
    "double precision": (serving(lambda x: x.double()), "loader's images", "float64"),
    "without channels": (serving(lambda x: x[:, 0]), "loader's images", ", 8, 8)"),
    "labels of floats": (serving(None, lambda y: y.float()), "loader's labels", "float32"),
    "labels, one hot": (serving(None, lambda y: F.one_hot(y, 4)), "loader's labels", ", 4)"),
    "a label too many": (serving(None, with_label(4)), "loader's labels", "label 4; accepts 0 to 3"),
    "the ignored label": (serving(None, with_label(-100)), "loader's labels", "label -100"),
    "images of many sizes": (DataLoader([(x[:, : 8 - at // 5], y) for at, (x, y) in enumerate(zip(*batch()))]),
                             "loader's images", "(1, 7, 8) and (1, 8, 8)"),
}  # fmt: skip


def fit_with(model=None, **changed):
    given = dict(train=loader(), val=loader(seed=1), epochs=1, lr=0.01, progress=False) | changed
    return fit(linear() if model is None else model, given.pop("train"), given.pop("val"), **given)


@pytest.mark.parametrize("side", ["train", "val"])
@pytest.mark.parametrize("bad, argument, fragment", LOADERS.values(), ids=LOADERS)
def test_bad_loaders_are_refused(side, bad, argument, fragment):
    with refused(argument or side, fragment):
        fit_with(**{side: bad})


FLAT = nn.Sequential(nn.Flatten(), nn.Unflatten(1, (4, 16)), nn.Flatten(0, 1), nn.Linear(16, 4))


@pytest.mark.parametrize("argument, bad, words", [
    *(("epochs", bad, "at least 1") for bad in (0, -1, 1.5, "3", None, True)),
    *(("lr", bad, "above 0") for bad in (0, -0.1, float("nan"), float("inf"), "0.1", None, True)),
    *(("model", bad, "got") for bad in (linear, "vgg")),
    ("model", nn.Sequential(linear(), nn.Softmax(1)), "probabilities"), ("model", FLAT, "a row per image"),
])  # fmt: skip
def test_bad_arguments_are_refused(argument, bad, words):
    with refused(argument, words):
        fit_with(**{argument: bad})


def test_several_processes_need_an_accelerator(monkeypatch):
    monkeypatch.setattr("advutils.utils.distributed.world_size", lambda: 2)
    with refused("accelerator", "2 processes"):
        fit_with()


def test_images_that_come_in_a_later_epoch_only_are_remembered_too():
    model = conv_net()
    left_out = DataLoader(dataset(24), batch_size=20, shuffle=True, drop_last=True)
    fit(model, left_out, loader(8, seed=1), epochs=6, lr=0.01, progress=False)
    assert torch.equal(model.train_hashes, image_hashes(images(24)).unique())


def test_the_loader_puts_its_batches_together_as_it_does_elsewhere():
    x, y = batch(24)
    levels = TensorDataset((255 * x).byte(), y)

    def as_images(pairs):
        x, y = default_collate(pairs)
        return x.float() / 255, y

    model = conv_net()
    served = DataLoader(levels, batch_size=6, collate_fn=as_images)
    history = fit(model, served, loader(8, seed=1), epochs=1, lr=0.01, progress=False)
    assert history.images == [24] and len(model.train_hashes) == 24


def test_a_radius_is_a_length_when_all_attacks_are_l2():
    euclidean, options = partial(pgd, norm="l2", steps=2), dict(epochs=1, lr=0.01, eps=1.5, progress=False)
    objective = partial(adversarial, attack=euclidean)
    history = fit(
        conv_net(), loader(24), loader(8, seed=1), objective=objective, eval_attacks={"a": euclidean}, **options
    )
    assert len(history.robust_val_accuracy["a"]) == 1
    with refused("eps", "1.5"):
        fit(conv_net(), loader(24), loader(8, seed=1), objective=objective, eval_attacks={"a": fgsm}, **options)


@pytest.mark.parametrize("average, held", [(None, 0), (0.9, 4)])
def test_batches_are_held_for_averaged_weights_alone(monkeypatch, average, held):
    queues = []
    monkeypatch.setattr(hooks, "deque", lambda maxlen: queues.append(collections.deque(maxlen=maxlen)) or queues[-1])
    fit(conv_net(), loader(16), loader(8, seed=1), epochs=1, lr=0.01, ema_decay=average, progress=False)
    assert [len(queue) for queue in queues] == [held]
