"""Frozen parts do not move, old layers move less: to the bit, and at the price that is promised."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from minidat import Tensor, cli
from minidat.models import Config, create
from minidat.models.zoo import MODELS, stages
from minidat.training import checkpoint
from minidat.training.arena import Arena
from minidat.training.finetune import depth, parts, rates
from minidat.training.folder import BEST, LAST
from minidat.training.loop import Interrupted, Reporter, Run
from minidat.training.optim import AdamW, clip_by_norm
from minidat.training.settings import Settings

SHORT = Settings(epochs=2, batch=4, train_size=14, test_size=5, micro=2, lr=1e-2, warmup=0.5, recipe="paper")


@pytest.fixture(autouse=True)
def tiny(monkeypatch, unrendered):
    made = stages((8, 16), (2, 4), ("LS", "LD"), window=2, groups=(1, 2), kernel=3)
    monkeypatch.setitem(MODELS, "dat_micro", lambda: Config(32, 8, 10, made, drop_path=0.3))


class Quiet(Reporter):
    """Watches a run and says nothing."""


def parameters(run):
    return {name: t.data.copy() for name, t in zip(run.arena.names, run.arena.tensors, strict=True)}


def trained(folder, **changes):
    """(the run at its end, its parameters at the start)"""
    run = Run.start(replace(SHORT, **changes), folder, threads=1)
    before = parameters(run)
    run.train(Quiet())
    return run, before


@pytest.mark.parametrize(
    ("freeze", "still"),
    [
        ("0", ("stem.",)),
        ("1", ("stem.", "stages.0.", "downs.0.")),
        ("2", ("stem.", "stages.", "downs.")),
        ("stages.1,norm.beta", ("stages.1.", "norm.beta")),
        ("head", ("head.",)),
    ],
)
def test_what_is_frozen_stays_to_the_bit_and_all_else_moves(tmp_path, freeze, still):
    """Under weight decay, clipping and drop path."""
    run, before = trained(tmp_path / "run", freeze=freeze, weight_decay=0.5, clip=0.1)
    after = parameters(run)
    for name, array in before.items():
        assert np.array_equal(after[name], array) == name.startswith(still), name
    frozen = sum(array.size for name, array in before.items() if name.startswith(still))
    assert run.arena.frozen == frozen
    assert not run.optimiser.m[run.arena.data.size - frozen :].any()
    assert not run.optimiser.v[run.arena.data.size - frozen :].any()
    kept = checkpoint.load(tmp_path / "run" / BEST)[0]
    assert kept.keys() == {f"{kind}/{name}" for kind in ("parameters", "adamw.m", "adamw.v") for name in before}


def test_what_moves_moves_as_if_nothing_were_frozen(tmp_path):
    """Of one step, without clipping: a frozen part changes no gradient beside it."""
    once = {"epochs": 1, "batch": 14, "clip": 0.0, "warmup": 0.0}
    (free, _), (run, _) = trained(tmp_path / "free", **once), trained(tmp_path / "run", freeze="1", **once)
    for name, tensor in zip(run.arena.names, run.arena.tensors, strict=True):
        if tensor.requires_grad:
            assert np.array_equal(tensor.data, parameters(free)[name]), name


def tape(run):
    """Tensors that a backward pass goes through."""
    x = Tensor(np.zeros((1, 32, 32, 3), np.float32))
    seen, stack = set(), [run.model(x)]
    while stack:
        node = stack.pop()
        if id(node) not in seen and node.requires_grad:
            seen.add(id(node))
            stack.extend(node.parents)
    return len(seen)


def test_a_backward_pass_ends_where_the_frozen_beginning_does(tmp_path):
    sizes = [
        tape(Run.start(replace(SHORT, freeze=freeze), tmp_path / str(freeze), threads=1))
        for freeze in (None, "0", "1", "2")
    ]
    whole, stem, one, two = sizes
    assert two < 0.1 * whole and two < one < 0.7 * whole < stem < whole
    assert two == 4 + 3  # γ, β, W, b; the last norm, the mean over the map, the logits


def test_a_frozen_run_goes_on_equal_to_the_bit(tmp_path):
    settings = replace(SHORT, freeze="1", layer_decay=0.6)
    trained(tmp_path / "whole", freeze="1", layer_decay=0.6)
    run = Run.start(settings, tmp_path / "stopped", threads=1)
    order = run.order
    run.order = lambda step: (setattr(run.stop, "asked", step == 2), order(step))[1]
    with pytest.raises(Interrupted):
        run.train(Quiet())
    resumed = Run.resume(tmp_path / "stopped", threads=1)
    arena = resumed.arena
    assert resumed.notes[0] == f"frozen: {arena.frozen:,} of {arena.data.size:,} parameters"
    resumed.train(Quiet())
    one, other = (checkpoint.load(tmp_path / name / LAST)[0] for name in ("whole", "stopped"))
    assert all(np.array_equal(one[name], other[name]) for name in one)


# Rates


def test_depths_are_swins():
    """Of DAT-T: two blocks, two, six and two."""
    blocks, names = [2, 2, 6, 2], list(create("dat_tiny").parameters())
    found = {name: depth(name, blocks) for name in names}
    assert found["stem.conv.weight"] == found["stem.norm.beta"] == 0
    assert found["stages.0.blocks.0.norm1.gamma"] == 1
    assert found["stages.2.blocks.5.mixer.table"] == 10 == found["downs.2.conv.weight"]
    assert found["downs.0.norm.gamma"] == 2 == found["stages.0.blocks.1.mlp.out.bias"]
    assert found["stages.3.blocks.1.mlp.hidden.weight"] == 12
    assert found["norm.gamma"] == found["head.bias"] == 13
    assert set(found.values()) == set(range(14))
    shares = rates(names, blocks, freeze="1", layer_decay=0.75)
    assert shares["head.weight"] == 1 and shares["stages.3.blocks.1.norm1.beta"] == 0.75
    assert (
        shares["stages.1.blocks.0.norm1.beta"] == 0.75**10
        and shares["downs.0.norm.gamma"] == 0 == shares["stem.norm.beta"]
    )


def test_vectors_of_positions_and_a_widening_are_as_deep_as_the_stem():
    assert [depth(name, [2]) for name in ("positions", "widen.weight")] == [0, 0]
    assert parts("1", [2]) == ["stem", "widen", "positions", "stages.0", "downs.0"]


def by_definition(parameters, gradients, shares, *, lr, decay, steps):
    """AdamW for each parameter alone, with a learning rate of its own."""
    out = {}
    for name, theta in parameters.items():
        m = v = 0.0
        theta, rate = theta.astype(np.float64), lr * shares[name]
        for t, step in enumerate(gradients[:steps], 1):
            m, v = 0.9 * m + 0.1 * step[name], 0.999 * v + 0.001 * step[name] ** 2
            theta = theta * (1 - rate * decay * (theta.ndim > 1))
            theta = theta - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        out[name] = theta
    return out


SHAPES = {
    "stem.weight": (5, 7),
    "stem.bias": (7,),
    "mid.weight": (3, 2),
    "mid.bias": (2,),
    "head.weight": (2, 11),
    "head.bias": (11,),
}
SHARES = {"stem": 0.25, "mid": 0.5, "head": 1.0}


def stepped(put, shares, steps=3):
    """(arena after some steps, optimiser, what it must be)"""
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    gradients = [
        {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()} for _ in range(steps)
    ]
    tensors = {name: SimpleNamespace(data=put(array)) for name, array in arrays.items()}
    arena = Arena(tensors, shares)
    optimiser, flat = AdamW(arena, weight_decay=0.3), put(np.zeros(arena.data.size, np.float32))
    for step in gradients:
        arena.flatten([put(step[name]) if shares[name] else None for name in arena.names], flat)
        optimiser.clipped_step(flat, 1e-2, 1e9)
    expected = by_definition(arrays, gradients, shares, lr=1e-2, decay=0.3, steps=steps)
    return arena, optimiser, arrays, expected


@pytest.mark.parametrize("frozen", [(), ("stem.weight", "mid.bias")])
def test_each_layer_steps_at_its_own_rate(frozen):
    shares = {name: 0.0 if name in frozen else SHARES[name.partition(".")[0]] for name in SHAPES}
    arena, _, arrays, expected = stepped(lambda array: array, shares)
    for name, view in arena.views(arena.data).items():
        if name in frozen:
            assert np.array_equal(view, arrays[name])
        else:
            np.testing.assert_allclose(view, expected[name], rtol=2e-6, atol=2e-6)


def test_a_share_of_one_changes_no_bit():
    usual, _, _, _ = stepped(lambda array: array, dict.fromkeys(SHAPES, 1.0))
    tensors = {name: SimpleNamespace(data=np.zeros(shape, np.float32)) for name, shape in SHAPES.items()}
    assert Arena(tensors).slices == usual.slices and Arena(tensors).segments == usual.segments
    assert [segment.decays for segment in usual.segments] == [True, False]


def test_the_whole_norm_is_clipped_as_before():
    flat = np.array([3.0, 0.0, 4.0], np.float32)
    assert clip_by_norm(flat, 2.5) == 5.0 and flat.tolist() == [1.5, 0.0, 2.0]


def test_what_cannot_be_frozen_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    short = (
        "train",
        "--epochs",
        "1",
        "--warmup",
        "0",
        "--batch",
        "4",
        "--train-size",
        "8",
        "--test-size",
        "4",
        "--threads",
        "1",
    )
    wrong = {
        ("--freeze", "3"): "freeze 3: the network has 2 stages",
        (
            "--freeze",
            "stage.1",
        ): "freeze stage.1: the network has no stage.1; its parts are stem, stages, downs, norm, head",
        ("--freeze", "stages.1,body"): "freeze stages.1,body: the network has no body",
        ("--freeze", "stem,stages,downs,norm,head"): "every parameter is frozen, so there is nothing to train",
        ("--freeze", "stem;"): "freeze is 'stem;'; it must be a number of stages",
        ("--layer-decay", "0"): "layer_decay is 0.0; it must be above 0 and at most 1",
    }
    for flags, said in wrong.items():
        assert cli.main([*short, *flags, "--out", "run"]) == 1
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1, error
        assert not Path("run").exists()
