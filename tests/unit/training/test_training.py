"""`fit` and its ledger: it learns, repeats to the bit, counts what it costs, and says no in time."""

import collections
import copy
import importlib
from functools import partial

import pytest
import torch
from helpers import RaisesAt, batch, conv_net, dataset, digits, images, linear, loader, measured, refused, weights
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, default_collate

from advutils import (
    History,
    accuracy,
    adversarial,
    clean,
    fgsm,
    fit,
    ledger,
    make_loader,
    mixed,
    pgd,
    predict,
    shift,
    small_cnn,
    vgg,
)
from advutils.utils import hooks
from advutils.utils.hashes import image_hashes

training = importlib.import_module("advutils.training")


def trained_net(*, seed=0, train=None, **kwargs):
    model = conv_net()
    options = dict(epochs=2, lr=0.01, progress=False) | kwargs
    train = train or make_loader(dataset(24), batch_size=5, shuffle=True)
    return model, fit(model, train, loader(8, seed=1), seed=seed, **options)


# it learns


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


def test_training_with_mixed_images_withstands_what_clean_training_does_not():
    x = torch.rand(400, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.4
    y = (x.mean((1, 2, 3)) > 0.5).long()
    x[:, 0, 0, 0] += 0.3 * (y - 0.5)  # a strong feature, and a crowd of weak ones that eps can turn
    x = x.clamp(0, 1)
    train = make_loader(TensorDataset(x[:200], y[:200]), batch_size=50, shuffle=True)
    held_out = make_loader(TensorDataset(x[200:], y[200:]), batch_size=100)
    robust = []
    for objective in (clean, partial(mixed, eps=0.05)):
        model = linear(2, size=4)
        fit(model, train, held_out, epochs=30, lr=0.1, objective=objective, progress=False)
        robust.append(accuracy(model, held_out, fgsm, eps=0.05).value)
    assert robust[1] > robust[0] + 0.02


# it repeats


def test_the_same_seed_trains_the_same_weights_to_the_bit():
    (a, first), (b, second) = (trained_net(augment=partial(shift, pixels=1)) for _ in range(2))
    assert torch.equal(weights(a), weights(b)) and measured(first) == measured(second)


def test_the_global_random_state_does_not_matter():
    results = []
    with torch.random.fork_rng():
        for seed in (1, 2):
            torch.manual_seed(seed)
            results.append(weights(trained_net(objective=partial(mixed, eps=0.1, attack=partial(pgd, steps=1)))[0]))
    assert torch.equal(*results)


def test_another_seed_trains_other_weights():
    assert not torch.equal(weights(trained_net(seed=0)[0]), weights(trained_net(seed=1)[0]))


@pytest.mark.parametrize("objective", [clean, partial(mixed, eps=0.1, attack=pgd)])
def test_the_callers_random_state_is_left_alone(objective):
    before = torch.random.get_rng_state()
    trained_net(epochs=1, objective=objective, augment=partial(shift, pixels=1))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_callers_random_state_is_left_alone_after_an_error_too():
    before = torch.random.get_rng_state()
    with pytest.raises(RuntimeError, match="out of paper"):
        fit(RaisesAt(conv_net(), 2), loader(), loader(), epochs=1, lr=0.01, progress=False)
    assert torch.equal(torch.random.get_rng_state(), before)


# what it leaves and returns


def test_the_model_ends_in_eval_mode_without_hooks():
    model, _ = trained_net()
    assert not any(module.training or module._forward_hooks for module in model.modules())


def test_the_objective_sees_a_model_in_train_mode():
    modes = []

    def objective(model, x, y):
        modes.append({module.training for module in model.modules()})
        return clean(model, x, y)

    trained_net(objective=objective, epochs=2)
    assert modes == [{True}] * 10


def test_history_has_an_entry_an_epoch_and_running_totals():
    _, history = trained_net(epochs=3)
    assert isinstance(history, History)
    curves = {key: value for key, value in vars(history).items() if isinstance(value, list)}
    assert {key: len(value) for key, value in curves.items()} == dict.fromkeys(curves, 3) and len(curves) == 8
    assert history.robust_val_accuracy == {} and history.best_epoch == 3
    assert history.images == [24, 48, 72]
    assert 0 < history.seconds[0] < history.seconds[1] < history.seconds[2]
    assert all(0 <= share <= 1 for share in history.train_accuracy + history.val_accuracy)


def test_the_last_entries_are_the_models_own_loss_and_accuracy():
    model, history = trained_net()
    x, y = batch(8, seed=1)
    with torch.no_grad():
        logits = model(x)
    assert history.val_loss[-1] == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-5)
    assert history.val_accuracy[-1] == (logits.argmax(1) == y).float().mean().item()
    x, y = (tensor[::3] for tensor in batch(24))  # as many training images as there are validation images
    with torch.no_grad():
        assert history.train_loss[-1] == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-5)


