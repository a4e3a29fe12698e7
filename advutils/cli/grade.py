"""`advutils grade`: points for a submitted notebook, as JSON."""

import json

from advutils.cli import common
from advutils.exercises.grading import grade
from advutils.utils.storage import atomic_write


def grade_command(chosen):
    common.check_json(chosen.out)
    found = grade(chosen.submission, notebook=chosen.notebook, seed=chosen.seed, seconds=chosen.seconds)
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    text = text.encode("utf-8", "backslashreplace").decode()  # half a character, in an error of the submission
    print(text, end="")
    if chosen.out:
        atomic_write(chosen.out, text.encode())
