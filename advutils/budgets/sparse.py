"""A few pixels, each changed as far as one likes: the l_0 budget."""

import torch
from torch import nn

from advutils.attacks.base import Criterion, attack, loss_gradient
from advutils.attacks.losses import cw
from advutils.utils.inference import predict_logits

AT_ONCE = 2000  # images in a forward pass


@attack(norm="l0")
def few_pixels(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, *, steps: int = 20, n_tries: int = 50
) -> torch.Tensor:
    """Change one pixel after the other, each to 0 or to 1, the one that lowers the margin most, until x is misread.

    The gradient ranks the 2 C H W changes of one value by what each would gain if the network were linear; the first
    `n_tries` are tried, and the best is kept. With `n_tries` of 2 C H W all are tried, which makes the first pixel
    the best that there is. One step costs a forward and a backward pass and `n_tries` forward passes.

    Args:
        model: nn.Module that maps images to logits (N, K).
        x: images (N, C, H, W), float32 in [0, 1].
        y: true labels (N,), int64.
        steps: at most so many values are changed.
        n_tries: changes that are tried at each step, at least 1.

    Returns:
        Adversarial images, shaped like x; x itself where none was found, or where x is misread already. In colour
        images a value of one channel counts as a pixel.

    Raises:
        TypeError, ValueError: an argument that is not as above, or an eps; the message names it.

    After Papernot et al., 2016, arXiv:1511.07528, with trials in place of their saliency map. Taught in
    15_other_budgets.ipynb.
    """
    x_adv, i = x.clone(), torch.arange(len(x), device=x.device)
    for _ in range(steps):
        gradient, logits = loss_gradient(model, x_adv[i], y[i], cw)
        unfooled = cw(logits, y[i]) <= 0
        i, gradient = i[unfooled], gradient[unfooled]
        if len(i) == 0:
            return x_adv
        x_adv[i] = _best_change(model, x_adv[i], y[i], gradient, n_tries)
    fooled = Criterion(y).lead(predict_logits(model, x_adv, y)) > 0
    return torch.where(fooled.view(-1, 1, 1, 1), x_adv, x)


def _best_change(model, x, y, gradient, n_tries):
    """The images with one value set to 0 or to 1: of the changes that promise most, the one that is best."""
    n, values = len(x), x[0].numel()
    ends = torch.stack([torch.zeros_like(x), torch.ones_like(x)], 1).flatten(1)  # (n, 2 values)
    promised = gradient.flatten(1).repeat(1, 2) * (ends - x.flatten(1).repeat(1, 2))
    tried = promised.topk(min(n_tries, 2 * values), 1).indices
    changed = x.flatten(1)[:, None].repeat(1, tried.shape[1], 1)  # (n, tries, values)
    changed.scatter_(2, (tried % values)[..., None], ends.gather(1, tried)[..., None])
    images, labels = changed.view(-1, *x.shape[1:]), y.repeat_interleave(tried.shape[1])
    parts = zip(images.split(AT_ONCE), labels.split(AT_ONCE))
    leads = torch.cat([cw(predict_logits(model, *part), part[1]) for part in parts])
    return images.view(n, -1, *x.shape[1:])[torch.arange(n, device=x.device), leads.view(n, -1).argmax(1)]
