"""Downloads of the four studies, from publishers imitated on this machine."""
import contextlib
import hashlib
import json
import logging
import multiprocessing
import os
import threading
import time
import zipfile
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

from bm.studies import listings, sources
from bm.studies.brennan2019 import Brennan2019
from bm.studies.download import RemoteFile
from bm.studies.gwilliams2022 import Gwilliams2022
from bm.studies.listings import deepblue_files, osf_files, webdav_files
from bm.studies.sources import SOURCES, SUCCESS, UNFINISHED, fetch, plan, unpack
from bm.studies.twins import make_twin


@dataclass
class Publisher:
    """Serves a folder as OSF (`/osf/<folder>/`), WebDAV (`/dav/`) and Deep Blue (`/blue/<number>`, in `order`) do.

    `busy`: how many answers are "too many requests". `secret`: the Authorization that WebDAV wants. `wait`: s before
    the content of a file. `asked`: the requests.
    """

    root: Path
    url: str = ""
    asked: list[str] = field(default_factory=list)
    busy: int = 0
    secret: str = "Basic bWU6b3Blbg=="  # me:open
    wait: float = 0.0

    @property
    def order(self) -> list[Path]:
        return sorted(path for path in self.root.rglob("*") if path.is_file())

    def osf(self, name: str, page: int) -> dict:
        """Two entries a page."""
        node, _, inner = name.partition("/")
        entries = sorted((self.root / node / inner).iterdir())
        data = []
        for path in entries[2 * page:2 * page + 2]:
            place = "/" + str(path.relative_to(self.root / node)) + ("/" if path.is_dir() else "")
            about = {"kind": "folder" if path.is_dir() else "file", "materialized_path": place}
            link = f"{self.url}osf/{quote(str(path.relative_to(self.root)))}"
            if path.is_dir():
                data.append({"attributes": about, "relationships": {"files": {"links": {"related": {"href": link}}}}})
            else:
                about |= {"size": path.stat().st_size,
                          "extra": {"hashes": {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}}}
                link = f"{self.url}file/{quote(str(path.relative_to(self.root)))}"
                data.append({"attributes": about, "links": {"download": link}})
        more = f"{self.url}osf/{quote(name)}?page={page + 1}" if len(entries) > 2 * page + 2 else None
        return {"data": data, "links": {"next": more}}

    def dav(self, name: str) -> str:
        """The folder itself and what is in it, as PROPFIND of depth 1 answers."""
        folder = self.root / name
        items = []
        for path in [folder, *sorted(folder.iterdir())]:
            href = "/dav/" + quote(str(path.relative_to(self.root)).removeprefix(".")) + ("/" if path.is_dir() else "")
            kind = "<d:resourcetype><d:collection/></d:resourcetype>" if path.is_dir() else (
                f"<d:resourcetype/><d:getcontentlength>{path.stat().st_size}</d:getcontentlength>")
            items.append(f"<d:response><d:href>{href.replace('//', '/')}</d:href><d:propstat><d:prop>{kind}</d:prop>"
                         "</d:propstat></d:response>")
        return f'<?xml version="1.0"?><d:multistatus xmlns:d="DAV:">{"".join(items)}</d:multistatus>'


def handler(publisher: Publisher) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            parts = urlsplit(self.path)
            kind, _, name = unquote(parts.path).strip("/").partition("/")
            publisher.asked.append(f"{self.command} {kind}/{name}")
            if publisher.busy:
                publisher.busy -= 1
                self.send_response(429)
                self.send_header("Retry-After", "0")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if kind == "dav" and self.headers.get("Authorization") != publisher.secret:
                self.send_error(401)
                return
            headers = {}
            if kind == "osf":
                body = json.dumps(publisher.osf(name, int(parse_qs(parts.query).get("page", ["0"])[0]))).encode()
            elif self.command == "PROPFIND":
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                body = publisher.dav(name).encode()
            else:
                path = publisher.order[int(name)] if kind == "blue" else publisher.root / name
                if not path.is_file():
                    self.send_error(404)
                    return
                time.sleep(publisher.wait)
                body = path.read_bytes()
                headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(path.name)}"}
            self.send_response(200)
            for key, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(key, value)
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # who only wants to know the name hangs up
                self.wfile.write(body)

        do_GET = do_PROPFIND = answer  # noqa: N815  the names http.server calls

        def log_message(self, *arguments: object) -> None:
            pass
    return Handler


