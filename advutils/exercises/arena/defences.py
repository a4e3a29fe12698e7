"""The nine defences: what their authors built, and what they claim on 100 images. Each is a classic mistake, or none.

Claims and seals were measured by `python tests/tools/defences.py`, and a test measures them again. The networks are
published ones, but for the one with switches, whose weights were made by `python tests/tools/arena_weights.py`.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from advutils.certify import proven
from advutils.data import load_data
from advutils.exercises.arena.defence import Defence
from advutils.models import Normalize
from advutils.pretrained import PUBLISHED, trained
from advutils.utils.weights import read_tensors

WEIGHTS = PUBLISHED / "arena" / "fgsm-trained.safetensors"
EVERY = 10  # the 100 images are every tenth one of the embedded test digits, which lie in the order of their classes


class Scaled(nn.Module):
    """The logits of a network, times a factor: the classes keep their order, and the probabilities become 0 and 1."""

    def __init__(self, network, factor):
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, x):
        return self.factor * self.network(x)


class Levels(nn.Module):
    """Each pixel rounded to one of a few grey levels, evenly from 0 to 1."""

    def __init__(self, levels):
        super().__init__()
        self.steps = levels - 1

    def forward(self, x):
        return (x * self.steps).round() / self.steps


class Shaken(nn.Module):
    """Each image resized and shifted at random; before that, noise where an attack hides, in the fine grey levels.

    The noise of a pixel is a random multiple of what rounding to 32 grey levels would take from it: none on a clean
    black background. All of it is drawn anew in each pass, for each image.
    """

    def __init__(self, noise, zoom, pixels):
        super().__init__()
        self.noise, self.zoom, self.pixels = noise, zoom, pixels

    def forward(self, x):
        fine = x - (31 * x).round() / 31
        x = x + self.noise * torch.randn_like(x) * fine
        scale = 1 + self.zoom * (2 * torch.rand(len(x), 1) - 1)
        moved = 2 * self.pixels / x.shape[-1] * (2 * torch.rand(len(x), 2) - 1)
        zero = torch.zeros_like(scale)
        maps = torch.cat([scale, zero, moved[:, :1], zero, scale, moved[:, 1:]], 1).view(-1, 2, 3)
        return F.grid_sample(x, F.affine_grid(maps, list(x.shape), align_corners=False), align_corners=False)


class Winners(nn.Module):
    """Each pixel goes to units that prefer one grey level each; the unit with the largest response alone speaks.

    Unit k responds with 2 c_k x - c_k^2, which is largest where its level c_k is nearest to the pixel x, and says
    1 - 3 c_k + 2 x: the negative of its level, 1 - c_k, where the pixel has it.
    """

    def __init__(self, units):
        super().__init__()
        self.register_buffer("level", torch.linspace(0, 1, units).view(-1, 1, 1), persistent=False)

    def forward(self, x):
        winner = (2 * self.level * x - self.level**2).argmax(1, keepdim=True)
        return 1 - 3 * self.level.flatten()[winner] + 2 * x


class Squeezed(nn.Module):
    """Logits of a network, and one more that says "rejected": how far the probabilities of the blurred image differ."""

    def __init__(self, network, allowed, weight):
        super().__init__()
        self.network, self.allowed, self.weight = network, allowed, weight

    def forward(self, x):
        z = self.network(x)
        blurred = self.network(F.avg_pool2d(x, 3, stride=1, padding=1))
        differ = (z.softmax(1) - blurred.softmax(1)).abs().sum(1, keepdim=True)
        return torch.cat([z, z.amax(1, keepdim=True) + self.weight * (differ - self.allowed)], 1)


class Switch(nn.Module):
    """A hidden unit that says -1 or 1, with a steep line between them."""

    def __init__(self, slope):
        super().__init__()
        self.slope = slope

    def forward(self, x):
        return F.hardtanh(self.slope * x)

    def extra_repr(self):
        return f"slope={self.slope:g}"


class Jpeg(nn.Module):
    """The loss of a JPEG picture: cosines of blocks of 8 x 8 pixels, rounded to steps that grow with the frequency."""

    def __init__(self, step, growth):
        super().__init__()
        at = torch.arange(8.0)
        cosines = (torch.pi / 8 * (at + 0.5) * at[:, None]).cos() / 2
        cosines[0] /= 2**0.5
        self.register_buffer("cosines", cosines, persistent=False)
        self.register_buffer("steps", step + growth * (at + at[:, None]), persistent=False)

    def forward(self, x):
        blocks = F.pad(x, (2, 2, 2, 2)).unfold(2, 8, 8).unfold(3, 8, 8)  # (N, C, 4, 4, 8, 8)
        kept = (self.cosines @ blocks @ self.cosines.T / self.steps).round() * self.steps
        pixels = self.cosines.T @ kept @ self.cosines
        return pixels.transpose(3, 4).reshape(*x.shape[:2], 32, 32)[:, :, 2:-2, 2:-2].clamp(0, 1)


class Votes(nn.Module):
    """Networks that vote: minus the number of members that do not read the image as this class."""

    def __init__(self, *members):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x):
        outputs = [member(x) for member in self.members]
        return torch.stack([(z - z.amax(1, keepdim=True)).sign() for z in outputs]).sum(0)


def _member(name: str, **settings) -> nn.Module:
    return trained(name, progress=False, **settings).cpu()


def _scaled() -> nn.Module:
    return Scaled(_member("clean-small-cnn"), 1000.0)


def _bit_depth() -> nn.Module:
    return nn.Sequential(Levels(4), _member("clean-small-cnn"))


def _shaken() -> nn.Module:
    return nn.Sequential(Shaken(noise=4.5, zoom=0.1, pixels=2), _member("clean-small-cnn"))


def _winners() -> nn.Module:
    network = _member("clean-small-cnn")
    with torch.no_grad():
        network.get_parameter("1.weight").neg_()  # `Normalize` turns the negative of an image into minus the image
    return nn.Sequential(Winners(8), network)


def _detector() -> nn.Module:
    return Squeezed(_member("clean-small-cnn"), allowed=0.9, weight=20.0)


def switches(slope: float = 20.0) -> nn.Sequential:
    """A network of 4,346 weights whose first two layers are nearly switches, not yet trained."""
    return nn.Sequential(
        Normalize(),
        nn.Conv2d(1, 8, 5, stride=2, padding=2), Switch(slope),
        nn.Conv2d(8, 16, 3, stride=2, padding=1), Switch(slope),
        nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.ReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def _switches() -> nn.Module:
    network = switches()
    weights = read_tensors(WEIGHTS)[0]["weights"].float()  # kept in half precision
    nn.utils.vector_to_parameters(weights, network.parameters())
    return network


def _jpeg() -> nn.Module:
    return nn.Sequential(Jpeg(step=0.15, growth=0.08), _member("clean-small-cnn"))


def _votes() -> nn.Module:
    return Votes(*map(_member, ("clean-small-cnn", "outsider-small-cnn", "certified-0.1")))


def _certified() -> nn.Module:
    return _member("certified-0.1")


def _defence(name: str, build: Callable[[], nn.Module], **rest) -> Defence:
    """A defence made afresh, with the images that all nine share."""
    x, y = (part[::EVERY].clone() for part in load_data("mnist-5k", train=False).tensors)
    return Defence(name=name, model=build().eval(), x=x, y=y, **rest)


RULES: dict[str, dict] = {
    "scaled-logits": dict(
        build=_scaled,
        story="The authors multiply the logits by 1000. The classes stay the same, every prediction is certain, and an "
        "attacker finds no way up.",
        eps=0.3, claim=96, claimed_with="PGD-40", gradients=100, queries=200,
        sha256="a0aedfa14ee54be5f523d4b43a9734bc1cc660e5feba37b8e031eb834f0c50ec",
        hints=(
            "How large is the gradient of the cross-entropy at a clean image? Print it.",
            "In float32 the probability of the true class is exactly 1. The logits themselves still differ.",
            "Give PGD a loss on the logits: `loss=cw` or `loss=dlr`.",
        ),
    ),
    "bit-depth": dict(
        build=_bit_depth,
        story="The authors round each pixel to one of four grey levels. A small change of a pixel is rounded away "
        "before the network sees it.",
        eps=0.25, claim=96, claimed_with="PGD-40", gradients=100, queries=200,
        sha256="6ef78a0906c7f1e6b97e271d2947aed566d5a12498ee96314b9c8cb48076efb8",
        hints=(
            "`round` is flat between its steps. So no pixel has a gradient, and PGD stays at the random point where "
            "it starts.",
            "The levels are 1/3 apart, so a change of more than 1/6 takes a pixel to the next one.",
            "BPDA: send the images through the rounding, and take the gradient as if it were not there.",
        ),
    ),
    "random-resize-and-noise": dict(
        build=_shaken,
        story="The authors resize and shift each image at random, and add random noise to its fine grey levels. No two "
        "gradients are alike, so an attacker climbs another hill at every step.",
        eps=0.3, claim=72, claimed_with="PGD-40", gradients=450, queries=900,
        sha256="6ef78a0906c7f1e6b97e271d2947aed566d5a12498ee96314b9c8cb48076efb8", draws=9,
        hints=(
            "`Shaken` draws noise, size and place anew in each call. Each of PGD's 40 steps is made for a version "
            "of the image that is never read again.",
            "The noise has mean zero, and so has its part in the gradient. The rest remains in a mean over many "
            "draws.",
            "EOT: step along the mean gradient of twenty calls; twenty such steps are enough. One way is `pgd` with "
            "`steps=20` on a module that returns the mean of `model(x).log_softmax(1)` over twenty calls.",
        ),
    ),
    "k-winners-take-all": dict(
        build=_winners,
        story="The authors show each pixel to eight units, of which the winner alone speaks, and says the negative "
        "of the pixel. The output jumps wherever the winner changes, and a gradient cannot see over a jump.",
        eps=0.3, claim=97, claimed_with="PGD-40", gradients=100, queries=200,
        sha256="110b7584f43dc5865c3151cf53f0326dbf8a5918de9fc2065bf9c1505d3dbef7",
        hints=(
            "Between two jumps the output rises, but it is 1 for black and 0 for white. PGD moves each pixel the "
            "wrong way.",
            "On average over a longer way the first part is 1 - x: the slope is -1, where the gradient says 2.",
            "It is enough to attack as if the first part were 1 - x: give PGD a module that returns "
            "`model[1](1 - x)`.",
        ),
    ),
    "detector": dict(
        build=_detector,
        story="The authors compare what the network says of an image and of its blurred copy. Where the two differ, "
        "the image is rejected as attacked.",
        eps=0.32, claim=78, claimed_with="PGD-40", gradients=100, queries=200,
        sha256="a0aedfa14ee54be5f523d4b43a9734bc1cc660e5feba37b8e031eb834f0c50ec",
        hints=(
            "Attack `model.network` alone. The reading of the image is then wrong; is that of its blurred copy?",
            "An image is accepted where both readings are alike. Make both of them wrong, in the same class.",
            "Add the logits of the two readings, and climb `cw` of the sum: the network's answer to `x` and that to "
            "`F.avg_pool2d(x, 3, stride=1, padding=1)`.",
        ),
    ),
    "fgsm-trained": dict(
        build=_switches,
        story="The authors train on FGSM images in every batch, and FGSM finds hardly any error afterwards. The hidden "
        "units are nearly switches, as the training went better with them.",
        eps=0.3, claim=93, claimed_with="FGSM", gradients=100, queries=200,
        sha256="ee3c3ce82e44bdfe5cb4d71b9fd14fe28cba029cddb268cf537a7790c53e397e",
        hints=(
            "Look at the outputs of the first `Switch` for clean digits: 95% of them are exactly -1 or 1, and there "
            "its slope is 0.",
            "An attack without a gradient tells a robust network from a useless gradient. Notebook 9 has one: "
            "`square`, here with `n_queries=200`.",
            "Take a deep copy and set `slope` of its switches to 2. PGD on the copy with `loss=cw` finds images "
            "that the model misreads.",
        ),
    ),
    "jpeg": dict(
        build=_jpeg,
        story="The authors compress each image as JPEG does: blocks of cosines, rounded. What an attack adds is of "
        "high frequency, and the rounding removes it.",
        eps=0.3, claim=96, claimed_with="PGD-40", gradients=100, queries=200,
        sha256="6ef78a0906c7f1e6b97e271d2947aed566d5a12498ee96314b9c8cb48076efb8",
        hints=(
            "The line that makes `kept` rounds. Everything before it gets a gradient of exactly 0.",
            "Compression moves a pixel of these digits by 0.03 on average, so a step that misleads the network "
            "behind it still does.",
            "BPDA: send the images through the compression, and take the gradient as if it were not there.",
        ),
    ),
    "vote": dict(
        build=_votes,
        story="Three networks vote, and one of them was trained to withstand attacks. An attacker has to fool two "
        "of them with one image, and sees votes alone.",
        eps=0.3, claim=94, claimed_with="PGD-40", gradients=100, queries=200,
        sha256="21fb8e7e52414ba8f2ddfa89978796068afa7045c57f4dce15a36f822873473a",
        hints=(
            "A vote changes only where a member changes its answer. How near a member is to that, its logits say.",
            "The members are in `model.members`. Each of them is a network that PGD can attack.",
            "Attack the mean of the logits of the members, a network like any other.",
        ),
    ),
    "certified": dict(
        build=_certified,
        story="The authors train a network on bounds of its own logits. They claim only what they can prove.",
        eps=0.1, claim=91, claimed_with="any attack, by proof", gradients=400, queries=5000,
        sha256="2f4e55090e9dfa7754fef785fdece7e52072ec6891598150dde9d0befc4617f0",
        certificate=proven,
        hints=(
            "Which of the four words stands most often in `verdict.status`? No attack changes those images.",
            "Nine images are not proved, and three of them are misread at first. Only six are worth an attack.",
            "Plain PGD breaks five of the six. The sixth is an open question: we know neither a proof nor a misread "
            "image.",
        ),
    ),
}  # fmt: skip

DEFENCES: dict[str, Callable[[], Defence]] = {name: partial(_defence, name, **rest) for name, rest in RULES.items()}
