"""Measurements that take too long for a notebook: made ahead by a command, published with it, and read here."""

import json
from pathlib import Path

MEASUREMENTS = Path(__file__).parents[1] / "published" / "measurements"  # made by `make measurements ARGS=--write`


def load_measurement(name: str) -> dict:
    """What was measured ahead under that name; one line says how, when and on which machine.

    Args:
        name: of a measurement, "autoattack" for one.

    Returns:
        The measured values, as the notebook that shows them describes.

    Raises:
        ValueError: no measurement has that name.

    The programs that measure are in tests/tools/measurements.py.
    """
    path = MEASUREMENTS / f"{name}.json"
    if not path.exists():
        known = sorted(file.stem for file in MEASUREMENTS.glob("*.json"))
        raise ValueError(f"name: got {name!r}; accepts one of {', '.join(map(repr, known))}")
    saved = json.loads(path.read_text(encoding="utf-8"))
    minutes = max(1, round(saved["seconds"] / 60))
    print(f"measured ahead on {saved['date']}, {minutes} min: {saved['command']}")
    print(f"({saved['machine']})")
    return saved["values"]
