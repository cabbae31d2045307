"""Where the four studies of the paper are published, and how their files come into the study's folder.

`fetch(study, path)` is what `Study.prepare` calls: it takes a folder that holds the study's files as it is, and else
asks the publisher for the list of files, downloads what is missing and unpacks archives. One process does it, the
others wait; a process that dies leaves `.unfinished`, and the next one goes on where it stopped.
"""
import json
import logging
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from bm.progress import with_progress
from bm.store import remove_tree
from bm.studies.download import (
    DownloadError,
    Manifest,
    RemoteFile,
    answer,
    check_online,
    download,
    extract,
    inside,
)
from bm.studies.files import download_folder
from bm.studies.listings import deepblue_files, osf_files, webdav_files

logger = logging.getLogger(__name__)

#: in a study's download folder: a download is under way or was interrupted; everything is there
UNFINISHED, SUCCESS = ".unfinished", "success.txt"
_LISTING, _LOCK = ".listing.json", ".fetch.lock"


@dataclass(frozen=True)
class Archive:
    """A zip whose content becomes the folder `product`; with `member`, that of a zip inside it. Optional ones may be
    missing."""

    name: str
    product: str
    member: str | None = None
    optional: bool = False


@dataclass(frozen=True)
class Source:
    """Where a study comes from.

    Args:
        study, page: its name, and where a person finds it.
        how: what a person has to do where a program may not or cannot download.
        listing: the publisher's addresses `urls` → the files, with their places below `download/`.
        urls: addresses of the publisher's interface.
        present: patterns of files; the folder is complete enough to be used if each one (or, after `|`, another) fits.
        archives: what is unpacked.
        subject: a pattern whose group is the subject a file belongs to; files without belong to all.
        auth: environment variables with a token, or with user and password, without which nothing can be had.
    """

    study: str
    page: str
    how: str
    listing: Callable[[tuple[str, ...]], list[RemoteFile]]
    urls: tuple[str, ...]
    present: tuple[str, ...]
    archives: tuple[Archive, ...] = ()
    subject: str | None = None
    auth: tuple[str, ...] = ()

    def is_there(self, path: Path) -> bool:
        """Whether `path` (the study's folder) can be used as it is."""
        root = download_folder(path)
        if (root / UNFINISHED).exists() or not root.is_dir():
            return False
        return (root / SUCCESS).exists() or all(
            any(next(root.glob(pattern), None) is not None for pattern in patterns.split("|"))
            for patterns in self.present)

    def files(self) -> list[RemoteFile]:
        """What the publisher has.

        Raises:
            DownloadError: the publisher does not answer, or only to those who have registered; says what to do.
        """
        import requests

        if unset := [name for name in self.auth if not os.environ.get(name)]:
            raise DownloadError(f"study {self.study}: {' and '.join(unset)} not set. {self.how}")
        try:
            return self.listing(self.urls)
        except (requests.RequestException, ValueError, KeyError, SyntaxError) as error:  # the last: no XML
            raise DownloadError(f"study {self.study}: its files cannot be listed ({answer(error)}). Run the same "
                                f"command again later. {self.how}") from error

    def wanted(self, files: Iterable[RemoteFile], subjects: Iterable[str] | None) -> list[RemoteFile]:
        """Those of `files` that belong to all or to one of `subjects` (names with or without "sub-")."""
        if subjects is None or self.subject is None:
            return list(files)
        names = {subject.removeprefix("sub-") for subject in subjects}
        found = [(file, re.search(self.subject, file.path)) for file in files]
        return [file for file, match in found if match is None or match.group(1) in names]


def _missing(files: Iterable[RemoteFile], source: Source, root: Path) -> list[RemoteFile]:
    """Those that are not in their place with their size. (A file gets its place after its checksum was right.)"""
    unpacked = {archive.name for archive in source.archives if (root / archive.product).is_dir()}

    def there(file: RemoteFile) -> bool:
        path = inside(root, file.path)
        return file.path in unpacked or (path.is_file() and file.size in (None, path.stat().st_size))

    return [file for file in files if not there(file)]


