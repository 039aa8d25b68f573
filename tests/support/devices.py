"""The devices that tests run on, and which tests run on which.

"cpu" is NumPy; "stand-in" is `standin.py`, CuPy's rules on NumPy's arithmetic; "gpu" is CuPy, where it finds a GPU.
"""

from pathlib import Path

import pytest

from minidat.autograd.backend import DeviceError, device_module

TESTS = Path(__file__).resolve().parents[1]
NAMES = ("cpu", "stand-in", "gpu")

EVERYWHERE = (  # on each device in turn, unchanged: see `crossing.py`
    "ops/test_adjoint.py",
    "ops/test_dense_oracles.py",
    "ops/test_gradients.py",
    "ops/test_kinks.py",
    "ops/test_separable.py",
    "ops/test_three_versions.py",
    "attention/",
    "autograd/test_check.py",
    "models/test_backbone.py",
    "models/test_pyramid.py",
    "released/test_released.py",
    "released/test_options.py",
    "released/test_resize.py",
)
# they ask for what they need
ABOUT_DEVICES = "device/", "fast/cuda/", "fast/test_", "test_benchmarks.py", "test_gpu_command.py"
ON_CPU = {  # and why no device has a part in what they prove
    "ops/test_options.py": "messages",
    "models/test_layers.py": "layers, each of which is in a network of models/test_pyramid.py on devices",
    "ops/test_properties.py": "drawn shapes: each op is on devices in ops/test_gradients.py",
    "ops/test_odd_inputs.py": "NumPy's own rules for empty, integer and NaN arrays; ops/test_kinks.py has NaN on devices",
    "ops/test_mutants.py": "tests of the tests: finite differences see an error wherever it was made",
    "autograd/test_shapes.py": "signature strings",
    "autograd/test_engine.py": "graphs, memory and threads; the engine's own arithmetic is in device/test_engine.py",
    "released/test_pth.py": "files",
    "released/test_contents.py": "files",
    "released/test_state_dict.py": "names",
    "test_unpickle.py": "files",
    "test_weights_flags.py": "files and pictures",
    "metrics/": "counts, of arrays that were brought back",
    "released/test_dense.py": "names and layouts of released checkpoints, which are read on the CPU",
    "released/test_official.py": "names and layouts of released checkpoints, which are read on the CPU",
    "models/test_zoo.py": "names and sizes",
    "models/test_changes.py": "words that change a configuration",
    "released/test_full_size.py": "files, and networks like those of test_released.py, only larger",
    "dense/": "boxes and masks on the host; device/test_dense.py has whole models on devices",
    "fast/numba/": "loops for the CPU",
    "fast/cpu/": "arrangements for the CPU",
    "data/": "files and pictures",
    "training/": "files, threads, restarts and formulas; device/ has the steps and runs of a device, beside the CPU's",
    "experiments/": "runs on one thread of the CPU, tables and pictures of them",
    "analysis/": "pictures, tables and counts, made from arrays that were brought back",
    "chapters/": "notebooks, which are worked through in NumPy",
    "test_cli": "text",
    "test_predict.py": "files and pictures",
    "test_environment.py": "packages",
    "test_included.py": "files",
    "test_export.py": "files",
    "test_imports.py": "source text",
    "test_readme.py": "text",
    "test_results.py": "numbers in files",
    "test_docs.py": "text",
    "test_scale.py": "a formula, and times of processes",
    "test_growth.py": "a formula, and times of processes",
    "test_jax_rival.py": "JAX, on the CPU",
    "test_precision.py": "rounding, emulated in NumPy",
    "test_readers.py": "pictures and counts of a network that is trained on the CPU",
    "test_reading_benchmark.py": "files",
    "test_torch_rival.py": "PyTorch",
}
ON_CPU_ALONE = {  # the same for tests in files of EVERYWHERE
    **dict.fromkeys(
        (
            "test_gradient_agrees_with_finite_differences",
            "test_vjp_is_the_adjoint",
            "test_an_error_of_one_part_in_a_million_is_seen",
            "test_constants_get_no_gradient",
            "test_value_has_the_shape_of_the_signature",
            "test_value_and_gradients_keep_the_dtype",
            "test_float32_agrees_with_float64",
        ),
        "device/test_ops.py and fast/test_every_implementation.py compare values, gradients, shapes and dtypes with the CPU's",
    ),
    "test_an_option_is_what_pytorch_makes_of_it": "the test after it has the options on devices, several at a time",
    "test_the_module_is_the_op": "a test beside it has each pair of options",
    "test_maps_of_one_pixel_are_finite": "the same",
    "test_sizes_that_disagree_are_named": "signatures are checked before anything crosses",
    "test_missing_axes_are_named": "signatures are checked before anything crosses",
    "test_no_input_is_written_to": "a crossing looks for it in every test",
    "test_indices_out_of_range_and_of_arrays_are_refused": "asking a device for its largest index would be to wait for it",
    "test_what_is_no_map_is_refused_by_name": "NumPy's subclasses and objects, which no device takes",
    "test_queries_and_maps_of_several_levels_are_checked_too": "the same",
    "test_what_does_not_fit_is_named": "messages",
    "test_the_size_that_a_message_names_fits": "messages",
}


def gpu_is_there():
    try:
        return bool(device_module("gpu"))
    except DeviceError:
        return False


HERE = [name for name in NAMES if name != "gpu" or gpu_is_there()]


def goes_everywhere(file, test):
    return file.relative_to(TESTS).as_posix().startswith(EVERYWHERE) and test not in ON_CPU_ALONE


def parameters(names):
    return [pytest.param(name, marks=pytest.mark.gpu) if name == "gpu" else name for name in names]
