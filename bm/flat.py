"""Nested plain data by flat names, and where two of them differ: keys of the cache, configs of XPs."""
from typing import Any


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """`{"source.0.name": …}`: dictionaries and lists of dictionaries are opened, other lists stay whole."""
    items: Any = None
    if isinstance(value, dict) and value:
        items = value.items()
    elif isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        items = enumerate(value)
    if items is None:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for name, part in items:
        flat.update(flatten(part, f"{prefix}.{name}" if prefix else str(name)))
    return flat


def difference(old: dict[str, Any], new: dict[str, Any], absent: Any = None) -> dict[str, tuple[Any, Any]]:
    """Flat name → (old, new) where the two differ, sorted; `absent` where one of them has no such name."""
    a, b = flatten(old), flatten(new)
    return {name: (a.get(name, absent), b.get(name, absent)) for name in sorted(a.keys() | b.keys())
            if (name in a) != (name in b) or a.get(name) != b.get(name)}
