"""What can happen to a machine: a kill, a full disk, a lost network, two programs at once, a clock that is set back."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from helpers import clear, conv_net, dataset, digits, linear, loader, refused
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat.v4 import new_code_cell, new_notebook
from torch.utils.data import TensorDataset

from advutils import (
    accuracy,
    cache_dir,
    clean,
    fgsm,
    fit,
    initialised,
    input_gradient,
    load_data,
    make_loader,
    save_weights,
    trained,
    vgg,
)
from advutils.utils import checkpoint
from advutils.utils.weights import read_tensors

ROOT = Path(__file__).resolve().parents[2]
module = sys.modules["advutils.pretrained"]  # the attribute of that name is the function
ONE_THREAD = dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
EPOCHS, STEPS, PAUSE = 60, 3, 0.01
LEAST_SECONDS = EPOCHS * STEPS * PAUSE  # no training below ends sooner, however fast the machine is
TRAINING = f"""
import sys, time
import torch
from torch import nn
from torch.utils.data import TensorDataset
from advutils import clean, fit, initialised, make_loader, save_weights

pause = {PAUSE}

def data(n, seed):
    x = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, torch.arange(n) % 4)

def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4))

def run(state, out):
    steps = 0

    def slowly(model, x, y):
        nonlocal steps
        if steps == 0:
            print("begun", flush=True)
        steps += 1
        time.sleep(pause)
        return clean(model, x, y)

    torch.set_num_threads(1)
    model = initialised(build, seed=0)
    train, val = make_loader(data(24, 0), batch_size=8, shuffle=True), make_loader(data(8, 1), batch_size=8)
    options = dict(epochs={EPOCHS}, lr=0.01, objective=slowly, ema_decay=0.9, progress=False)
    history = fit(model, train, val, checkpoint=state, **options)
    save_weights(model, out, history=vars(history))
    print(steps, "steps", flush=True)
"""


@pytest.fixture
def start():
    """Starts Python programs beside this one; those that still run when the test ends are killed."""
    started = []

    def run(code, *arguments, **environment):
        command = [sys.executable, "-c", code, *map(str, arguments)]
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(subprocess.Popen(command, env=os.environ | ONE_THREAD | environment, **pipes))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def ended(process):
    """What a program has printed when it is done."""
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return printed


def told(path):
    """Weights and history in a file, but for what a clock measured."""
    tensors, about = read_tensors(path)
    return tensors, {key: value for key, value in about["history"].items() if key != "seconds"}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def same_training(path, other):
    (a, history), (b, expected) = told(path), told(other)
    return same(a, b) and history == expected


def visible(folder):
    """A killed writer leaves its unfinished file, whose name begins with a dot."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The weights of `TRAINING` that nothing happened to."""
    here, out = {}, tmp_path_factory.mktemp("undisturbed") / "out"
    exec(TRAINING, here)
    here["pause"] = 0
    here["run"](None, out)
    return out


# kills, Ctrl-C and kernels


KILLING = f"""{TRAINING}
import os, random, signal

def started():
    reader, writer = os.pipe()
    child = os.fork()  # of a process that has imported all and done nothing
    if child == 0:
        os.dup2(writer, 1)
        try:
            run(*sys.argv[2:])
        finally:
            sys.stdout.flush()
            os._exit(0)
    os.close(writer)
    return child, open(reader)

moments = int(sys.argv[1])
draw = random.Random(moments)
for _ in range(moments):
    child, said = started()
    assert said.readline() == "begun\\n"
    time.sleep(draw.uniform(0, {0.8 * LEAST_SECONDS} / moments))
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
print(os.path.exists(sys.argv[2]))
child, said = started()
print(said.read())
"""


@pytest.mark.integration
@pytest.mark.parametrize("moments", [3])
def test_a_training_killed_at_any_moments_ends_in_the_same_weights(start, moments, undisturbed, tmp_path):
    existed, _, steps, _ = ended(start(KILLING, moments, tmp_path / "state", tmp_path / "out")).split()
    assert int(steps) % STEPS == 0 and (existed == "True") == (int(steps) < EPOCHS * STEPS)
    assert same_training(tmp_path / "out", undisturbed) and visible(tmp_path) == ["out", "state"]


@contextlib.contextmanager
def notebook(folder):
    """A notebook of one cell that trains, its kernel running."""
    source = f"{TRAINING}\nrun({str(folder / 'state')!r}, {str(folder / 'out')!r})"
    client = NotebookClient(new_notebook(cells=[new_code_cell(source)]), kernel_name="python3", timeout=120)
    with client.setup_kernel(env=os.environ | ONE_THREAD, cwd=str(folder)):
        yield client


