"""Every kernel compiles for the GPUs it is meant for, found out with no GPU."""

import re

import nvrtc
import pytest

from minidat.fast.cuda.compile import FOLDER, REALS, WARP, blocks, source
from minidat.fast.cuda.small_attention import BYTES, ROOMS

FILES = sorted(path.name for path in FOLDER.glob("*.cu"))
ARCHITECTURES = ("sm_80", "sm_90")
FLOAT64 = {  # sums over a whole batch, or over all parameters, whose squares overflow and vanish in float32
    *("adamw.cu", "cross_entropy.cu", "tally.cu"),
}


@pytest.fixture(scope="module")
def compiler():
    found = nvrtc.library()
    if found is None:
        pytest.skip("NVRTC is not installed: pip install nvidia-cuda-nvrtc-cu12")
    return found


def options(real, architecture):
    return (f"-DREAL={real}", "-std=c++14", f"--gpu-architecture={architecture}")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("real", REALS.values())
@pytest.mark.parametrize("file", FILES)
def test_compiles(file, real, architecture, compiler):
    code = source(file)
    machine_code, _ = nvrtc.compile_kernels(compiler, code, options(real, architecture))
    assert machine_code.startswith(b"\x7fELF")


@pytest.mark.parametrize(
    "file, real, constant",
    [
        ("attention.cu", "float", f"ROOM={max(ROOMS)}"),
        ("attention.cu", "double", f"ROOM={max(room for room in ROOMS if 8 * room <= BYTES)}"),
        ("layer_norm.cu", "float", f"PIECES={blocks(1024, WARP)}"),
    ],
)
def test_compiles_with_the_largest_constants(file, real, constant, compiler):
    code = source(file)
    machine_code, _ = nvrtc.compile_kernels(compiler, code, (*options(real, "sm_90"), f"-D{constant}"))
    assert machine_code.startswith(b"\x7fELF")


def float64_lines(compiler, code):
    """What a text with REAL = float computes in float64: many times as slow on most GPUs, and easily written: `0.5 * x`."""
    _, ptx = nvrtc.compile_kernels(compiler, code, options("float", "sm_90"))
    return [
        line.strip()
        for line in ptx.splitlines()
        if re.search(r"\b(add|sub|mul|fma|div|rcp|sqrt|max|min)\S*\.f64", line)
    ]


@pytest.mark.parametrize("file", [file for file in FILES if file not in FLOAT64])
def test_computes_in_float32_where_it_is_given_float32(file, compiler):
    assert float64_lines(compiler, source(file)) == []


def test_a_constant_of_float64_is_found(compiler):
    assert float64_lines(compiler, "__global__ void f(REAL* y) { y[threadIdx.x] *= 0.3; }")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("__global__ void f(REAL* y) { y[0] = x; }", 'identifier "x" is undefined'),
        ("__global__ void f(REAL* y) { y[0] = 1 }", 'expected a ";"'),
        ("__global__ void f(REAL* y) { int unused; y[0] = 1; }", "never referenced"),
        (
            "__global__ void f(int* y) { __shared__ int s[20000]; s[*y] = 1; *y = s[threadIdx.x]; }",
            "too much shared data",
        ),
    ],
)
def test_a_broken_kernel_fails_with_the_compilers_words(code, message, compiler):
    with pytest.raises(nvrtc.CompileError, match=message):
        nvrtc.compile_kernels(compiler, code, options("float", "sm_90"))
