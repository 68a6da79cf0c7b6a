"""What scores depend on beside settings and seeds: processor, threads and torch. Results record it in `versions`.

Sums are rounded in another order with another number of threads, another processor or another torch. A search amplifies
that, because its path through what the update leaves open is chaotic; docs/results.md has figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

NAMES = ("processor", "bfloat16", "threads", "float32 products", "tf32", "device", "card", "torch")
"""Keys of `Trial.versions` with which scores change."""


def changed(before: Sequence[Mapping[str, str]], now: Mapping[str, str]) -> str:
    """Return what was different for some trial, as a phrase such as `threads 2, now 1`; empty for nothing.

    Args:
        before: The `versions` of trials.
        now: The same of this process.
    """
    found = [
        f"{name} {' and '.join(others)}, now {now.get(name, 'not set')}"
        for name in NAMES
        if (others := dict.fromkeys(v[name] for v in before if name in v and v[name] != now.get(name)))
    ]
    return "; ".join(found)


def used(versions: Iterable[Mapping[str, str]]) -> dict[str, list[str]]:
    """Return each name with all its values, sorted.

    Args:
        versions: The `versions` of trials; a trial may lack a name.
    """
    found: dict[str, set[str]] = {}
    for one in versions:
        for name, value in one.items():
            found.setdefault(name, set()).add(value)
    return {name: sorted(values) for name, values in found.items()}


def differing(versions: Iterable[Mapping[str, str]]) -> list[str]:
    """Return the names of `NAMES` in which trials were computed differently."""
    found = used(versions)
    return [name for name in NAMES if len(found.get(name, ())) > 1]
