"""The contract of an attack in code: its arguments checked once, and what it states of itself for those who call it."""

import functools
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch

from advutils.utils import validation


class Traits(NamedTuple):
    """What an attack states of itself by `@attack(...)`, for those who call it.

    `draws`: it takes a `generator`. `early_exit`: it takes `early_exit`. `norm`: of its ball, unless one is bound.
    `inner`: the attack that does its work unless its argument `attack` names another, whose ball is then its own.
    `sweep`: a function (model, x, y, eps_values) that yields (x_adv, logits or None) for each eps, at less than a call
    for each.
    """

    draws: bool = False
    early_exit: bool = False
    norm: str = "linf"
    inner: Callable | None = None
    sweep: Callable | None = None


OPTIONS = {  # what the arguments of attacks are checked by, under the same names in all of them
    "steps": validation.count,
    "restarts": validation.count,
    "n_queries": validation.count,
    "n_target_classes": validation.count,
    "n_tries": validation.count,
    "batch_size": validation.count,
    "momentum": validation.share,
    "p_init": validation.share,
    "step_size": lambda value, name: None if value is None else validation.positive(value, name, most=validation.FAR),
    "loss": lambda value, name: validation.loss(value) or value,
}


def attack(*, reads_model: bool = True, **traits: Any) -> Callable:
    """Make a function (model, x, y, *, eps, ...) an attack whose arguments are checked before it runs, each once.

    A function without an `eps` is one that looks for the smallest change: it refuses an eps.

    Args:
        reads_model: whether model and labels are checked too; noise reads neither.
        **traits: what the attack states of itself, as `Traits` lists it.

    Returns:
        A decorator. The function then gets eps as a float and its images detached.
    """

    def decorate(function):
        parameters = inspect.signature(function).parameters.keys()
        options = parameters & OPTIONS.keys()

        @functools.wraps(function)
        def checked(model, x, y, *, eps=None, **given):
            norm = norm_of(partial(checked, **given))
            if "eps" in parameters:
                given["eps"] = validation.eps(eps, norm=norm)
            else:
                validation.no_eps(eps, norm if "norm" in parameters else "linf")
            given |= {name: OPTIONS[name](given[name], name) for name in options & given.keys()}
            validation.images(x)
            if reads_model:
                validation.labels(y, x)
                validation.model(model, x)
            if given.get("target") is not None:
                validation.labels(given["target"], x, "target")
            return function(model, x.detach(), y, **given)

        checked.traits = Traits(**traits)
        return checked

    return decorate


def traits_of(function: Callable | None) -> Traits:
    """What an attack states of itself, also through `functools.partial`; nothing, of a plain callable."""
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "traits", Traits())


def bound_to(function: Callable | None) -> dict:
    """The keyword arguments that `functools.partial` has bound to an attack."""
    return function.keywords if isinstance(function, partial) else {}


def takes_eps(function: Callable) -> bool:
    """Whether an attack has to be told a radius."""
    eps = inspect.signature(function).parameters.get("eps")
    return eps is not None and eps.default is inspect.Parameter.empty


def sweep_of(function: Callable | None) -> Callable | None:
    """The attack's own way to many radii, where it has one that knows all options that are bound to it: none."""
    return None if bound_to(function) else traits_of(function).sweep


def norm_of(function: Callable | None) -> str:
    """The norm of the ball in which an attack, or the attack inside an objective, stays."""
    bound, traits = bound_to(function), traits_of(function)
    if "norm" in bound:
        return bound["norm"]
    inner = bound.get("attack", traits.inner)
    return traits.norm if inner is None else norm_of(inner)


def describe(function: Callable | None) -> str:
    """A function in words, with what `functools.partial` bound to it: "pgd(steps=40, loss=dlr)"."""
    if isinstance(function, partial):
        plain = (bool, int, float, str, list, tuple, type(None))
        bound = [("", v) for v in function.args] + [(f"{key}=", v) for key, v in function.keywords.items()]
        words = (name + (repr(v) if isinstance(v, plain) else describe(v)) for name, v in bound)
        return f"{describe(function.func)}({', '.join(words)})"
    return "none" if function is None else getattr(function, "__name__", type(function).__name__)


def seeded(attack, seed):
    """The attack with a fresh generator of that seed, if it draws and none is bound to it yet."""
    if not traits_of(attack).draws or bound_to(attack).get("generator") is not None:
        return attack
    return partial(attack, generator=torch.Generator().manual_seed(seed))


def hurried(attack):
    """The attack with early exit, if it has one: what is fooled once is fooled, so its images need no more passes."""
    if attack is None or not traits_of(attack).early_exit or "early_exit" in bound_to(attack):
        return attack
    return partial(attack, early_exit=True)
