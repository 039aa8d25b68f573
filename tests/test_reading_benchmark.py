"""The benchmark of reading runs, and prints what it reads a second."""

import re

import reading


def test_a_line_for_each_number_of_workers(capsys):
    assert reading.main(["--workers", "0", "1", "--seconds", "0.05", "--image", "32"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "workers  pictures/s"
    assert [re.fullmatch(r" +(\d)  +[\d.]+", line)[1] for line in lines[1:]] == ["0", "1"]
