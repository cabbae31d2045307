import hashlib
from importlib import import_module

import pytest

from bm.studies import STUDIES
from bm.studies.twins import FAULT_KINDS, TWINS, make_twin, twin_faults


def contents(folder):
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", TWINS)
def test_each_twin_is_of_a_study_and_its_faults_are_explained(name):
    assert name in STUDIES and STUDIES[name].name == name
    faults = import_module(TWINS[name]).FAULTS
    assert twin_faults(name) == tuple(faults) and all(len(text) > 10 for text in faults.values())
    assert len(set(faults) & set(FAULT_KINDS)) > 3


@pytest.mark.parametrize("name", ["gwilliams2022", "schoffelen2019"])
def test_a_twin_is_the_same_whenever_it_is_made(name, tmp_path):
    one, two = (contents(make_twin(name, tmp_path / folder)) for folder in "ab")
    assert one == two and len(one) > 10
    other = contents(make_twin(name, tmp_path / "c", seed=99))
    assert set(other) != set(one) or other != one


def test_wrong_arguments(tmp_path):
    with pytest.raises(ValueError, match="cannot have the fault 'typo', expected one of"):
        make_twin("gwilliams2022", tmp_path / "b", "typo")
    (tmp_path / "full").write_text("")
    with pytest.raises(FileExistsError):
        make_twin("gwilliams2022", tmp_path)
    with pytest.raises(KeyError, match="no twin"):
        make_twin("simulated", tmp_path / "b")
