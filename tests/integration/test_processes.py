"""Two processes give the answer of one: evaluation image by image, a training step, a training that is continued."""

import subprocess
import sys

import pytest
import torch
from programs import TESTS, TORCHRUN, environment

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What one process found, and what each of two found."""
    found = []
    for everyone in (1, 2):
        folder = tmp_path_factory.mktemp(f"of-{everyone}")
        launcher = TORCHRUN if everyone == 2 else [sys.executable]
        subprocess.run(
            [*launcher, TESTS / "integration" / "in_processes.py", folder], env=environment(), check=True, timeout=300
        )
        parted = [(folder / f"{rank}-parted").read_text() for rank in range(everyone)]
        assert parted == ["True"] * everyone, "connections were open when the process ended"
        found.append([torch.load(folder / f"{rank}-of-{everyone}.pt", weights_only=True) for rank in range(everyone)])
    [[alone], (first, second)] = found
    assert (alone["count"], first["count"], second["count"]) == (1, 2, 2)
    return alone, first, second


def test_evaluation_is_the_same_for_every_image_and_in_both_processes(answers):
    alone, *both = (answer["evaluations"] for answer in answers)
    assert len(alone) == 25
    for name, expected in alone.items():
        for other in both:
            assert torch.equal(other[name], expected), name
    assert 0 < alone["certified"][0] < 1
    assert 0 < alone["a remainder, PGD"].sum() < 23 or 0 < alone["plain, noise"].sum() < 23  # some survive, some do not


def test_a_training_step_is_the_same_when_batch_norm_is_frozen(answers):
    alone, *both = (answer["steps"] for answer in answers)
    for name, expected in alone.items():
        for other in both:
            assert (other[name] - expected).abs().max() < 1e-5, name
    assert (alone["clean"] - alone["adversarial"]).abs().max() > 1e-4


def test_attack_steps_say_nothing_to_the_other_process(answers):
    for talk in (answers[1]["talk"], answers[2]["talk"]):
        assert talk["clean"] > 0
        assert talk["PGD-5"] == talk["mixed"] == talk["ibp"] == talk["clean"]
        assert talk["attack on the wrapped model"] == talk["attack on the prepared one"] == 0


def test_both_processes_end_with_the_same_weights_and_the_same_history(answers):
    alone, first, second = (answer["training"] for answer in answers)
    assert torch.equal(first["weights"], second["weights"])
    assert first["history"] == second["history"]
    assert torch.equal(first["train_hashes"], second["train_hashes"])
    assert torch.equal(first["train_hashes"], alone["train_hashes"])
    assert first["history"]["images"] == [46, 92]  # the last batch of 5 was filled up
    assert alone["history"]["images"] == [45, 90]
    assert first["history"]["forwards"] == [2 * n for n in first["history"]["images"]]
    assert not torch.equal(first["weights"], alone["weights"])  # each half of a batch has its own statistics and noise
    assert first["history"]["val_loss"][-1] == pytest.approx(alone["history"]["val_loss"][-1], rel=0.2)


def test_a_training_in_two_processes_continues_to_the_same_weights(answers):
    for answer in answers:
        assert torch.equal(answer["continued"]["weights"], answer["training"]["weights"])
        assert answer["continued"]["history"] == answer["training"]["history"]
        assert torch.equal(answer["continued"]["train_hashes"], answer["training"]["train_hashes"])


def test_each_process_draws_noise_of_its_own_in_training(answers):
    first, second = answers[1]["noise"], answers[2]["noise"]
    assert first.shape == second.shape == (2, 4) and not (first == second).any()


def test_the_results_command_works_in_two_processes(answers):
    alone, *both = (answer["results"] for answer in answers)
    assert [(row["attack"], row["n"]) for row in alone["rows"]] == [("clean", 30), ("PGD", 13)]
    for other in both:
        assert [(row["attack"], row["n"]) for row in other["rows"]] == [
            (row["attack"], row["n"]) for row in alone["rows"]
        ]
        assert other["files"] == alone["files"]
        assert other["rows"] == both[0]["rows"]
    for one, two in zip(alone["rows"], both[0]["rows"]):  # two processes train another network: it is no row of one
        assert (one["processes"], two["processes"]) == (1, 2)
        assert two["identity"] == one["identity"] | dict(processes=2)
        assert one["command"].startswith("python tests") and two["command"].startswith(
            "torchrun --nproc-per-node 2 tests"
        )
