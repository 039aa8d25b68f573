"""benchmarks/gpu.py from start to end on the stand-in: a step that fails and one that hangs take nothing from the others."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import cases
import pytest
from gpu_steps import bench, cifar, kernels, tests
from turns import Found

SUPPORT = Path(__file__).parent / "support"
SPEC = importlib.util.spec_from_file_location("gpu_command", SUPPORT.parents[1] / "benchmarks" / "gpu.py")
gpu = sys.modules["gpu_command"] = importlib.util.module_from_spec(SPEC)  # chapter 17 has a module called gpu
SPEC.loader.exec_module(gpu)
STEPS = {
    "fails": """
def run(options, found):
    found.say("so far so good")
    raise OSError("the GPU fell off the bus")
""",
    "hangs": """
import os, pathlib, subprocess, sys, time
def run(options, found):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    pathlib.Path(options["out"], "child").write_text(str(child.pid))
    found.say("before it hangs")
    time.sleep(60)
""",
    "crashes": """
import os
def run(options, found):
    print("out of luck", flush=True)
    os._exit(9)
""",
}


@pytest.fixture
def command(device, tmp_path, monkeypatch, capsys):
    """Runs the command with these arguments into tmp_path/out, the stand-in its GPU; (exit code, the page, what was printed)."""
    if not hasattr(device, "RawModule"):
        pytest.skip("the stand-in runs kernels by way of g++ on Linux only")
    if not hasattr(device, "__file__"):
        monkeypatch.setattr(gpu, "PATH", (SUPPORT / "pretend", *gpu.PATH))

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["gpu.py", "--out", str(tmp_path / "out"), *map(str, arguments)])
        code = gpu.main()
        said = capsys.readouterr()
        page = tmp_path / "out" / "README.md"
        return SimpleNamespace(code=code, page=page.read_text("utf-8") if page.exists() else "", **said._asdict())

    return run


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """Steps that fail and hang, beside the real ones."""
    for name, text in STEPS.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setattr(gpu, "PATH", (tmp_path, *gpu.PATH))


def test_from_start_to_end(command, broken, tmp_path, monkeypatch):
    """All steps at tiny sizes in one call, those that go wrong first."""
    real = gpu.steps
    wrong = [gpu.Step(name, name, f"It {name}", 8 if name == "hangs" else 60) for name in STEPS]
    monkeypatch.setattr(gpu, "steps", lambda small: [*wrong, *real(small)])
    done = command("--small")
    assert done.code == 1
    rows = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in done.page.splitlines() if "| 20" in line}
    expected = {"It fails": "failed: 1 failure", "It hangs": "stopped: 1 failure", "It crashes": "failed: 1 failure"}
    assert {name: rows.pop(name) for name in expected} == expected
    assert set(rows.values()) == {"passed"} and len(rows) == len(real(True)) == 6, done.out
    for text in (
        "so far so good",
        "OSError: the GPU fell off the bus",
        "before it hangs",
        "stopped after 8 s",
        "out of luck",
    ):
        assert text in done.page, text
    child = int((tmp_path / "out" / "child").read_text())
    end = time.monotonic() + 10
    while running(child):
        assert time.monotonic() < end, "what a step started runs on"
        time.sleep(0.02)
    numbers = {s["name"]: s for s in json.loads((tmp_path / "out" / "gpu.json").read_text("utf-8"))["steps"]}
    smoke = numbers["smoke"]["found"]["data"]
    assert smoke["tiny"]["graph"] and smoke["tiny"]["equal"] and smoke["tiny"]["finite"] and smoke["ops"]["failed"] == 0
    assert set(smoke["products"]) == {"fp64", "fp32", "tf32", "bf16"}
    assert numbers["tests"]["found"]["data"]["passed"] >= 6 and numbers["tests"]["found"]["data"]["failed"] == 0
    (minidat,) = numbers["bench-tiny-2"]["found"]["data"]["fp32"]
    assert len(minidat["seconds"]) == 3 and minidat["notes"] == []
    assert set(numbers["kernels"]["found"]["data"]["tiny step, batch 2"]["parts"]) == set(kernels.PARTS)
    assert (tmp_path / "out" / "train.jsonl").exists() and (tmp_path / "out" / "curves.png").exists()
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        *("README.md", "gpu.json", "output.txt", "train.jsonl", "curves.png", "child")
    }
    assert all(len(line) < 80 for line in done.out.splitlines() if str(tmp_path) not in line)
    again = command("--small", "--only", "report", "--minutes", "0")  # no time: what was found before stays
    assert again.code == 1 and "No time was left." in again.page and "| It hangs | stopped" in again.page


def running(pid):
    """Whether this process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_no_gpu_is_one_line(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    done = command()
    assert done.code == 1 and done.err.startswith("gpu.py: device 'gpu' needs CuPy") and done.err.count("\n") == 1
    assert done.page == "" and done.out == ""


def test_what_is_asked_for_wrongly_is_one_line(command, tmp_path):
    done = command("--only", "smok")
    assert done.code == 1 and done.err.startswith(
        "gpu.py: no step is called smok; steps: report, smoke, tests, warm, bench-"
    )
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "gpu.json").write_text("{")
    done = command("--only", "report")
    assert done.code == 1 and done.err.startswith(f"gpu.py: --out {tmp_path / 'out'}: ") and done.err.count("\n") == 1
    done = command("--list")
    assert done.code == 0 and [line.split()[0] for line in done.out.splitlines()] == [s.name for s in gpu.steps(False)]


