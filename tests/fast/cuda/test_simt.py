"""The emulator itself: right kernels run, and each mistake that it is there for is caught."""

import numpy as np
import pytest
import simt

pytestmark = pytest.mark.skipif(not simt.is_there(), reason="kernels run on the CPU by way of g++ on Linux only")


def run(body, *args, parameters, grid=1, block=32, before="", real="double"):
    code = f'{before}\nextern "C" __global__ void f({parameters}) {{ {body} }}'
    module = simt.RawModule(code=code, options=(f"-DREAL={real}",))
    module.get_function("f")((grid,), (block,), args)


def test_every_thread_of_every_block_runs_once():
    out = np.zeros(7 * 33, np.int32)
    run("n[blockIdx.x * blockDim.x + threadIdx.x] += 1 + gridDim.x;", out, parameters="int* n", grid=7, block=33)
    assert (out == 8).all()


def test_three_dimensions():
    out = np.zeros((2, 3, 4, 5), np.int32)
    code = 'extern "C" __global__ void f(int* n) {n[((blockIdx.y * 3 + blockIdx.x) * 4 + threadIdx.y) * 5 + threadIdx.x]++;}'
    simt.RawModule(code=code).get_function("f")((3, 2), (5, 4), (out,))
    assert (out == 1).all()


SUM = """
    __shared__ REAL s[64];
    s[threadIdx.x] = x[threadIdx.x];
    for (int half = 32; half; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) s[threadIdx.x] += s[threadIdx.x + half];
    }
    if (threadIdx.x == 0) *y = s[0];
"""


@pytest.mark.parametrize("real", ["float", "double"])
def test_shared_memory_and_barriers(real):
    x = np.arange(64, dtype=simt.DTYPES[real])
    y = np.zeros(1, x.dtype)
    run(SUM, x, y, parameters="const REAL* x, REAL* y", block=64, real=real)
    assert y[0] == x.sum()


SHUFFLES = {
    "__shfl_xor_sync(~0u, v, 5)": lambda i: i ^ 5,
    "__shfl_xor_sync(~0u, v, 9, 16)": lambda i: i ^ 9,
    "__shfl_down_sync(~0u, v, 3)": lambda i: np.where(i + 3 < 32, i + 3, i),
    "__shfl_down_sync(~0u, v, 3, 8)": lambda i: np.where(i % 8 + 3 < 8, i + 3, i),
    "__shfl_up_sync(~0u, v, 2)": lambda i: np.where(i >= 2, i - 2, i),
    "__shfl_sync(~0u, v, 7)": lambda i: i * 0 + 7,
    "__shfl_sync(~0u, v, 1, 4)": lambda i: i // 4 * 4 + 1,
    "__shfl_xor_sync(i < 16 ? 0xffffu : 0xffff0000u, v, 8)": lambda i: i ^ 8,
    "(int)__ballot_sync(~0u, i == 4)": lambda i: i * 0 + 16,
    "__any_sync(~0u, i == 40)": lambda i: i * 0,
    "__all_sync(~0u, v >= 0)": lambda i: i * 0 + 1,
}


@pytest.mark.parametrize("expression", SHUFFLES)
def test_warp_functions(expression):
    out = np.zeros((2, 32), np.int32)
    body = f"int i = threadIdx.x % 32, v = i, t = {expression}; y[threadIdx.x] = __shfl_sync(~0u, t, i);"
    run(body, out, parameters="int* y", block=64)
    np.testing.assert_array_equal(out, [SHUFFLES[expression](np.arange(32))] * 2)


@pytest.mark.parametrize("shift", range(16))
def test_half_a_warp_that_is_ahead_takes_nothing_from_the_other_half(shift):
    out = np.zeros((16, 32), np.int32)  # blocks, each in an order of its own
    body = """
        int i = threadIdx.x, v = __shfl_sync(~0u, i, (i + shift) % 16);
        if (i < 16) for (int k = 0; k < 3; k++) __shfl_sync(0xffffu, -1, i);
        y[blockIdx.x * 32 + i] = v;
    """
    run(body, np.int32(shift), out, parameters="int shift, int* y", grid=16)
    np.testing.assert_array_equal(out, [(np.arange(32) + shift) % 16] * 16)


