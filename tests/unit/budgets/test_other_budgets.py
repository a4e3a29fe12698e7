"""Few pixels, a sticker, an attacker who is told labels only: against closed forms, exhaustive search and peers."""

import itertools
from functools import partial

import foolbox
import pytest
import torch
from helpers import batch, images, linear, loader, refused, seeded, small_net_and_digits
from torch import nn
from torch.utils.data import TensorDataset

from advutils import corners, cw, few_pixels, ledger, make_loader, rays, sticker, train_patch


def gap_and_slope(model, x, y):
    """Of a linear model of two classes: by how much the wrong class is behind, (N,), and its slope for it, (N, D)."""
    weight, bias = model[1].weight.detach().double(), model[1].bias.detach().double()
    slope = weight[1 - y] - weight[y]
    return -((x.flatten(1).double() * slope).sum(1) + bias[1 - y] - bias[y]), slope


def read_right(model, x):
    return model(x).argmax(1).detach()


# Few pixels


def test_few_pixels_changes_no_more_of_a_linear_model_than_it_must():
    model, x = linear(2), images(30)
    y = read_right(model, x)
    gap, slope = gap_and_slope(model, x, y)
    flat = x.flatten(1).double()
    gains = torch.where(slope > 0, slope * (1 - flat), -slope * flat).sort(1, descending=True).values.cumsum(1)
    least = (gains <= gap[:, None]).sum(1) + 1  # the pixels that gain most, one after the other
    sure = (gains - gap[:, None]).abs().amin(1) > 1e-5
    x_adv = few_pixels(model, x, y, steps=64, n_tries=3)
    changed = (x_adv != x).flatten(1).sum(1)
    assert sure.sum() > 25 and torch.equal(changed[sure], least[sure]) and least.max() > 3
    assert (read_right(model, x_adv) != y).all() and set(x_adv[x_adv != x].tolist()) <= {0.0, 1.0}


class Bent(nn.Module):
    """A model whose gradient says little about what a large change of a pixel does."""

    def __init__(self):
        super().__init__()
        self.net = linear()

    def forward(self, x):
        return self.net(torch.sin(9 * x))


def test_with_all_tries_the_first_pixel_is_the_best_of_all():
    model, (x, y) = Bent(), batch(5)
    y = read_right(model, x)
    best = torch.full((5,), -torch.inf)
    for pixel, end in itertools.product(range(64), (0.0, 1.0)):
        tried = x.flatten(1).clone()
        tried[:, pixel] = end
        best = torch.maximum(best, cw(model(tried.view_as(x)), y).detach())
    x_adv = few_pixels(model, x, y, steps=1, n_tries=128)
    reached = cw(model(x_adv), y).detach()
    assert ((reached > 0) == (best > 0)).all() and (best > 0).any() and (best <= 0).any()
    torch.testing.assert_close(reached[best > 0], best[best > 0], rtol=0, atol=1e-5)
    assert torch.equal(x_adv[best <= 0], x[best <= 0])


def test_few_pixels_asks_for_what_its_docstring_says():
    model, (x, y) = linear(2), batch(6, classes=2)
    y = read_right(model, x)
    with ledger(model) as passes:
        few_pixels(model, x, y, steps=1, n_tries=7)
    assert (passes.forwards, passes.backwards) == (6 * (1 + 7 + 1), 6)


# The sticker


@pytest.mark.parametrize("side", [1, 3, 5, 8])
def test_a_place_is_for_training_or_for_the_test(side):
    seen, unseen = (set(map(tuple, corners(8, 10, side, seen=seen).tolist())) for seen in (True, False))
    assert not seen & unseen and seen | unseen == set(itertools.product(range(9 - side), range(11 - side)))
    assert len(seen) - len(unseen) in (0, 1)


@pytest.mark.parametrize("seen", [True, False])
def test_a_sticker_covers_one_square_at_a_place_of_its_kind_and_nothing_else(seen):
    x = images(200, channels=3)
    patch = torch.rand(3, 3, 3, generator=seeded(1))
    stuck, found = sticker(None, x, None, eps=1.0, patch=patch, seen=seen, generator=seeded()), []
    for before, after in zip(x, stuck):
        at = [
            (r, c)
            for r, c in itertools.product(range(6), range(6))
            if torch.equal(after[:, r : r + 3, c : c + 3], patch)
        ]
        assert len(at) == 1
        (r, c), outside = at[0], torch.ones(8, 8, dtype=torch.bool)
        outside[r : r + 3, c : c + 3] = False
        assert torch.equal(after[:, outside], before[:, outside])
        found.append((r, c))
    assert set(found) == set(map(tuple, corners(8, 8, 3, seen=seen).tolist()))


