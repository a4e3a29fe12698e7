"""Bugs that well-known attack code has had, one test for each, so that this package never has them."""

import contextlib
import io
from functools import partial

import pytest
import torch
from helpers import batch, clear, conv_net, dataset, every_attack, images, linear, loader, mixed_modes, refused, state
from PIL import Image
from torch import nn

from advutils import (
    accuracy,
    accuracy_vs_eps,
    cw,
    eval_mode,
    fgsm,
    fit,
    grey,
    input_gradient,
    ledger,
    make_loader,
    mixed,
    pgd,
    predict,
    random_noise,
    square,
    survivors,
    targeted,
)
from advutils.utils.images import read_image

gradient_attacks = pytest.mark.parametrize("attack", [fgsm, partial(pgd, steps=2, restarts=2)], ids=["fgsm", "pgd"])


def generator(seed=99):
    return torch.Generator().manual_seed(seed)


@gradient_attacks
@pytest.mark.parametrize("mode", ["train", "eval", "mixed"])
def test_bug_attack_flips_the_models_mode(attack, mode):
    model, (x, y) = conv_net(), batch()
    {"train": model.train, "eval": model.eval, "mixed": lambda: mixed_modes(model)}[mode]()
    before = [module.training for module in model.modules()]
    attack(model, x, y, eps=0.1)
    assert [module.training for module in model.modules()] == before


def test_bug_random_start_never_added():
    model, (x, y) = linear().requires_grad_(True), batch()
    nudged = partial(pgd, model, x, y, eps=0.2, step_size=1e-6, steps=1)
    start = nudged(generator=generator()) - x
    inside = (x > 0.2) & (x < 0.8)
    assert start[inside].abs().mean() > 0.05 and start[inside].std() > 0.05
    assert (nudged(random_start=False) - x).abs().max() < 2e-6
    assert not torch.equal(nudged(generator=generator(98)) - x, start)


def test_bug_every_image_gets_the_same_random_start():
    model, x, y = linear(), torch.full((5, 1, 8, 8), 0.5), torch.zeros(5, dtype=torch.int64)
    starts = pgd(model, x, y, eps=0.2, step_size=1e-6, steps=1, generator=generator())
    assert len(starts.flatten(1).unique(dim=0)) == 5


@pytest.mark.parametrize("attack", [fgsm, pgd, partial(pgd, step_size=0.1, restarts=2), random_noise])
def test_bug_eps_zero_changes_the_input(attack):
    x, y = batch()
    assert torch.equal(attack(conv_net(), x, y, eps=0.0), x)


def test_bug_start_leaves_the_ball():
    x, y = images(50), torch.zeros(50, dtype=torch.int64)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    nn.init.zeros_(model[1].weight)  # no gradient: what comes out is the start
    starts = pgd(model, x, y, eps=0.1, steps=1, generator=generator())
    assert (starts - x).abs().max() <= 0.1 + 1e-6 and (starts - x).abs().max() > 0.099
    assert starts.min() >= 0 and starts.max() <= 1
    assert ((starts - x)[(x > 0.2) & (x < 0.8)]).mean().abs() < 0.01  # uniform: in both directions alike


def test_bug_start_is_drawn_at_the_balls_surface():
    x, y = torch.full((50, 1, 8, 8), 0.5), torch.zeros(50, dtype=torch.int64)
    model = linear(2)
    nn.init.zeros_(model[1].weight)
    distance = (pgd(model, x, y, eps=0.1, steps=1, generator=generator()) - x).abs() / 0.1
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):  # uniform: a tenth of the starts within a tenth of eps, and so on
        assert abs((distance < share).float().mean() - share) < 0.03


def test_bug_projection_around_the_previous_iterate():
    model, (x, y) = conv_net(), batch()
    for step_size in (0.05, 0.1, 0.5):
        x_adv = pgd(model, x, y, eps=0.1, step_size=step_size, steps=8, random_start=False)
        assert (x_adv - x).abs().max() <= 0.1 + 1e-6


