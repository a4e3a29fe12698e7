"""One of two processes that train together is killed: the run ends, and goes on when it is started again."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from programs import TORCHRUN, environment

pytestmark = pytest.mark.integration


def test_a_killed_process_ends_the_run_and_the_run_goes_on(tmp_path):
    """The first one is killed, and in the run that goes on the second one."""
    command = [*TORCHRUN, "-m", "advutils", "train", "--data", "mnist-5k", "--limit", "600", "--depth", "11", "--width",
               "0.05", "--epochs", "6", "--batch-size", "32", "--out", tmp_path / "weights.safetensors"]  # fmt: skip
    state, before = tmp_path / "weights.checkpoint.pt", 0
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