def test_a_sticker_as_large_as_the_image_covers_it():
    patch = torch.rand(1, 8, 8, generator=seeded(1))
    assert torch.equal(sticker(None, images(2), None, eps=1.0, patch=patch, seen=True), patch.expand(2, 1, 8, 8))


def test_a_thin_sticker_moves_no_pixel_by_more_than_eps():
    x, patch = images(20), torch.ones(1, 4, 4)
    stuck = sticker(None, x, None, eps=0.25, patch=patch, generator=seeded())
    assert 0.2 < (stuck - x).amax() <= 0.25 + 1e-6 and (stuck - x).amin() >= 0


def test_a_patch_for_a_linear_model_is_white_where_its_places_favour_the_target():
    model, x = linear(2, size=10), images(40, size=10)
    weight = (model[1].weight[1] - model[1].weight[0]).detach().view(10, 10)
    places = corners(10, 10, 3)
    summed = torch.stack([weight[r : r + 3, c : c + 3] for r, c in places.tolist()]).sum(0)
    batches = make_loader(TensorDataset(x.repeat(50, 1, 1, 1), torch.zeros(2000, dtype=torch.long)), batch_size=2000)
    patch = train_patch(model, batches, target=1, side=3, steps=30, step_size=0.1, generator=seeded())
    clearly = summed.abs() > 0.15
    assert clearly.sum() >= 5 and torch.equal(patch[0][clearly], (summed > 0).float()[clearly])


def test_a_patch_leaves_the_targets_own_images_out_and_the_network_as_it_was():
    model = linear(4)
    with pytest.raises(ValueError, match="target=2"):
        train_patch(model, [(images(3), torch.full((3,), 2))], target=2, side=3)
    before = [p.clone() for p in model.parameters()]
    patch = train_patch(model.train(), loader(12), target=2, side=3, steps=4, generator=seeded())
    assert patch.shape == (1, 3, 3) and 0 <= patch.min() < patch.max() <= 1 and model.training
    assert all(torch.equal(p, q) and p.grad is None for p, q in zip(model.parameters(), before))
    same = train_patch(model, loader(12), target=2, side=3, steps=4, generator=seeded())
    assert torch.equal(patch, same)


def stuck(patch):
    return lambda: sticker(None, images(2), None, eps=1.0, patch=patch)


REFUSED = {
    "a sticker that is too large": (
        lambda: sticker(None, images(2), None, eps=1.0, patch=torch.ones(1, 9, 9)),
        "patch",
    ),
    "of other channels": (stuck(torch.ones(3, 2, 2)), "patch"),
    "as large as the image, at a place not seen": (stuck(torch.ones(1, 8, 8)), "seen"),
    "not square": (stuck(torch.ones(1, 2, 3)), "patch"),
    "in grey levels": (stuck(torch.full((1, 2, 2), 255.0)), "patch"),
    "no patch": (stuck(None), "patch"),
    "a target that is no class": (lambda: train_patch(linear(), loader(), target=4, side=3, steps=1), "target"),
    "half a target": (lambda: train_patch(linear(), loader(), target=2.5, side=3, steps=1), "target"),
    "a target of floats": (lambda: train_patch(linear(), loader(), target=3.0, side=3, steps=1), "target"),
    "a side of 0": (lambda: train_patch(linear(), loader(), target=1, side=0, steps=1), "side"),
    "a step of 0": (lambda: train_patch(linear(), loader(), target=1, side=2, step_size=0), "step_size"),
    "no query": (lambda: rays(linear(), *batch(), n_queries=0), "n_queries"),
    "no try": (lambda: few_pixels(linear(), *batch(), n_tries=0), "n_tries"),
    "a radius": (lambda: rays(linear(), *batch(), eps=0.1), "eps"),
    "a number of pixels as radius": (lambda: few_pixels(linear(), *batch(), eps=3), "eps"),
}


@pytest.mark.parametrize("call, name", REFUSED.values(), ids=REFUSED)
def test_bad_input_is_refused_by_name(call, name):
    with refused(name):
        call()


# Labels only