def test_bug_restarts_chosen_per_batch():
    model, (x, y) = conv_net(), batch(30)
    shared, attack = generator(), partial(pgd, model, x, y, eps=0.2, step_size=0.02, steps=1)
    runs = [attack(generator=shared) for _ in range(3)]
    with eval_mode(model), torch.no_grad():
        margins = torch.stack([cw(model(x_adv), y) for x_adv in runs])
        best = margins.amax(0)
        kept = cw(model(attack(restarts=3, generator=generator())), y)
    assert len(margins.argmax(0).unique()) == 3  # no run is the best for all images
    torch.testing.assert_close(kept, best, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attack", [fgsm, partial(pgd, steps=2, restarts=2), random_noise])
def test_bug_attack_mutates_its_input(attack):
    x, y = batch()
    originals = x.clone(), y.clone()
    attack(conv_net(), x, y, eps=0.3)
    assert torch.equal(x, originals[0]) and torch.equal(y, originals[1])
    assert not x.requires_grad and x.grad is None


@gradient_attacks
def test_bug_weight_gradients_left_accumulated(attack):
    model, (x, y) = conv_net(), batch()
    attack(model, x, y, eps=0.1)
    assert all(parameter.grad is None for parameter in model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 2)
    attack(model, x, y, eps=0.1)
    assert all((parameter.grad == 2).all() for parameter in model.parameters())


@gradient_attacks
def test_bug_the_attack_pass_updates_batch_norm_statistics(attack):
    model, (x, y) = conv_net().train(), batch()
    before = state(model)["tensors"]
    attack(model, x, y, eps=0.1)
    after = model.state_dict()
    assert any("running_mean" in key for key in before) and any("num_batches_tracked" in key for key in before)
    assert all(torch.equal(before[key], after[key]) for key in before)


@gradient_attacks
def test_bug_the_attack_is_crafted_with_dropout_alive(attack):
    model, (x, y) = conv_net(), batch()
    attack = partial(attack, eps=0.1) if attack is fgsm else partial(attack, eps=0.1, random_start=False)
    asleep = attack(model.eval(), x, y)
    assert torch.equal(attack(model.train(), x, y), asleep)


def test_bug_softmax_saturation_counts_as_robustness():
    """A softmax inside the model starves the gradient: refused wherever a number could come of it."""
    confident = nn.Sequential(linear(), nn.Softmax(1))
    (x, y), data = batch(), loader()
    for attack in (fgsm, pgd):
        with refused("model", "probabilities"):
            attack(confident, x, y, eps=0.1)
        with refused("model", "probabilities"):
            accuracy(confident, data, attack, eps=0.1)
    with refused("model", "probabilities"):
        accuracy(confident, data)
    with refused("model", "probabilities"):
        predict(confident, x)


def test_bug_zero_gradients_of_confident_models_pass_for_small_ones():
    """Logits so large that the loss underflows: the gradient is exactly zero, never NaN, so that it can be counted."""
    model, (x, _) = linear(), batch(20)
    with torch.no_grad():
        y = model(x).argmax(1)
        model[1].weight *= 1e5
        model[1].bias *= 1e5
    gradient = input_gradient(model, x, y)
    blind = gradient.abs().amax((1, 2, 3)) == 0
    assert gradient.isfinite().all() and blind.sum() >= 15
    assert torch.equal(fgsm(model, x, y, eps=0.3)[blind], x[blind])  # sign(0) is 0, neither up nor down
    wrong = (y + 1) % 4
    assert (input_gradient(model, x, wrong).abs().amax((1, 2, 3)) > 0).all()


@pytest.mark.parametrize("attack", [fgsm, pgd, random_noise])
def test_bug_clipping_missing(attack):
    x = torch.cat([torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 8, 8), images(2)])
    x_adv = attack(conv_net(), x, torch.tensor([0, 1, 2, 3, 0, 1]), eps=0.9)
    assert x_adv.min() >= 0 and x_adv.max() <= 1


class Brightness(nn.Module):
    """Class 1 where the mean pixel is above one half: an attack moves the mean by eps, unless it leaves [0, 1]."""

    def forward(self, x):
        light = x.mean((1, 2, 3)) - 0.5
        return torch.stack([-light, light], 1)


