"""Programs that tests start: several processes, and servers."""

import contextlib
import os
import queue
import re
import subprocess
import sys
import threading
from pathlib import Path

TESTS = Path(__file__).resolve().parent


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def environment():
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS / "tools"), str(TESTS.parent)]),
    }


@contextlib.contextmanager
def serving(command, environment, address):
    """A server for as long as the block lasts; yields what `address`, a pattern, matches in what it prints."""
    process = subprocess.Popen(command, env=environment, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True)
    lines, said = queue.Queue(), []
    threading.Thread(target=lambda: [lines.put(line) for line in process.stdout], daemon=True).start()
    try:
        while not (found := re.search(address, "".join(said))):
            assert process.poll() is None, "".join(said)
            with contextlib.suppress(queue.Empty):
                said.append(lines.get(timeout=240))
        yield found[0]
    finally:
        process.terminate()
        process.wait(20)
