"""Every nn.Module is evaluated and attacked as it is: awkward ones, and torchvision's families with random weights."""

import contextlib
import copy
import linecache
import warnings
from functools import partial

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from helpers import images
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize, weight_norm
from torch.utils.data import TensorDataset
from torchvision import models as tv
from torchvision.models.convnext import CNBlockConfig

from advutils.attacks.auto import autoattack
from advutils.attacks.black_box import square
from advutils.attacks.gradient import fgsm, input_gradient, pgd
from advutils.attacks.losses import cw
from advutils.data import make_loader
from advutils.evaluation import accuracy, predict, survivors
from advutils.models import vgg
from advutils.objectives import adversarial

K, SIZE, N = 4, 16, 12


def features(**relu):
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(**relu), nn.MaxPool2d(2),
        nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(**relu),
    )  # fmt: skip


def head():
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, K))


def plain():
    return nn.Sequential(*features(), *head())


class Net(nn.Module):
    """Features and a head, to be put together in awkward ways."""

    def __init__(self, **relu):
        super().__init__()
        self.f, self.h = features(**relu), head()

    def forward(self, x):
        return self.h(self.f(x))


class Collects(Net):
    def forward(self, x):
        seen = []
        for layer in self.f:
            x = layer(x)
            seen.append(x.mean((2, 3)))
        return self.h(x) + sum(z.sum(1, keepdim=True) * torch.arange(K) for z in seen)


class ReadsWeights(Net):
    def forward(self, x):
        return self.h(self.f(x)) * self.f[1].weight.sum() + self.f[1].running_mean.sum()


class Shortcut(Net):
    def __init__(self):
        super().__init__(inplace=True)

    def forward(self, x):
        z = self.f[1](self.f[0](x))
        return self.h(self.f[3](self.f[2](z))) + self.h(z)  # the ReLU has changed z


class InPlaceInput(Net):
    def forward(self, x):
        return super().forward(x.sub_(0.5).div_(0.5))


class Autocast(Net):
    def __init__(self, dtype, *, back):
        super().__init__()
        self.dtype, self.back = dtype, back

    def forward(self, x):
        with torch.autocast("cpu", dtype=self.dtype):
            z = super().forward(x)
        return z.float() if self.back else z


class OwnSequential(nn.Sequential):
    def forward(self, x):
        return super().forward(x) + x.mean((1, 2, 3))[:, None] * torch.arange(K)


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def changed(model, change):
    change(model)
    return model


def in_place_compiled(model):
    model.compile(backend="eager")


def own_forward(model):
    usual = model.forward
    model.forward = lambda x: 2 * usual(x)


def traced(model):
    return torch.jit.trace(model.eval(), images(2, size=SIZE))


def accelerated(**options):
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()
    return Accelerator(cpu=True, **options).prepare(Net())


ZOO = {
    "plain": plain,
    "ours": partial(vgg, 11, width=0.05, num_classes=K),
    "compiled class": lambda: torch.compile(Net(), backend="eager"),
    "compiled in place": lambda: changed(plain(), in_place_compiled),
    "collects each layer's output": Collects,
    "reads a layer's weight": ReadsWeights,
    "in-place ReLU and a shortcut": Shortcut,
    "works in place on its input": InPlaceInput,
    "forward hook": lambda: changed(plain(), lambda m: m[0].register_forward_hook(lambda m, i, z: 2 * z)),
    "forward pre-hook": lambda: changed(plain(), lambda m: m[1].register_forward_pre_hook(lambda m, i: (i[0] + 1,))),
    "backward hook": lambda: changed(plain(), lambda m: m[1].register_full_backward_hook(lambda m, i, o: (-i[0],))),
    "a forward of the instance": lambda: changed(Net(), own_forward),
    "a layer's own forward": lambda: changed(plain(), lambda m: own_forward(m[1])),
    "parametrised": lambda: changed(plain(), lambda m: parametrize.register_parametrization(m[0], "weight", Doubled())),
    "weight norm, old": lambda: changed(plain(), lambda m: weight_norm(m[0])),
    "DataParallel": lambda: nn.DataParallel(plain()),
    "scripted": lambda: torch.jit.script(plain().eval()),
    "frozen": lambda: torch.jit.freeze(torch.jit.script(plain().eval())),
    "traced inside": lambda: nn.Sequential(traced(plain()), nn.Identity()),
    "exported": lambda: torch.export.export(
        plain().eval(), (images(2, size=SIZE),), dynamic_shapes=({0: torch.export.Dim("n")},)
    ).module(),
    "bfloat16 autocast": lambda: Autocast(torch.bfloat16, back=False),
    "accelerated, mixed precision": lambda: accelerated(mixed_precision="bf16"),
    "a Sequential's own forward": lambda: OwnSequential(*plain()),
    "frozen weights": lambda: plain().requires_grad_(False),
    "double": lambda: plain().double(),
}


