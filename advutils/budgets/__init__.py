"""Attackers with another budget than a ball of one radius: the smallest change that is enough."""

from collections.abc import Callable

from advutils.budgets.minimum_norm import deepfool, fmn

VERSIONS = dict(deepfool=1, fmn=1)  # as those of `attacks`
MINIMUM_NORM: dict[str, Callable] = {"fmn": fmn, "deepfool": deepfool}
