"""Guesses and measurements made ahead."""

import json

import measurements as tool
import pytest

from advutils import guess, guess_score, load_measurement
from advutils.exercises.predictions import GUESSES
from advutils.utils.measurements import MEASUREMENTS


@pytest.fixture(autouse=True)
def no_guesses():
    GUESSES.clear()
    yield
    GUESSES.clear()


def test_a_guess_is_compared_with_what_was_measured(capsys):
    for made in (guess("How many?", 50, unit=" %"), guess("How many?")):
        made.compare(36.04)
    assert capsys.readouterr().out == "measured: 36 %   your guess: 50 %   off by 14 %\nmeasured: 36\n"
    assert repr(made) == "How many? no guess yet"


def test_the_score_counts_a_question_once_and_only_what_was_played():
    for answer in (90, 40):  # the cell is run twice
        guess("one?", answer).compare(36)
    guess("two?", 80).compare(36)
    guess("three?").compare(36)
    guess("not measured?", 36)
    assert guess_score() == "1 of your 2 guesses came within 10 of the measured number."
    assert guess_score(50).startswith("2 of your 2")


@pytest.mark.parametrize("bad", ["50", True, [50]])
def test_an_answer_is_a_number(bad):
    with pytest.raises(TypeError, match="answer: got"):
        guess("How many?", bad)
    with pytest.raises(ValueError, match="name: got 'nothing'; accepts one of"):
        load_measurement("nothing")


def test_every_published_measurement_has_its_program_and_none_is_stale():
    paths = {path.stem: path for path in MEASUREMENTS.glob("*.json")}
    assert paths.keys() == tool.MEASURED.keys()
    for name, path in paths.items():
        saved = json.loads(path.read_text(encoding="utf-8"))
        assert saved["versions"] == tool.versions(tool.MEASURED[name][1]), f"{name} is stale: measure it anew"
        assert saved["command"] == f"python tests/tools/measurements.py {name}" and saved["seconds"] >= 0


def test_a_measurement_is_written_when_asked_and_read_back(tmp_path, monkeypatch, capsys):
    def forty_two():
        """The answer."""
        return {"answer": 42}

    for module in ("advutils.utils.measurements", "measurements"):
        monkeypatch.setattr(f"{module}.MEASUREMENTS", tmp_path / "made")
    monkeypatch.setattr(tool, "MEASURED", {"forty_two": (forty_two, ("pgd",))})
    tool.main(["forty_two"])
    assert not list(tmp_path.iterdir())
    tool.main(["forty_two", "--write"])
    capsys.readouterr()
    assert load_measurement("forty_two") == {"answer": 42}
    assert "tests/tools/measurements.py forty_two" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        tool.main(["forty_three"])
