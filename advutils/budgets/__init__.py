"""Attackers with another budget than a ball: the smallest change, a few pixels, a sticker, labels only."""

from collections.abc import Callable

from advutils.budgets.labels_only import rays
from advutils.budgets.minimum_norm import deepfool, fmn
from advutils.budgets.sparse import few_pixels

VERSIONS = dict(deepfool=1, fmn=1, few_pixels=1, rays=1, train_patch=1)  # as those of `attacks`
MINIMUM_NORM: dict[str, Callable] = {"fmn": fmn, "deepfool": deepfool, "few_pixels": few_pixels, "rays": rays}