def test_the_model_knows_what_it_was_trained_on_and_nothing_else():
    model, _ = trained_net(augment=lambda x: 1 - x)
    assert torch.equal(model.train_hashes, image_hashes(images(24)).unique())
    with refused("loader", "24 images"):
        accuracy(model, loader(24))
    assert accuracy(model, loader(8, seed=1)).n == 8


def test_a_second_training_adds_to_what_the_model_was_trained_on():
    model, _ = trained_net(epochs=1)
    fit(model, loader(10, seed=5), loader(8, seed=1), epochs=1, lr=0.01, progress=False)
    both = torch.cat([images(24), images(10, seed=5)])
    assert torch.equal(model.train_hashes, image_hashes(both).unique())


def test_a_training_that_was_interrupted_is_remembered_too():
    model, left = conv_net(), [3]

    def objective(model, x, y):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return clean(model, x, y)

    with pytest.raises(KeyboardInterrupt):
        fit(model, loader(24), loader(8, seed=1), epochs=1, lr=0.01, objective=objective, progress=False)
    assert torch.isin(image_hashes(images(24)[:8]), model.train_hashes).all()


@pytest.mark.parametrize("steps", range(1, 9))
def test_any_number_of_steps_will_do(steps):
    model = linear()
    before = weights(model)
    fit(model, loader(steps, batch_size=1), loader(3, seed=1), epochs=1, lr=0.1, progress=False)
    assert not torch.equal(weights(model), before)


def test_more_epochs_of_a_single_batch_will_do():
    for epochs in (1, 2, 4):
        assert len(fit(linear(), loader(), loader(), epochs=epochs, lr=0.1, progress=False).images) == epochs


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


# objectives and augmentation


def test_clean_is_cross_entropy():
    model, (x, y) = conv_net().eval(), batch()
    with torch.no_grad():
        expected = -torch.log(predict(model, x)[torch.arange(6), y]).mean()
        torch.testing.assert_close(clean(model, x, y), expected, rtol=1e-5, atol=1e-6)


def test_mixed_is_cross_entropy_over_images_and_twins():
    model, (x, y) = conv_net().eval(), batch()
    twins = fgsm(model, x, y, eps=0.2)
    expected = (clean(model, x, y) + clean(model, twins, y)) / 2
    torch.testing.assert_close(mixed(model, x, y, eps=0.2), expected, rtol=1e-4, atol=1e-6)
    assert mixed(model, x, y, eps=0.2) > clean(model, x, y)


def test_mixed_goes_through_the_network_once_with_images_and_twins_together():
    model, (x, y), sizes = conv_net().train(), batch(), []
    model.register_forward_hook(lambda module, inputs, z: sizes.append((module.training, len(z))))
    mixed(model, x, y, eps=0.2).backward()
    assert sizes == [(False, 6), (True, 12)]
    assert all(p.grad is not None for p in model.parameters())


def test_an_objective_written_in_a_cell_is_trained_with():
    model, _ = trained_net(objective=lambda model, x, y: (model(x) ** 2).mean(), epochs=20, lr=0.05)
    with torch.no_grad():
        assert model(images(24)).abs().max() < conv_net().eval()(images(24)).abs().max()


def test_what_the_augmentation_returns_is_trained_on():
    got = []

    def objective(model, x, y):
        got.append(x)
        return clean(model, x, y)

    trained_net(objective=objective, augment=lambda x: 1 - x, train=loader(6, batch_size=4), epochs=1)
    assert torch.equal(torch.cat(got), 1 - images(6))


