"""Nine defences to break, and a judge: `from advutils.exercises import arena`."""

from advutils.exercises.arena.board import hint, submit, table
from advutils.exercises.arena.judge import open_defence as open

__all__ = ["hint", "open", "submit", "table"]
