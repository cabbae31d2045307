"""What a repository holds, asked through its published interface: OSF, WebDAV (Donders), Deep Blue."""
import re
import time
from email.message import Message
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urljoin, urlsplit
from xml.etree import ElementTree

from bm.studies.download import RemoteFile, authorization

if TYPE_CHECKING:
    import requests

#: how often a question is asked, and s: the longest a busy server is given before the next time
ATTEMPTS, PATIENCE = 6, 900.0
_PROPFIND = '<propfind xmlns="DAV:"><prop><getcontentlength/><resourcetype/></prop></propfind>'


def ask(url: str, auth: tuple[str, ...] = (), method: str = "GET", **options: Any) -> "requests.Response":
    """The answer to one question; one that says "too many" or "not now" is asked again, as late as it wishes.

    Raises:
        requests.RequestException: no answer, or a refusal.
    """
    import requests

    headers = {"Accept-Encoding": "identity"} | authorization(auth) | options.pop("headers", {})
    for attempt in range(ATTEMPTS):
        answer = requests.request(method, url, headers=headers, timeout=60, **options)
        if answer.status_code not in (429, 502, 503, 504) or attempt == ATTEMPTS - 1:
            break
        wish = answer.headers.get("Retry-After", "")
        answer.close()
        time.sleep(min(float(wish) if wish.isdigit() else 2.0 ** attempt, PATIENCE))
    answer.raise_for_status()
    return answer


def osf_files(urls: tuple[str, ...]) -> list[RemoteFile]:
    """The files of OSF projects: `urls` are their storages, `…/v2/nodes/<node>/files/osfstorage/`.

    A path that several projects have is taken from the first. The token in OSF_TOKEN is used if there is one.
    """
    found: dict[str, RemoteFile] = {}
    pending = list(urls)
    while pending:
        page = ask(pending.pop(0), ("OSF_TOKEN",)).json()
        if page["links"].get("next"):
            pending.insert(0, page["links"]["next"])
        for item in page["data"]:
            about = item["attributes"]
            if about["kind"] == "folder":
                pending.append(item["relationships"]["files"]["links"]["related"]["href"])
            else:
                name = about["materialized_path"].lstrip("/")
                sha256 = about.get("extra", {}).get("hashes", {}).get("sha256")
                found.setdefault(name, RemoteFile(name, (item["links"]["download"],), about.get("size"), sha256))
    return [found[name] for name in sorted(found)]


def webdav_files(url: str, auth: tuple[str, ...], skip: str = r"$^") -> list[RemoteFile]:
    """The files below a WebDAV collection; `auth` names the variables with user and password. Paths in which the
    pattern `skip` is found are left out, folders with all that is in them."""
    root, found, pending = unquote(urlsplit(url).path), [], [url]
    while pending:
        answer = ask(pending.pop(), auth, "PROPFIND", headers={"Depth": "1"}, data=_PROPFIND)
        for item in ElementTree.fromstring(answer.content).iter("{DAV:}response"):
            href = item.findtext("{DAV:}href", "")
            path = unquote(urlsplit(href).path)
            name = path.removeprefix(root).strip("/")
            here = unquote(urlsplit(answer.url).path).strip("/")
            if path.strip("/") == here or not path.startswith(root) or re.search(skip, name):
                continue
            address = urljoin(answer.url, href)
            if item.find(".//{DAV:}collection") is not None:
                pending.append(address if address.endswith("/") else address + "/")
            else:
                size = item.findtext(".//{DAV:}getcontentlength", "")
                found.append(RemoteFile(name, (address,), int(size) if size.isdigit() else None, auth=auth))
    return sorted(found, key=lambda file: file.path)


def deepblue_files(urls: tuple[str, ...]) -> list[RemoteFile]:
    """The files at these addresses, whose answers say what they are called.

    Raises:
        ValueError: an answer without a name: a page for people, not a file.
    """
    files = []
    for url in urls:
        with ask(url, stream=True) as answer:
            header = Message()
            header["Content-Disposition"] = answer.headers.get("Content-Disposition", "")
            name = header.get_filename()
            if not name:
                raise ValueError(f"{url} answers with {answer.headers.get('Content-Type')}, expected a named file")
            size = answer.headers.get("Content-Length", "")
            files.append(RemoteFile(name, (url,), int(size) if size.isdigit() else None))
    return sorted(files, key=lambda file: file.path)
