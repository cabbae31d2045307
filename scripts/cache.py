"""Shows and clears the cache of prepared recordings and features.

    python -m scripts.cache ls [KIND]            what lies there: sizes, ages, keys
    python -m scripts.cache why PATH|HASH        all that an entry depends on, and what changed since its relatives
    python -m scripts.cache verify [--full]      names every corrupt entry (--full: checksums; --repair: removes them)
    python -m scripts.cache clear [KIND|HASH …]  removes entries, after asking; [--older-than DAYS] [--yes]

The folder is that of the config (`cache`: the environment variable BM_CACHE, or ./cache), or `--cache DIR`.
"""
import argparse
import re
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bm.flat import flatten
from bm.store import Store
from bm.store_tools import Contents, Entry, contents, faults, relatives, remove

CONFIG = Path(__file__).parents[1] / "conf/config.yaml"


def default_root() -> Path:
    """The folder that the config names."""
    from omegaconf import OmegaConf
    return Path(OmegaConf.load(CONFIG).cache)


def size_text(size: float) -> str:
    """`"3.4 MB"`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def age_text(seconds: float) -> str:
    """`"5 h"`."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def value_text(value: Any, most: int = 40) -> str:
    """A value on one line; checksums and long lists are shortened."""
    if isinstance(value, str):
        return value[:8] + "…" if re.fullmatch(r"[0-9a-f]{16,}", value) else value
    if isinstance(value, list) and len(str(value)) > most:
        return f"{len(value)} items, {str(value[0])} … {str(value[-1])}"
    return str(value)


def key_text(key: dict[str, Any], most: int = 100) -> str:
    """A key on one line."""
    values = sorted(flatten(key).items(), key=lambda item: item[0].count("."))  # what is nested tells less
    text = " ".join(f"{name.rpartition('.')[2]}={value_text(value)}" for name, value in values
                    if name.rpartition(".")[2] not in ("format", "version", "stage"))
    return text if len(text) <= most else text[:most - 1] + "…"


def change_text(changes: dict[str, tuple[Any, Any]]) -> str:
    """`"source.0.sha256: 1f… → 9c…"`; of two long lists, the first items that differ."""
    parts = []
    for name, (old, new) in changes.items():
        if isinstance(old, list) and isinstance(new, list) and old and new:
            first = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
            parts.append(f"{name}: {len(old)} → {len(new)} items, from item {first} on: "
                         f"{old[first:first + 1]} → {new[first:first + 1]}")
        else:
            before, after = ("absent" if value is None else value_text(value) for value in (old, new))
            parts.append(f"{name}: {before} → {after}")
    return "; ".join(parts)


def find(found: Contents, wanted: str) -> Entry:
    """The entry of a path, a hash or the beginning of a hash.

    Raises:
        ValueError: none, or several.
    """
    path = Path(wanted)
    names = {path.resolve(), path.resolve().parent} if path.exists() else set()
    match = [entry for entry in found.entries if entry.path.resolve() in names] or [
        entry for entry in found.entries if entry.path.name.startswith(path.name)]
    if len(match) != 1:
        some = ", ".join(f"{entry.kind}/{entry.path.name}" for entry in match[:5])
        raise ValueError(f"{wanted!r} names {len(match)} entries{': ' + some if some else ''}; expected one path or "
                         "hash, see `python -m scripts.cache ls`")
    return match[0]


def select(found: Contents, names: Iterable[str]) -> tuple[list[Entry], list[Path]]:
    """The entries and leftovers of these kinds and hashes; all of them without a name.

    Raises:
        ValueError: a name that fits nothing.
    """
    names = list(names)
    entries: dict[Path, Entry] = {} if names else {entry.path: entry for entry in found.entries}
    leftovers = set() if names else set(found.leftovers)
    for name in names:
        kind = name.strip("/")
        own = [e for e in found.entries if f"{e.kind}/".startswith(f"{kind}/")]
        left = [p for p in found.leftovers if f"{found.kind_of(p)}/".startswith(f"{kind}/") or p.stem == name]
        if not own and not left:
            own = [find(found, name)]
        entries.update({entry.path: entry for entry in own})
        leftovers |= set(left) | {p for p in found.leftovers if p.with_suffix("") in {e.path for e in own}}
    return list(entries.values()), sorted(leftovers)


def ls(root: Path, kind: str | None) -> int:
    """Prints what lies in the cache."""
    found, now = contents(root), time.time()
    entries, leftovers = select(found, [kind] if kind else [])
    for name in sorted({entry.kind for entry in entries}):
        own = sorted((entry for entry in entries if entry.kind == name), key=lambda entry: -entry.made)
        print(f"{name}: {len(own)} entries, {size_text(sum(e.size for e in own))}")
        for entry in own:
            state = f" [{entry.state}]" if entry.state else ""
            print(f"  {entry.path.name}  {size_text(entry.size):>9}  {age_text(now - entry.made):>6}{state}  "
                  f"{key_text(entry.key)}")
    print(f"{root}: {len(entries)} entries, {size_text(sum(entry.size for entry in entries))}")
    for title, paths in {"half-made, or a lock without an entry": leftovers,
                         "not ours, never touched": [] if kind else found.foreign}.items():
        print("\n".join([f"{title}:", *(f"  {path}" for path in paths)]) if paths else "", end="\n" if paths else "")
    return 0