def run_cell(client):
    """Run the cell; the steps of its training."""
    cell = client.execute_cell(client.nb.cells[0], 0)
    return int("".join(output.text for output in cell.outputs if output.output_type == "stream").split()[-2])


def disturb(client, state, number):
    """Run the cell, and send its kernel a signal in the midst of the training."""
    before = state.stat().st_mtime_ns if state.exists() else 0

    def send():
        for _ in range(6000):
            if state.exists() and state.stat().st_mtime_ns > before:
                break
            time.sleep(0.01)
        time.sleep(LEAST_SECONDS / 6)
        os.kill(client.km.provisioner.pid, number)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        run_cell(client)
    finally:
        sender.join()


@pytest.mark.integration
def test_a_cell_whose_kernel_died_and_that_was_interrupted_goes_on_when_it_is_run_again(undisturbed, tmp_path):
    with notebook(tmp_path) as client, pytest.raises(DeadKernelError):
        disturb(client, tmp_path / "state", signal.SIGKILL)
    assert visible(tmp_path) == ["state"]
    litter = set(tmp_path.iterdir())
    with notebook(tmp_path) as client:
        with pytest.raises(CellExecutionError, match="KeyboardInterrupt"):
            disturb(client, tmp_path / "state", signal.SIGINT)
        assert set(tmp_path.iterdir()) == litter
        assert 0 < run_cell(client) < EPOCHS * STEPS
    assert same_training(tmp_path / "out", undisturbed)


# a full disk


@contextlib.contextmanager
def full_disk(room):
    """No file can grow beyond so many bytes; as on a full disk, the write that would do it fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))  # Python ignores the signal that comes with it
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("share", [0, 0.3, 0.999])
def test_a_disk_that_is_full_leaves_the_old_weights_and_nothing_else(share, tmp_path):
    path = tmp_path / "weights"
    save_weights(conv_net(), path)
    before = path.read_bytes()
    for name in ("weights", "new"):
        with full_disk(int(share * len(before))), pytest.raises(OSError) as caught:
            save_weights(conv_net(1), tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    with full_disk(len(before)):
        save_weights(conv_net(1), path)
    assert path.read_bytes() != before


def train(model, **options):
    data = make_loader(dataset(24), batch_size=8, shuffle=True)
    return fit(model, data, loader(8, seed=1), **(dict(epochs=4, lr=0.01, progress=False) | options))


def test_a_training_that_met_a_full_disk_goes_on_when_there_is_room(tmp_path):
    calls, whole, continued, path = [], conv_net(), conv_net(), tmp_path / "state"

    def counted(model, x, y):
        calls.append(None)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return clean(model, x, y)

    counted.__name__ = "clean"
    train(whole, objective=clean)
    with pytest.raises(KeyboardInterrupt):
        train(conv_net(), objective=counted, checkpoint=path)
    before = path.read_bytes()
    with full_disk(len(before) // 2), pytest.raises(OSError):
        train(conv_net(), objective=counted, checkpoint=path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    train(continued, objective=counted, checkpoint=path)
    assert len(calls) == 5 + 3 + 9 and same(whole.state_dict(), continued.state_dict())


# the cache


@pytest.fixture
def get(monkeypatch, tmp_path):
    """`trained` with a small recipe, on forty random images, with an empty cache."""
    monkeypatch.setenv("ADVUTILS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "load_data", lambda name, *, train: dataset(40, classes=10))
    recipe = dict(epochs=2, depth=11, width=0.02, batch_size=12, progress=False)
    return lambda **options: trained("clean", **(recipe | options))


@pytest.fixture
def trainings(monkeypatch):
    """A list that gets an entry for each batch that is trained on."""
    batches, shift = [], module.shift

    def counted(x):
        batches.append(x)
        return shift(x)

    counted.__name__ = "shift"
    monkeypatch.setattr(module, "shift", counted)
    return batches


def cached():
    return sorted(path.name for path in (cache_dir() / "models").iterdir())


@contextlib.contextmanager
def unprivileged():
    """Root may write into any folder; inside the block it is nobody."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture(params=["a plain file", "where nobody can write", "read-only"])
def closed_cache(request, get, monkeypatch, tmp_path):
    """A cache into which nothing can be written; for root too, as it is nobody here."""
    get(), load_data("mnist-5k", train=False)  # what is imported on first use may lie where nobody is not let in
    with tempfile.TemporaryDirectory() as folder:  # not in tmp_path, whose parents are closed to nobody
        os.chmod(folder, 0o755)
        path = Path("/proc/advutils" if request.param == "where nobody can write" else f"{folder}/cache")
        if request.param == "a plain file":
            path.write_text("not a folder")
        elif request.param == "read-only":
            path.mkdir(mode=0o555)
        monkeypatch.setenv("ADVUTILS_CACHE", str(path))
        with unprivileged():
            yield path