@pytest.fixture
def publisher(tmp_path, monkeypatch):
    monkeypatch.setattr(listings, "PATIENCE", 0.01)
    state = Publisher(tmp_path / "published")
    state.root.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(state)) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        state.url = f"http://127.0.0.1:{httpd.server_address[1]}/"
        yield state
        httpd.shutdown()
        thread.join()


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def zipped(path: Path, content: dict[str, str | bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, body in content.items():
            archive.writestr(name, body)


def test_osf(publisher):
    """Folders and pages are walked; what several projects have is taken from the first."""
    write(publisher.root, {"one/a.txt": "a", "one/participants.tsv": "p", "one/sub-01/ses-0/meg/x y.con": "raw",
                           "one/sub-01/ses-0/meg/b.tsv": "b", "one/z.txt": "z", "two/participants.tsv": "other",
                           "two/sub-02/c.con": "c"})
    publisher.busy = 2
    files = osf_files((f"{publisher.url}osf/one/", f"{publisher.url}osf/two/"))
    assert [file.path for file in files] == ["a.txt", "participants.tsv", "sub-01/ses-0/meg/b.tsv",
                                             "sub-01/ses-0/meg/x y.con", "sub-02/c.con", "z.txt"]
    assert files[1].size == 1 and files[1].sha256 == hashlib.sha256(b"p").hexdigest()
    assert publisher.asked.count("GET osf/one") == 4  # busy twice, then two pages


def test_webdav(publisher, monkeypatch):
    write(publisher.root, {"sub-A2002/meg/a_task-auditory_meg.ds/x.meg4": "meg",
                           "sub-A2002/meg/a_task-rest_meg.ds/x": "r", "sub-A2002/anat/t1.nii": "t",
                           "stimuli/stimuli.txt": "1 de man", "index.html": "page"})
    auth = ("DONDERS_USER", "DONDERS_PASSWORD")
    url, skip = f"{publisher.url}dav/", r"task-rest|(^|/)anat(/|$)|index\.html"
    monkeypatch.setenv("DONDERS_USER", "me")
    monkeypatch.setenv("DONDERS_PASSWORD", "wrong")
    with pytest.raises(OSError, match="401"):
        webdav_files(url, auth, skip)
    monkeypatch.setenv("DONDERS_PASSWORD", "open")
    files = webdav_files(url, auth, skip)
    assert [(file.path, file.size) for file in files] == [
        ("stimuli/stimuli.txt", 8), ("sub-A2002/meg/a_task-auditory_meg.ds/x.meg4", 3)]
    assert not any("rest" in question for question in publisher.asked)


def test_deepblue(publisher):
    write(publisher.root, {"S01.mat": "one", "Alice é.csv": "w"})
    files = deepblue_files((f"{publisher.url}blue/0", f"{publisher.url}blue/1"))
    assert [(file.path, file.size) for file in files] == [("Alice é.csv", 1), ("S01.mat", 3)]
    with pytest.raises(ValueError, match="expected a named file"):
        deepblue_files((f"{publisher.url}osf/",))


@pytest.fixture
def alice(publisher, tmp_path, monkeypatch):
    """The twin of brennan2019 as Deep Blue has it: sounds and trial tables in archives."""
    twin = make_twin("brennan2019", tmp_path / "alice", subjects=("S01", "S02")) / "download"
    for name in ("audio", "proc"):
        files = {path.name: path.read_bytes() for path in sorted((twin / name).iterdir())}
        zipped(publisher.root / f"{name}.zip", {f"{name}/{key}": body for key, body in files.items()} |
               {f"__MACOSX/._{key}": b"" for key in files})
    for path in (path for path in twin.iterdir() if path.is_file()):
        path.rename(publisher.root / path.name)
    urls = tuple(f"{publisher.url}blue/{i}" for i in range(len(publisher.order)))
    monkeypatch.setitem(SOURCES, "brennan2019", replace(SOURCES["brennan2019"], urls=urls))
    return publisher


def test_prepare_downloads_and_unpacks(alice, tmp_path):
    study = Brennan2019(tmp_path / "data")
    text = plan("brennan2019", tmp_path / "data")
    assert "6 of 6 files are missing" in text and "Globus" in text and not (tmp_path / "data").exists()
    study.prepare()
    recording = next(iter(study.recordings()))
    assert len(recording.events()) == 34 and recording.signal().shape == (12_500, 60)
    root = tmp_path / "data/download"
    assert (root / SUCCESS).read_text().split() == ["AliceChapterOne-EEG.csv", "S01.mat", "S02.mat", "S28.mat",
                                                    "audio.zip", "proc.zip"]
    assert not (root / UNFINISHED).exists() and not (root / "audio/__MACOSX").exists()
    asked = len(alice.asked)
    Brennan2019(tmp_path / "data").prepare()
    assert len(alice.asked) == asked  # not a single question
    (root / "S01.mat").unlink()
    fetch("brennan2019", tmp_path / "data", complete=True)
    assert sum(question.startswith("GET blue") for question in alice.asked[asked:]) == 6 + 1
    assert (root / "S01.mat").is_file()


def test_only_what_some_subjects_need(alice, tmp_path):
    fetch("brennan2019", tmp_path / "data", ["sub-S01"])
    root = tmp_path / "data/download"
    assert (root / "S01.mat").is_file() and not (root / "S28.mat").exists() and (root / "proc/S02.mat").is_file()
    assert not (root / SUCCESS).exists() and SOURCES["brennan2019"].is_there(tmp_path / "data")


def test_a_folder_that_holds_the_files_is_used(tmp_path):
    folder = make_twin("brennan2019", tmp_path / "twin", subjects=("S01",))
    for place in (folder, folder / "download"):  # with and without download/
        assert fetch("brennan2019", place) == folder / "download"
    (folder / "download" / UNFINISHED).touch()
    assert not SOURCES["brennan2019"].is_there(folder)


def run(folder: Path, source: sources.Source, started, results) -> None:
    """In a process of its own: prepares the study and says what it found."""
    sources.SOURCES["brennan2019"] = source
    started.put(os.getpid())
    study = Brennan2019(folder)
    study.prepare()
    results.put([len(recording.events()) for recording in study.recordings()])


def test_three_processes_of_which_one_is_killed(alice, tmp_path):
    """Who downloads is killed in the middle; one of those that wait goes on, and each file is asked for but once."""
    alice.wait = 0.3
    context = multiprocessing.get_context("fork")
    started, results = context.Queue(), context.Queue()
    jobs = [context.Process(target=run, args=(tmp_path / "data", SOURCES["brennan2019"], started, results))
            for _ in range(3)]
    root = tmp_path / "data/download"
    jobs[0].start()
    deadline = time.monotonic() + 20
    while not (root / "S01.mat").exists():  # the first files are there, others not: the first job has the lock
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for job in jobs[1:]:
        job.start()
    for _ in jobs:
        started.get(timeout=20)
    assert not (root / "proc.zip").exists() and (root / UNFINISHED).exists()
    jobs[0].kill()
    jobs[0].join()
    found = [results.get(timeout=40) for _ in jobs[1:]]
    for job in jobs[1:]:
        job.join(20)
        assert job.exitcode == 0
    assert found == [[34], [34]] and results.empty()
    assert (root / SUCCESS).exists() and not list(root.rglob("*.part")) and not (root / UNFINISHED).exists()
    listed = [question for question in alice.asked if question.startswith("GET blue")]
    # six were listed and six downloaded by somebody, one of them (in the middle of which the first died) twice
    assert 12 <= len(listed) <= 13


def test_what_registration_needs_is_said(tmp_path, monkeypatch):
    for name in ("DONDERS_USER", "DONDERS_PASSWORD", "DRYAD_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(FileNotFoundError, match="DONDERS_USER and DONDERS_PASSWORD not set.*data use agreement"):
        fetch("schoffelen2019", tmp_path / "mous")
    with pytest.raises(FileNotFoundError, match="DRYAD_TOKEN not set.*Natural Speech.*audio<run>.wav"):
        fetch("broderick2019", tmp_path / "oldman")
    text = plan("schoffelen2019", tmp_path / "mous")
    assert "https://data.donders.ru.nl" in text and "webdav.data.ru.nl" in text and "sourcedata/meg_task" in text


def test_credentials_are_used_and_not_kept(publisher, tmp_path, monkeypatch):
    write(publisher.root, {"sub-A2002/meg/sub-A2002_task-auditory_meg.ds/x.meg4": "meg", "stimuli/stimuli.txt": "1 de",
                           "sub-V1001/meg/v.ds/x.meg4": "meg", "sourcedata/meg_task/A2002-MEG-MOUS-Aud.log": "log",
                           "sourcedata/meg_task/V1001-MEG-MOUS-Vis.log": "log"})
    monkeypatch.setitem(SOURCES, "schoffelen2019", replace(SOURCES["schoffelen2019"], urls=(
        f"{publisher.url}dav/", f"{publisher.url}file/derivatives.zip")))
    monkeypatch.setenv("DONDERS_USER", "me")
    monkeypatch.setenv("DONDERS_PASSWORD", "open")
    root = fetch("schoffelen2019", tmp_path / "mous", ["A2002"])
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.name[0] != ".")
    assert files == ["sourcedata/meg_task/A2002-MEG-MOUS-Aud.log", "stimuli/stimuli.txt",
                     "sub-A2002/meg/sub-A2002_task-auditory_meg.ds/x.meg4"]  # and no alignments: they are optional
    assert not any("open" in path.read_text() for path in root.rglob("*") if path.is_file())


def test_gwilliams_from_three_projects(publisher, tmp_path, monkeypatch, caplog):
    """The twin, cut into parts as on OSF; a participant without data is named."""
    twin = make_twin("gwilliams2022", tmp_path / "twin") / "download"
    for path in sorted(path for path in twin.rglob("*") if path.is_file()):
        place = path.relative_to(twin)
        target = publisher.root / ("one" if place.parts[0] == "sub-01" else "two") / place
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    urls = tuple(f"{publisher.url}osf/{node}/" for node in ("one", "two"))
    monkeypatch.setitem(SOURCES, "gwilliams2022", replace(SOURCES["gwilliams2022"], urls=urls))
    with caplog.at_level(logging.WARNING):
        root = fetch("gwilliams2022", tmp_path / "data")
    assert "1 of 3 participants have no folder: sub-99" in caplog.text and (root / SUCCESS).exists()
    assert len(list(Gwilliams2022(tmp_path / "data").recordings())) == 5


def test_unreachable_publishers(tmp_path, monkeypatch):
    monkeypatch.setitem(SOURCES, "brennan2019", replace(SOURCES["brennan2019"], urls=("http://127.0.0.1:9/x",)))
    with pytest.raises(FileNotFoundError, match="cannot be listed.*no connection.*Globus"):
        fetch("brennan2019", tmp_path / "data")
    assert "not listed" in plan("brennan2019", tmp_path / "data")

    def listing(urls):
        return [RemoteFile("S01.mat", ("http://127.0.0.1:9/x",))]
    monkeypatch.setitem(SOURCES, "brennan2019", replace(SOURCES["brennan2019"], listing=listing))
    with pytest.raises(FileNotFoundError, match="S01.mat cannot be downloaded.*Globus"):
        fetch("brennan2019", tmp_path / "data")
    assert (tmp_path / "data/download" / UNFINISHED).exists()


def test_unpack(tmp_path):
    zipped(tmp_path / "flat.zip", {"a.txt": "a", "__MACOSX/._a.txt": "x"})
    unpack(tmp_path / "flat.zip", tmp_path / "flat")
    zipped(tmp_path / "outer.zip", {"set/inner.zip": (tmp_path / "flat.zip").read_bytes(), "other.zip": "x"})
    unpack(tmp_path / "outer.zip", tmp_path / "nested", "inner.zip")
    assert [[p.name for p in (tmp_path / name).iterdir()] for name in ("flat", "nested")] == [["a.txt"], ["a.txt"]]
    with pytest.raises(ValueError, match="holds no 'gone.zip'"):
        unpack(tmp_path / "outer.zip", tmp_path / "gone", "gone.zip")
    zipped(tmp_path / "evil.zip", {"../evil.txt": "x"})
    with pytest.raises(ValueError, match="leads out"):
        unpack(tmp_path / "evil.zip", tmp_path / "evil")
    (tmp_path / "half.zip").write_bytes((tmp_path / "outer.zip").read_bytes()[:60])
    for member in (None, "inner.zip"):
        with pytest.raises(ValueError, match="half.zip"):
            unpack(tmp_path / "half.zip", tmp_path / "half", member)
    assert not any((tmp_path / name).exists() for name in ("gone", "evil", "half", "evil.txt"))
