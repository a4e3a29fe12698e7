"""What every attack and every recipe gives on a small network: the numbers that a version stands for.

`python tests/tools/golden.py --write` keeps them in tests/golden.json, with their versions. It refuses numbers that
have changed under a version that has not: raise that version first, and measure anew what depends on it.
"""

import argparse
import json
import math
import sys
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

from advutils import (
    attacks,
    budgets,
    cw,
    deepfool,
    dlr,
    few_pixels,
    fgsm,
    fit,
    fmn,
    grey,
    make_loader,
    pgd,
    random_noise,
    rays,
    square,
    targeted,
)
from advutils.pretrained import EVAL_ATTACKS, RECIPES, objective_of
from advutils.pretrained import VERSIONS as RECIPE_VERSIONS
from advutils.utils.traits import takes_eps, traits_of

FILE = Path(__file__).resolve().parent.parent / "golden.json"
TOLERANCE = 1e-4
LOOSE = {"recipe trades": 2e-3}  # it begins where the gradient is next to nothing: its signs are rounding's
CLASSES, SIDE, EPS = 4, 8, 0.1
ATTACKS = {  # label: (the attack whose version it is, the attack)
    "fgsm": ("fgsm", fgsm),
    "pgd": ("pgd", partial(pgd, steps=4)),
    "pgd, restarts, early exit": ("pgd", partial(pgd, steps=2, restarts=2, early_exit=True)),
    "pgd, momentum, from x": ("pgd", partial(pgd, steps=3, momentum=1.0, random_start=False)),
    "pgd, dlr": ("pgd", partial(pgd, steps=3, loss=dlr)),
    "pgd, l2": ("pgd", partial(pgd, steps=3, norm="l2")),
    "targeted": ("targeted", partial(targeted, attack=partial(pgd, steps=2, loss=cw), n_target_classes=2)),
    "square": ("square", partial(square, n_queries=20)),
    "grey": ("grey", grey),
    "noise": ("random_noise", random_noise),
    "deepfool": ("deepfool", partial(deepfool, steps=3)),
    "fmn": ("fmn", partial(fmn, steps=5)),
    "fmn, linf": ("fmn", partial(fmn, steps=5, norm="linf")),
    "few pixels": ("few_pixels", partial(few_pixels, steps=8, n_tries=5)),
    "rays": ("rays", partial(rays, n_queries=40)),
}


def uniform(*shape, seed):
    """Numbers in [-1, 1), the same to the bit on every processor, which normal ones are not."""
    return 2 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) - 1


def network():
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Flatten(), nn.Linear(32, CLASSES),
    )  # fmt: skip
    with torch.no_grad():
        for seed, weight in enumerate(net.parameters()):
            scale = 1 / math.sqrt(weight[0].numel()) if weight.ndim > 1 else 0.1
            weight.copy_(scale * uniform(weight.shape, seed=seed) + (weight.ndim == 1))
    return net.eval()


def images(n):
    x = (uniform(n, 1, SIDE, SIDE, seed=100) + 1) / 2
    return x, torch.arange(n) % CLASSES


def of_attack(attack):
    """A number for each of eight images: what the attack did to it, seen from a fixed direction."""
    x, y = images(8)
    options = dict(eps=EPS) if takes_eps(attack) else {}
    if traits_of(attack).draws:
        options["generator"] = torch.Generator().manual_seed(0)
    x_adv = attack(network(), x, y, **options)
    return ((x_adv - x) * uniform(x.shape, seed=200)).sum((1, 2, 3)).tolist()


def of_recipe(kind):
    """The losses and the shares that two epochs of the recipe's training measured, and some logits at its end."""
    recipe, (x, y) = RECIPES[kind], images(40)
    train, val = TensorDataset(x[:30], y[:30]), TensorDataset(x[30:], y[30:])
    net = network()
    defence = "eps_warmup" in recipe or kind in ("mixed-fgsm", "fgsm-last")
    history = fit(
        net,
        make_loader(train, batch_size=10, shuffle=True, seed=recipe["seed"]),
        make_loader(val, batch_size=10),
        epochs=2,
        lr=recipe["lr"],
        objective=objective_of(kind, recipe),
        eps=EPS if defence else None,
        eps_warmup=min(1, recipe.get("eps_warmup", 0)),
        ema_decay=0.9 if "ema_decay" in recipe else None,
        eval_attacks=EVAL_ATTACKS if "ema_decay" in recipe else None,
        seed=recipe["seed"],
        progress=False,
    )
    with torch.no_grad():
        logits = net(x[:4]).flatten().tolist()
    return [*history.train_loss, *history.val_loss, *history.forwards, *history.backwards, *logits]


def numbers():
    """{case: {version, numbers}}, measured now."""
    torch.manual_seed(0)
    found = {
        f"attack {label}": dict(version=(attacks.VERSIONS | budgets.VERSIONS)[name], numbers=of_attack(attack))
        for label, (name, attack) in ATTACKS.items()
    }
    found |= {f"recipe {k}": dict(version=RECIPE_VERSIONS[k], numbers=of_recipe(k)) for k in RECIPES}
    return found


def changed(case, old, new):
    """Whether any of a case's numbers is another one."""
    tolerance = LOOSE.get(case, TOLERANCE)
    alike = (math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance) for a, b in zip(old, new))
    return len(old) != len(new) or not all(alike)


def complaints(kept, found):
    """A sentence for each case whose numbers and version do not go together."""
    for case in sorted(kept.keys() | found.keys()):
        where = "advutils/attacks.py" if case.startswith("attack") else "advutils/trained.py"
        if case not in kept or case not in found:
            yield f"{case}: there is no such case on one side; write the numbers anew"
        elif kept[case]["version"] != found[case]["version"]:
            yield f"{case}: the version was raised; write the numbers anew"
        elif changed(case, kept[case]["numbers"], found[case]["numbers"]):
            yield f"{case}: numbers changed: raise its version in VERSIONS of {where}, and measure anew"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="keep the numbers of now")
    chosen = parser.parse_args(arguments)
    kept, found = json.loads(FILE.read_text()) if FILE.exists() else {}, numbers()
    wrong = list(complaints(kept, found))
    print("\n".join(wrong) or "all numbers are those of their versions")
    if not chosen.write:
        sys.exit(bool(wrong))
    if any("numbers changed" in line for line in wrong):
        sys.exit("nothing was written")
    FILE.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