def test_validation_images_are_not_augmented():
    model, history = trained_net(augment=torch.zeros_like)
    x, y = batch(8, seed=1)
    assert history.val_accuracy[-1] == (predict(model, x).argmax(1) == y).float().mean().item()


# the ledger

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


def test_a_ledger_is_taken_off_when_the_block_raises():
    model = conv_net()
    with pytest.raises(KeyError), ledger(model):
        raise KeyError
    assert not model._forward_hooks


# an engine


class Wrapped(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)


class Engine:
    """What `fit` asks of an Accelerator, with every call written down."""

    def __init__(self):
        self.fuse_batch_norm, self.losses = [], []

    def prepare(self, model, optimizer):
        self.fuse_batch_norm.append((model, optimizer))
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
    [(given, optimizer)] = engine.fuse_batch_norm
    assert given is model and isinstance(optimizer, torch.optim.Optimizer)
    assert all(network is engine.network for network, _ in seen)
    assert torch.equal(torch.cat([x for _, x in seen[:2]]), images(6))
    assert len(engine.losses) == len(engine.steps) == len(seen) == 6
    assert history.forwards == history.backwards == [6, 12, 18]
    assert not model.training


def test_a_bystanding_engine_changes_nothing():
    class Bystander(Engine):
        def prepare(self, *args):
            return args

    def train(engine):
        model = conv_net()
        fit(model, loader(12), loader(4, seed=1), epochs=2, lr=0.01, accelerator=engine, progress=False)
        return weights(model)

    assert torch.equal(train(None), train(Bystander()))


# what is refused


def test_a_training_that_diverges_says_so():
    with pytest.raises(FloatingPointError, match="epoch 1.*lr"):
        fit(linear(), loader(40), loader(4), epochs=3, lr=1e30, progress=False)


def test_a_training_that_diverges_at_its_last_step_says_so():
    def objective(model, x, y):
        loss = clean(model, x, y)
        model[1].bias.data.fill_(torch.nan)
        return loss

    with pytest.raises(FloatingPointError, match="epoch 1.*lr"):
        fit(linear(), loader(4), loader(4), epochs=1, lr=0.1, objective=objective, progress=False)


def fit_with(model=None, train=None, val=None, **kwargs):
    options = dict(epochs=1, lr=0.01, progress=False) | kwargs
    defaults = (model, linear()), (train, loader()), (val, loader(seed=1))
    model, train, val = (got if given is None else given for given, got in defaults)
    return fit(model, train, val, **options)


@pytest.mark.parametrize("bad", [0, -1, 1.5, "3", None, True])
def test_a_bad_number_of_epochs_is_refused(bad):
    with refused("epochs", "at least 1"):
        fit_with(epochs=bad)


@pytest.mark.parametrize("bad", [0, -0.1, float("nan"), float("inf"), "0.1", None, True])
def test_a_bad_learning_rate_is_refused(bad):
    with refused("lr", "above 0"):
        fit_with(lr=bad)


@pytest.mark.parametrize("side", ["train", "val"])
def test_an_empty_loader_is_refused(side):
    with refused(side, "empty"):
        fit_with(**{side: DataLoader(dataset(0), batch_size=4)})


@pytest.mark.parametrize("side", ["train", "val"])
@pytest.mark.parametrize("bad", [[batch()], (x for x in ()), "mnist"], ids=["a list", "a generator", "text"])
def test_what_is_no_loader_is_refused(side, bad):
    with refused(side):
        fit_with(**{side: bad})


@pytest.mark.parametrize("bad", [lambda x: x, linear, "vgg"], ids=["a function", "a class", "text"])
def test_what_is_no_model_is_refused(bad):
    with refused("model"):
        fit_with(bad)


SPOILT = {
    "grey levels": (lambda x: x * 255, "255"),
    "normalised": (lambda x: 2 * x - 1, "-1"),
    "NaN": (lambda x: x / 0, "NaN"),
    "double precision": (lambda x: x.double(), "float64"),
    "without channels": (lambda x: x[:, 0], ", 8, 8)"),
}