def test_bug_accuracy_rises_with_eps():
    x = torch.linspace(0, 1, 41)[:, None, None, None].expand(41, 1, 4, 4).clone()
    data = make_loader(torch.utils.data.TensorDataset(x, (x.mean((1, 2, 3)) > 0.5).long()), batch_size=9)
    curve = [record.value for record in accuracy_vs_eps(Brightness(), data, fgsm, [0, 0.1, 0.2, 0.3, 0.45, 0.6, 1])]
    assert curve[0] == 1 and curve[-1] == 0 and 0.3 < curve[3] < 0.5
    assert curve == sorted(curve, reverse=True)


def test_bug_predicted_probabilities_passed_as_labels():
    model, (x, _) = conv_net(), batch()
    for attack in (fgsm, pgd):
        with refused("y", "float32", "class indices"):
            attack(model, x, predict(model, x), eps=0.1)


def test_bug_predicted_labels_used_where_true_labels_are_scored():
    """The labels that an attack gets are the loader's, for misclassified images too, and the gradient uses them."""
    model, data, got = conv_net(), dataset(10), []

    def recording(model, x, y, *, eps):
        got.append(y.clone())
        return x

    accuracy(model, make_loader(data, batch_size=4), recording, eps=0.1)
    x, y = data.tensors
    predicted = predict(model, x).argmax(1)
    assert torch.equal(torch.cat(got), y) and not torch.equal(predicted, y)
    wrong = predicted != y
    ours, leaky = input_gradient(model, x, y)[wrong], input_gradient(model, x, predicted)[wrong]
    assert ((ours > 0) != (leaky > 0)).float().mean() > 0.3
    z = linear(2)
    before, after = (predict(z, at)[torch.arange(10), y % 2] for at in (x, fgsm(z, x, y % 2, eps=0.2)))
    assert (after < before).all()  # the true class loses, whether it was ahead or not


@gradient_attacks
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_bug_attack_called_under_no_grad(attack, mode):
    model, (x, y) = conv_net(), batch()
    with mode():
        x_adv = attack(model, x, y, eps=0.1)
    assert ((x_adv - x).abs() > 0.01).float().mean() > 0.3


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_bug_robust_accuracy_measured_under_no_grad(mode):
    model, data = conv_net(), loader(10)
    outside = accuracy(model, data, fgsm, eps=0.3)
    with mode():
        assert accuracy(model, data, fgsm, eps=0.3) == outside


def test_bug_last_batch_miscounted():
    """Ten images in batches of four, and all errors in the last two: 8 of 10, not 8 of 12, nor a mean over batches."""
    x = torch.full((10, 1, 4, 4), 0.9)
    y = torch.tensor([1] * 8 + [0] * 2)
    record = accuracy(Brightness(), make_loader(torch.utils.data.TensorDataset(x, y), batch_size=4))
    assert (record.value, record.n) == (0.8, 10)


def test_bug_only_correctly_classified_images_are_attacked():
    """An attack that repairs what was wrong shows up: nothing is left out, nothing is taken for granted."""
    x, y = torch.full((10, 1, 4, 4), 0.45), torch.ones(10, dtype=torch.int64)
    data = make_loader(torch.utils.data.TensorDataset(x, y), batch_size=4)
    seen = []

    def brighten(model, x, y, *, eps):
        seen.append(len(x))
        return x + eps

    assert accuracy(Brightness(), data).value == 0
    record = accuracy(Brightness(), data, brighten, eps=0.1)
    assert (record.value, record.n, sum(seen)) == (1, 10, 10)


def test_bug_denominator_is_the_correctly_classified():
    x = torch.tensor([0.9, 0.9, 0.6, 0.4, 0.4])[:, None, None, None].expand(5, 1, 4, 4).clone()
    data = make_loader(torch.utils.data.TensorDataset(x, torch.ones(5, dtype=torch.int64)), batch_size=2)
    alive = survivors(Brightness(), data, fgsm, eps=0.2)
    assert alive.tolist() == [True, True, False, False, False]
    assert accuracy(Brightness(), data, fgsm, eps=0.2)[::3] == (0.4, 5)


def test_bug_one_backward_for_each_eps():
    model, data = conv_net(), loader(10)
    with ledger(model) as spent:
        accuracy_vs_eps(model, data, fgsm, [0, 0.05, 0.1, 0.2, 0.3])
    assert spent.backwards == 10


