"""The twin that evaluation and training attack: the same function, less work, and the model left as it is."""

import copy

import pytest
import torch
from helpers import batch, images, same_state, state
from torch import nn
from torch.utils.data import TensorDataset

from advutils import adversarial, eval_mode, fgsm, load_weights, make_loader, save_weights, small_cnn, vgg
from advutils.evaluation import survivors
from advutils.utils.fusion import fuse_batch_norm


def lived(model):
    """The model with batch norm that has seen something: statistics and weights away from 0 and 1."""
    generator = torch.Generator().manual_seed(1)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.num_batches_tracked = None
            for tensor in (*layer.buffers(), *layer.parameters()):
                tensor.data.add_(0.3 * torch.rand(tensor.shape, generator=generator))
    return model


def nested():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=2, dilation=2), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1),
        nn.Sequential(nn.Conv2d(4, 4, 3, groups=2, stride=2), nn.BatchNorm2d(4, affine=False)),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10),
    )  # fmt: skip


NETWORKS = {
    "vgg": lambda: vgg(11, width=0.1),
    "vgg, contrast": lambda: vgg(16, width=0.05, contrast=5),
    "small_cnn": small_cnn,
    "nested": nested,
    "a model in a model": lambda: nn.Sequential(nn.Identity(), vgg(11, width=0.1)),
}


@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_the_twin_gives_the_same_logits_and_gradients(build):
    torch.manual_seed(0)
    model, x, y = lived(build()).double(), torch.rand(8, 1, 28, 28).double(), torch.arange(8)  # no ties in a pool
    with eval_mode(model):
        twin = fuse_batch_norm(model)
        assert torch.allclose(twin(x), model(x), rtol=1e-9, atol=1e-12)

        def gradient(network):
            pixels = x.clone().requires_grad_()
            return torch.autograd.grad(nn.functional.cross_entropy(network(pixels), y), pixels)[0]

        assert torch.allclose(gradient(twin), gradient(model), rtol=1e-7, atol=1e-12)


def test_what_is_folded_is_gone():
    model = vgg(11, width=0.1)
    twin = fuse_batch_norm(model)
    kinds = [type(layer) for layer in twin if not isinstance(layer, nn.Identity)]
    assert nn.BatchNorm2d not in kinds
    assert kinds[2:5] == [nn.Conv2d, nn.MaxPool2d, nn.ReLU]
    assert len(twin) == len(model)
    assert not any(
        weight.requires_grad for layer in twin if isinstance(layer, nn.Conv2d) for weight in layer.parameters()
    )


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_is_and_the_twin_is_in_its_mode(training):
    """Else each attack would switch it to eval mode and back: 0.15 ms, which a peer on the same twin would not pay."""
    model = lived(vgg(11, width=0.1)).train(training)
    before, layers, weights = state(model), list(model), list(model.parameters())
    twin = copy.deepcopy(fuse_batch_norm(model))
    assert {module.training for module in twin.modules()} == {training}
    assert torch.equal(twin.train_hashes, model.train_hashes) and twin.config == model.config
    assert all(a is b for a, b in zip(layers, model)) and all(a is b for a, b in zip(weights, model.parameters()))
    assert same_state(before, state(model))


class Louder(nn.BatchNorm2d):
    def forward(self, x):
        return 2 * super().forward(x)


def test_layers_that_do_something_else_are_left_alone():
    def model(norm=None):
        return nn.Sequential(nn.Conv2d(1, 2, 3), norm or nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2))

    kept = {
        "subclass": model(Louder(2)),
        "no statistics": model(nn.BatchNorm2d(2, track_running_stats=False)),
        "hooked": model(),
        "patched": model(),
        "not in a row": nn.ModuleList([nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)]),
    }
    heard = []
    kept["hooked"][0].register_forward_hook(lambda *_: heard.append(1))
    kept["patched"][1].forward = lambda x: x
    for label, network in kept.items():
        assert type(fuse_batch_norm(network)[1]) is type(network[1]), label
    fuse_batch_norm(kept["hooked"])(images(2))
    assert heard


def test_evaluation_and_training_hand_the_twin_to_the_attack():
    seen = []

    def attack(model, x, y, *, eps):
        seen.append(nn.BatchNorm2d in map(type, model.modules()))
        return fgsm(model, x, y, eps=eps)

    model, (x, y) = vgg(11, width=0.05), batch(4)
    survivors(model, make_loader(TensorDataset(x, y), batch_size=2), attack, eps=0.1)
    adversarial(model, x, y, eps=0.1, attack=attack)
    assert seen == [False] * 3


def test_the_twin_follows_the_weights_only_when_made_anew():
    model, x = vgg(11, width=0.05, contrast=3).eval(), images(2)
    stale = fuse_batch_norm(model)
    with torch.no_grad():
        model[2].weight.mul_(-1)
    assert torch.allclose(fuse_batch_norm(model)(x), model(x), atol=1e-5)
    assert not torch.allclose(stale(x), model(x), atol=1e-5)


def test_batch_norm_over_all_processes_answers_and_is_saved_as_the_plain_one(tmp_path):
    plain = vgg(11, width=0.05).train()
    plain(images(16, size=32))
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(plain.eval()))
    assert any(isinstance(layer, nn.SyncBatchNorm) for layer in synchronised.modules())
    x = images(8, size=32)
    with eval_mode(synchronised) as twin, torch.no_grad():
        assert torch.allclose(twin(x), plain(x), rtol=1e-4, atol=1e-4)
    save_weights(synchronised, tmp_path / "weights.safetensors")
    loaded = vgg(11, width=0.05).eval()
    assert load_weights(loaded, tmp_path / "weights.safetensors")["config"] == plain.config
    assert same_state(state(loaded), state(plain))
