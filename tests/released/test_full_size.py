"""Full-size checkpoints written by PyTorch are recognised, give its logits, and come back as it wrote them; tables grow as
the released code makes them grow."""

import importlib
from dataclasses import replace

import numpy as np
import pytest

from minidat import Tensor
from minidat.autograd import no_grad
from minidat.models import zoo
from minidat.released import official

torch = pytest.importorskip("torch")
torch.set_num_threads(1)

rival = importlib.import_module("torch_dat")


def theirs(model, images):
    with torch.no_grad():
        return model(torch.from_numpy(images)).numpy()


def ours(model, images):
    with no_grad():
        return model(Tensor(images.transpose(0, 2, 3, 1).copy())).data


def noise(side, images=1):
    return np.random.default_rng(0).standard_normal((images, 3, side, side)).astype(np.float32)


def drawn(config, seed=0):
    """A PyTorch model as it starts, but with tables, norms and offsets that matter."""
    torch.manual_seed(seed)
    model = rival.TorchDAT(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(("table", "rpb", "norm.weight", "norm.bias", "conv_offset.3.weight")):
                p += 0.3 * torch.randn(p.shape)
    return model


@pytest.fixture(scope="module", params=["dat_tiny", "dat_pp_tiny"])
def checkpoint(request, tmp_path_factory):
    """(name, PyTorch's model, its logits of two images, the file it was saved to, our model read from that)"""
    model = drawn({"dat_tiny": rival.DAT_TINY, "dat_pp_tiny": rival.DAT_PP_TINY}[request.param])
    path = tmp_path_factory.mktemp("weights") / "checkpoint.pth"
    torch.save({"model": model.state_dict()}, path)
    return request.param, model, theirs(model, noise(224, 2)), path, official.from_file(path)


def test_a_checkpoint_is_recognised(checkpoint):
    name, _, _, path, model = checkpoint
    assert official.recognise(official.read_weights(path)) == name
    assert model.config == zoo.config(name)


def test_logits_of_one_image_agree_in_float32(checkpoint):
    _, _, expected, _, read = checkpoint
    found = ours(read, noise(224, 2)[:1])
    assert found.dtype == np.float32 and found.shape == (1, 1000)
    apart = abs(expected[0] - expected[1]).max()  # what is common to all images is no evidence
    assert abs(found[0] - expected[0]).max() < 1e-4 * apart


def test_it_comes_back_as_pytorch_wrote_it(checkpoint, tmp_path):
    name, model, expected, _, read = checkpoint
    official.save(read, tmp_path / "ours.pth")
    state = torch.load(tmp_path / "ours.pth", weights_only=True)["model"]
    again = rival.TorchDAT({"dat_tiny": rival.DAT_TINY, "dat_pp_tiny": rival.DAT_PP_TINY}[name]).eval()
    again.load_state_dict(state, strict=True)
    for key, tensor in model.state_dict().items():
        assert state[key].dtype == tensor.dtype and torch.equal(state[key], tensor), key
    np.testing.assert_allclose(theirs(again, noise(224, 2)[:1]), expected[:1], rtol=0, atol=1e-5 * abs(expected).max())


# From 224 to 384

NARROW = rival.DAT_TINY | {
    "num_classes": 5,
    "dims": [8, 16, 32, 64],
    "dim_stem": 8,
    "heads": [1, 2, 4, 8],
    "groups": [-1, -1, 2, 4],
    "depths": [2, 2, 2, 2],
    "stage_spec": [["L", "S"], ["L", "S"], ["L", "D"], ["L", "D"]],
}
BASE = rival.DAT_TINY | {  # an eighth as wide, which changes no table, mask or index
    "dims": [16, 32, 64, 128],
    "dim_stem": 16,
    "heads": [4, 8, 16, 32],
    "groups": [-1, -1, 4, 8],
    "depths": [2, 2, 18, 2],
    "stage_spec": [["L", "S"], ["L", "S"], ["L", "D"] * 9, ["L", "D"]],
}


def grown(name, table):
    """What the released `load_pretrained` does: bicubic, a window's table as an image of displacements."""
    images = table.double() if name.endswith("rpe_table") else table.double().T.reshape(-1, 13, 13)
    side = {27: 47, 13: 23}[images.shape[-1]]
    images = torch.nn.functional.interpolate(images[None], (side, side), mode="bicubic")[0]
    return (images if name.endswith("rpe_table") else images.flatten(1).T).float()


def test_tables_for_224_grow_for_384():
    """Windows of 7 become 12, maps of 14 become 24: the same logits as PyTorch's model with tables that PyTorch resized."""
    config = NARROW | {"img_size": 384, "window_sizes": [12] * 4}
    small, large = drawn(NARROW), rival.TorchDAT(config).eval()
    state = small.state_dict()
    tables = {name: grown(name, t) for name, t in state.items() if name.endswith("table")}
    buffers = {name: t for name, t in large.state_dict().items() if name.endswith(("index", "attn_mask"))}
    assert len(tables) == 8 and {t.shape[-1] for t in tables.values() if t.ndim == 3} == {47, 23}
    large.load_state_dict(state | tables | buffers, strict=True)

    model = official.build(config)
    arrays = {name: t.numpy() for name, t in state.items()}
    official.load(model, official.adapted(model, arrays))
    written = official.to_official(model)
    for name, table in tables.items():
        np.testing.assert_allclose(written[name], table.numpy(), rtol=0, atol=1e-6, err_msg=name)
    found, expected = ours(model, noise(384)), theirs(large, noise(384))
    assert abs(found - expected).max() < 1e-4 * abs(expected).max()


def test_dat_base_starts_dat_base_384(tmp_path, monkeypatch):
    """The whole checkpoint: what has no size is copied, every table is resized, masks and indices are the model's."""
    wide = zoo.config("dat_base_384")
    stages = [replace(stage, dim=dim) for stage, dim in zip(wide.stages, BASE["dims"], strict=True)]
    monkeypatch.setitem(zoo.MODELS, "dat_base_384", lambda: replace(wide, stages=tuple(stages)))
    with torch.device("meta"):
        shapes = rival.TorchDAT(BASE).state_dict()
    before = {
        name: torch.rand(t.shape) if t.is_floating_point() else torch.zeros_like(t, device="cpu")
        for name, t in shapes.items()
    }
    torch.save({"model": before}, tmp_path / "base.pth")
    model = official.from_file(tmp_path / "base.pth", "dat_base_384")
    after = official.to_official(model)
    tables = [name for name in before if name.endswith("table")]
    buffers = [name for name in before if name.endswith(("index", "mask"))]
    assert (len(tables), len(buffers)) == (24, 16)
    for name in tables:
        np.testing.assert_allclose(after[name], grown(name, before[name]), rtol=0, atol=1e-6, err_msg=name)
    for name in buffers:
        assert after[name].shape != before[name].shape and after[name].any(), name
    for name in before.keys() - {*tables, *buffers}:
        assert np.array_equal(after[name], before[name].numpy()), name
