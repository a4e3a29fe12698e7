"""The epsilon slider: drag, and watch a digit become another."""

import contextlib
import copy
import math
import time
from functools import partial

import ipywidgets
import torch
from torch import nn
from torch.utils.data import TensorDataset

from advutils.attacks.black_box import random_noise
from advutils.attacks.gradient import fgsm, fgsm_step, input_gradient, pgd
from advutils.attacks.losses import margin
from advutils.certify import certified_radius, layers_of, proven
from advutils.data import make_loader
from advutils.evaluation import accuracy_vs_eps, predict
from advutils.plots import units
from advutils.utils import validation
from advutils.utils.fusion import fuse_batch_norm
from advutils.utils.inference import logits_of
from advutils.widgets.panel import Panel, colors_of

STEPS = 20  # of PGD, for the pictures and for the curve
ATTACKS = {"FGSM": fgsm, "PGD": partial(pgd, steps=STEPS), "noise": random_noise}
EACH, NEAR, ALL = "one of each", "near the boundary", "all"


class EpsilonSlider(ipywidgets.VBox):
    """An attack under the reader's hand: ten images, what several models make of them, and the curve they lie on.

    Choosing images takes one gradient from each model; a move of the slider takes none, only a step, a clip and a
    forward pass. PGD needs its own gradients at every radius, so it runs when the slider is let go. Every picture is
    computed when it is shown, and nothing trains meanwhile: the weights are those of the moment of making. Under the
    curve a green bar goes up to the radius at which it is proved that no attack can change what is read in the chosen
    image, where a model's bounds prove it.

    Args:
        models: {label: nn.Module}, shown from left to right.
        dataset: images in [0, 1] and labels to pick from, none of which the models were trained on.
        eps: where the slider starts.
        eps_max: where it ends, in pixel units.
        curve: how many of the images, at most, the accuracies in the curve are measured on.

    Attributes:
        slider, images, look, further, attack, model: the controls.
        picture: the Panel, and what it says (`words`).
        x, y: the ten images (n, C, H, W) and their labels.
        shown: {label: (x_adv (n, C, H, W), probabilities (n, K))} as drawn now.
        seconds: what the last picture took to compute and draw.

    Raises:
        TypeError, ValueError: no models, radii outside 0 to 1, or what `accuracy` refuses.

    Taught in 03_visualize.ipynb.
    """

    def __init__(self, models, dataset, *, eps=0.1, eps_max=0.3, curve=100):
        validation.eps(eps), validation.eps(eps_max, "eps_max")
        if eps > eps_max:
            raise ValueError(f"eps: got {eps}, beyond eps_max = {eps_max}; accepts up to that, where the slider ends")
        if not hasattr(models, "items"):
            raise TypeError(f"models: got {type(models).__name__}; accepts {{label: nn.Module}}")
        if not models:
            raise ValueError("models: got none; accepts {label: nn.Module} with at least one entry")
        for model in models.values():
            validation.module(model)
        if len(dataset) == 0:
            raise ValueError("dataset: got no images; accepts at least one")
        self._models = {label: fuse_batch_norm(copy.deepcopy(model)).eval() for label, model in models.items()}
        self._x = torch.stack([dataset[i][0] for i in range(len(dataset))]).cpu()
        self._y = torch.as_tensor([int(dataset[i][1]) for i in range(len(dataset))])
        self._step = -(-len(self._x) // validation.count(curve, "curve"))
        self._radii = [part * eps_max / 12 for part in range(13)]
        self._colors, self._curves, self._from = colors_of(list(models)), {}, 0
        self._controls(sorted(set(self._y.tolist())), eps, eps_max)
        super().__init__([self.images, self.look_and_further, self.attack, self.model, self.slider, self.picture])
        self._new_images()
        for control, reaction in (
            (self.images, self._first_images), (self.look, self._draw), (self.attack, self._new_attack),
            (self.model, self._draw), (self.slider, self._draw),
        ):  # fmt: skip
            control.observe(reaction, "value")
        self.further.on_click(self._further)

    def _controls(self, classes, eps, eps_max):
        def buttons(options, name, width, tooltips=()):
            style = {"description_width": "70px", "button_width": width}
            group = ipywidgets.ToggleButtons(options=options, description=name, style=style, tooltips=tooltips)
            return group.add_class("widget-inline-hbox")  # the name beside its buttons, as the slider's, not above them

        self.images = buttons([EACH, *map(str, classes), NEAR], "digits", "auto")
        self.look = buttons([str(number + 1) for number in range(10)], "look at", "42px")
        self.further = ipywidgets.Button(description="next example", layout={"width": "110px"})
        self.look_and_further = ipywidgets.HBox([self.look, self.further])
        self.attack = buttons(
            list(ATTACKS), "attack", "80px", ["one gradient step", f"{STEPS} gradient steps", "coins"]
        )
        self.model = buttons([ALL, *self._models], "model", "130px")
        self.slider = ipywidgets.FloatSlider(
            eps, min=0, max=eps_max, step=eps_max / 60, readout_format=".3f", description="epsilon",
            style={"description_width": "70px"}, layout={"width": "700px"},
        )  # fmt: skip
        self.picture = Panel()

    def first_reads(self, x):
        """The class that the first model gives to one image (1, C, H, W)."""
        model = next(iter(self._models.values()))
        return int(predict(model, x.to(validation.device_of(model) or x.device)).argmax())

    def _first_images(self, _=None):
        if self.images.value is not None:
            self._from = 0
            self._new_images()

    def _further(self, _):
        """The next of the ten; after the last of them, the next ten."""
        position = int(self.look.value)
        if position < len(self.x):
            self.look.value = str(position + 1)
            return
        if self.images.value is None:
            self.images.value = EACH
        else:
            self._from += 10
            self._new_images()
        self.look.value = "1"

    def _new_images(self):
        chosen = self._chosen()
        self._show(self._x[chosen], self._y[chosen])

    def show(self, x, y):
        """Show and attack these images (n, C, H, W) of the classes y (n,), n at most 10, until others are chosen.

        They take one gradient from each model, which then serves every epsilon.
        """
        validation.images(x)
        validation.labels(y, x)
        self.images.value = None  # no button says what is shown, and each of them brings the dataset's images back
        self._show(x, y)

    def _show(self, x, y):
        self.x, self.y = x.cpu(), y.cpu()
        self._signs, self._climbed = {}, {}
        self._proved = {label: self._certificates(model) for label, model in self._models.items()}
        self._noise = (
            random_noise(None, torch.full_like(self.x, 0.5), self.y, eps=0.5, generator=_seeded(self._from)) - 0.5
        )
        self._draw()

    def _certificates(self, model):
        """The radius up to which nobody can change what the model reads in each image, (n,); 0 if nothing is proved."""
        device = validation.device_of(model) or self.x.device
        x, y = self.x.to(device), self.y.to(device)
        if not _has_bounds(model) or not proven(model, x, y, eps=0.001).any():
            return torch.zeros(len(y))
        return certified_radius(model, x, y).cpu()

    def _chosen(self):
        if self.images.value == EACH:
            of_class = [torch.where(self._y == k)[0] for k in self._y.unique()[:10]]
            return torch.stack([those[self._from // 10 % len(those)] for those in of_class])
        near = self.images.value == NEAR
        order = self._nearest() if near else torch.where(self._y == int(self.images.value))[0]
        return order[torch.arange(self._from, self._from + 10) % len(order)]

    def _nearest(self):
        """The images that the first model reads correctly, the smallest margin first."""
        model = next(iter(self._models.values()))
        with torch.no_grad():
            device = validation.device_of(model) or self._x.device
            lead = torch.cat([margin(logits_of(model, x.to(device)), y.to(device)).cpu() for x, y in self._batches(1)])
        return lead.where(lead > 0, torch.inf).argsort()[: max(10, int((lead > 0).sum()))]

    def _batches(self, step):
        return make_loader(TensorDataset(self._x[::step], self._y[::step]), batch_size=250)

    def _new_attack(self, _):
        self.slider.continuous_update = self.attack.value != "PGD"
        self._draw()

    def _attacked(self, label):
        eps, kind = self.slider.value, self.attack.value
        if kind == "noise":
            return fgsm_step(self.x, self._noise, eps)
        model, device = self._models[label], validation.device_of(self._models[label]) or self.x.device
        if kind == "FGSM":
            if label not in self._signs:
                self._signs[label] = input_gradient(model, self.x.to(device), self.y.to(device)).cpu()
            return fgsm_step(self.x, self._signs[label], eps)
        if (label, eps) not in self._climbed:
            x_adv = ATTACKS["PGD"](model, self.x.to(device), self.y.to(device), eps=eps, generator=_seeded(0)).cpu()
            self._climbed[label, eps] = x_adv
        return self._climbed[label, eps]

    def _draw(self, _=None):
        start = time.perf_counter()
        labels = list(self._models) if self.model.value == ALL else [self.model.value]
        if self.attack.value == "PGD" or self.attack.value not in self._curves:
            self.picture.words = f"{self.attack.value} is running …"
        self.picture.set_scene({label: self._colors[label] for label in labels}, curve=self._curve(labels))
        self.shown = {}
        for label in labels:
            x_adv = self._attacked(label)
            device = validation.device_of(self._models[label]) or x_adv.device
            with torch.no_grad(), _one_thread():
                self.shown[label] = x_adv, logits_of(self._models[label], x_adv.to(device)).softmax(1).cpu()
        eps, chosen = self.slider.value, min(int(self.look.value), len(self.x)) - 1
        proved = {label: self._proved[label][chosen].item() for label in labels}
        told = dict(eps=eps, chosen=chosen, proved=proved.values(), words=self._described(proved))
        self.picture.show(self.x, self.y, *zip(*self.shown.values()), **told)
        self.seconds = time.perf_counter() - start

    def _curve(self, labels):
        """The accuracies of these models under this attack, which are measured when first asked for."""
        kind = self.attack.value
        radii = self._radii[::3] if kind == "PGD" else self._radii
        if kind not in self._curves:
            self._curves[kind] = {
                label: [
                    record.value for record in accuracy_vs_eps(model, self._batches(self._step), ATTACKS[kind], radii)
                ]
                for label, model in self._models.items()
            }
        n = len(self._x[:: self._step])
        values = [self._curves[kind][label] for label in labels]
        return dict(radii=radii, values=values, title=f"accuracy on {n} images under {kind}")

    def _described(self, proved):
        """The picture in words, for those who hear it: what changed, not what it looks like."""
        read = [
            f"{label} reads {int((p.argmax(1) == self.y).sum())} of {len(self.y)} correctly"
            for label, (_, p) in self.shown.items()
        ]
        late = " PGD runs when you let go of the slider." if self.attack.value == "PGD" else ""
        sure = [
            f" Nobody can change how {label} reads the chosen image up to epsilon = {math.floor(1000 * radius) / 1000}."
            for label, radius in proved.items()
            if radius >= 0.001
        ]
        return f"{units(self.slider.value)}. {'; '.join(read)}.{late}{''.join(sure)}"


def _has_bounds(model):
    try:
        return type(layers_of(model)[-1]) is nn.Linear
    except TypeError:  # a layer without a rule: nothing can be proved about this model
        return False


@contextlib.contextmanager
def _one_thread():
    """Ten images are done before a second thread has woken up, and the browser needs a core too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _seeded(number):
    return torch.Generator().manual_seed(number)