def fetch(study: str, path: Path | str, subjects: Iterable[str] | None = None, *, complete: bool = False) -> Path:
    """The folder with the study's files, after downloading what is missing. Many processes may call this at once.

    Args:
        study: a key of `SOURCES`.
        path: the study's folder; files go to `path/download`.
        subjects: only what these need is downloaded. None: everything.
        complete: asks the publisher for what is missing even if the folder can be used as it is.

    Raises:
        DownloadError: files are missing and cannot be downloaded: says what a person has to do.
        ValueError: what was downloaded is not what was published.
    """
    from filelock import FileLock, Timeout

    source, path = SOURCES[study], Path(path)
    if not complete and source.is_there(path):
        return download_folder(path)
    check_online(study, path)
    root = download_folder(path) if complete and source.is_there(path) else path / "download"
    root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(root / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("study %s: waiting for another process that downloads into %s", study, root)
        lock.acquire()
    try:
        if complete or not source.is_there(path):
            _unpack_all(source, root)  # what a person has put there
            if complete or not source.is_there(path):
                _download_all(source, root, subjects)
    finally:
        lock.release()
    return root


def _download_all(source: Source, root: Path, subjects: Iterable[str] | None) -> None:
    unfinished, listing = root / UNFINISHED, root / _LISTING
    known = unfinished.exists() and listing.exists()
    files = [RemoteFile(**about | {"urls": tuple(about["urls"]), "auth": tuple(about["auth"]), "aliases": ()})
             for about in json.loads(listing.read_text())] if known else source.files()
    unfinished.touch()
    listing.write_text(json.dumps([asdict(file) for file in files]))
    missing = _missing(source.wanted(files, subjects), source, root)
    optional = {archive.name for archive in source.archives if archive.optional}
    logger.info("study %s: downloading %d files into %s", source.study, len(missing), root)
    for file in with_progress(missing, source.study):
        if unset := [name for name in file.auth if not os.environ.get(name)]:
            raise DownloadError(f"study {source.study}: {file.path} is missing in {root}, and "
                                f"{' and '.join(unset)} not set. {source.how}")
        try:
            download(file, inside(root, file.path))
        except DownloadError as error:
            if file.path not in optional:
                raise DownloadError(f"study {source.study}: {error}. Run the same command again later: it goes on "
                                    f"where it stopped. {source.how}") from error
            logger.warning("study %s: %s; going on without", source.study, error)
            inside(root, f"{file.path}.part").unlink(missing_ok=True)
    _unpack_all(source, root)
    if source.study == "gwilliams2022":
        _compare_participants(root)
    if subjects is None:
        (root / SUCCESS).write_text("".join(f"{file.path}\n" for file in files))
    listing.unlink()
    unfinished.unlink()


def _unpack_all(source: Source, root: Path) -> None:
    """Makes the product of each archive that is there, in `root` or beside it."""
    for archive in source.archives:
        places = [folder / archive.name for folder in (root, root.parent)]
        place = next((place for place in places if place.is_file()), None)
        if place is not None and not (root / archive.product).is_dir():
            logger.info("study %s: unpacking %s", source.study, place)
            unpack(place, root / archive.product, archive.member)


def unpack(archive: Path, target: Path, member: str | None = None) -> None:
    """Makes the folder `target` of an archive's content, or of its folder of that name; with `member`, of a zip in it.

    Raises:
        ValueError: the archive is damaged, leads out of its folder, or has no such member.
    """
    work = target.with_name(f".{target.name}.unpacking")
    remove_tree(work)
    work.mkdir(parents=True)
    if member is not None:
        try:
            with zipfile.ZipFile(archive) as outer:
                name = next((n for n in outer.namelist() if n.split("/")[-1] == member), None)
                if name is None:
                    raise ValueError(f"{archive} holds no {member!r}, but {outer.namelist()[:5]}: is it the right one?")
                with outer.open(name) as source, open(work / "inner.zip", "wb") as copy:
                    shutil.copyfileobj(source, copy)
        except zipfile.BadZipFile as error:
            raise ValueError(f"{archive} cannot be unpacked ({error}): remove it and download it again") from error
        archive = work / "inner.zip"
    content = extract(archive, work / "content")
    remove_tree(content / "__MACOSX")
    os.replace(content / target.name if (content / target.name).is_dir() else content, target)
    remove_tree(work)


def _compare_participants(root: Path) -> None:
    """Names those of participants.tsv who have no folder: the dataset has more parts than are known here."""
    table = root / "participants.tsv"
    names = [line.split("\t")[0] for line in table.read_text().splitlines()[1:]] if table.is_file() else []
    missing = [name for name in names if name and not (root / name).is_dir()]
    if missing:
        logger.warning("study gwilliams2022: %d of %d participants have no folder: %s. Is there another component on "
                       "OSF?", len(missing), len(names), ", ".join(missing))


def plan(study: str, path: Path | str, subjects: Iterable[str] | None = None) -> str:
    """A dry run of `fetch`: what would be downloaded, and what a person may have to do first."""
    source, path = SOURCES[study], Path(path)
    root = download_folder(path) if source.is_there(path) else path / "download"
    lines = [f"study {study}: {source.page}", source.how]
    if source.is_there(path):
        lines.append(f"{root} holds the study's files already: they are used as they are")
    try:
        missing = _missing(source.wanted(source.files(), subjects), source, root)
        lines.append(Manifest(study, source.page, tuple(missing)).plan(Path(os.devnull)).replace(os.devnull, str(root)))
    except FileNotFoundError as error:
        lines.append(f"not listed: {str(error).removesuffix(source.how)}")
    return "\n".join(lines)


_HONU = "https://ai.honu.io/papers/brainmagick/"
_DEEPBLUE = """vm40xs661 t435gf09p 0v8381376 6h440t36j qv33rx36x 7w62f925w 5425kb76p g445cf216 df65v8733 41687j32q
r207tq17h pn89d748r 41687j330 xg94hq37z fj2362955 1r66j195h j098zc06b 3n203z903 gx41mj79g mp48sd64h p2676w56p dn39x2566
pv63g1045 r207tq18s qr46r1659 wd375x18w td96k336b 6q182m27b ms35t936k 02870w66d cj82k821x 9k41zf376 bk128b81j q524jp737
37720d60h ks65hd14w b5644s476 3t945r72w bn999773b 4t64gp10r qr46r166k h415pb60j sq87bv504 ht24wk29w p2676w57z 2514nm49h
41687j348 tq57ns04w 4t64gp111 5712m736z f1881m88g 2b88qd012 2b88qd00s bn999775w h415pb59s q524jp72z"""
_DRYAD = "https://datadryad.org/api/v2/datasets/doi%3A10.5061%2Fdryad.070jc/download"
#: a fourth part may exist: `_compare_participants` would tell
_OSF = ("ag3kj", "h2tzn", "u5327")
_DRYAD_FILE = "doi_10.5061_dryad.070jc__v3.zip"


def _broderick(urls: tuple[str, ...]) -> list[RemoteFile]:
    return [RemoteFile(_DRYAD_FILE, urls[:1], auth=("DRYAD_TOKEN",)), RemoteFile("private.zip", urls[1:])]


def _schoffelen(urls: tuple[str, ...]) -> list[RemoteFile]:
    """The task recordings, logs and stimuli; neither rest nor anatomy."""
    auth = ("DONDERS_USER", "DONDERS_PASSWORD")
    files = webdav_files(urls[0], auth, skip=r"task-rest|(^|/)(anat|mri)(/|$)|index\.html")
    return [*files, RemoteFile("derivatives.zip", urls[1:])]


SOURCES = {source.study: source for source in (
    Source(
        "gwilliams2022", "https://osf.io/ag3kj/",
        "It is open and has 150 to 200 GB, in parts https://osf.io/ag3kj, https://osf.io/h2tzn and "
        "https://osf.io/u5327, which all belong into one folder, `download`. OSF answers some 100 requests an "
        "hour to strangers and far more with a token of your account (environment variable OSF_TOKEN); an "
        "interrupted download goes on when it is started again.",
        osf_files, tuple(f"https://api.osf.io/v2/nodes/{node}/files/osfstorage/" for node in _OSF),
        ("participants.tsv", "sub-*/ses-*/meg/*"), subject=r"^sub-(\w+)/"),
    Source(
        "schoffelen2019", "https://data.donders.ru.nl/collections/di/dccn/DSC_3011020.09_236_v1",
        "The data are not open. (1) Log in at https://data.donders.ru.nl with an account of your university, "
        "ORCID or the like, open the collection di.dccn.DSC_3011020.09_236, request access and accept its data "
        "use agreement (RU-DI-HD-1.0). (2) The collection then shows data access credentials, user and password "
        "for WebDAV: put them into the environment variables DONDERS_USER and DONDERS_PASSWORD (they are never "
        "stored), and start this again; or fetch it with any WebDAV program from "
        "https://webdav.data.ru.nl/dccn/DSC_3011020.09_236_v1/: for each subject sub-*/meg/*task*.ds with all its "
        "files (X.meg4, X.1_meg4 …), sourcedata/meg_task and stimuli. (3) Put them into `download` in the study's "
        "folder. (4) TextGrids with words and phonemes of what was heard are no part of it: "
        f"{_HONU}derivatives.zip, if it is still there, or TextGrids of your own (WebMAUS: tiers ORT-MAU and MAU), "
        "belong into download/derivatives/phonemes; without them there are sounds only.",
        _schoffelen, ("https://webdav.data.ru.nl/dccn/DSC_3011020.09_236_v1/", f"{_HONU}derivatives.zip"),
        ("sub-*/meg/*",), (Archive("derivatives.zip", "derivatives", optional=True),),
        r"(?:sub-|^sourcedata/.*)([AV]\d{4})", ("DONDERS_USER", "DONDERS_PASSWORD")),
    Source(
        "broderick2019", "https://doi.org/10.5061/dryad.070jc",
        "Dryad gives files to people, and to programs only with a token: download the whole dataset (many GB; "
        f"only 'Natural Speech.zip' in it is used) at the page above and put {_DRYAD_FILE}, or the unpacked folder "
        "'Natural Speech', into `download` in the study's folder; or set DRYAD_TOKEN to the token of an API "
        f"account. Sound, text and alignments are elsewhere: {_HONU}private.zip, if it is still there. If not, the "
        "folder download/private needs for each run: audio<run>.wav, oldman_run<run>.txt and align<run>.json, "
        "made with the aligner Gentle.",
        _broderick, (_DRYAD, f"{_HONU}private.zip"),
        ("Natural Speech/EEG/Subject*/*.mat", "private/audio*.wav", "private/align*.json"),
        (Archive(_DRYAD_FILE, "Natural Speech", "Natural Speech.zip"),
         Archive("Natural Speech.zip", "Natural Speech", optional=True), Archive("private.zip", "private"))),
    Source(
        "brennan2019", "https://deepblue.lib.umich.edu/data/concern/data_sets/bg257f92t",
        "It is open and has some 4 GB, but Deep Blue may refuse programs (an answer 403): then open the page "
        "above, choose Files and transfer all 56 with Globus (free account), or load S01.mat … S49.mat, "
        "audio.zip, proc.zip and AliceChapterOne-EEG.csv one by one, and put them into `download` in the study's "
        "folder. The second release (BrainVision, https://doi.org/10.7302/746w-g237) works as well; its proc.zip "
        "must be unpacked to download/timelock-preprocessing.",
        deepblue_files, tuple(f"https://deepblue.lib.umich.edu/data/downloads/{name}" for name in _DEEPBLUE.split()),
        ("AliceChapterOne-EEG.csv", "audio/*.wav", "proc/S*.mat|timelock-preprocessing/S*.mat", "S*.mat|S*.vhdr"),
        (Archive("audio.zip", "audio"), Archive("proc.zip", "proc")), r"^(S\d+)\.(?:mat|vhdr|eeg|vmrk)$"),
)}
