"""Trains the network with switches of the arena (notebook 14) anew: a minute on one core.

    python tests/tools/arena_weights.py             # says what FGSM and PGD leave of it on the test digits
    python tests/tools/arena_weights.py --write     # and replaces the published weights, in half precision

Afterwards `python tests/tools/defences.py fgsm-trained` measures its claim and its seal.
"""

import argparse
from functools import partial

import torch
from torch import nn

from advutils import accuracy, adversarial, fgsm, fit, initialised, load_data, make_loader, pgd, split
from advutils.exercises.arena.defences import WEIGHTS, switches
from advutils.pretrained import machine
from advutils.utils.weights import write_tensors

EPS = 0.3


def trained_switches(seed=0):
    """The network after 25 epochs of FGSM training at 0.3 on 90% of the training digits."""
    network = initialised(switches, seed=seed)
    train, val = split(load_data("mnist-5k", train=True), 0.1, seed=0)
    loader = make_loader(train, batch_size=100, shuffle=True, seed=seed)
    recipe = dict(epochs=25, lr=5e-3, objective=partial(adversarial, attack=fgsm), eps=EPS, eps_warmup=10, seed=seed)
    fit(network, loader, make_loader(val, batch_size=200), progress=False, **recipe)
    return network


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of the order of the images")
    parser.add_argument("--write", action="store_true", help="replace the published weights by what was trained")
    chosen = parser.parse_args(arguments)
    network = trained_switches(chosen.seed)
    weights = nn.utils.parameters_to_vector(network.parameters()).detach().half()
    nn.utils.vector_to_parameters(weights.float(), network.parameters())
    test = make_loader(load_data("mnist-5k", train=False), batch_size=250)
    torch.manual_seed(0)
    for label, attack in {"no attack": None, "FGSM": fgsm, "PGD-40": pgd}.items():
        print(f"{label:10} {accuracy(network, test, attack, eps=attack and EPS)}", flush=True)
    if chosen.write:
        write_tensors(WEIGHTS, {"weights": weights}, dict(machine=machine()))
        print(f"{WEIGHTS.name}: {WEIGHTS.stat().st_size} bytes")


if __name__ == "__main__":
    main()
