"""What a training needs to be continued to the same weights to the bit, and the one file in which it lies."""

import io
import zipfile
from pathlib import Path

import torch

from advutils.utils import distributed
from advutils.utils.storage import atomic_write

FORMAT = "advutils-checkpoint-1"


class Checkpoint:
    """A file that holds one dict: the settings of a training, its parts' states, its history and its random states.

    Args:
        path: the file; None for a training that is never written down.
        settings: what makes it this training, of numbers, texts, lists and dicts; another's is refused.
        parts: {name: object with `state_dict` and `load_state_dict`, or None}.
        order: the torch.Generator that shuffles the training images; None where the loader has none of its own.
    """

    def __init__(self, path, settings, parts, order):
        self.path, self.settings, self.order = path and Path(path), settings, order
        self.parts = {name: part for name, part in parts.items() if part is not None}

    def save(self, **values):
        """Write the parts as they are now, and the values beside them; the first process does."""
        if self.path is None or not distributed.is_main_process():
            return
        states = {name: part.state_dict() for name, part in self.parts.items()}
        order = None if self.order is None else self.order.get_state()
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        saved = dict(format=FORMAT, settings=self.settings, states=states, order=order, random=torch.get_rng_state())
        buffer = io.BytesIO()
        torch.save(saved | dict(cuda=cuda, values=values), buffer)
        atomic_write(self.path, buffer.getvalue())

    def restore(self):
        """Put parts and random states back as they were; the values that were saved with them, None without a file.

        Raises:
            ValueError: the file is damaged, of another program, or of another training; nothing is changed then.
        """
        if self.path is None or not self.path.exists():
            return None
        try:
            saved = read(self.path)
        except FileNotFoundError:  # another program that trains the same has just ended, and removed it
            return None
        theirs, ours = saved["settings"], self.settings
        if theirs != ours:
            other = ", ".join(key for key in theirs | ours if theirs.get(key) != ours.get(key))
            raise ValueError(
                f"checkpoint: got {str(self.path)!r}, of a training with other {other}; accepts the checkpoint of this "
                "one, or a path without a file: delete this file to begin anew"
            )
        for name, part in self.parts.items():
            part.load_state_dict(saved["states"][name])
        torch.set_rng_state(saved["random"])
        if self.order is not None:
            self.order.set_state(saved["order"])
        for number, state in enumerate(saved["cuda"]):
            torch.cuda.set_rng_state(state, number)
        return saved["values"]


def read(path):
    """The dict in a checkpoint's file. No code in it is run: `torch.load(weights_only=True)` reads data alone."""
    content = path.read_bytes()
    wrong = f"checkpoint: got {str(path)!r}, which is {{}}; accepts one that fit wrote, or a path without a file"
    try:
        damaged = zipfile.ZipFile(io.BytesIO(content)).testzip()  # torch.load does not look at the checksums
        saved = None if damaged else torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises whatever its damaged part leads to
        raise ValueError(wrong.format(f"no whole file ({type(error).__name__})")) from error
    if damaged:
        raise ValueError(wrong.format("altered since it was written"))
    if not isinstance(saved, dict) or saved.get("format") != FORMAT:
        raise ValueError(wrong.format("of another program or version"))
    return saved
