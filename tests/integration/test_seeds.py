"""The central claims of notebooks 6 to 8, over several seeds: many minutes, outside `make test`.

    pytest tests/integration/test_seeds.py -m slow -s

shows every seed.
"""

from functools import partial

import pytest
import torch

from advutils import (
    adversarial,
    dlr,
    fgsm,
    fit,
    initialised,
    load_data,
    make_loader,
    pgd,
    random_fgsm,
    shift,
    split,
    vgg,
    worst_case,
)

pytestmark = pytest.mark.slow
SEEDS = range(5)
EPS = 0.3
PANEL = {"FGSM": fgsm, "PGD": partial(pgd, steps=40), "PGD, DLR": partial(pgd, steps=40, loss=dlr)}
METHODS = {
    "FGSM": (partial(adversarial, attack=fgsm), 6),
    "random start": (random_fgsm, 6),
    "PGD-3": (partial(adversarial, attack=partial(pgd, steps=3)), 6),
}


@pytest.fixture(scope="module")
def measured():
    """{method: [WorstCase of each seed]} on 300 test digits, of the networks of notebook 7."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    train, val = split(load_data("mnist-5k", train=True), 0.1, seed=0)
    x, y = load_data("mnist-5k", train=False).tensors
    test, results = [(x[::3][:300], y[::3][:300])], {}
    for method, (objective, epochs) in METHODS.items():
        results[method] = []
        for seed in SEEDS:
            net = initialised(partial(vgg, 11, width=0.125, contrast=2.5), seed=seed)
            batches = make_loader(train, batch_size=32, shuffle=True, seed=seed)
            held_out = make_loader(val, batch_size=200)
            settings = dict(objective=objective, eps=EPS, augment=shift, seed=seed, progress=False)
            fit(net, batches, held_out, epochs=epochs, lr=3e-3, **settings)
            results[method].append(worst_case(net, test, PANEL, eps=EPS))
            print(f"\n{method}, seed {seed}\n{results[method][-1]}", flush=True)
    torch.set_num_threads(threads)
    return results


def test_fgsm_training_at_0_3_collapses_under_pgd(measured):
    for result in measured["FGSM"]:
        assert result.individual["PGD"].value < 0.4 * result.individual["FGSM"].value


def test_pgd_training_does_not(measured):
    for result, collapsed in zip(measured["PGD-3"], measured["FGSM"]):
        assert result.individual["PGD"].value > 0.6 * result.individual["FGSM"].value
        assert result.accuracy.low > collapsed.accuracy.high


def test_the_order_of_attacks(measured):
    for results in measured.values():
        for result in results:
            assert result.accuracy.value <= result.individual["PGD"].value <= result.individual["FGSM"].value + 0.01
            left = [record.value for record in result.cumulative.values()]
            assert left == sorted(left, reverse=True)