def lived(model):
    """The model with batch norm that has seen something, in eval mode where it can be told so."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "running" in name:
                tensor.add_(0.5 * torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype))
    if any(getattr(module, "training", False) for module in model.modules()):
        with contextlib.suppress(NotImplementedError):  # of an exported one
            model.eval()
    return model


def kept(model):
    """All that an evaluation must leave as it was."""
    modes = [getattr(module, "training", None) for module in model.modules()]
    layers = [id(module) for module in model.modules()]
    return modes, layers, {key: value.clone() for key, value in model.state_dict().items()}


def same(a, b):
    return a[:2] == b[:2] and a[2].keys() == b[2].keys() and all(torch.equal(v, b[2][k]) for k, v in a[2].items())


def by_hand(model, x, y, eps):
    """Logits, and FGSM's images, with plain PyTorch."""
    weights = next(iter(model.parameters()), x)
    pixels = x.clone().requires_grad_()
    logits = model(pixels.to(weights.dtype, copy=True))
    gradient = torch.autograd.grad(F.cross_entropy(logits.float(), y, reduction="sum"), pixels)[0]
    return logits.detach().float(), (x + eps * gradient.sign()).clamp(0, 1)


def check(model, x, y):
    """`predict`, `accuracy`, `fgsm` and `pgd` against plain PyTorch, and the model as it was."""
    before, pixels = kept(model), x.clone()
    logits, x_adv = by_hand(model, x, y, 0.1)
    torch.testing.assert_close(predict(model, x), logits.softmax(1), rtol=1e-4, atol=1e-5, check_dtype=False)
    loader = make_loader(TensorDataset(x, y), batch_size=len(x))
    assert torch.equal(survivors(model, loader), logits.argmax(1) == y)
    ours = fgsm(model, x, y, eps=0.1)
    assert ((ours - x_adv).abs() > 1e-6).float().mean() < 0.01  # a gradient that is nearly 0 has an uncertain sign
    left = by_hand(model, x_adv, y, 0.1)[0].argmax(1) == y
    assert (survivors(model, loader, fgsm, eps=0.1) != left).sum() <= 1
    assert accuracy(model, loader, partial(pgd, steps=2), eps=0.1).n == len(x)
    assert torch.equal(x, pixels) and same(kept(model), before)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore:.*weight_norm", "ignore:Lazy", "ignore:.*[Rr]unning_mean")
@pytest.mark.parametrize("build", ZOO.values(), ids=ZOO)
def test_an_awkward_model_is_measured_as_it_is(build):
    torch.manual_seed(0)
    model, x = build(), images(N, size=SIZE)
    model(x.clone().to(next(iter(model.parameters()), x).dtype) if not isinstance(model, torch.jit.ScriptModule) else x)
    model = lived(model)
    with torch.no_grad():
        logits = model(x.clone().to(next(iter(model.parameters()), x).dtype)).float()
    y = torch.where(torch.arange(N) % 3 == 0, logits.argmin(1), logits.argmax(1))  # two thirds are read correctly
    check(model, x, y)


@pytest.mark.parametrize("name", [
    "plain", "collects each layer's output", "a forward of the instance", "forward hook",
    "in-place ReLU and a shortcut", "accelerated, mixed precision", "compiled class", "DataParallel",
])  # fmt: skip
def test_a_step_of_adversarial_training_counts_one_batch(name):
    """The attack crafts in eval mode, whatever the model is made of: batch norm sees the training pass alone."""
    torch.manual_seed(0)
    model, x, y = ZOO[name](), images(N, size=SIZE), torch.arange(N) % K
    model.train()
    norm = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    adversarial(model, x, y, eps=0.1, attack=partial(pgd, steps=3)).backward()
    assert norm.num_batches_tracked == 1 and all(module.training for module in model.modules())


def test_a_half_precision_model_is_given_half_precision_images():
    torch.manual_seed(0)
    x, y = images(N, size=SIZE), torch.arange(N) % K
    for dtype in (torch.float16, torch.bfloat16):
        model = lived(plain()).to(dtype)
        rounded = copy.deepcopy(model).float()
        assert (predict(model, x) - predict(rounded, x)).abs().max() < 0.05
        same_sign = input_gradient(model, x, y).sign() == input_gradient(rounded, x, y).sign()
        assert same_sign.float().mean() > 0.9
    with torch.inference_mode():
        made_there = plain().eval()
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved"):
        fgsm(made_there, x, y, eps=0.1)
    assert fgsm(copy.deepcopy(made_there), x, y, eps=0.1).shape == x.shape


