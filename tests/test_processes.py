"""Two processes give the answer of one: evaluation image by image, a training step, a training that is continued."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.integration
TESTS = Path(__file__).resolve().parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What one process found, and what each of two found."""
    found = []
    for everyone in (1, 2):
        folder = tmp_path_factory.mktemp(f"of-{everyone}")
        launcher = TORCHRUN if everyone == 2 else [sys.executable]
        subprocess.run([*launcher, TESTS / "in_processes.py", folder], env=environment(), check=True, timeout=300)
        found.append([torch.load(folder / f"{rank}-of-{everyone}.pt", weights_only=True) for rank in range(everyone)])
    [[alone], (first, second)] = found
    assert (alone["count"], first["count"], second["count"]) == (1, 2, 2)
    return alone, first, second


def test_evaluation_is_the_same_for_every_image_and_in_both_processes(answers):
    alone, *both = (answer["evaluations"] for answer in answers)
    assert len(alone) == 24
    for name, expected in alone.items():
        for other in both:
            assert torch.equal(other[name], expected), name
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
        assert talk["PGD-5"] == talk["joined"] == talk["clean"]
        assert talk["attack on the wrapped model"] == talk["attack on the prepared one"] == 0


def test_both_processes_end_with_the_same_weights_and_the_same_history(answers):
    alone, first, second = (answer["training"] for answer in answers)
    assert torch.equal(first["weights"], second["weights"])
    assert first["history"] == second["history"]
    assert torch.equal(first["trained_on"], second["trained_on"])
    assert torch.equal(first["trained_on"], alone["trained_on"])
    assert first["history"]["images"] == [46, 92]  # the last batch of 5 was filled up
    assert alone["history"]["images"] == [45, 90]
    assert first["history"]["forwards"] == [2 * n for n in first["history"]["images"]]


def test_a_training_in_two_processes_continues_to_the_same_weights(answers):
    for answer in answers:
        assert torch.equal(answer["continued"]["weights"], answer["training"]["weights"])
        assert answer["continued"]["history"] == answer["training"]["history"]
        assert torch.equal(answer["continued"]["trained_on"], answer["training"]["trained_on"])


def test_the_networks_of_two_processes_learn_what_the_one_does(answers):
    alone, first, _ = (answer["training"] for answer in answers)
    assert not torch.equal(first["weights"], alone["weights"])  # each half of a batch has its own statistics and noise
    for key in ("val_loss", "train_loss"):
        assert first["history"][key][-1] == pytest.approx(alone["history"][key][-1], rel=0.2)


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
        assert one["command"].startswith("python -m") and two["command"].startswith("torchrun --nproc-per-node 2 -m")


def test_a_killed_process_ends_the_run_and_the_run_goes_on(tmp_path):
    """The first one is killed, and in the run that goes on the second one."""
    command = [*TORCHRUN, "-m", "advutils", "train", "--data", "mnist-5k", "--limit", "600", "--depth", "11", "--width",
               "0.05", "--epochs", "6", "--batch-size", "32", "--out", tmp_path / "weights.safetensors"]  # fmt: skip
    state, before = tmp_path / "weights.state.safetensors", 0
    for victim in (0, 1):
        with subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True) as run:
            deadline = time.monotonic() + 240
            while not state.exists() or state.stat().st_mtime_ns == before:
                assert run.poll() is None and time.monotonic() < deadline
                time.sleep(0.02)
            ranks = children(run.pid)
            os.kill(ranks[victim], signal.SIGKILL)
            said = run.communicate(timeout=60)[1]
        assert run.returncode != 0
        assert "exitcode  : -9" in said and f"rank      : {victim}" in said
        assert not any(map(alive, ranks.values()))
        assert state.exists() and not (tmp_path / "weights.safetensors").exists()
        before = state.stat().st_mtime_ns
    subprocess.run(command, env=environment(), check=True, timeout=300, capture_output=True)
    assert (tmp_path / "weights.safetensors").exists() and not state.exists()


def children(pid):
    """The processes that a launcher started, by rank."""
    pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ranks = {}
    for child in map(int, pids):
        for line in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            if line.startswith(b"RANK="):
                ranks[int(line[5:])] = child
    return ranks


def alive(pid):
    return Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]
