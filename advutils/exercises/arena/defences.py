"""The defences of the arena by name, in their order: each entry builds its defence anew, with weights of its own."""

from collections.abc import Callable

from advutils.exercises.arena.defence import Defence

DEFENCES: dict[str, Callable[[], Defence]] = {}
