"""`advutils evaluate`: measure clean and robust accuracy."""

import json
import math

from advutils.attacks.black_box import grey
from advutils.budgets import MINIMUM_NORM
from advutils.budgets.minimum_norm import minimum_norm
from advutils.certify import certified
from advutils.cli import common
from advutils.evaluation import survivors, wilson, worst_case
from advutils.utils import distributed
from advutils.utils.storage import atomic_write


def evaluate_command(chosen):
    common.check_json(chosen.out)
    chosen_attacks = {text: common.attack_of(text) for text in chosen.attack if text != "grey"}  # that is always run
    finders = {text: common.attack_of(text, "--minimum-norm", MINIMUM_NORM) for text in chosen.minimum_norm}
    model, suits = common.model_of(chosen.model)
    data = common.data_of(chosen, suits, train=False)
    common.describe_data(data, chosen, common.number_classes(data, chosen, suits.get("classes"), model))
    loader = common.loader_of(data, chosen, batch_size=chosen.batch_size)
    if chosen_attacks:
        worst = worst_case(model, loader, chosen_attacks, eps=chosen.eps, cascade=chosen.cascade)
        found = (worst.cumulative if chosen.cascade else worst.individual) | {"all together": worst.accuracy}
    else:
        found = {"clean": wilson(survivors(model, loader))}
        if chosen.attack:
            found["grey"] = wilson(survivors(model, loader, grey, eps=chosen.eps))
    radii = {text: minimum_norm(model, loader, finder) for text, finder in finders.items()}
    found |= {text: of_all.accuracy_vs_eps([chosen.eps])[0] for text, of_all in radii.items()}
    if chosen.certify:
        found["certified"] = certified(model, loader, eps=chosen.eps)
    for label, record in found.items():
        common.say(f"{label:40}{record}")
    medians = {text: of_all.radii.median().item() for text, of_all in radii.items()}
    for text, median in medians.items():
        common.say(f"{text}: half of the images are misread after a change of {median:.4g} ({radii[text].norm})")
    if chosen.out and distributed.is_main_process():
        rows = {label: record._asdict() for label, record in found.items()}
        about = dict(
            model=chosen.model,
            data=chosen.data,
            eps=chosen.eps,
            processes=distributed.world_size(),
            accuracy=rows,
            median_radius={text: median if median < math.inf else None for text, median in medians.items()},
        )
        atomic_write(chosen.out, (json.dumps(about, indent=1) + "\n").encode())