def why(root: Path, wanted: str) -> int:
    """Prints all that an entry depends on, and the entries that differ from it in little."""
    found = contents(root)
    entry = find(found, wanted)
    fault = next((text for _, text in faults(Store(root), [entry], full=False)), None)
    made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.made))
    print(f"{entry.kind}/{entry.path.name}: made {made}, {size_text(entry.size)}, {fault or entry.state or 'whole'}")
    for name, value in flatten(entry.key).items():
        print(f"  {name}: {value_text(value) if isinstance(value, list) else value}")
    near = relatives(entry, found.entries)
    older = [(other, changes) for other, changes in near if other.made <= entry.made]
    if older:
        other, changes = older[0]
        print(f"not the same as {other.path.name}, the nearest made before ({age_text(entry.made - other.made)}), "
              f"because this changed: {change_text(changes)}")
    for other, changes in near[:5]:
        if not older or other is not older[0][0]:
            print(f"differs little from {other.path.name}: {change_text(changes)}")
    if not near:
        print("no other entry of this kind differs from it in three values or fewer")
    return 0


def verify(root: Path, full: bool, repair: bool) -> int:
    """Prints every corrupt entry; 1 if any stays."""
    found, left, n = contents(root), 0, 0
    for entry, text in faults(Store(root), found.entries, full):
        n += 1
        removed = repair and remove(entry.path)
        left += not removed
        print(text + ("; removed" if removed else "; in use, not removed" if repair else ""))
    print(f"{root}: {len(found.entries)} entries, {n} corrupt" + ("" if full else " (sizes; --full for checksums)"))
    if left:
        print("a run that finds a corrupt entry makes it anew; `verify --repair` removes them now")
    return int(left > 0)


def clear(root: Path, names: list[str], older_than: float | None, yes: bool) -> int:
    """Removes entries and leftovers after asking; 1 if the answer is no."""
    found, now = contents(root), time.time()
    entries, leftovers = select(found, names)
    if older_than is not None:
        entries = [entry for entry in entries if now - entry.made > older_than * 86_400]
    paths = sorted(entry.path for entry in entries)
    stale = sorted({path.with_suffix("") for path in leftovers} - set(paths))  # of entries that stay, or of none
    if not paths and not stale:
        print("nothing to remove")
        return 0
    size = size_text(sum(entry.size for entry in entries))
    if not yes and not _agreed(f"remove {len(paths)} entries ({size}) and {len(stale)} leftovers from {root}?"):
        print("nothing removed")
        return 1
    done = 0
    for path in [*paths, *stale]:
        if remove(path, keep_entry=path not in paths):
            done += 1
        else:
            print(f"skipped {path}: another process is making it right now")
    left = f"; {len(found.foreign)} files or folders that are not ours were left alone" if found.foreign else ""
    print(f"removed {done} of {len(paths) + len(stale)}{left}")
    return 0


def _agreed(question: str) -> bool:
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print("\nnobody to ask: say --yes")
        return False


def parser() -> argparse.ArgumentParser:
    """The command line."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--cache", type=Path, help="the cache folder (default: that of the config)")
    top = argparse.ArgumentParser(prog="python -m scripts.cache", description=__doc__,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(dest="command", required=True)
    commands.add_parser("ls", parents=[common]).add_argument("kind", nargs="?")
    commands.add_parser("why", parents=[common]).add_argument("wanted", metavar="PATH|HASH")
    check = commands.add_parser("verify", parents=[common])
    check.add_argument("--full", action="store_true", help="compute all checksums")
    check.add_argument("--repair", action="store_true", help="remove corrupt entries; they are made anew when needed")
    gone = commands.add_parser("clear", parents=[common])
    gone.add_argument("names", nargs="*", metavar="KIND|HASH")
    gone.add_argument("--older-than", type=float, metavar="DAYS", help="only entries made longer ago")
    gone.add_argument("--yes", action="store_true", help="do not ask")
    return top


def main(argv: list[str] | None = None) -> int:
    """Runs one command; the exit code."""
    args = parser().parse_args(argv)
    root = args.cache or default_root()
    try:
        if args.command == "ls":
            return ls(root, args.kind)
        if args.command == "why":
            return why(root, args.wanted)
        if args.command == "verify":
            return verify(root, args.full, args.repair)
        return clear(root, args.names, args.older_than, args.yes)
    except (OSError, ValueError) as error:
        print(f"cache: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `… | head` ends quietly
    sys.exit(main())
