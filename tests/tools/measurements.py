"""Makes the measurements that take too long for a notebook: `make measurements`, an hour for all on one core.

    python tests/tools/measurements.py --list
    python tests/tools/measurements.py autoattack            # measures, and shows the values beside the published ones
    python tests/tools/measurements.py autoattack --write    # and replaces the published ones

A measurement is a function of no arguments in MEASURED that returns what JSON can hold. Its docstring's first line
says what is measured. It names the recipes and attacks that it hangs on: when one of their versions is raised, a test
says that the measurement is stale.
"""

import argparse
import datetime
import json
import time

import torch

from advutils.attacks import VERSIONS as ATTACK_VERSIONS
from advutils.pretrained import VERSIONS as RECIPE_VERSIONS
from advutils.pretrained import machine
from advutils.utils.measurements import MEASUREMENTS

MEASURED = {}  # name: (function, recipes and attacks that it hangs on)


def measurement(*depends_on):
    """Enter a function into MEASURED under its name, with the recipes and attacks that it hangs on."""
    unknown = set(depends_on) - RECIPE_VERSIONS.keys() - ATTACK_VERSIONS.keys()
    if unknown:
        raise ValueError(f"depends_on: got {sorted(unknown)}; accepts names of recipes and of attacks")

    def enter(function):
        MEASURED[function.__name__] = (function, depends_on)
        return function

    return enter


def versions(depends_on):
    """The versions of today of these recipes and attacks."""
    return {name: (RECIPE_VERSIONS | ATTACK_VERSIONS)[name] for name in depends_on}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of --list; all if none")
    parser.add_argument("--list", action="store_true", help="say what can be measured, and stop")
    parser.add_argument("--write", action="store_true", help="replace the published values by what was measured")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.names) - MEASURED.keys():
        parser.error(f"NAME: got {', '.join(sorted(unknown))}; accepts {', '.join(MEASURED)}")
    for name in chosen.names or MEASURED:
        function, depends_on = MEASURED[name]
        if chosen.list:
            print(f"{name:20} {function.__doc__.splitlines()[0]}")
            continue
        path, started = MEASUREMENTS / f"{name}.json", time.monotonic()
        torch.manual_seed(0)
        values = json.loads(json.dumps(function()))
        seconds = time.monotonic() - started
        print(f"{name}, {seconds:.0f} s\n  measured here: {json.dumps(values)}", flush=True)
        if path.exists():
            print(f"  published:     {json.dumps(json.loads(path.read_text(encoding='utf-8'))['values'])}")
        if chosen.write:
            record = dict(
                command=f"python tests/tools/measurements.py {name}",
                date=datetime.date.today().isoformat(),
                machine=machine(),
                seconds=round(seconds),
                versions=versions(depends_on),
                values=values,
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
