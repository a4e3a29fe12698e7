"""What can happen to a machine: a kill, a full disk, a lost network, two programs at once, a clock that is set back."""

import contextlib
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from helpers import clear, conv_net, dataset, digits, loader, same_weights
from torch.utils.data import TensorDataset

from advutils.attacks.gradient import fgsm, input_gradient
from advutils.data import load_data, make_loader
from advutils.evaluation import accuracy
from advutils.models import vgg
from advutils.pretrained import initialised, trained
from advutils.training import fit
from advutils.utils import checkpoint
from advutils.utils.storage import cache_dir
from advutils.utils.weights import read_tensors, save_weights

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


def same_training(path, other):
    (a, history), (b, expected) = told(path), told(other)
    return same_weights(a, b) and history == expected


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
def test_a_training_killed_at_any_moments_ends_in_the_same_weights(start, undisturbed, tmp_path):
    existed, _, steps, _ = ended(start(KILLING, 3, tmp_path / "state", tmp_path / "out")).split()
    assert int(steps) % STEPS == 0 and (existed == "True") == (int(steps) < EPOCHS * STEPS)
    assert same_training(tmp_path / "out", undisturbed) and visible(tmp_path) == ["out", "state"]


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


@pytest.fixture
def get(monkeypatch, tmp_path):
    """`trained` with a small recipe, on forty random images, with an empty cache."""
    monkeypatch.setenv("ADVUTILS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "load_data", lambda name, *, train: dataset(40, classes=10))
    recipe = dict(epochs=2, depth=11, width=0.02, batch_size=12, progress=False)
    return lambda **options: trained("clean", **(recipe | options))


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


def test_data_that_cannot_be_stored_is_named_with_a_way_out(closed_cache, monkeypatch):
    for kind in ("mnist", "cifar"):
        monkeypatch.setattr(f"torchvision.datasets.{kind}.download_and_extract_archive", lambda *given, **named: None)
    for name in ("mnist", "cifar10"):
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
    assert same_weights(first, second) and len(trainings) == count > 0


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
    assert same_weights(model, whole)


def test_a_training_ends_well_when_another_program_ends_the_same_one_first(get, monkeypatch):
    """The other program's last deed is to remove the state, which both of them wrote."""
    save, models = module.save_weights, cache_dir() / "models"

    def overtaken(*args, **kwargs):
        save(*args, **kwargs)
        [state] = models.glob("*.checkpoint.pt")
        state.unlink()

    monkeypatch.setattr(module, "save_weights", overtaken)
    assert get().history.best_epoch == 2
    assert [path.suffix for path in models.iterdir()] == [".safetensors"]


OFFLINE = """
import socket

tried = []

def closed(*args, **kwargs):
    tried.append(args)
    raise OSError("there is no network")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = closed

from torch.utils.data import TensorDataset
import advutils

parts = [TensorDataset(*advutils.load_data("mnist-5k", train=train)[::40]) for train in (True, False)]
loaders = [advutils.make_loader(data, batch_size=25) for data in parts]
model = advutils.initialised(lambda: advutils.vgg(11, width=0.02), seed=0)
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
