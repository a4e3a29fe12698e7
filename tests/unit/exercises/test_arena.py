"""The arena's judge on made defences whose answers are known in closed form, its cheats, its board and its table."""

import copy
import json
from functools import partial

import pytest
import torch
from torch import nn

from advutils import fgsm, pgd
from advutils.certify import proven
from advutils.cli import main
from advutils.exercises import arena
from advutils.exercises.arena.board import folder, judge_file
from advutils.exercises.arena.defence import Defence, fingerprint
from advutils.exercises.arena.defences import DEFENCES
from advutils.exercises.arena.judge import BROKEN, NOT_YET, PROVED, WRONG, judge
from advutils.utils.weights import read_tensors, write_tensors

EPS = 0.1
STANDS_OUT = torch.tensor([0.05, 0.1, 0.15, 0.25, 0.3, 0.35, 0.19, 0.05])  # of the row that says the class
LABELS = torch.tensor([0, 1, 2, 3, 4, 5, 6, 0])  # the last one is wrong: row 7 stands out
FALL = STANDS_OUT < 2 * EPS  # the row can be lowered by eps, another one raised
TRUTH = tuple(BROKEN if falls else NOT_YET for falls in FALL[:-1]) + (WRONG,)


def pictures():
    x = torch.full((8, 1, 28, 28), 0.5)
    for row, more in enumerate(STANDS_OUT):
        x[row, 0, row] += more
    return x


def rows_alone():
    """Logit k is ten times the mean of row k."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    with torch.no_grad():
        model[1].weight.zero_().view(10, 28, 28)[range(10), range(10)] = 10 / 28
        model[1].bias.zero_()
    return model.eval()


class Noisy(nn.Module):
    """Reads the next class instead, with the probability that the last pixel says."""

    def __init__(self):
        super().__init__()
        self.rows = rows_alone()

    def forward(self, x):
        z = self.rows(x)
        moved = torch.rand(len(x)) < x[:, 0, -1, -1]
        return torch.where(moved[:, None], z.roll(1, 1), z)


class Detector(nn.Module):
    """Rejects an image whose last pixel is above 0.55."""

    def __init__(self):
        super().__init__()
        self.rows = rows_alone()

    def forward(self, x):
        return torch.cat([self.rows(x), 1000 * (x[:, 0, -1, -1:] - 0.55)], 1)


def made(name, network=rows_alone, x=None, sha256=None, **rules):
    x = pictures() if x is None else x.clone()
    model, y = network().eval(), LABELS.clone()
    rules = dict(eps=EPS, claim=90.0, claimed_with="FGSM", gradients=3, queries=6) | rules
    sha256 = sha256 or fingerprint(model, x, y)
    hints = ("look", "look closer", "lower the row")
    return Defence(name=name, story="Rows.", model=model, x=x, y=y, hints=hints, sha256=sha256, **rules)


@pytest.fixture(autouse=True)
def own_arena(monkeypatch, tmp_path):
    """Made defences beside the real ones, and a board of the test's own."""
    monkeypatch.setenv("ADVUTILS_CACHE", str(tmp_path / "cache"))
    others = dict(
        rows=partial(made, "rows"),
        proved=partial(made, "proved", certificate=proven),
        noisy=partial(made, "noisy", Noisy, x=pictures().index_fill(3, torch.tensor([27]), 0.35), eps=0.3, draws=400),
        detector=partial(made, "detector", Detector, eps=0.3),
    )
    for name, builder in others.items():
        monkeypatch.setitem(DEFENCES, name, builder)


def swapped(x, by):
    """The strongest images: the row of the class is lowered, another one raised."""
    x_adv = x.clone()
    for at, label in enumerate(LABELS):
        x_adv[at, 0, label] -= by
        x_adv[at, 0, 9] += by
    return x_adv


def test_each_image_has_the_fate_that_the_closed_form_gives_it():
    for submission in (fgsm, swapped(pictures(), EPS), partial(pgd, steps=3, random_start=False)):
        verdict = arena.submit("rows", submission)
        assert verdict.status == TRUTH
        assert verdict.score == 4 / 7
    shown = repr(verdict)
    assert all(
        line in shown for line in ("right at first           7", "broken                   4", "best so far: 0.57")
    )


