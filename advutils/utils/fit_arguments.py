"""The arguments of `fit`, checked before the first step, and written down as a checkpoint keeps them."""

from advutils.utils import distributed, loaders, validation
from advutils.utils.inference import predict_logits
from advutils.utils.traits import describe, norm_of


def checked_settings(
    model, train, val, *, epochs, lr, objective, eps, eps_warmup, ema_decay, eval_attacks, augment, seed, accelerator
):
    """All that makes it this training and no other, in numbers and words; raises for bad arguments."""
    validation.module(model)
    loaders.check(train, "train")
    loaders.check(val, "val")
    epochs = validation.count(epochs, "epochs")
    if accelerator is None and distributed.world_size() > 1:
        raise ValueError(
            f"accelerator: got None in {distributed.world_size()} processes; accepts an accelerate.Accelerator"
        )
    ema_decay = None if ema_decay is None else validation.share(ema_decay, "ema_decay")
    return dict(
        epochs=epochs, steps=epochs * len(train), lr=validation.positive(lr, "lr"), seed=int(seed),
        objective=describe(objective), eps=_eps(eps, eps_warmup, epochs, eval_attacks, objective),
        eps_warmup=float(eps_warmup), ema_decay=ema_decay, augment=describe(augment),
        eval_attacks={label: describe(attack) for label, attack in eval_attacks.items()},
        data=loaders.fingerprint(train), batch_size=loaders.batch_size_of(train), draws_anew=loaders.draws_anew(train),
        network={key: list(value.shape) for key, value in model.state_dict().items()}, layers=repr(model),
        classes=_classes(model, val), processes=distributed.world_size(),
    )  # fmt: skip


def _eps(eps, eps_warmup, epochs, eval_attacks, objective):
    """The radius as a float, checked by the norm of the attacks."""
    if eps is None and (eval_attacks or eps_warmup):
        needs = "eval_attacks" if eval_attacks else "eps_warmup"
        raise ValueError(f"eps: got None with {needs}; accepts the radius that this needs")
    if not 0 <= eps_warmup <= epochs:
        raise ValueError(f"eps_warmup: got {eps_warmup!r}; accepts 0 to {epochs}, the number of epochs")
    if not isinstance(eval_attacks, dict):
        raise TypeError(f"eval_attacks: got {type(eval_attacks).__name__}; accepts None or a dict of attacks by label")
    for attack in eval_attacks.values():
        validation.attack(attack)
    norms = {norm_of(function) for function in (objective, *eval_attacks.values())}
    return None if eps is None else validation.eps(eps, norm="l2" if norms == {"l2"} else "linf")


def _classes(model, val):
    """The number of classes, from a first look at the model's logits."""
    x, _ = loaders.spread(val, 2)[0]
    validation.images(x, "loader's images")
    return predict_logits(model, x.to(validation.device_of(model))).shape[1]