@pytest.mark.parametrize("back", [False, True])
def test_small_gradients_do_not_vanish_in_half_precision(back):
    """Of confident logits the loss has so small a gradient that fp16 holds zero, and the model would look robust."""
    torch.manual_seed(0)
    x, model = images(N, size=SIZE), lived(Autocast(torch.float16, back=back))
    with torch.no_grad():
        first, second = model(x).topk(2).values.unbind(1)
        model.h[2].weight.mul_(60 / (first - second).median().item())
        y = model(x).argmax(1)
        exact = Net().eval()
        exact.load_state_dict(model.state_dict())
    confident = predict(exact, x).amax(1)
    assert (1 - confident < 6e-8).any()  # what fp16 cannot hold
    found = input_gradient(model, x, y).flatten(1).any(1)
    possible = input_gradient(exact, x, y).flatten(1).any(1)
    assert possible.any() and found[possible].all()


class Merging(nn.Linear):
    """A layer that adds what it has learnt to its weights in eval mode, and takes it away again, as LoRA's do."""

    def __init__(self):
        super().__init__(SIZE * SIZE, K)
        self.learnt, self.merged = nn.Parameter(torch.randn(K, SIZE * SIZE)), False

    def train(self, mode=True):
        if self.merged == mode:
            self.weight.data += -self.learnt.data if mode else self.learnt.data
            self.merged = not mode
        return super().train(mode)

    def forward(self, x):
        return F.linear(x, self.weight if self.merged else self.weight + self.learnt, self.bias)


def test_a_layer_that_does_more_than_change_its_mode_is_brought_back():
    torch.manual_seed(0)
    model, x, y = nn.Sequential(nn.Flatten(), Merging()), images(N, size=SIZE), torch.arange(N) % K
    before = model[1].weight.clone()
    predict(model, x)
    assert model.training and not model[1].merged and torch.allclose(model[1].weight, before, atol=1e-6)
    adversarial(model, x, y, eps=0.1, attack=fgsm).backward()
    assert model[1].learnt.grad.any() and not model[1].merged


JUDGED = ["a forward of the instance", "works in place on its input", "double", "scripted", "traced inside",
          "weight norm, old", "forward hook", "in-place ReLU and a shortcut", "bfloat16 autocast"]  # fmt: skip


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:.*torch.jit")
@pytest.mark.integration
@pytest.mark.parametrize("name", JUDGED)
def test_autoattack_judges_an_awkward_model_as_it_is(name):
    torch.manual_seed(0)
    model, x = lived(ZOO[name]()), images(3, size=SIZE)
    y = predict(model, x).argmax(1)
    if not isinstance(model, torch.jit.ScriptModule):
        model.train()
    before, pixels, grads = kept(model), x.clone(), [p.grad for p in model.parameters()]
    for only in (["apgd-ce"], ["fab-t"])[: 1 + (name in ("double", "a forward of the instance"))]:
        x_adv = autoattack(model, x, y, eps=0.3, attacks_to_run=only)
        assert (x_adv - x).abs().max() <= 0.3 + 1e-6
    assert torch.equal(x, pixels) and same(kept(model), before)
    assert all(p.requires_grad for p in model.parameters()) and grads == [p.grad for p in model.parameters()]


class NoGrad(Net):
    @torch.no_grad()
    def forward(self, x):
        return super().forward(x)


class Steps(nn.Module):
    def forward(self, x):
        return (x > 0.5).float()


class Votes(Net):
    def forward(self, x):
        return F.one_hot(super().forward(x).argmax(1), K).float() * 3


BLIND = {"no_grad": NoGrad, "a comparison": lambda: nn.Sequential(Steps(), plain()), "argmax": Votes}


@pytest.mark.parametrize("build", BLIND.values(), ids=BLIND)
def test_a_model_without_a_gradient_is_not_called_robust(build):
    torch.manual_seed(0)
    model, x = lived(build()), images(N, size=SIZE)
    last = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    if last:  # its answers differ from image to image
        seen = []
        with last[0].register_forward_hook(lambda layer, inputs, z: seen.append(z)), torch.no_grad():
            model(x.clone())
        last[0].bias.data -= seen[0].mean(0)
    y = predict(model, x).argmax(1)
    loader = make_loader(TensorDataset(x, y), batch_size=5)
    assert accuracy(model, loader).value == 1
    for attack in (fgsm, partial(pgd, steps=2)):
        with pytest.raises(ValueError, match="no gradient reaches the pixels.*BPDA.*`square`"):
            accuracy(model, loader, attack, eps=0.3)
    assert accuracy(model, loader, partial(square, n_queries=50), eps=0.3).value < 1


