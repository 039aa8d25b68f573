"""pyproject.toml, environment.yml, the Makefile and the README say the same."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
ENVIRONMENT, WITH_CUDA = (
    yaml.safe_load((ROOT / name).read_text("utf-8")) for name in ("environment.yml", "environment-cuda.yml")
)


def by_name(requirements):
    parsed = [Requirement(text) for text in requirements]
    return {item.name: item.specifier for item in parsed if item.name != "minidat"}


RUNTIME = by_name(PROJECT["dependencies"])
CONDA_NAMES = {"nvidia-cuda-nvrtc-cu12": "cuda-nvrtc"}


def conda(environment):
    """Name → floor of what an environment asks for, from conda-forge and by pip."""
    items = environment["dependencies"]
    return by_name([*(i for i in items if isinstance(i, str) and i != "pip"), *items[-1]["pip"][:-1]])


PINNED = {"ruff", "ty"}  # for those who change minidat: `make lint types` gets exactly these


def test_environment_has_the_names_and_floors_of_pyproject():
    tools = {CONDA_NAMES.get(name, name): floor for name, floor in by_name(EXTRAS["dev"]).items() if name not in PINNED}
    expected = {
        "python": SpecifierSet(PROJECT["requires-python"]),
        **RUNTIME,
        "cupy": by_name(EXTRAS["cuda12"])["cupy-cuda12x"],
        **by_name(EXTRAS["book"]),
        **by_name(EXTRAS["chapters"]),
        **by_name(EXTRAS["compiled"]),
        **tools,
    }
    assert expected == conda(WITH_CUDA)


def test_only_the_one_for_a_gpu_asks_for_cuda():
    """A Mac, and a machine without a GPU, can make the other."""
    cuda = {"cupy", "cuda-nvrtc"}
    assert conda(ENVIRONMENT) == {name: floor for name, floor in conda(WITH_CUDA).items() if name not in cuda}
    assert cuda < set(conda(WITH_CUDA)) and ENVIRONMENT["name"] != WITH_CUDA["name"]


@pytest.mark.parametrize("environment", [ENVIRONMENT, WITH_CUDA], ids=lambda environment: environment["name"])
def test_an_environment_is_conda_forge_and_ends_in_minidat_itself(environment):
    assert environment["channels"] == ["conda-forge"]
    assert environment["dependencies"][-2] == "pip" and environment["dependencies"][-1]["pip"][-1] == "-e ."


def test_both_cudas_ask_for_the_same_cupy():
    assert by_name(EXTRAS["cuda12"]) == {"cupy-cuda12x": SpecifierSet(">=14")}
    assert by_name(EXTRAS["cuda13"]) == {"cupy-cuda13x": SpecifierSet(">=14")}


def test_runtime_needs_neither_a_gpu_nor_a_framework():
    assert set(RUNTIME) == {"numpy", "matplotlib", "safetensors", "pillow", "threadpoolctl"}


def test_every_requirement_has_a_floor_and_only_the_tools_are_pinned():
    everything = {**RUNTIME, **by_name(text for extra in EXTRAS.values() for text in extra)}
    operators = {name: {part.operator for part in specifier} for name, specifier in everything.items()}
    assert operators == {name: {"=="} if name in PINNED else {">="} for name in everything}


def test_the_version_is_the_packages():
    assert f'__version__ = "{PROJECT["version"]}"' in (ROOT / "minidat" / "__init__.py").read_text("utf-8")


def makefile_targets():
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE))


def test_the_readmes_commands_are_in_the_makefile():
    readme = (ROOT / "README.md").read_text("utf-8")
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", readme, flags=re.DOTALL))
    told = set(re.findall(r"\bmake ([a-z]+)", code))
    assert {"train", "test"} <= told <= makefile_targets()


def test_continuous_integration_runs_targets_of_the_makefile():
    run = ROOT / ".ci" / "run"
    assert os.access(run, os.X_OK)
    assert re.findall(r"^make (.*)$", run.read_text("utf-8"), flags=re.MULTILINE) == [
        "lint",
        "types",
        "test",
        "notebooks ARGS=--check",
    ]
    assert {"lint", "types", "test", "notebooks"} <= makefile_targets()


FAKE_PYTHON = """#!/bin/sh
# Stands for python3: has the version check believe in $VERSION, writes down what else it is asked for.
case "$1 $2 $3" in
    "-c "*) exec {python} -c "import sys; sys.version_info = ($VERSION, 0); exec(sys.argv[1])" "$2" ;;
    "-m venv .venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python; touch .venv/pip
        for name in minidat ruff ty jupyter; do printf '#!/bin/sh\\necho %s "$@"' $name > .venv/bin/$name; done
        chmod +x .venv/bin/* ;;
    "-m pip --version") test -e .venv/pip; exit ;;
esac
echo "$@" >> asked
test -z "$FAIL" -o "$2" = venv
"""


@pytest.fixture
def make(tmp_path):
    """Runs make where a stand-in is Python; gives what make said and what Python was asked for."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    python = tmp_path / "python"
    python.write_text(FAKE_PYTHON.replace("{python}", sys.executable))
    python.chmod(0o755)

    def run(*arguments, version="3, 11", fails=False, **variables):
        outer = ("MAKE", "MFLAGS", "ARGS", "EXTRAS")  # these tests may run inside a make
        environment = {name: value for name, value in os.environ.items() if not name.startswith(outer)}
        done = subprocess.run(
            ["make", f"PYTHON={python}", *arguments],
            cwd=tmp_path,
            env={**environment, "VERSION": version, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode != 0) == fails, done.stderr
        asked = tmp_path / "asked"
        lines = asked.read_text().splitlines() if asked.exists() else []
        asked.unlink(missing_ok=True)
        return done.stdout + done.stderr, [re.sub(r"--\S+ ", "", line) for line in lines]

    run.folder = tmp_path
    return run


VENV, RUNTIME_INSTALL, DEV_INSTALL = "-m venv .venv", "-m pip install -e .[compiled]", "-m pip install -e .[dev]"


def test_make_train_needs_the_runtime_only_and_makes_venv_once(make):
    output, asked = make("train", "ARGS=--epochs 3")
    assert asked == [VENV, RUNTIME_INSTALL]
    assert "minidat train --epochs 3" in output
    assert make("train")[1] == []


def test_make_test_installs_what_tests_need(make):
    assert make("test")[1] == [VENV, DEV_INSTALL, "-m pytest -n auto worksteal"]
    assert make("test", "ARGS=-x")[1] == ["-m pytest -n auto worksteal -x"]
    assert make("lint", "types")[1] == []
    assert make("train")[1] == [RUNTIME_INSTALL]


def test_make_chapters_runs_its_command(make):
    output, asked = make("chapters", "ARGS=06 --no-browser")
    assert asked == [VENV, "-m pip install -e .[chapters]"]
    assert "minidat chapters 06 --no-browser" in output


def test_make_book_and_notebooks_run_their_scripts(make):
    assert make("book")[1] == [VENV, "-m pip install -e .[book]", "chapters/book.py"]
    assert make("notebooks", "ARGS=--check")[1] == ["-m pip install -e .[chapters]", "chapters/build.py --check"]


def test_a_changed_pyproject_installs_again(make):
    make("train")
    newer = (make.folder / ".venv" / ".runtime").stat().st_mtime + 10
    os.utime(make.folder / "pyproject.toml", (newer, newer))
    assert make("train")[1] == [RUNTIME_INSTALL]


def test_extras_are_installed_beside_the_rest(make):
    make("train")
    assert make("train", "EXTRAS=cuda12")[1] == ["-m pip install -e .[compiled,cuda12]"]
    assert make("test", "EXTRAS=cuda12")[1][0] == "-m pip install -e .[dev,cuda12]"
    assert make("train", "EXTRAS=cuda12")[1] == []


def test_a_failed_installation_is_tried_again(make):
    """Without numba first: it may be what cannot be installed."""
    output, asked = make("train", fails=True, FAIL="1")
    assert asked == [VENV, RUNTIME_INSTALL, "-m pip install -e ."] and "without numba" in output
    assert make("train")[1] == [RUNTIME_INSTALL]


@pytest.mark.parametrize("version", ["3, 10", "2, 7"])
def test_an_old_python_is_refused_by_name(make, version):
    output, asked = make("train", version=version, fails=True)
    assert (
        f"minidat needs Python 3.11 or newer, but {make.folder}/python is {version.replace(', ', '.')}; try" in output
    )
    assert asked == [] and not (make.folder / ".venv").exists()


def test_an_absent_python_is_named(make):
    output, _ = make("train", "PYTHON=no-such-python", fails=True)
    assert "minidat needs Python 3.11 or newer, but there is no 'no-such-python'" in output


def test_make_clean_keeps_data_and_runs(make):
    make("train")
    for folder in ("runs", "data", "minidat/__pycache__", ".pytest_cache"):
        (make.folder / folder).mkdir(parents=True)
    make("clean")
    left = {str(path.relative_to(make.folder)) for path in make.folder.rglob("*")}
    assert left == {"Makefile", "pyproject.toml", "python", "runs", "data", "minidat"}


def test_make_alone_lists_every_target(make):
    listed = re.findall(r"^  make ([a-z]+) +\S", make()[0], flags=re.MULTILINE)
    assert len({re.match(r"  make \w+ +", line).end() for line in make()[0].splitlines()}) == 1  # aligned
    assert set(listed) == makefile_targets() and len(listed) == 10
