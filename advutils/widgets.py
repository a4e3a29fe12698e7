"""The epsilon slider: drag, and watch a digit become another."""

import ipywidgets
import matplotlib.pyplot as plt
import torch

from advutils import checks
from advutils.attacks import fgsm_step, input_gradient
from advutils.evaluation import predict
from advutils.plots import SideBySide


class EpsilonSlider(ipywidgets.VBox):
    """FGSM under the reader's hand: image, perturbation and class probabilities of several models side by side.

    Choosing an image takes one gradient from each model; a move of the slider takes none, only a step, a clip and a
    forward pass. Every picture is computed when it is shown.

    Args:
        models: {label: nn.Module}, shown from top to bottom.
        dataset: images in [0, 1] and labels to pick from.
        eps: where the slider starts.
        eps_max: where it ends, in pixel units.

    Attributes:
        slider, digit, example, picture: the controls and the drawn picture.
        image: the chosen image (1, C, H, W).
        shown: {label: (x_adv (1, C, H, W), probabilities (K,))} as drawn now.

    Taught in 03_visualize.ipynb.
    """

    def __init__(self, models, dataset, *, eps=0.1, eps_max=0.3):
        checks.eps(eps), checks.eps(eps_max, "eps_max")
        if not models:
            raise ValueError("models: got none; accepts {label: nn.Module} with at least one entry")
        self._models, self._dataset = models, dataset
        labels = torch.stack([dataset[i][1] for i in range(len(dataset))])
        self._of_class = {int(k): torch.where(labels == k)[0].tolist() for k in labels.unique()}
        label = {"description_width": "70px"}
        self.digit = ipywidgets.ToggleButtons(
            options=list(self._of_class), description="digit", style=label | {"button_width": "36px"}
        )
        self.example = ipywidgets.BoundedIntText(
            0, max=len(self._of_class[self.digit.value]) - 1, description="example", style=label
        )
        self.slider = ipywidgets.FloatSlider(
            eps, min=0, max=eps_max, step=eps_max / 60, readout_format=".3f", description="epsilon", style=label
        )
        self.example.layout.width, self.slider.layout.width = "160px", "620px"
        self.picture = ipywidgets.Image(format="png", layout={"width": "666px"})  # its own size: stretched, it blurs
        self._panel = SideBySide(list(models), num_classes=max(self._of_class) + 1)
        plt.close(self._panel.figure)
        super().__init__([self.digit, self.example, self.slider, self.picture])
        self.digit.observe(self._new_digit, "value")
        self.example.observe(self._new_image, "value")
        self.slider.observe(self._draw, "value")
        self._new_image()

    def _new_digit(self, _):
        redrawn = self.example.value != 0
        self.example.value = 0
        self.example.max = len(self._of_class[self.digit.value]) - 1
        if not redrawn:
            self._new_image()

    def _new_image(self, _=None):
        x, y = self._dataset[self._of_class[self.digit.value][self.example.value]]
        self.image, self._y = x.unsqueeze(0), y.unsqueeze(0)
        self._gradients = {}
        for label, model in self._models.items():
            device = checks.device_of(model)
            self._gradients[label] = input_gradient(model, self.image.to(device), self._y.to(device)).cpu()
        self._draw()

    def _draw(self, _=None):
        eps = self.slider.value
        self.shown = {}
        for label, model in self._models.items():
            x_adv = fgsm_step(self.image, self._gradients[label], eps)
            self.shown[label] = x_adv, predict(model, x_adv.to(checks.device_of(model)))[0].cpu()
        x_advs, probabilities = zip(*self.shown.values())
        self._panel.update(self.image[0], [x_adv[0] for x_adv in x_advs], probabilities, int(self._y), eps)
        self.picture.value = self._panel.png()