class Rounds(nn.Module):
    def forward(self, x):
        return x.round()


def test_gradients_that_are_mostly_zero_are_warned_of_once_a_measurement():
    model, x = nn.Sequential(Rounds(), plain()).eval(), images(N, size=SIZE)
    loader = make_loader(TensorDataset(x, predict(model, x).argmax(1)), batch_size=3)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("default")
        for attack in (fgsm, partial(pgd, steps=3), fgsm):
            accuracy(model, loader, attack, eps=0.1)
        assert ["exactly zero for most of the images" in str(said.message) for said in heard] == [True] * 3
        assert {said.filename for said in heard} == {__file__}
        accuracy(model[1], loader, fgsm, eps=0.1)
    assert len(heard) == 3
    with pytest.warns(UserWarning, match="exactly zero for most") as heard:
        pgd(model, x, predict(model, x).argmax(1), eps=0.1)
        accuracy(model, loader, fgsm, eps=0.1)
    shown = dict.fromkeys(linecache.getline(one.filename, one.lineno).strip() for one in heard)  # the lines just above
    assert [line.split("(")[0] for line in shown] == ["pgd", "accuracy"]
    dead = nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE, K))
    for weight in dead.parameters():
        nn.init.zeros_(weight)
    with pytest.warns(UserWarning, match="exactly zero for most"):  # at a tie nothing is fooled
        accuracy(dead, loader, fgsm, eps=0.1)


def test_images_that_are_fooled_already_need_no_gradient():
    """A loss that is flat once an image is misread, or taken for its target, is no reason to warn."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE, K)), images(N, size=SIZE)
    y = predict(model, x).argmax(1)
    loader, attack = make_loader(TensorDataset(x, y), batch_size=N), partial(pgd, steps=10, early_exit=False)
    flat_when_misread = partial(attack, loss=lambda z, y: cw(z, y).clamp(max=0))
    flat_at_the_target = partial(attack, target=(y + 1) % K, loss=lambda z, target: cw(z, target).clamp(min=0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for flat in (flat_when_misread, flat_at_the_target):
            assert accuracy(model, loader, flat, eps=0.5).value == 0


def with_a_small_head(name, inputs):
    """One whose own dense layers would take 400 MB."""
    with torch.device("meta"):
        model = tv.get_model(name, weights=None)
        model.classifier = nn.Sequential(nn.Dropout(), nn.Linear(inputs, 5))
    model.to_empty(device="cpu")
    for layer in model.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    return model


FAMILIES = {  # a builder for each, some with fewer layers, and the side of their images
    "AlexNet": (partial(with_a_small_head, "alexnet", 256 * 6 * 6), 64),
    "VGG": (partial(with_a_small_head, "vgg11_bn", 512 * 7 * 7), 32),
    "ResNet": (tv.resnet18, 48),
    "DenseNet": (partial(tv.DenseNet, block_config=(1, 1, 1, 1)), 48),
    "SqueezeNet": (tv.squeezenet1_1, 48),
    "Inception": (partial(tv.inception_v3, init_weights=False), 80),
    "GoogLeNet": (partial(tv.googlenet, init_weights=False), 48),
    "ShuffleNet": (tv.shufflenet_v2_x0_5, 48),
    "MobileNet 2": (tv.mobilenet_v2, 48),
    "MobileNet 3": (tv.mobilenet_v3_small, 48),
    "MNASNet": (tv.mnasnet0_5, 48),
    "EfficientNet": (tv.efficientnet_b0, 48),
    "RegNet": (tv.regnet_y_400mf, 48),
    "ConvNeXt": (partial(tv.ConvNeXt, [CNBlockConfig(16, 32, 1), CNBlockConfig(32, None, 1)]), 48),
    "ViT": (partial(tv.VisionTransformer, 32, 16, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64), 32),
    "Swin": (partial(tv.SwinTransformer, [4, 4], 16, [1, 1], [2, 2], [3, 3]), 48),
    "MaxViT": (partial(tv.MaxVit, (64, 64), 16, 2, [16, 16], [1, 1], 16, 0.0), 64),
}


@pytest.mark.filterwarnings("ignore:The default weight initialization", "ignore:the gradient is exactly zero")
@pytest.mark.integration
@pytest.mark.parametrize("build, size", FAMILIES.values(), ids=FAMILIES)
def test_a_torchvision_family_is_measured_as_it_is(build, size):
    torch.manual_seed(0)
    model = lived(build(num_classes=5) if "small_head" not in str(build) else build())
    x = images(3, channels=3, size=size)
    probabilities = predict(model, x)
    y = torch.where(torch.arange(3) == 0, probabilities.argmax(1), probabilities.argmin(1))  # whose gradient is not 0
    check(model, x, y)