def test_a_cache_that_cannot_be_written_is_named_before_anything_is_trained(closed_cache, get, trainings):
    with pytest.raises(OSError) as caught:
        get()
    assert str(closed_cache) in str(caught.value) and "ADVUTILS_CACHE" in str(caught.value)
    assert trainings == []


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_data_that_cannot_be_stored_is_named_with_a_way_out(closed_cache, name, monkeypatch):
    asked = []
    for kind in ("mnist", "cifar"):
        monkeypatch.setattr(
            f"torchvision.datasets.{kind}.download_and_extract_archive", lambda *a, **k: asked.append(a)
        )
    with pytest.raises(FileNotFoundError, match="'mnist-5k' works without a network") as caught:
        load_data(name, train=True)
    assert str(closed_cache / "data") in str(caught.value)
    assert len(load_data("mnist-5k", train=False)) == 1000


def test_a_read_only_cache_serves_what_it_has(get, trainings, monkeypatch):
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        monkeypatch.setenv("ADVUTILS_CACHE", folder)
        first = get()
        count = len(trainings)
        for path in (Path(folder), Path(folder, "models")):
            path.chmod(0o555)
        with unprivileged():
            second = get()
        for path in (Path(folder), Path(folder, "models")):
            path.chmod(0o755)
    assert same(first.state_dict(), second.state_dict()) and len(trainings) == count > 0


def reformatted(path, tag):
    """Another format's name in a file of ours, which is whole otherwise."""
    with safetensors.safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    safetensors.torch.save_file(tensors, path, metadata | {"format": tag})


@pytest.mark.parametrize("tag", ["advutils-weights-2", "advutils-weights-0", "pt"])
def test_a_cached_file_of_another_format_is_refused_and_left_alone(tag, get, trainings):
    get()
    [path] = (cache_dir() / "models").iterdir()
    reformatted(path, tag)
    before = path.read_bytes()
    trainings.clear()
    with refused("path", str(path), "another program or version"):
        get()
    assert path.read_bytes() == before and trainings == []


def test_a_state_of_another_format_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "state"
    train(conv_net(), epochs=1, checkpoint=path)
    torch.save(torch.load(path, weights_only=True) | dict(format="advutils-checkpoint-0"), path)
    before = path.read_bytes()
    with refused("checkpoint", str(path), "another program or version"):
        train(conv_net(), epochs=1, checkpoint=path)
    assert path.read_bytes() == before


def test_what_another_version_cached_is_trained_anew_beside_it(get, trainings, monkeypatch):
    first = get()
    [old] = (cache_dir() / "models").iterdir()
    content, count = old.read_bytes(), len(trainings)
    monkeypatch.setitem(module.VERSIONS, "clean", 2)
    second = get()
    assert len(trainings) == 2 * count and old.read_bytes() == content and len(cached()) == 2
    assert same(first.state_dict(), second.state_dict())


def test_a_cached_file_that_was_renamed_to_pass_for_current_is_refused(get, trainings, monkeypatch):
    get()
    [old] = (cache_dir() / "models").iterdir()
    monkeypatch.setitem(module.VERSIONS, "clean", 2)
    name = old.name.replace("-v1-", "-v2-")
    old.rename(old.with_name(name))
    trainings.clear()
    with pytest.raises(ValueError) as caught:
        get()
    assert name in str(caught.value) and trainings == []


# two programs at once


ROUNDS = 4
FILLING = """
import hashlib, os, sys
import torch
from torch.utils.data import TensorDataset
import advutils

x = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))

def fill(seed):
    model = advutils.trained("clean", epochs=2, depth=11, width=0.02, batch_size=12, seed=seed, progress=False)
    return hashlib.sha256(b"".join(value.numpy().tobytes() for value in model.state_dict().values())).hexdigest()
"""
FILLING_AT_ONCE = f"""{FILLING}
sys.modules["advutils.pretrained"].load_data = lambda name, *, train: TensorDataset(x, torch.arange(40) % 10)
torch.set_num_threads(1)

def program(go, said):
    for seed in range({ROUNDS}):
        os.write(said, b"ready")
        os.read(go, 1)
        os.write(said, fill(seed).encode())

def started():
    go, said = os.pipe(), os.pipe()
    if os.fork() == 0:  # of a process that has imported all and done nothing
        try:
            program(go[0], said[1])
            os._exit(0)
        finally:
            os._exit(1)
    os.close(said[1])
    return go[1], said[0]

both = [started() for _ in range(2)]
for seed in range({ROUNDS}):
    assert [os.read(said, 5) for _, said in both] == [b"ready", b"ready"]
    for go, _ in both:
        os.write(go, b".")
    print(*(os.read(said, 64).decode() for _, said in both))
assert [os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(2)] == [0, 0]
"""