class LabelsOnly(nn.Module):
    """A model that gives away its label and nothing else: all other logits are equal."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        assert not torch.is_grad_enabled()
        return 5.0 * nn.functional.one_hot(self.net(x).argmax(1), 2).float()


def test_rays_finds_the_distance_to_the_plane_from_labels_alone():
    model, x = linear(2), 0.3 + 0.4 * images(20)
    y = read_right(model, x)
    gap, slope = gap_and_slope(model, x, y)
    nearest = gap / slope.abs().sum(1)
    assert nearest.max() < 0.3  # so that no pixel comes to an end of its range on the shortest way
    x_adv = rays(LabelsOnly(model), x, y, n_queries=2000)
    radius = (x_adv - x).flatten(1).abs().amax(1)
    assert (read_right(model, x_adv) != y).all()
    assert (radius >= nearest - 1e-6).all() and (radius <= nearest + 2e-3).all()


@pytest.mark.parametrize("n_queries", [1, 2, 25, 100])
def test_an_image_costs_its_queries_and_at_most_one_halving_more(n_queries):
    model, (x, y) = linear(), batch(6)
    y = read_right(model, x)
    with ledger(model) as passes:
        rays(model, x, y, n_queries=n_queries)
    assert 6 * n_queries <= passes.forwards <= 6 * (n_queries + 11) and passes.backwards == 0


def test_more_queries_never_make_it_worse_and_a_misread_image_is_left_alone():
    model, (x, y) = Bent(), batch(12)
    y[:6] = read_right(model, x)[:6]
    wrong = read_right(model, x) != y
    radii = []
    for n_queries in (3, 30, 300):
        x_adv = rays(model, x, y, n_queries=n_queries)
        assert torch.equal(x_adv[wrong], x[wrong])
        radius = (x_adv - x).flatten(1).abs().amax(1)
        radii.append(torch.where(wrong | (radius > 0), radius, torch.inf))
    assert wrong.any() and (radii[1] <= radii[0]).all() and (radii[2] <= radii[1]).all()
    assert radii[2][~wrong].isfinite().any()


LAYOUTS = {
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "turned": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "every second column": lambda x: x.repeat_interleave(2, 3)[..., ::2],
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_the_layout_of_the_images_in_memory_changes_nothing(layout):
    model, x = linear(channels=3), images(4, channels=3)
    y = read_right(model, x)
    laid = layout(x)
    assert torch.equal(laid, x) and not laid.is_contiguous()
    for attack in (partial(rays, n_queries=60), partial(few_pixels, n_tries=5)):
        assert torch.equal(attack(model, laid, y), attack(model, x, y))


# Beside a peer


def of_foolbox(attack, **start):
    model, x, y = small_net_and_digits()
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    return attack.run(wrapped, x, foolbox.criteria.Misclassification(y), **start).detach()


def hop_skip_jump():
    noise = foolbox.attacks.LinearSearchBlendedUniformNoiseAttack(steps=50)
    attack = foolbox.attacks.HopSkipJumpAttack(
        steps=5, initial_gradient_eval_steps=50, max_gradient_eval_steps=200, constraint="linf"
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return of_foolbox(attack, starting_points=of_foolbox(noise))


L0FMN = foolbox.attacks.L0FMNAttack(steps=100)
PEERS = {
    "pixels, as foolbox's L0FMN": (0, partial(few_pixels, n_tries=20), lambda: of_foolbox(L0FMN)),
    "labels, as foolbox's HopSkipJump": (torch.inf, partial(rays, n_queries=500), hop_skip_jump),
}  # fmt: skip


@pytest.mark.parametrize("order, ours, theirs", PEERS.values(), ids=PEERS)
def test_ours_needs_no_larger_change_than_a_peer_in_no_more_passes(order, ours, theirs):
    model, x, y = small_net_and_digits()
    found, right = [], read_right(model, x) == y
    for attack in (lambda: ours(model, x, y), theirs):
        with ledger(model) as passes:
            x_adv = attack()
        fooled = read_right(model, x_adv) != y
        delta = (x_adv - x).flatten(1)
        size = torch.linalg.vector_norm(torch.where(delta.abs() > 1e-6, delta, 0), order, dim=1)
        found.append((torch.where(fooled, size, torch.inf)[right].median(), passes.forwards + passes.backwards))
    (median, passes), (their_median, their_passes) = found
    assert median <= their_median and passes <= their_passes