def test_bug_adversarial_training_differentiates_through_the_attack():
    model, (x, y), given = conv_net(), batch(), []

    def watched(model, x, y, *, eps):
        given.append(fgsm(model, x, y, eps=eps))
        return given[-1]

    mixed(model.train(), x, y, eps=0.1, attack=watched).backward()
    assert not given[0].requires_grad and x.grad is None


def test_bug_adversarial_training_crafts_in_train_mode():
    modes = []

    class Spy(nn.Module):
        def forward(self, x):
            modes.append((self.training, len(x)))
            return x.flatten(1)

    model = nn.Sequential(Spy(), nn.Linear(64, 4))
    data = loader(4)
    fit(model, data, data, epochs=1, lr=0.01, objective=partial(mixed, eps=0.1), progress=False)
    learns = modes.index((True, 8))
    assert modes[learns - 1] == (False, 4)  # it crafts on four images asleep, and learns from eight awake
    assert (True, 4) not in modes


def test_bug_a_gradient_depends_on_the_size_of_the_batch():
    model, (x, y) = conv_net(), batch(8)
    whole, part = input_gradient(model, x, y)[:2], input_gradient(model, x[:2], y[:2])
    assert clear(whole).float().mean() > 0.5
    torch.testing.assert_close(whole, part, rtol=1e-3, atol=1e-6)


def leads(model, x, y):
    with eval_mode(model), torch.no_grad():
        return cw(model(x), y)


def predicted(model, x):
    with eval_mode(model), torch.no_grad():
        return model(x).argmax(1)


@pytest.mark.parametrize("options", [{}, dict(early_exit=True), dict(momentum=1.0)])
def test_bug_l2_projection_around_the_previous_iterate(options):
    model, (x, y) = linear(2), batch(classes=2)
    for step_size in (0.2, 0.5, 3):
        x_adv = pgd(model, x, y, eps=0.5, norm="l2", step_size=step_size, steps=8, random_start=False, **options)
        assert (x_adv - x).flatten(1).norm(dim=1).max() <= 0.5 + 1e-5


def test_bug_l2_length_taken_over_the_batch():
    model, (x, y) = linear(2), (0.45 + 0.1 * images(9), torch.zeros(9, dtype=torch.int64))
    lengths = (pgd(model, x, y, eps=0.4, norm="l2", steps=4, random_start=False) - x).flatten(1).norm(dim=1)
    assert torch.allclose(lengths, torch.full((9,), 0.4), atol=1e-5)