@pytest.mark.integration
def test_two_programs_that_fill_one_cache_at_once_end_with_the_same_weights(start, get, monkeypatch, tmp_path):
    both, alone = start(FILLING_AT_ONCE, ADVUTILS_CACHE=str(tmp_path / "shared")), {}
    monkeypatch.setenv("ADVUTILS_CACHE", str(tmp_path / "alone"))
    exec(FILLING, alone)
    monkeypatch.setattr(module, "load_data", lambda name, *, train: TensorDataset(alone["x"], torch.arange(40) % 10))
    expected = [alone["fill"](seed) for seed in range(ROUNDS)]
    assert ended(both).split() == [weights for weights in expected for _ in range(2)]
    monkeypatch.setenv("ADVUTILS_CACHE", str(tmp_path / "shared"))
    assert len(cached()) == ROUNDS and not any("checkpoint" in name or name.startswith(".") for name in cached())


def states():
    return list((cache_dir() / "models").glob("*.checkpoint.pt"))


def test_a_training_ends_well_when_another_program_ends_the_same_one_first(get, monkeypatch):
    """The other program's last deed is to remove the state, which both of them wrote."""
    save = module.save_weights

    def overtaken(*args, **kwargs):
        save(*args, **kwargs)
        [state] = states()
        state.unlink()

    monkeypatch.setattr(module, "save_weights", overtaken)
    first = get()
    monkeypatch.undo()
    assert first.history.best_epoch == 2


def test_a_training_begins_well_when_another_program_removes_its_state_meanwhile(get, monkeypatch, tmp_path):
    path = tmp_path / "state"
    whole, model = conv_net(), conv_net()
    train(whole, checkpoint=path)
    read = checkpoint.read

    def overtaken(path):
        path.unlink()
        return read(path)

    monkeypatch.setattr(checkpoint, "read", overtaken)
    train(model, checkpoint=path)
    assert same(model.state_dict(), whole.state_dict())


# the clock, the network, the processor


def test_a_clock_that_is_set_back_does_not_reach_the_history(monkeypatch):
    now = [2e9]

    def set_back():
        now[0] -= 3600
        return now[0]

    for name in ("time.time", "tqdm.std.time"):
        monkeypatch.setattr(name, set_back)
    started = time.perf_counter()
    history = train(linear(), epochs=5, progress=True)
    assert history.seconds == sorted(history.seconds)
    assert history.seconds[0] > 0 and history.seconds[-1] < time.perf_counter() - started


OFFLINE = """
import socket

tried = []

class Closed(socket.socket):
    def __init__(self, *args, **kwargs):
        tried.append("socket")
        raise OSError("there is no network")

def closed(*args, **kwargs):
    tried.append(args)
    raise OSError("there is no network")

socket.socket, socket.create_connection, socket.getaddrinfo = Closed, closed, closed

from torch.utils.data import TensorDataset
import advutils

train, test = (
    TensorDataset(*advutils.load_data("mnist-5k", train=train)[::n])
    for train, n in ((True, 80), (False, 40))
)
model = advutils.initialised(lambda: advutils.vgg(11, width=0.02), seed=0)
loaders = [advutils.make_loader(data, batch_size=25) for data in (train, test)]
history = advutils.fit(model, *loaders, epochs=1, lr=0.01)
record = advutils.accuracy(model, loaders[1], advutils.fgsm, eps=0.1)
print(len(history.seconds), record.n, tried)
"""


@pytest.mark.integration
def test_a_program_without_a_network_imports_loads_trains_and_evaluates(start, tmp_path):
    assert ended(start(OFFLINE, ADVUTILS_CACHE=str(tmp_path))) == "1 25 []\n"
    assert not list(tmp_path.iterdir())


def test_the_number_of_threads_changes_neither_accuracy_nor_attack():
    model = initialised(lambda: vgg(11, width=0.1), seed=0)
    parts = TensorDataset(*digits(400)), TensorDataset(*digits(100, train=False))
    fit(model, *(make_loader(part, batch_size=20) for part in parts), epochs=2, lr=3e-3, progress=False)
    x, y = parts[1].tensors
    records, found = [], []
    try:
        for threads in (1, 2, 8):
            torch.set_num_threads(threads)
            assert torch.get_num_threads() == threads
            records.append(accuracy(model, make_loader(parts[1], batch_size=40)).value)
            found.append((fgsm(model, x, y, eps=0.1), input_gradient(model, x, y)))
    finally:
        torch.set_num_threads(1)
    assert records[0] == records[1] == records[2] > 0.5
    sure = torch.stack([clear(gradient, 1e-4) for _, gradient in found]).all(0)
    assert sure.float().mean() > 0.5
    assert all(torch.equal(x_adv[sure], found[0][0][sure]) for x_adv, _ in found)
