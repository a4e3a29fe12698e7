"""The checklist: an honest model passes, and each kind of illusion is told by its own line."""

import pytest
import torch
from helpers import RaisesAt, batch, linear, refused
from torch import nn
from torch.utils.data import TensorDataset

from advutils import checklist, make_loader

LINES = [
    "same answer",
    "alone",
    "gradient is zero",
    "no attack",
    "than FGSM",
    "label away",
    "doubled",
    "Square",
    "eps 0.5",
]


def answers(model, n=40, *, eps=0.2, relabel=True, **kwargs):
    """{line: Question} of the checklist on random images, labelled as the model sees them."""
    x, y = batch(n)
    if relabel:
        with torch.no_grad():
            y = model(x).argmax(1)
    loader = make_loader(TensorDataset(x, y), batch_size=16)
    result = checklist(model, loader, eps=eps, steps=5, n_queries=20, **kwargs)
    return {line: next(q for q in result.checks if line in q.name) for line in LINES}, result


def doubtful(found):
    return {line for line, question in found.items() if not question.passed}


def test_a_plain_model_passes():
    found, result = answers(linear())
    assert doubtful(found) == set() and result.passed
    assert len(result.checks) == len(LINES)
    assert "LOOK" not in str(result)
    assert str(result.worst.accuracy) in str(result)
    assert found["label away"].expected == "too few to tell"
    assert result.worst.accuracy.value == min(record.value for record in result.worst.cumulative.values())
    assert list(result.worst.individual) == ["clean", "grey", "FGSM", "PGD-5", "PGD-10"]  # the others are a cascade


def test_a_loader_that_can_be_read_once_is_enough():
    _, result = answers(linear())
    x, y = batch(40)
    batches = zip(x.split(16), linear()(x).argmax(1).split(16))
    assert str(checklist(linear(), batches, eps=0.2, steps=5, n_queries=20)) == str(result)


class Rounded(nn.Module):
    def forward(self, x):
        return x.round()


@pytest.mark.filterwarnings("ignore:the gradient is exactly zero")
def test_rounding_shows_in_the_gradients_and_in_what_square_finds():
    found, result = answers(nn.Sequential(Rounded(), linear()), eps=0.4)
    assert {"gradient is zero", "Square", "eps 0.5"} <= doubtful(found)
    assert found["gradient is zero"].measured == "100.0%"
    assert not result.passed and "LOOK" in str(result)


class Noisy(nn.Module):
    def forward(self, x):
        return x + 0.01 * torch.rand_like(x)


def test_a_random_model_does_not_answer_twice_alike():
    torch.manual_seed(0)
    assert "same answer" in doubtful(answers(nn.Sequential(Noisy(), linear()))[0])


def test_answers_that_hang_on_the_other_images_of_a_batch_are_told():
    """As batch norm without running statistics gives them: the same answer twice, and another to an image alone."""
    model = nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), linear()).eval()
    found, _ = answers(model)
    assert found["same answer"].passed and not found["alone"].passed


class Shell(nn.Module):
    """Class 1 only where the mean is about 0.05 away from grey: long steps jump over it, and back again."""

    def forward(self, x):
        away = (x - 0.5).flatten(1).mean(1).abs()
        wrong = 1 - ((away - 0.05) / 0.03) ** 2
        return torch.stack([torch.zeros_like(wrong), wrong], 1)


def test_too_few_steps_show_when_they_are_doubled():
    x = torch.full((20, 1, 8, 8), 0.5)
    loader = make_loader(TensorDataset(x, torch.zeros(20, dtype=torch.int64)), batch_size=10)
    result = checklist(Shell(), loader, eps=0.2, steps=5, n_queries=2)
    doubled = next(question for question in result.checks if "doubled" in question.name)
    assert not doubled.passed
    assert result.worst.individual["PGD-10"].value < result.worst.individual["PGD-5"].value - 0.2


class Backwards(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class Leaky(nn.Module):
    """FGSM on it walks towards the label that it is given, so that its images tell the label."""

    def __init__(self):
        super().__init__()
        self.inside = linear()

    def forward(self, x):
        return self.inside(Backwards.apply(x))


def test_a_leak_is_told_by_the_labels_that_the_model_would_have_guessed():
    found, _ = answers(Leaky(), relabel=False)
    assert {"label away", "no attack"} <= doubtful(found)
    first, second = map(int, found["label away"].measured.split(" against "))
    assert first > 10 and second == 0


@pytest.mark.parametrize("bad", [dict(eps=2), dict(eps=0.1, steps=0), dict(eps=0.1, n_queries=0)])
def test_bad_settings_are_refused(bad):
    name = list(bad)[-1]
    with refused(name):  # before anything is attacked
        checklist(RaisesAt(linear(), 1), make_loader(TensorDataset(*batch(4)), batch_size=4), **bad)
