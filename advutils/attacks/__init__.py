"""Attacks: callables `(model, x, y, *, eps) -> x_adv`, each a few lines that look like its equation."""

from advutils.attacks.auto import autoattack
from advutils.attacks.black_box import grey, random_noise, square
from advutils.attacks.gradient import fgsm, pgd
from advutils.utils.contracts import Attack

# Raise an attack's when the images that it returns change (test_golden.py says when). Results keep it.
VERSIONS = dict(fgsm=1, pgd=1, targeted=1, square=1, grey=1, random_noise=1, autoattack=1)

ATTACKS: dict[str, Attack] = {
    "fgsm": fgsm,
    "pgd": pgd,
    "square": square,
    "noise": random_noise,
    "grey": grey,
    "autoattack": autoattack,
}