def test_the_verdict_says_when_a_defence_counts_as_broken(monkeypatch):
    assert "does not count as broken: 3 left, 10% of the claim or more" in repr(arena.submit("rows", fgsm))
    assert "does not count as broken: 3 left" in repr(arena.submit("proved", fgsm))  # what is proved is left
    for name, eps in dict(most=0.16, all=0.3).items():
        monkeypatch.setitem(DEFENCES, name, partial(made, name, eps=eps))
    assert "does not count as broken: 1 left" in repr(arena.submit("most", fgsm))
    assert "counts as broken: 0 left, fewer than 10% of the claim" in repr(arena.submit("all", fgsm))


def test_what_is_not_attacked_is_not_broken_and_scores_nothing():
    assert arena.submit("rows", pictures()).status == (NOT_YET,) * 7 + (WRONG,)
    assert arena.submit("rows", pictures()).score == 0


def test_proofs_protect_what_cannot_be_broken_and_leave_the_score():
    verdict = arena.submit("proved", fgsm)
    assert verdict.status == tuple(word if word != NOT_YET else PROVED for word in TRUTH)
    assert verdict.score == 1
    margin = 10 * (0.25 - 2 * EPS)  # of image 3 over every other row
    assert "A proof exists for 3 images" in repr(verdict) and f"0: {margin:.2f}" in repr(verdict)


def test_an_image_that_breaks_a_proof_is_no_success_but_an_alarm(monkeypatch):
    lies = partial(made, "proved", certificate=lambda model, x, y, *, eps: torch.ones(len(x), dtype=torch.bool))
    monkeypatch.setitem(DEFENCES, "proved", lies)
    with pytest.raises(RuntimeError, match="a proof protects"):
        arena.submit("proved", fgsm)


class Liar(torch.Tensor):
    """A tensor that says of itself what its maker likes."""


def outside(by):
    x_adv = pictures()
    x_adv[3, 0, 20, 20] += EPS + by
    return x_adv


BAD = {
    "a hair outside": (outside(1e-5), "image 3 at a distance of 0.10001"),
    "not a number": (pictures().index_fill(3, torch.tensor([5]), torch.nan), "NaN"),
    "out of range": (pictures() + 0.6, "accepts \\[0, 1\\]"),
    "half precision": (swapped(pictures(), EPS).half(), "float16"),
    "double precision": (swapped(pictures(), EPS).double(), "float64"),
    "too few": (pictures()[:7], "shape"),
    "another order": (pictures().flip(0), "distance"),
    "images of another defence": (made("other", x=1 - pictures()).x, "distance"),
    "a subclass": (swapped(pictures(), EPS).as_subclass(Liar), "Liar"),
    "no tensor": ([0.5], "list"),
}


@pytest.mark.parametrize("images, words", BAD.values(), ids=BAD)
def test_what_is_no_submission_is_refused_and_leaves_no_trace(images, words):
    for submission in (images, lambda model, x, y, *, eps: images):
        with pytest.raises((TypeError, ValueError), match=words):
            arena.submit("rows", submission)
    assert not list(folder().rglob("*"))


def test_rounding_is_allowed_and_no_more():
    assert arena.submit("rows", outside(5e-7)).score == 0


def test_replacing_the_model_the_images_or_the_labels_changes_nothing():
    mine = arena.open("rows")
    with torch.no_grad():
        mine.model[1].weight.zero_()
    mine.x.zero_()
    mine.y.fill_(9)
    assert arena.submit("rows", pictures()).score == 0

    def cheat(model, x, y, *, eps):
        x_adv = x.clone()
        y.fill_(9)
        x.fill_(0.5)
        model[1].bias.data[9] = 100
        model.forward = lambda images: torch.zeros(len(images), 10)
        return x_adv

    assert arena.submit("rows", cheat).status == (NOT_YET,) * 7 + (WRONG,)


def test_an_attack_may_work_in_place_on_its_images():
    def in_place(model, x, y, *, eps):
        x.copy_(swapped(x, eps))
        return x

    assert arena.submit("rows", in_place).status == TRUTH


