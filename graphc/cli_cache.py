"""The command `graphc cache`: the object cache, shown or cleared.

In: nothing, or what to do. Out: where it is, how much is in it, what; or an empty cache.
"""

from __future__ import annotations

import argparse
import time

from graphc.runtime.object_cache import ObjectCache

_SHOWN_OF_KEY = -52  # all but this: the program's name and twelve digits of the digest


def add_cache(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command's parser."""
    objects = commands.add_parser(
        "cache",
        help="show or clear the object cache",
        description="Compiled programs are kept on disk, so that a later process need not compile them again. Without "
        "options: where, how many, how many bytes. GRAPHC_CACHE names another folder or, as 'off', turns the cache off; "
        "GRAPHC_CACHE_BYTES limits its size. Clearing it at any time is safe.",
    )
    action = objects.add_mutually_exclusive_group()
    action.add_argument(
        "--list", action="store_true", help="list the entries, the last used first: program, last use, size"
    )
    action.add_argument("--clear", action="store_true", help="remove all entries")
    objects.set_defaults(command=_cache)


def _cache(arguments: argparse.Namespace) -> int:
    from graphc.program import object_cache

    objects = object_cache()
    if arguments.clear:
        count, size = objects.clear()
        print(f"removed {count} {'file' if count == 1 else 'files'}, {readable_size(size)}")
        return 0
    print(cache_line(objects))
    if arguments.list:
        entries = objects.entries()
        names = [e.key[:_SHOWN_OF_KEY] for e in entries]
        width = max(map(len, names), default=0)
        for name, e in zip(names, entries, strict=True):
            used = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(e.used))
            print(f"{name:<{width}}  {used}  {readable_size(e.bytes):>9}")
    return 0


def cache_line(objects: ObjectCache) -> str:
    """Where the cache is and how full, in a line."""
    if objects.folder is None:
        return "off"
    reason = objects.why_unused()
    if reason is not None:
        return f"{objects.folder}: not used: {reason}"
    entries = objects.entries()
    count = f"{len(entries)} {'entry' if len(entries) == 1 else 'entries'}"
    held = f"{count}, {readable_size(sum(e.bytes for e in entries))}"
    return f"{objects.folder}: {held} of at most {readable_size(objects.limit)}"


def readable_size(count: int) -> str:
    """Bytes for people.

    >>> readable_size(512), readable_size(1536), readable_size(256 << 20)
    ('512 bytes', '1.5 KiB', '256 MiB')
    """
    if count < 1024:
        return f"{count} bytes"
    size, unit = count / 1024, 0
    while size >= 1024 and unit < 2:
        size, unit = size / 1024, unit + 1
    return f"{size:.1f}".removesuffix(".0") + f" {('KiB', 'MiB', 'GiB')[unit]}"
