"""`advutils arena score`: the submissions of a class, scored again, as a table."""

import json
import secrets
from pathlib import Path

from advutils.cli import common
from advutils.exercises.arena.board import judge_file
from advutils.exercises.arena.defences import DEFENCES
from advutils.exercises.arena.judge import NOT_GUARANTEED
from advutils.utils.storage import atomic_write


def arena_command(chosen):
    common.check_json(chosen.out)
    seed = secrets.randbelow(2**31) if chosen.seed is None else chosen.seed  # the same noise for the whole class
    inside = {path: path.relative_to(chosen.folder).parts for path in chosen.folder.rglob("*.safetensors")}
    made_by_mac = (".", "__MACOSX")  # beside the files in a zip of such a computer
    paths = sorted(path for path, parts in inside.items() if not any(part.startswith(made_by_mac) for part in parts))
    if not paths:
        raise FileNotFoundError(f"folder: got {str(chosen.folder)!r}, where no .safetensors file lies; accepts one")
    files = [scored(path, chosen.folder, seed) for path in paths]
    best: dict[str, dict[str, float]] = {}
    for file in files:
        scores = best.setdefault(file["learner"], {})
        if "score" in file:
            scores[file["defence"]] = max(file["score"], scores.get(file["defence"], 0.0))
    print(written(best, files))
    if chosen.out:
        found = {"total": {who: sum(scores.values()) for who, scores in best.items()}, "best": best, "files": files}
        text = json.dumps({**found, "not_guaranteed": NOT_GUARANTEED}, indent=1, ensure_ascii=False) + "\n"
        atomic_write(chosen.out, text.encode("utf-8", "backslashreplace"))


def scored(path: Path, folder: Path, seed: int) -> dict:
    """What became of one file; a refused one costs its learner this file and nobody else anything."""
    inside = path.relative_to(folder)
    file = {"learner": inside.with_suffix("").parts[0], "file": str(inside)}
    try:
        verdict = judge_file(path, seed=seed)
    except (OSError, ValueError, TypeError) as error:
        return file | {"refused": " ".join(str(error).split())}
    counts = {word: verdict.status.count(word) for word in sorted(set(verdict.status))}
    return file | {"defence": verdict.name, "score": verdict.score, "hints": verdict.hints, "images": counts,
                   "seed": verdict.seed}  # fmt: skip


def written(best, files):
    """The table: a line for each learner, the highest total first, a column for each defence."""
    wide = max(map(len, best)) + 2
    lines = [" " * wide + "".join(f"{number:6}" for number in range(1, len(DEFENCES) + 1)) + "   total"]
    for who, scores in sorted(best.items(), key=lambda row: -sum(row[1].values())):
        cells = (f"{scores[name]:6.2f}" if name in scores else f"{'-':>6}" for name in DEFENCES)
        lines.append(f"{who:{wide}}{''.join(cells)}{sum(scores.values()):8.2f}")
    lines.append("  ".join(f"{number} {name}" for number, name in enumerate(DEFENCES, 1)))
    lines += [f"refused: {file['file']}: {file['refused']}" for file in files if "refused" in file]
    return "\n".join(lines)
