"""Controls for a notebook: the epsilon slider, and a pad to draw a digit on."""

from advutils.widgets.pad import DigitPad
from advutils.widgets.slider import EpsilonSlider

__all__ = ["DigitPad", "EpsilonSlider"]
