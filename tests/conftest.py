"""For the unit tests; what concerns notebooks is in nbval_harness.py, which pyproject.toml loads for both folders."""

import matplotlib
from hypothesis import settings

# In this process only: the notebooks' kernels must go on drawing inline, so this is no environment variable.
matplotlib.use("Agg")

# A learner's `make test` must not depend on luck, nor on how busy the machine is.
settings.register_profile("series", deadline=None, derandomize=True, database=None, print_blob=True)
settings.load_profile("series")