@pytest.mark.parametrize("part", ["weights", "x", "y"])
def test_a_defence_that_is_not_the_sealed_one_is_not_opened(part, monkeypatch):
    honest = made("rows")
    other = dict(sha256=honest.sha256)
    if part == "x":
        other["x"] = pictures() + 1e-3
    if part == "y":
        monkeypatch.setitem(globals(), "LABELS", LABELS.flip(0))
    network = partial(nn.Sequential, nn.Flatten(), nn.Linear(784, 10)) if part == "weights" else rows_alone
    monkeypatch.setitem(DEFENCES, "rows", partial(made, "rows", network, **other))
    for call in (arena.open, partial(arena.submit, submission=pictures()), arena.hint):
        with pytest.raises(ValueError, match="sha256"):
            call("rows")


def asking(times, way, gradient=False):
    """An attack that does nothing but ask, so many times."""

    def attack(model, x, y, *, eps):
        asked = way(model)
        for _ in range(times):
            z = asked(x.clone().requires_grad_(gradient))
            if gradient:
                z.sum().backward()
        return x

    return attack


WAYS = {
    "the model": lambda model: model,
    "a deep copy": copy.deepcopy,
    "its forward": lambda model: model.forward,
    "its argument by name": lambda model: lambda x: model(input=x),
    "a part of it": lambda model: lambda x: model[1](x.flatten(1)),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_budget_is_kept_to_the_last_image_by_whatever_door(way):
    assert arena.submit("rows", asking(6, way)).score == 0
    assert arena.submit("rows", asking(3, way, gradient=True)).score == 0
    with pytest.raises(ValueError, match="more than 6 queries for each of the 8 images"):
        arena.submit("rows", asking(7, way))
    with pytest.raises(ValueError, match="more than 3 gradients"):
        arena.submit("rows", asking(4, way, gradient=True))


def test_an_attack_that_swallows_the_refusal_learns_nothing_more():
    answers = []

    def stubborn(model, x, y, *, eps):
        for _ in range(20):
            try:
                answers.append(model(x))
            except ValueError:
                continue
        return x

    arena.submit("rows", stubborn)
    assert len(answers) == 6


def test_a_layer_that_serves_twice_in_one_pass_costs_one_query(monkeypatch):
    class Twice(Noisy):
        def forward(self, x):
            return self.rows(x) + self.rows(x.flip(3))

    monkeypatch.setitem(DEFENCES, "twice", partial(made, "twice", Twice))
    assert arena.submit("twice", asking(6, lambda model: model)).score == 0
    with pytest.raises(ValueError, match="queries"):
        arena.submit("twice", asking(7, lambda model: model))


def pixel(value, name="noisy"):
    x_adv = arena.open(name).x
    x_adv[:, 0, -1, -1] = value
    return x_adv


def test_a_randomised_defence_is_broken_where_more_than_half_of_its_readings_are_wrong():
    before = torch.random.get_rng_state()
    verdict = arena.submit("noisy", pixel(0.65))  # 400 draws: 0.5 lies six standard deviations away
    assert verdict.status == (BROKEN,) * 7 + (WRONG,)
    assert arena.submit("noisy", pixel(0.2)).status == (NOT_YET,) * 7 + (WRONG,)
    assert "more than half of its 400 readings" in repr(verdict) and verdict.notes[1].startswith("For 0 of 7 images")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_where_chance_decides_the_verdict_says_so_and_a_seed_repeats_it():
    first, again, other = (arena.submit("noisy", pixel(0.5), seed=seed) for seed in (1, 1, 2))
    assert first.status == again.status and first.notes == again.notes
    assert first.status != other.status
    assert int(first.notes[1].split()[1]) >= 4  # each of 7 with probability 0.95


def test_the_noise_is_drawn_anew_so_that_no_image_is_made_for_it():
    assert len({judge("noisy", pixel(0.5))[0].seed for _ in range(4)}) > 1


def test_a_detector_is_broken_only_where_it_accepts():
    x_adv = swapped(pictures(), EPS)
    assert arena.submit("detector", x_adv).status == TRUTH
    x_adv[:4, 0, -1, -1] = 0.6
    assert arena.submit("detector", x_adv).status == (NOT_YET,) * 4 + TRUTH[4:]


def test_the_board_keeps_the_best_and_hints_cost():
    assert arena.submit("rows", fgsm).best == 4 / 7
    assert "hint 1 of 3: look" in arena.hint("rows")
    after = arena.submit("rows", fgsm)
    assert after.score == pytest.approx(4 / 7 - 0.05) and after.best == 4 / 7
    assert arena.hint("rows").count("hint") == 2 and arena.hint("rows") == arena.hint("rows")
    assert arena.submit("rows", pictures()).score == 0
    row = next(line for line in arena.table().splitlines() if " rows " in line)
    assert row.split()[1:3] == ["rows", "90%"] and row.split()[-4:-1] == ["3", "3", "0.57"]
    assert {path.name for path in folder().iterdir()} == {"board.json", "rows.safetensors"}


def test_the_file_of_the_best_images_is_judged_alike():
    best = arena.submit("rows", fgsm)
    arena.submit("rows", pictures())
    again = judge_file(folder() / "rows.safetensors")
    assert (again.status, again.score, again.best) == (best.status, best.score, None)


def test_a_damaged_board_is_named():
    folder().mkdir(parents=True)
    (folder() / "board.json").write_text("{")
    with pytest.raises(ValueError, match="board.json.*delete it"):
        arena.submit("rows", fgsm)


def test_unknown_names_are_told_the_known_ones():
    for call in (arena.open, arena.hint, partial(arena.submit, submission=fgsm)):
        with pytest.raises(ValueError, match="'rows'"):
            call("row")


@pytest.fixture
def class_of(tmp_path):
    """A folder of submissions: what each learner's file holds, the rest as an honest one has it."""

    def write(**learners):
        for who, (images, about) in learners.items():
            honest = dict(defence="rows", sealed=made("rows").sha256, hints=0)
            write_tensors(tmp_path / "class" / who / "rows.safetensors", {"images": images}, honest | about)
        return tmp_path / "class"

    return write


def test_a_class_is_scored_again_and_what_is_refused_costs_nobody_else(class_of, tmp_path, capsys):
    good = swapped(pictures(), EPS)
    where = class_of(
        ada=(good, {}), bob=(good, dict(hints=2)), eve=(outside(1e-5), {}), fay=(good, dict(hints=-9)),
        gus=(good, dict(sealed="0" * 64)), hal=(good, dict(defence="noisy")),
    )  # fmt: skip
    altered = (where / "ada" / "rows.safetensors").read_bytes()
    (where / "ivy.safetensors").write_bytes(altered[:-4] + b"\0\0\0\0")
    torch.save(good, where / "jon.safetensors")
    beside = where / "__MACOSX" / "ada" / "._rows.safetensors", where / "bob" / ".cache" / "rows.safetensors"
    for path in beside:
        path.parent.mkdir(parents=True)
        path.write_bytes(b"no images")
    main(["arena", "score", str(where), "--out", str(tmp_path / "table.json")])
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "table.json").read_text())
    assert len({file["seed"] for file in found["files"] if "seed" in file}) == 1  # the same noise for all
    assert found["total"] == dict(ada=4 / 7, bob=4 / 7 - 0.1, eve=0, fay=0, gus=0, hal=0, ivy=0, jon=0)
    refused = {file["learner"]: file["refused"] for file in found["files"] if "refused" in file}
    words = dict(eve="distance", fay="hints", gus="version", hal="version", ivy="altered", jon="safetensors")
    assert refused.keys() == words.keys() and all(word in refused[who] for who, word in words.items())
    assert [line.split()[0] for line in printed.splitlines()[1:3]] == ["ada", "bob"] and found["not_guaranteed"]


def test_of_several_files_for_one_defence_the_best_counts_and_totals_add_up(class_of, tmp_path, capsys):
    where = class_of(ada=(pictures(), {}), bob=(pictures(), {}))
    arena.submit("rows", fgsm)
    arena.submit("detector", swapped(pictures(), EPS))
    for path in folder().glob("*.safetensors"):
        write_tensors(where / "bob" / "again" / path.name, *read_tensors(path))  # the better of two, read first
    main(["arena", "score", str(where), "--seed", "3"])
    first, second = capsys.readouterr().out.splitlines()[1:3]
    assert first.split()[0] == "bob" and first.split()[-1] == "1.14" and second.split()[-1] == "0.00"


def test_a_folder_without_files_is_an_error_in_one_line(tmp_path):
    with pytest.raises(SystemExit, match="no .safetensors file"):
        main(["arena", "score", str(tmp_path)])