@pytest.mark.parametrize("side", ["train", "val"])
@pytest.mark.parametrize("spoil, fragment", SPOILT.values(), ids=SPOILT)
def test_bad_images_are_refused(side, spoil, fragment):
    x, y = batch()
    with refused("loader's images", fragment):
        fit_with(**{side: make_loader(TensorDataset(spoil(x), y), batch_size=4)})


@pytest.mark.parametrize("side", ["train", "val"])
@pytest.mark.parametrize("spoil, fragment", [(lambda y: y.float(), "float32"), (lambda y: F.one_hot(y, 4), ", 4)"),
                                             (lambda y: y[:, None], ", 1)")])  # fmt: skip
def test_bad_labels_are_refused(side, spoil, fragment):
    x, y = batch()
    with refused("loader's labels", fragment):
        fit_with(**{side: make_loader(TensorDataset(x, spoil(y)), batch_size=4)})


@pytest.mark.parametrize("bad", [4, -1, -100])
@pytest.mark.parametrize("side", ["train", "val"])
def test_a_label_out_of_range_is_refused(side, bad):
    x, y = batch()
    y[-1] = bad
    with refused("loader's labels", f"label {bad}", "0 to 3"):
        fit_with(**{side: make_loader(TensorDataset(x, y), batch_size=4)})


def test_a_model_that_returns_probabilities_is_refused():
    with refused("model", "probabilities"):
        fit_with(nn.Sequential(linear(), nn.Softmax(1)))


def test_a_model_with_the_wrong_number_of_rows_is_refused():
    with refused("model", "a row per image"):
        fit_with(nn.Sequential(nn.Flatten(), nn.Unflatten(1, (4, 16)), nn.Flatten(0, 1), nn.Linear(16, 4)))


def test_what_is_refused_leaves_the_model_as_it_was():
    model = linear()
    before = copy.deepcopy(model.state_dict())
    with refused("epochs"):
        fit_with(model, epochs=0)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_small_network_trains_too():
    x, y = digits(24)
    train, val = (make_loader(TensorDataset(x[at], y[at]), batch_size=8) for at in (slice(16), slice(16, None)))
    history = fit(small_cnn(), train, val, epochs=3, lr=0.005, augment=shift, progress=False)
    assert history.train_loss[-1] < history.train_loss[0]


def test_images_of_many_sizes_are_refused():
    x, y = batch(6)
    sizes = [(image[:, : 8 - at // 5], label) for at, (image, label) in enumerate(zip(x, y))]
    with refused("loader's images", "(1, 7, 8)", "(1, 8, 8)"):
        fit_with(train=DataLoader(sizes, batch_size=1))


@pytest.mark.parametrize("eps", [None, 0.1])
@pytest.mark.parametrize("attack", ["fgsm", True, None])
def test_an_objective_may_call_anything_its_attack(attack, eps):
    def mine(model, x, y, attack=attack, eps=None):
        return clean(model, x, y)

    fit(conv_net(), loader(8), loader(8, seed=1), epochs=1, lr=0.01, objective=mine, eps=eps, progress=False)


def test_images_that_come_in_a_later_epoch_only_are_remembered_too():
    model = conv_net()
    left_out = DataLoader(dataset(24), batch_size=20, shuffle=True, drop_last=True)
    fit(model, left_out, loader(8, seed=1), epochs=6, lr=0.01, progress=False)
    assert torch.equal(model.train_hashes, image_hashes(images(24)).unique())


def test_they_are_noticed_too_where_several_processes_cut_the_batches(monkeypatch):
    """What serves one process's part of each batch has no `drop_last` of its own."""

    def split(loader):
        return DataLoader(loader.dataset, batch_sampler=Cuts(loader.batch_sampler))

    monkeypatch.setattr(training.distributed, "split_batches", split)
    left_out = DataLoader(dataset(24), batch_size=20, shuffle=True, drop_last=True)
    model = conv_net()
    fit(model, left_out, loader(8, seed=1), epochs=8, lr=0.01, progress=False)
    assert torch.equal(model.train_hashes, image_hashes(images(24)).unique())


class Cuts:
    def __init__(self, batches):
        self.cut_from = batches

    def __len__(self):
        return len(self.cut_from)

    def __iter__(self):
        return iter(self.cut_from)


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
