"""How a step grows: the limit, the numbers and the picture of a rehearsal, and that the page has them."""

import json

import growth
import pytest
from cases import keywords, network
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from minidat.analysis.cost import cost, totals

POINTS = [growth.Point("dat_cifar", side, 32, 2) for side in (32, 64)]


def content(seconds=((0.2, 0.1, 0.3), (0.4, 0.4, 0.4)), peaks=(50e9, 80e9), adds=10**9):
    row = {
        "multiply_adds": adds,
        "seconds": dict(zip(growth.SIDES, seconds)),
        "megabytes": {"minidat": 10.0, "torch": 20.0},
    }
    rows = [{**p._asdict(), **row} for p in POINTS]
    return {"about": "here", "rounds": 3, "peaks": {"2": dict(zip(("numpy", "torch"), peaks))}, "rows": rows}


@given(st.floats(1e9, 1e12), st.integers(1, 10**12))
def test_the_limit_is_three_passes_of_multiply_adds_at_the_faster_librarys_peak(flops, adds):
    found = growth.Found(content(peaks=(flops, flops / 2), adds=adds))
    assert found.time("limit", POINTS[0]) == pytest.approx(1e3 * 6 * adds / flops)


def test_times_are_medians_of_an_image_and_shares_of_rounds():
    found = growth.Found(content())
    assert found.time("minidat", POINTS[0]) == pytest.approx(1e3 * 0.2 / 32)
    assert found.share(POINTS[0]) == pytest.approx(0.5)
    row = growth.table(found)[4]
    assert row == "| dat_cifar | 32 | 32 | 2 | 6.25 | 12.5 | 75 | 0.50 × | 0.1 × | 10 | 20 |"


@pytest.mark.parametrize("cores", [1, 2, 6])
def test_every_point_is_a_network_whose_maps_its_windows_tile(cores):
    """On both sides; threads go from one to all in powers of two."""
    points = growth.every(growth.panels(cores, quick=False))
    assert len(points) == len(set(points)) and {p.threads for p in points} == {1, *(2, 4, 6)[: cores // 2], cores}
    for model, image in sorted({(p.model, p.image) for p in points}):
        config = network(model, image).config
        for size, stage in zip(config.map_sizes(), config.stages, strict=True):
            assert size % stage.window == 0 or not set("LS") & set(stage.mixers)
        assert keywords(config)["img_size"] == image


def test_deformable_attention_on_every_pixel_costs_little_more_than_full_attention():
    deformable, full = (totals(cost(network(name, 224))).multiply_adds for name in ("one D", "one P"))
    assert 1 < deformable / full < 1.1


def test_a_rehearsal_measures_draws_and_fills_a_page(tmp_path, capsys):
    pytest.importorskip("torch")
    page = tmp_path / "speed.md"
    page.write_text("<!-- growth: begin -->\n<!-- growth: end -->\n")
    words = ["--quick", "--rounds", "1", "--threads", "1", "--loops", "numpy", "--out", str(tmp_path)]
    assert growth.main(words) == 0
    said, found = capsys.readouterr().out, growth.Found(json.loads((tmp_path / "speed.json").read_text()))
    points = growth.every(growth.panels(1, quick=True))
    assert list(found.rows) == points and len(points) == 4
    for p in points:
        assert min(found.time(side, p) for side in growth.SIDES) > found.limit(p) > 0
    table = growth.table(found)
    assert page.read_text().split("\n")[3:-2] == table and "\n".join(table) in said
    assert "PyTorch" in table[0] and all(row.count("|") == table[2].count("|") for row in table[3:-2])
    with Image.open(tmp_path / "speed.png") as picture:
        assert picture.width > 1000
    assert growth.main([*words, "--draw"]) == 0  # the same from the file


def test_a_point_where_a_side_fails_is_left_out_and_told(tmp_path, monkeypatch, capsys):
    def failing(point, rounds, loops):
        if point.model == "one D":
            raise growth.SideError("PyTorch, eager: killed")
        return {**point._asdict(), **content()["rows"][0], **point._asdict(), "about": ["a library"]}

    monkeypatch.setattr(growth, "measured", failing)
    monkeypatch.setattr(growth, "peak", lambda *_: 1e11)
    assert growth.main(["--quick", "--threads", "2", "--out", str(tmp_path)]) == 1
    assert "one D" in (said := capsys.readouterr()).err and "left out: PyTorch, eager: killed" in said.err
    assert "| deformable, r = 1 |" not in said.out and "| full attention |" in said.out
