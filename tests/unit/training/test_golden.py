"""Numbers do not change under a version that stays: tests/tools/golden.py keeps them, and says what to do."""

import copy
import json

import golden
import pytest


@pytest.fixture(scope="module")
def found():
    return golden.numbers()


def test_numbers_are_those_of_their_versions(found):
    assert list(golden.complaints(json.loads(golden.FILE.read_text()), found)) == []


def test_a_changed_number_and_a_raised_version_are_told_apart(found):
    for case in found:
        other = copy.deepcopy(found)
        other[case]["numbers"][0] += 0.01
        assert [line.split(":")[1] for line in golden.complaints(found, other)] == [" numbers changed"]
        other[case]["version"] += 1
        assert ["version was raised" in line for line in golden.complaints(found, other)] == [True]


def test_changed_numbers_are_not_written_under_the_old_version(found, monkeypatch, tmp_path):
    old = copy.deepcopy(found)
    old["attack fgsm"]["numbers"][0] += 0.01
    kept = tmp_path / "golden.json"
    kept.write_text(json.dumps(old))
    monkeypatch.setattr(golden, "FILE", kept)
    monkeypatch.setattr(golden, "numbers", lambda: copy.deepcopy(found))
    with pytest.raises(SystemExit, match="nothing was written"):
        golden.main(["--write"])
    assert json.loads(kept.read_text()) == old