def test_every_step_has_its_file_and_cifar_needs_its_data(command):
    for small in (False, True):
        for step in gpu.steps(small):
            assert callable(import_module(step.module).run)
            json.dumps(step.options)
    assert [s.name for s in gpu.steps(False)].count("bench-cifar-128") == 1
    done = command("--only", "cifar")
    assert done.code == 1 and "no CIFAR-10: name its folder or archive with --cifar" in done.page


class Finding:
    """What a step tells."""

    def __init__(self):
        self.data, self.lines, self.failures = {}, [], []

    def say(self, *lines):
        self.lines += lines

    def fail(self, what, details):
        self.failures.append(what)


def test_a_trace_becomes_a_table_by_kernel():
    """Of two replays."""
    events = [("column_sums", "kernel", 10.0), ("column_sums", "kernel", 14.0), ("column_sums", "cpu_op", 99.0)]
    events += [("void gemm<float, 128>(int)", "kernel", 30.0), ("void gemm<float, 128>(int)", "kernel", 30.0)]
    events += [("cupy_add__float32", "kernel", 6.0), ("Memcpy DtoD (Device -> Device)", "gpu_memcpy", 4.0)]
    trace = {"traceEvents": [{"name": n, "cat": c, "dur": d} for n, c, d in events] + [{"name": "x", "cat": "kernel"}]}
    rows = kernels.read(trace, 2)
    assert [(r["name"][:11], r["kind"], r["launches"], r["microseconds"]) for r in rows] == [
        ("void gemm<f", "cuBLAS and others", 1, 30),
        ("column_sums", "minidat", 1, 12),
        ("cupy_add__f", "CuPy", 0.5, 3),
        ("Memcpy DtoD", "copies", 0.5, 2),
    ]
    found = Finding()
    kernels.tell(cases.Case("c", "tiny", 2, "step"), rows, found)
    assert "| cuBLAS and others | 1 | 30 | 63.8 % |" in found.lines and "| all | 3 | 47 | 100.0 % |" in found.lines
    assert "| `gemm<…>` | 1 | 30 | 63.8 % |" in found.lines
    kernels.tell(cases.Case("d", "tiny", 2, "step"), [], found)
    assert found.failures == ["d: the profiler saw no kernel"]
    assert {"adamw", "column_sums", "bilinear"} - kernels.own_kernels() <= {"bilinear"}


def test_a_report_of_tests_is_counted(tmp_path):
    report = tmp_path / "report.xml"
    report.write_text(
        '<testsuites><testsuite><testcase classname="a.b" name="t1"/><testcase classname="a.b" name="t2">'
        '<failure message="assert 1 == 2">where</failure></testcase><testcase classname="a" name="t3">'
        '<skipped message="no g++"/></testcase><testcase classname="a" name="t4"><error message="gone"/></testcase>'
        "</testsuite></testsuites>"
    )
    found = Finding()
    tests.read(report, found)
    assert found.data == {"passed": 1, "failed": 2, "skipped": 1, "skips": {"no g++": 1}}
    assert found.failures == ["a.b::t2", "a::t4"] and found.lines[0] == "1 passed, 2 failed, 1 skipped."


def test_the_slower_formulation_is_left_out_in_tf32():
    times = {"minidat": 3.0, "torch": 2.0, "torch sdpa": 1.0, "compiled": 1.0, "compiled sdpa": 2.0}
    shown = [Found(name, seconds=[t]) for name, t in times.items()]
    assert bench.without_the_slower(shown) == ["minidat", "torch sdpa", "compiled"]
    shown[2].seconds, shown[3].seconds, shown[4].seconds = [], [], []
    assert bench.without_the_slower(shown) == ["minidat", "torch", "compiled", "compiled sdpa"]


def test_accuracy_and_pace_are_told():
    records = [{"kind": "train", "images_per_second": 100.0}, {"kind": "train", "images_per_second": 300.0}]
    records += [{"kind": "test", "epoch": 1, "accuracy": 0.4321, "seconds": 2.5}]
    found = Finding()
    cifar.tell(records, "minidat train", found)
    assert "| 1 | 43.21 | 2.5 |" in found.lines and "300 images a second (median of the log's lines)." in found.lines


def test_it_starts_from_a_bare_checkout(tmp_path):
    """With nothing of the checkout on Python's path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, str(gpu.HERE / "gpu.py"), "--list"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stdout.startswith("report") and done.stderr == ""