MISTAKES = {
    "reads past the end": ("y[i] = x[i + 1];", "array 'x' is read or written 0 bytes past its end"),
    "writes past the end": ("y[i + 1] = 0;", "array 'y' is read or written 0 bytes past its end"),
    "writes before the start": ("y[i - 1] = 0;", "array 'y' is written 8 bytes before its start"),
    "far before the start": ("y[i] = x[i - 1000];", r"array 'x' is read or written \d+ bytes before its start"),
    "nowhere": ("*(REAL*)8 = 0;", "memory that is no argument's"),
    "past shared memory": ("__shared__ REAL s[31]; s[i] = 0;", "index 31 is outside of its array"),
    "past a local array": ("REAL s[3] = {}; y[i] = s[i % 4];", "index 3 is outside of its array"),
    "half at a barrier": ("if (i < 16) __syncthreads();", "waits at line 2 for threads that never come; 16 of 32"),
    "two barriers": ("if (i < 16)\n__syncthreads();\nelse __syncthreads();", "while others wait for it at line"),
    "half at a shuffle": ("if (i < 16) y[i] = __shfl_xor_sync(~0u, x[i], 1);", "waits at line 2"),
    "another mask": (
        "if (!i || i > 15) y[i] = __shfl_xor_sync(i ? 0xffff0001u : 0x1ffffu, x[i], 0);",
        "while others gave",
    ),
    "left out of the mask": ("y[i] = __shfl_xor_sync(0xffffu, x[i], 1);", "leaves out lane"),
    "reads a lane that is not in the mask": (
        "if (i < 16) y[i] = __shfl_xor_sync(0xffffu, x[i], 16);",
        "which mask 0000ffff leaves out",
    ),
    "division by zero": ("y[i] = i / (int)(blockDim.x - 32);", "division by zero"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_an_error(mistake):
    body, message = MISTAKES[mistake]
    x, y = np.zeros(32), np.zeros(32)
    with pytest.raises(simt.KernelError, match=message):
        run(f"int i = threadIdx.x; {body}", x, y, parameters="const REAL* x, REAL* y")
    test_shared_memory_and_barriers("double")  # the next launch is none the worse for it


def test_a_missing_barrier_shows():
    y = np.zeros(64)
    run(
        "__shared__ REAL s[64]; s[threadIdx.x] = 1; y[threadIdx.x] = s[63 - threadIdx.x];",
        y,
        parameters="REAL* y",
        block=64,
    )
    assert np.isnan(y).any()


@pytest.mark.parametrize("who", ["block", "thread"])
def test_what_depends_on_an_order_shows(who):
    y = np.zeros(8, np.int32)
    body = f"int i = {who}Idx.x; if (i) y[i] = y[i - 1] + 1;"
    run(body, y, parameters="int* y", grid=8 if who == "block" else 1, block=8 if who == "thread" else 1)
    assert not np.array_equal(y, np.arange(8))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((3, 0.5), "argument 'n' is int 3; it must be a number of int32"),
        ((np.int64(3), np.float64(0.5)), "argument 'n' is int64"),
        ((np.int32(3), 0.5), "argument 'a' is float 0.5; it must be a number of float64"),
        ((np.int32(3), np.float32(0.5)), "argument 'a' is float32"),
        ((np.int32(3), np.zeros(1)), "argument 'a' is ndarray"),
    ],
)
def test_numbers_must_be_of_the_parameters_type(args, message):
    with pytest.raises(TypeError, match=message):
        run("y[0] = n * a;", *args, np.zeros(1), parameters="int n, REAL a, REAL* y")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(4, np.float32), "array of float32; it must be one of float64"),
        (np.zeros((4, 4)).T[:2], "not C-contiguous"),
        (np.float64(1), "must be an array"),
    ],
)
def test_arrays_must_be_of_the_parameters_type(array, message):
    with pytest.raises(TypeError, match=message):
        run("y[0] = 1;", array, parameters="REAL* y")


def test_sizes_and_counts():
    for sizes, message in (({"grid": 0}, "grid"), ({"block": 0}, "block"), ({"block": 1025}, "more than 1024")):
        with pytest.raises(simt.KernelError, match=message):
            run("y[0] = 1;", np.zeros(1), parameters="REAL* y", **sizes)
    with pytest.raises(simt.KernelError, match="2 arguments for 1"):
        run("y[0] = 1;", np.zeros(1), np.zeros(1), parameters="REAL* y")


def test_arrays_may_be_one_but_not_overlap():
    x = np.arange(4.0)
    run("int i = threadIdx.x; y[i] = x[i] + 1;", x, x, parameters="const REAL* x, REAL* y", block=4)
    np.testing.assert_array_equal(x, [1, 2, 3, 4])
    with pytest.raises(simt.KernelError, match="'x' and 'y' overlap"):
        run("y[0] = 0;", x[:3], x[1:], parameters="const REAL* x, REAL* y")


@pytest.mark.parametrize("body", ["atomicAdd(y, (REAL)1);", "y = 0", "extern __shared__ REAL s[];"])
def test_what_does_not_compile_says_why(body):
    with pytest.raises(simt.KernelError, match="error"):
        run(body, np.zeros(1), parameters="REAL* y")


def test_an_unknown_kernel_or_type_is_named():
    with pytest.raises(simt.KernelError, match="no kernel 'g'; there are f"):
        simt.RawModule(code='extern "C" __global__ void f(int* n) {}').get_function("g")
    with pytest.raises(simt.KernelError, match="'half'"):
        run("", parameters="half* y")


@pytest.mark.skipif(" fma " not in simt.processor(), reason="an x86 processor with FMA")
def test_products_may_be_joined_with_sums_and_denormals_flushed(monkeypatch):
    """x² less its own rounding is 0, unless the product is kept exact for the difference."""
    x, y = np.array([1 + 2.0**-12, 1e-20, 0], np.float32), np.zeros(2, np.float32)  # the square of 1e-20 is a denormal
    x[2] = x[0] * x[0]
    for fused in (False, True):
        monkeypatch.setenv("SIMT_FUSED", str(int(fused)))
        body = "y[0] = x[0] * x[0] - x[2]; y[1] = x[1] * x[1];"
        run(body, x, y, parameters="const REAL* x, REAL* y", real="float")
        assert [y[0] != 0, y[1] == 0] == [fused, fused]
