"""Every kernel compiles for the GPUs it is meant for, found out with no GPU."""

import nvrtc
import pytest

from minidat.kernels.compile import FOLDER, REALS

FILES = sorted(path.name for path in FOLDER.glob("*.cu"))
ARCHITECTURES = ("sm_80", "sm_90")


@pytest.fixture(scope="module")
def compiler():
    found = nvrtc.library()
    if found is None:
        pytest.skip("NVRTC is not installed: pip install nvidia-cuda-nvrtc-cu12")
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("real", REALS.values())
@pytest.mark.parametrize("file", FILES)
def test_compiles(file, real, architecture, compiler):
    options = (f"-DREAL={real}", "-std=c++14", f"--gpu-architecture={architecture}", "-Werror=all-warnings")
    assert nvrtc.compile_kernels(compiler, (FOLDER / file).read_text("utf-8"), options)[:4] == b"\x7fELF"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("__global__ void f(REAL* y) { y[0] = x; }", 'identifier "x" is undefined'),
        ("__global__ void f(REAL* y) { y[0] = 1 }", 'expected a ";"'),
        (
            "__global__ void f(int* y) { __shared__ int s[20000]; s[*y] = 1; *y = s[threadIdx.x]; }",
            "too much shared data",
        ),
    ],
)
def test_a_broken_kernel_fails_with_the_compilers_words(code, message, compiler):
    with pytest.raises(nvrtc.CompileError, match=message):
        nvrtc.compile_kernels(compiler, code, ("-DREAL=float", "--gpu-architecture=sm_90"))
