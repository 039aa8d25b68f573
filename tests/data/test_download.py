"""Archives are fetched from a server on this host that can misbehave."""

import dataclasses
import hashlib
import io
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from made_cifar import small, write  # noqa: F401 (small: a fixture)

from minidat.data import DataError, download, load


class Server(ThreadingHTTPServer):
    """Serves one archive at any path. ranges: honours Range. limit: hangs up after so many bytes."""

    def __init__(self, content, ranges=True, limit=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.ranges, self.limit, self.asked = content, ranges, limit, []

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    announced = True  # whether the length is said, or what is said instead

    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.ranges else 0
        if start >= len(server.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if self.announced:
            length = len(server.content) - start if self.announced is True else self.announced
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(server.content[start : None if server.limit is None else start + server.limit])

    def log_message(self, *_):
        pass


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """The content of a small CIFAR-10 archive, whose sum is the expected one from now on."""
    content = write(tmp_path, "cifar10", "binary", "archive").read_bytes()
    known = dataclasses.replace(download.ARCHIVES["cifar10"], md5=hashlib.md5(content).hexdigest())
    monkeypatch.setitem(download.ARCHIVES, "cifar10", known)
    return content


def opener_to(server):
    def opener(request, timeout):
        assert request.full_url == "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        return urllib.request.urlopen(urllib.request.Request(url, headers=request.headers), timeout=timeout)

    return opener


def test_fetch(tmp_path, archive):
    folder = tmp_path / "new" / "data"
    seen = []
    with Server(archive) as server:
        path = download.fetch("cifar10", folder, opener=opener_to(server), report=lambda *at: seen.append(at))
        again = download.fetch("cifar10", folder, opener=opener_to(server))
    assert path == again == folder / "cifar-10-binary.tar.gz" and path.read_bytes() == archive
    assert server.asked == [None]
    assert seen[-1] == (len(archive), len(archive))
    assert [entry.name for entry in folder.iterdir()] == ["cifar-10-binary.tar.gz"]
    assert len(load("cifar10", "train", data_dir=folder)) == 55


def test_fetch_says_how_far_it_is(tmp_path, archive, capsys):
    with Server(archive) as server:
        download.fetch("cifar10", tmp_path / "new", opener=opener_to(server))
    size = f"{len(archive) / 1e6:.1f}"
    assert capsys.readouterr().err.endswith(f"cifar-10-binary.tar.gz: {size} of {size} MB (100 %)\n")


@pytest.mark.parametrize("ranges", [True, False])
def test_fetch_goes_on_where_a_connection_was_cut(tmp_path, archive, ranges):
    folder = tmp_path / "new"
    with Server(archive, ranges, limit=1000) as server:
        with pytest.raises(DataError, match=f"stopped after 1000 of {len(archive)} bytes .* try again"):
            download.fetch("cifar10", folder, opener=opener_to(server))
        assert (folder / "cifar-10-binary.tar.gz.part").stat().st_size == 1000
        server.limit = None
        seen = []
        path = download.fetch("cifar10", folder, opener=opener_to(server), report=lambda *at: seen.append(at))
    assert server.asked == [None, "bytes=1000-"]
    assert seen[-1] == (len(archive), len(archive))
    assert path.read_bytes() == archive and not (folder / "cifar-10-binary.tar.gz.part").exists()


def test_fetch_takes_a_part_that_is_whole(tmp_path, archive):
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "cifar-10-binary.tar.gz.part").write_bytes(archive)
    with Server(archive) as server:
        assert download.fetch("cifar10", folder, opener=opener_to(server)).read_bytes() == archive


def test_fetch_deletes_what_has_the_wrong_sum(tmp_path, archive):
    folder = tmp_path / "new"
    wrong = archive[:-1] + b"?"
    with Server(wrong) as server, pytest.raises(DataError) as caught:
        download.fetch("cifar10", folder, opener=opener_to(server))
    for content in (wrong, archive):
        assert hashlib.md5(content).hexdigest() in str(caught.value)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "error, what",
    [
        (urllib.error.URLError("no route to host"), "cannot be reached (no route to host)"),
        (TimeoutError(), "cannot be reached (TimeoutError)"),
        (urllib.error.HTTPError("", 404, "Not Found", None, io.BytesIO()), "answered 404 Not Found"),
    ],
)
def test_no_network(tmp_path, error, what):
    def opener(request, timeout):
        raise error

    with pytest.raises(DataError) as caught:
        download.fetch("cifar100", tmp_path, opener=opener)
    said = str(caught.value)
    assert said.startswith(f"cifar100: https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz {what}; ")
    assert f"put it in {tmp_path}" in said and "--data shapes" in said and "cifar-100-binary.tar.gz (MD5" in said
    with pytest.raises(ValueError, match="'shapes' has no archive, expected one of cifar10, cifar100"):
        download.fetch("shapes", tmp_path, opener=opener)


def test_load_downloads_when_asked_to_and_only_then(tmp_path, archive, monkeypatch):
    with Server(archive) as server:
        monkeypatch.setattr(download.fetch, "__kwdefaults__", {"opener": opener_to(server), "report": None})
        with pytest.raises(DataError, match="does not exist, expected CIFAR-10"):
            load("cifar10", "test", data_dir=tmp_path / "new")
        assert server.asked == []
        assert len(load("cifar10", "test", data_dir=tmp_path / "new", download=True)) == 7
        assert len(load("cifar10", "test", data_dir=tmp_path / "new", download=True)) == 7
    assert server.asked == [None]


@pytest.mark.parametrize("announced", [True, False])
def test_more_than_an_archive_has_is_not_kept(tmp_path, archive, monkeypatch, announced):
    """A server that sends without an end fills no disk."""
    monkeypatch.setattr(download, "LARGEST", len(archive) - 1)
    monkeypatch.setattr(Handler, "announced", announced)
    folder = tmp_path / "new"
    with Server(archive) as server, pytest.raises(DataError) as caught:
        download.fetch("cifar10", folder, opener=opener_to(server))
    assert f"sends more than {len(archive) - 1} bytes, which no genuine archive has; nothing is kept" in str(
        caught.value
    )
    assert list(folder.iterdir()) == []


def test_a_length_that_is_no_number_is_no_length(tmp_path, archive, monkeypatch):
    monkeypatch.setattr(Handler, "announced", "many")
    with Server(archive) as server:
        assert download.fetch("cifar10", tmp_path / "new", opener=opener_to(server)).read_bytes() == archive


def test_two_processes_do_not_write_one_file(tmp_path, archive):
    """While one fetches, another is told to wait; it takes what is there afterwards."""
    told = []

    def report(*_):
        if not told:
            with pytest.raises(DataError, match=r"another process fetches .* wait for its end") as caught:
                download.fetch("cifar10", tmp_path / "new", opener=opener_to(server))
            told.append(caught.value)

    with Server(archive) as server:
        path = download.fetch("cifar10", tmp_path / "new", opener=opener_to(server), report=report)
    assert told and path.read_bytes() == archive and server.asked == [None]
