"""Every test runs somewhere on purpose."""

import devices


def test_every_file_runs_on_all_devices_or_says_why_not():
    for file in devices.TESTS.rglob("test_*.py"):
        path = file.relative_to(devices.TESTS).as_posix()
        places = (devices.EVERYWHERE, devices.ABOUT_DEVICES, tuple(devices.ON_CPU))
        assert sum(path.startswith(place) for place in places) == 1, path


def test_what_is_listed_exists():
    for path in (*devices.EVERYWHERE, *devices.ON_CPU):
        folder, _, name = path.rpartition("/")
        assert list((devices.TESTS / folder).glob(f"{name}*")), path
    files = (file for place in devices.EVERYWHERE for file in devices.TESTS.glob(f"{place}*"))
    sources = "".join(file.read_text("utf-8") for file in files if file.suffix == ".py")  # not __pycache__
    for name in devices.ON_CPU_ALONE:
        assert f"def {name}(" in sources
