"""Downloads from a server on the loopback interface that misbehaves as asked."""
import hashlib
import io
import json
import re
import tarfile
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bm import progress
from bm.studies import download as module
from bm.studies import nh2015
from bm.studies.download import (
    DownloadError,
    Manifest,
    RemoteFile,
    download,
    extract,
    human,
    join_url,
    offline,
    total_size,
)
from bm.studies.sources import fetch

CONTENT = {"a.bin": bytes(range(256)) * 4000, "b.txt": b"some text\n"}


@dataclass
class Server:
    """`requests`: (path, Range) of each request. `cut`: how many of the next answers end after half of what is asked
    for. `ranges`: whether it can continue. `wait`: seconds before an answer."""

    url: str = ""
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    cut: int = 0
    ranges: bool = True
    wait: float = 0.0


@pytest.fixture
def server():
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802  the name http.server calls
            wanted = self.headers.get("Range")
            state.requests.append((self.path, wanted))
            time.sleep(state.wait)
            body = CONTENT.get(self.path.strip("/"))
            if body is None:
                self.send_error(404)
                return
            first = int(wanted[6:-1]) if wanted and state.ranges else 0
            if first >= len(body):
                self.send_error(416)
                return
            self.send_response(206 if first else 200)
            self.send_header("Content-Length", str(len(body) - first))
            self.end_headers()
            body = body[first:]
            if state.cut:
                state.cut -= 1
                body = body[:len(body) // 2]
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        state.url = f"http://127.0.0.1:{httpd.server_address[1]}/"
        yield state
        httpd.shutdown()
        thread.join()


def remote(server: Server, name: str = "a.bin", **changes) -> RemoteFile:
    body = CONTENT[name]
    file = RemoteFile(f"sub/{name}", (server.url + name,), len(body), hashlib.sha256(body).hexdigest())
    return replace(file, **changes)


def manifest(server: Server) -> Manifest:
    return Manifest("toy", "https://example.org/toy", tuple(remote(server, name) for name in CONTENT))


def test_fetch_and_dry_run(server, tmp_path):
    toy = manifest(server)
    plan = toy.plan(tmp_path / "toy")
    assert "2 of 2 files are missing" in plan and "1.0 MB to download" in plan and server.url + "a.bin" in plan
    assert not server.requests and not (tmp_path / "toy").exists()
    found = toy.fetch(tmp_path / "toy")
    assert {path: file.read_bytes() for path, file in found.items()} == {f"sub/{n}": b for n, b in CONTENT.items()}
    assert len(server.requests) == 2 and "0 of 2 files are missing" in toy.plan(tmp_path / "toy")
    toy.fetch(tmp_path / "toy")
    assert len(server.requests) == 2
    assert not list((tmp_path / "toy").rglob("*.part"))


def test_progress_is_of_bytes(server, tmp_path, monkeypatch, caplog):
    """Also of one large file, which is continued after it broke off."""
    monkeypatch.setattr(progress, "EVERY", 0.0)
    server.cut = 1
    manifest(server).fetch(tmp_path)
    lines = [line for line in caplog.messages if line.startswith("toy: ")]
    counted = [float(re.match(r"toy: ([\d.]+)kB of 1.02MB, ", line)[1]) for line in lines if "kB of" in line]
    assert len(counted) >= 2 and counted == sorted(counted) and lines[-1].startswith("toy: 1.02MB of 1.02MB"), lines


def test_manifest_from_json(tmp_path):
    about = {"study": "toy", "page": "p", "sources": [{"folder": "x", "urls": ["http://m1/", "http://m2/"], "files": {
        "d/a b.bin": {"size": 3, "sha256": "0" * 64, "aliases": ["c.bin"]}, "e": {}}}]}
    (tmp_path / "files.json").write_text(json.dumps(about))
    toy = Manifest.load(tmp_path / "files.json")
    assert toy.files == (RemoteFile("x/d/a b.bin", ("http://m1/d/a%20b.bin", "http://m2/d/a%20b.bin"), 3, "0" * 64,
                                    ("c.bin",)), RemoteFile("x/e", ("http://m1/e", "http://m2/e")))
    assert toy.select(["x/e"]).files == toy.files[1:]
    with pytest.raises(KeyError):
        toy.select(["x/f"])


def test_interrupted_transfer_is_continued(server, tmp_path):
    server.cut = 1
    download(remote(server), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT["a.bin"]
    first, second = [wanted for _, wanted in server.requests]
    assert first is None and 0 < int(second[6:-1]) <= len(CONTENT["a.bin"]) // 2


def test_what_a_killed_process_left_is_continued(server, tmp_path):
    (tmp_path / "a.part").write_bytes(CONTENT["a.bin"][:1000])
    download(remote(server), tmp_path / "a")
    assert [r for _, r in server.requests] == ["bytes=1000-"]
    (tmp_path / "b.part").write_bytes(CONTENT["a.bin"])  # killed before the check
    download(remote(server), tmp_path / "b")
    assert len(server.requests) == 1
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == CONTENT["a.bin"]


@pytest.mark.parametrize("left", [b"not the beginning", b"x" * 2_000_000])
def test_what_does_not_fit_is_started_anew(server, tmp_path, left):
    (tmp_path / "a.part").write_bytes(left)
    download(remote(server), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT["a.bin"]
    assert [r for _, r in server.requests] == [f"bytes={len(left)}-", None]


def test_a_server_that_cannot_continue(server, tmp_path):
    server.ranges = False
    server.cut = 1
    download(remote(server), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT["a.bin"]
    assert len(server.requests) == 3


def test_without_checksum_nothing_is_continued(server, tmp_path):
    server.cut = 1
    download(remote(server, sha256=None, size=None), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT["a.bin"]
    assert [r for _, r in server.requests] == [None, None]


def test_wrong_content_is_named_and_not_kept(server, tmp_path):
    file = remote(server, sha256="f" * 64)
    with pytest.raises(ValueError, match=f"a.bin serves has SHA-256 [0-9a-f]{{64}}, expected {'f' * 64}"):
        download(file, tmp_path / "a")
    assert len(server.requests) == 1 and not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="has 1024000 bytes, expected 5"):
        download(remote(server, size=5), tmp_path / "a")


def test_mirrors(server, tmp_path):
    file = remote(server)
    for first in ("http://127.0.0.1:9/gone", server.url + "missing", server.url + "b.txt"):
        download(replace(file, urls=(first, *file.urls)), tmp_path / "a")
        assert (tmp_path / "a").read_bytes() == CONTENT["a.bin"]
        (tmp_path / "a").unlink()


def test_offline_says_what_to_do(tmp_path):
    toy = Manifest("toy", "https://example.org/toy", (RemoteFile("sub/a.bin", ("http://127.0.0.1:9/a.bin",), 10),))
    with pytest.raises(FileNotFoundError) as caught:
        toy.fetch(tmp_path / "data")
    said = str(caught.value)
    for part in ("study toy: 1 of its 1 files", "sub/a.bin", "127.0.0.1:9", "https://example.org/toy",
                 str(tmp_path / "data"), "study_paths.toy", "BM_DATA"):
        assert part in said


@pytest.mark.parametrize("sha256", [True, False])
def test_a_connection_that_drops(server, tmp_path, sha256):
    """One line, the lock is released, and what is kept can be continued: the same call goes on."""
    from filelock import FileLock
    file = remote(server) if sha256 else remote(server, sha256=None)
    toy = Manifest("toy", "https://example.org/toy", (remote(server, "b.txt"), file))
    toy.select(["sub/b.txt"]).fetch(tmp_path)
    server.cut = module.ATTEMPTS
    with pytest.raises(DownloadError) as caught:
        toy.fetch(tmp_path)
    said = str(caught.value)
    assert said.startswith(f"study toy: 1 of its 2 files are missing in {tmp_path}: sub/a.bin cannot be downloaded "
                           f"({server.url}a.bin: the connection dropped). Run the same command again later: it goes on")
    assert "\n" not in said and len(said.replace(str(tmp_path), "")) < 400
    with FileLock(tmp_path / ".download.lock", timeout=0):
        part = tmp_path / "sub/a.bin.part"
        assert part.exists() == sha256
    server.requests.clear()
    assert toy.fetch(tmp_path)["sub/a.bin"].read_bytes() == CONTENT["a.bin"] and not part.exists()
    assert [bool(wanted) for _, wanted in server.requests] == [sha256]


def test_a_server_that_refuses(server, tmp_path):
    """Nothing is left but the empty lock."""
    for url, why in [("http://127.0.0.1:9/a.bin", "no connection"), (server.url + "gone.bin", "404 Not Found")]:
        toy = Manifest("toy", "https://example.org/toy", (RemoteFile("sub/a.bin", (url,), 10, "0" * 64),))
        with pytest.raises(DownloadError, match=re.escape(f"({url}: {why})")):
            toy.fetch(tmp_path)
        assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [".download.lock"]


def test_a_second_process_waits(server, tmp_path, caplog):
    server.wait = 0.3
    with caplog.at_level("INFO", module.__name__), ThreadPoolExecutor(2) as pool:
        one, two = [pool.submit(manifest(server).fetch, tmp_path) for _ in range(2)]
        assert one.result() == two.result()
    assert len(server.requests) == 2 and "waiting for another process" in caplog.text


def test_copies_are_found_by_name(server, tmp_path, caplog):
    toy = manifest(server)
    toy = replace(toy, files=(replace(toy.files[0], aliases=("renamed.bin",)), toy.files[1]))
    deep = tmp_path / "elsewhere" / "deep"
    deep.mkdir(parents=True)
    (deep / "renamed.bin").write_bytes(CONTENT["a.bin"])
    (deep / "b.txt").write_bytes(CONTENT["b.txt"])
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    assert toy.fetch(folder) == {"sub/a.bin": folder / "linked/deep/renamed.bin",
                                 "sub/b.txt": folder / "linked/deep/b.txt"}
    assert not server.requests and list(folder.iterdir()) == [folder / "linked"]  # nothing is written
    (deep / "b.txt").write_bytes(b"another 10")
    assert list(toy.locate(folder)) == ["sub/a.bin"] and "b.txt" in caplog.text and "not used" in caplog.text


def test_another_file_at_its_own_place_is_refused(server, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/b.txt").write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"b.txt has 3 bytes, expected 10.*remove it"):
        manifest(server).fetch(tmp_path)


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a\\..\\..\\x", "C:/x", ""])
def test_names_stay_inside(name):
    with pytest.raises(ValueError, match="leads out of"):
        RemoteFile(name, ())


def make_zip(path: Path, name: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good.txt", "1")
        archive.writestr(name, "2")


def make_tar(path: Path, name: str, link: str | None = None) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for member in ("good.txt", name):
            info = tarfile.TarInfo(member)
            info.size = 1
            if link and member == name:
                info.type, info.linkname, info.size = tarfile.SYMTYPE, link, 0
            archive.addfile(info, io.BytesIO(b"1"))


def test_extract(tmp_path):
    make_zip(tmp_path / "one.zip", "deep/b.txt")
    make_tar(tmp_path / "two.tar.gz", "deep/b.txt")
    for archive in ("one.zip", "two.tar.gz"):
        target = extract(tmp_path / archive, tmp_path / f"from {archive}")
        assert sorted(p.name for p in target.rglob("*.txt")) == ["b.txt", "good.txt"]
        (tmp_path / archive).unlink()
        assert extract(tmp_path / archive, target) == target  # it is there: the archive is not needed


def test_extract_refuses_what_leads_out_and_what_is_damaged(tmp_path):
    make_zip(tmp_path / "1", "../out.txt")
    make_zip(tmp_path / "2", "/out.txt")
    make_tar(tmp_path / "3", "../out.txt")
    make_tar(tmp_path / "4", "link", "../../out.txt")
    make_tar(tmp_path / "5", "deep/b.txt")
    (tmp_path / "5").write_bytes((tmp_path / "5").read_bytes()[:-20])
    (tmp_path / "6").write_text("no archive")
    (tmp_path / "in").mkdir()
    for number in range(1, 7):
        with pytest.raises(ValueError):
            extract(tmp_path / str(number), tmp_path / "in" / "to")
        assert {p.name for p in (tmp_path / "in").iterdir()} <= {".to.lock"}
    assert not list(tmp_path.glob("**/out.txt"))


def test_addresses_and_sizes():
    assert join_url("https://a.org/data", "b c.bin") == join_url("https://a.org/data/", "b c.bin")
    assert join_url("https://a.org/data/", "/d/b c.bin") == "https://a.org/data/d/b%20c.bin"
    assert join_url("https://a.org/get?name=", "b.bin") == "https://a.org/get?name=b.bin"
    assert all("//" not in url.partition("://")[2] for file in nh2015.MANIFEST.files for url in file.urls)
    known, unknown = RemoteFile("a", ("x",), size=2000), RemoteFile("b", ("x",))
    assert [total_size(files) for files in ([unknown], [known], [known, unknown], [])] == [
        "unknown size", "2.0 kB", "2.0 kB and 1 of unknown size", "0 B"]


def test_human():
    assert [human(n) for n in (None, 0, 999, 1000, 176_444, 30_000_000, 2_500_000_000)] == [
        "?", "0 B", "999 B", "1.0 kB", "176.4 kB", "30.0 MB", "2.5 GB"]


def test_who_reads_results_downloads_nothing(tmp_path):
    manifest = Manifest("a_study", "https://example.org", (RemoteFile("a.bin", ("https://example.org/a.bin",), 10),))
    folder = tmp_path / "data"
    with offline(), pytest.raises(FileNotFoundError, match="nothing is downloaded here.*download a_study"):
        manifest.fetch(folder)
    assert not folder.exists()
    with offline(), pytest.raises(FileNotFoundError, match="study_paths.brennan2019"):
        fetch("brennan2019", folder)
    assert not folder.exists()
