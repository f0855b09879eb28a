"""Work in several processes."""

from __future__ import annotations

import functools
import math
import os
from pathlib import Path

import pytest

from bolid.training.processes import ProcessDied, cores, results_in_processes


def test_every_item_has_its_result():
    assert sorted(results_in_processes(math.sqrt, [value**2 for value in range(9)], workers=2)) == list(range(9))
    assert list(results_in_processes(math.sqrt, [], workers=2)) == []
    assert cores() >= 1


def test_a_process_begins_with_what_it_is_told(tmp_path: Path):
    begin = functools.partial(os.chdir, tmp_path)
    (path,) = results_in_processes(os.path.abspath, ["a"], workers=2, initializer=begin)
    assert Path(path) == tmp_path / "a"


def test_errors_come_through():
    with pytest.raises(ValueError, match="math domain"):
        list(results_in_processes(math.sqrt, [-1.0], workers=1))


def test_a_process_that_dies_is_told_with_its_items():
    with pytest.raises(ProcessDied) as raised:
        list(results_in_processes(os._exit, [3], workers=2))
    assert raised.value.items == [3]
