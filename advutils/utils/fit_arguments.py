"""The arguments of `fit`, checked before the first step."""

from advutils.utils import loaders, validation
from advutils.utils.inference import predict_logits
from advutils.utils.traits import norm_of


def check(model, train, val, epochs, eps, eps_warmup, eval_attacks, objective):
    """Raise for bad arguments; eps as a float, and the number of classes, from a first look at the model's logits."""
    validation.module(model)
    loaders.check(train, "train")
    loaders.check(val, "val")
    if eps is None and (eval_attacks or eps_warmup):
        needs = "eval_attacks" if eval_attacks else "eps_warmup"
        raise ValueError(f"eps: got None with {needs}; accepts the radius that this needs")
    if not 0 <= eps_warmup <= epochs:
        raise ValueError(f"eps_warmup: got {eps_warmup!r}; accepts 0 to {epochs}, the number of epochs")
    if not isinstance(eval_attacks, dict):
        raise TypeError(f"eval_attacks: got {type(eval_attacks).__name__}; accepts None or a dict of attacks by label")
    for attack in eval_attacks.values():
        validation.attack(attack)
    if eps is not None:
        norms = {norm_of(function) for function in (objective, *eval_attacks.values())}
        eps = validation.eps(eps, norm="l2" if norms == {"l2"} else "linf")
    x, _ = loaders.spread(val, 2)[0]
    validation.images(x, "loader's images")
    return eps, predict_logits(model, x.to(validation.device_of(model))).shape[1]
