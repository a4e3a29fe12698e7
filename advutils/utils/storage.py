"""Where files lie, and how one is written so that a kill leaves the old one or the new one."""

import os
import tempfile
import uuid
from pathlib import Path

import platformdirs


def atomic_write(path, data):
    """Write the bytes `data` to `path` through a temporary name: a kill leaves the old file or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")  # short, however long the name is
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # not the temporary one, nor none, as of a full disk
        raise


def cache_dir() -> Path:
    """The folder for downloaded data and trained models: $ADVUTILS_CACHE, else the user's cache folder."""
    return Path(os.environ.get("ADVUTILS_CACHE") or platformdirs.user_cache_dir("advutils"))


def writable(folder, name="", way_out=""):
    """Raise, before an hour is spent on what is to lie there, unless files can be written into the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"{name}{folder}: nothing can be written there ({error}); accepts a folder of yours{way_out}"
        ) from error