def test_bug_momentum_shared_by_the_batch():
    model, (x, y) = conv_net(), batch(5)
    attack = partial(pgd, eps=0.3, norm="l2", steps=4, momentum=1.0, random_start=False)
    alone = torch.cat([attack(model, x[i : i + 1], y[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(attack(model, x, y), alone, rtol=0, atol=1e-4)


def test_bug_one_fooled_image_ends_the_attack_on_its_batch():
    model, x = linear(), images(30)
    y = predicted(model, x)
    y[0] = (y[0] + 1) % 4  # fooled before the first step
    attack = partial(pgd, model, x, y, eps=0.3, step_size=0.01, steps=30, random_start=False)
    early, whole = (leads(model, attack(early_exit=e), y) > 0 for e in (True, False))
    assert torch.equal(early, whole) and whole.sum() > 25


def test_bug_early_exit_moves_the_images_it_left():
    model, x = linear(), images(30)
    y = predicted(model, x)
    y[::2] = (y[::2] + 1) % 4
    x_adv = pgd(model, x, y, eps=0.3, steps=5, restarts=3, early_exit=True, random_start=False)
    assert torch.equal(x_adv[::2], x[::2]) and not (x_adv[1::2] == x[1::2]).all((1, 2, 3)).any()


def test_bug_early_exit_mixes_up_the_rows_that_are_left():
    model, x = linear(), images(30)
    y = predicted(model, x)
    y[[0, 3, 4, 11]] = (y[[0, 3, 4, 11]] + 1) % 4
    attack = partial(pgd, eps=0.1, step_size=0.004, steps=9, random_start=False, early_exit=True)
    alone = torch.cat([attack(model, x[i : i + 1], y[i : i + 1]) for i in range(30)])
    torch.testing.assert_close(attack(model, x, y), alone, rtol=0, atol=1e-5)
    target = (y + 2) % 4
    alone = torch.cat([attack(model, *(t[i : i + 1] for t in (x, y)), target=target[i : i + 1]) for i in range(30)])
    torch.testing.assert_close(attack(model, x, y, target=target), alone, rtol=0, atol=1e-5)


def test_bug_early_exit_ends_at_a_tie():
    """At equal logits nothing is won yet: argmax may still be right."""
    model = linear(2)
    nn.init.zeros_(model[1].weight)
    nn.init.zeros_(model[1].bias)
    x, _ = batch()
    y = torch.zeros(6, dtype=torch.int64)
    with ledger(model) as spent:
        pgd(model, x, y, eps=0.1, steps=5, early_exit=True)
    assert spent.backwards == 6 * 5 and (predicted(model, x) == y).all()


def test_bug_early_exit_repairs_images_that_were_misclassified():
    """An attack that keeps on climbing may leave a basin; what is fooled once must be handed in."""
    x = torch.full((4, 1, 4, 4), 0.45)
    y = torch.ones(4, dtype=torch.int64)
    data = make_loader(torch.utils.data.TensorDataset(x, y), batch_size=4)
    assert accuracy(Brightness(), data, partial(pgd, random_start=False), eps=0.2).value == 0
    assert torch.equal(pgd(Brightness(), x, y, eps=0.2, random_start=False, early_exit=True), x)


def test_bug_targeted_loss_with_the_wrong_sign():
    model, x = linear(), 0.4 + 0.2 * images(12)
    y = predicted(model, x)
    for aim in ((y + 1) % 4, (y + 3) % 4):
        x_adv = pgd(model, x, y, eps=0.3, steps=10, target=aim, generator=generator())
        assert (predicted(model, x_adv) == aim).all()
        before, after = (predict(model, at)[torch.arange(12), aim] for at in (x, x_adv))
        assert (after > before).all()


def test_bug_targets_include_the_true_class():
    model, x = linear(3), images(12)
    y, tried = predicted(model, x), []

    def spy(model, x, y, *, eps, target, **_):
        tried.append(target)
        return x

    targeted(model, x, y, eps=0.1, attack=spy)
    assert len(tried) == 2 and not any((target == y).any() for target in tried)


@pytest.mark.parametrize("options", [{}, dict(early_exit=True), dict(norm="l2"), dict(momentum=0.5)])
def test_bug_restarts_are_the_same_start_again(options):
    model, (x, y), starts = linear(), batch(), []
    y = predicted(model, x)
    model.register_forward_pre_hook(lambda module, inputs: starts.append(inputs[0].detach().clone()))
    pgd(model, x, y, eps=0.001, steps=1, restarts=3, generator=generator(), **options)
    runs = starts[:3]
    assert all(len(run) == 6 for run in runs)
    assert not any(torch.equal(a, b) for a, b in ((runs[0], runs[1]), (runs[1], runs[2]), (runs[0], runs[2])))


def test_bug_restarts_depend_on_how_many_were_fooled_before():
    """Starts are drawn for the whole batch, also when some images have left it: the runs nest."""
    model, x = linear(), images(30)
    y = predicted(model, x)
    seen = {}
    for early_exit in (False, True):
        firsts = seen[early_exit] = []

        def note(module, inputs, firsts=firsts):
            firsts.append(inputs[0].detach().clone())

        hook = model.register_forward_pre_hook(note)
        pgd(model, x, y, eps=0.05, steps=1, restarts=3, early_exit=early_exit, generator=generator())
        hook.remove()
    for whole, part in zip(seen[False][:3], seen[True][:3]):
        assert all((whole == row).all((1, 2, 3)).any() for row in part)
    assert len(seen[True][2]) < 30


@pytest.mark.parametrize(
    "attack",
    [
        grey,
        partial(square, n_queries=20),
        partial(square, n_queries=20, early_exit=True),
        partial(targeted, n_target_classes=2),
        partial(pgd, norm="l2", momentum=1, early_exit=True),
    ],
)
def test_bug_new_attacks_mutate_their_input(attack):
    x, y = batch()
    originals = x.clone(), y.clone()
    x_adv = attack(conv_net(), x, y, eps=0.3)
    assert torch.equal(x, originals[0]) and torch.equal(y, originals[1])
    x_adv.fill_(7)
    assert torch.equal(x, originals[0])


def test_bug_square_steps_from_its_own_picture_out_of_the_ball():
    model, (x, y) = conv_net(), batch()
    x_adv = square(model, x, y, eps=0.1, n_queries=200, generator=generator())
    assert (x_adv - x).abs().max() <= 0.1 + 1e-6 and x_adv.min() >= 0 and x_adv.max() <= 1


def test_bug_square_paints_the_same_square_on_every_image():
    model, x, y, asked = linear(), torch.full((20, 1, 8, 8), 0.5), torch.zeros(20, dtype=torch.int64), []
    model.register_forward_pre_hook(lambda module, inputs: asked.append(inputs[0].clone()))
    square(model, x, y, eps=0.1, n_queries=2, p_init=0.3, generator=generator())
    changed = (asked[0] != asked[1]).flatten(1)
    assert len(changed.unique(dim=0)) > 5


# what people who do this job have reported elsewhere, and what the package does there


@contextlib.contextmanager
def default(**values):
    """PyTorch's defaults changed inside the block, as some programs change them at their beginning."""
    try:
        for name, value in values.items():
            getattr(torch, f"set_default_{name}")(value)
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


@every_attack
def test_bug_the_programs_default_dtype_reaches_the_images(attack):
    model, (x, y) = conv_net().eval(), batch(6)
    with default(dtype=torch.float64):
        assert accuracy(model, [(x, y)], attack, eps=0.1).n == 6


@every_attack
def test_bug_tensors_are_made_on_the_programs_default_device(attack):
    """As after torch.set_default_device("cuda") with a model on the CPU: "meta" is a device that every machine has."""
    model, (x, y) = conv_net().eval(), batch(6)
    with default(device="meta"):
        assert accuracy(model, [(x, y)], attack, eps=0.1).n == 6


@every_attack
def test_bug_no_attack_at_radius_zero_is_another_accuracy(attack):
    """torchattacks 124: PGD with eps = 0 gave another accuracy than no attack."""
    model, (x, y) = conv_net().eval(), batch(40)
    assert torch.equal(survivors(model, [(x, y)], attack, eps=0), survivors(model, [(x, y)]))


@every_attack
def test_bug_the_callers_autocast_reaches_the_attack(attack):
    model, (x, y) = conv_net().eval(), batch(6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert accuracy(model, [(x, y)], attack, eps=0.1).n == 6


def test_bug_broken_metadata_stop_a_picture_from_being_read():
    """huggingface/datasets 7668: a picture of ImageNet whose XMP is not UTF-8."""
    for broken in (
        dict(xmp=b'<x tiff:Orientation="6">\xa8\xff'),
        dict(exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01"),
    ):
        content = io.BytesIO()
        Image.new("RGB", (9, 7), (200, 0, 0)).save(content, "JPEG", **broken)
        assert read_image(content.getvalue()).shape[0] == 3


def test_bug_a_picture_in_cmyk_is_read_inverted():
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 60)).convert("CMYK").save(content, "JPEG")
    assert (255 * read_image(content.getvalue()).mean((1, 2)) - torch.tensor([200, 30, 60])).abs().max() < 3


def test_bug_an_attack_that_works_in_place_moves_the_image_that_it_is_measured_from():
    model, (x, y) = conv_net().eval(), batch(6)

    def careless(model, x, y, *, eps):
        return x.add_(2 * eps).clamp_(0, 1)

    before = x.clone()
    with refused("attack", "away from x"):
        accuracy(model, [(x, y)], careless, eps=0.1)
    assert torch.equal(x, before)


class Outputs(nn.Module):
    """As HuggingFace's classifiers and torchvision's Inception in train mode answer."""

    def __init__(self, answer):
        super().__init__()
        self.net, self.answer = linear(), answer

    def forward(self, x):
        return self.answer(self.net(x))


@pytest.mark.parametrize("answer", [lambda z: dict(logits=z), lambda z: (z, z)], ids=["dict", "tuple"])
def test_bug_answers_of_several_parts_are_taken_for_logits(answer):
    x, y = batch(6)
    for measure in (partial(accuracy, loader=[(x, y)]), partial(fgsm, x=x, y=y, eps=0.1), partial(predict, x=x)):
        with refused("model", answer(0).__class__.__name__):
            measure(Outputs(answer))
