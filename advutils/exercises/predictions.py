"""A reader's predictions: a number that is written down before a result is shown, and compared with it afterwards."""

import numbers

GUESSES: dict = {}  # every guess of this session by its question, so that a cell that is run twice counts once


class Guess:
    """A prediction, made by `guess`. `compare` sets it beside what was measured."""

    def __init__(self, question: str, answer: float | None, unit: str):
        self.question, self.answer, self.unit = question, answer, unit
        self.measured: float | None = None

    def compare(self, measured: float) -> None:
        """Print the measured number, with the guess beside it where there is one.

        Args:
            measured: the number that the question asks for, in the guess's unit.
        """
        self.measured = measured = float(measured)
        found = f"measured: {measured:.3g}{self.unit}"
        if self.answer is None:
            print(found)
        else:
            off = abs(self.answer - measured)
            print(f"{found}   your guess: {self.answer:.3g}{self.unit}   off by {off:.3g}{self.unit}")

    def __repr__(self) -> str:
        answer = "no guess yet" if self.answer is None else f"your guess: {self.answer:.3g}{self.unit}"
        return f"{self.question} {answer}"


def guess(question: str, answer: float | None = None, *, unit: str = "") -> Guess:
    """Keep a prediction of a result that is measured further down; without an answer the notebook runs as well.

    Args:
        question: what is to be predicted, one sentence that ends in a question mark.
        answer: your number, in the unit of the question; None to play without.
        unit: what is printed behind each number, " %" for one.

    Returns:
        A `Guess`, whose `compare(measured)` prints both numbers.

    Raises:
        TypeError: the answer is neither None nor a number.

    Taught in 01_train_vgg.ipynb.
    """
    if answer is not None and (isinstance(answer, bool) or not isinstance(answer, numbers.Real)):
        raise TypeError(f"answer: got {type(answer).__name__}; accepts None or a number, such as 50")
    GUESSES[question] = Guess(question, answer, unit)
    return GUESSES[question]


def guess_score(tolerance: float = 10) -> str:
    """How many of this session's guesses came within `tolerance` of what was measured; those not made do not count.

    Args:
        tolerance: the largest distance that counts as right, in the guesses' own units.

    Returns:
        One sentence.
    """
    played = [one for one in GUESSES.values() if one.answer is not None and one.measured is not None]
    if not played:
        return "You made no guess in this notebook. Write a number into a `guess` cell and run the notebook again."
    right = sum(abs(one.answer - one.measured) <= tolerance for one in played)
    return f"{right} of your {len(played)} guesses came within {tolerance:g} of the measured number."
