"""`vit cache`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitcli.cli.options import options as o
from vitcli.cli.options.declare import Group, Option
from vitcli.cli.options.parse import parse_age
from vitcli.cli.screen.exit import is_terminal, show
from vitcli.errors import ExitCode, UsageError, in_bytes, printable

if TYPE_CHECKING:
    from vitcli.tasks.cache.clear import CacheReport
    from vitcli.tasks.cache.entries import Entry

COLUMNS = ("kind", "name", "bytes", "files", "used", "about")
Clear = Annotated[
    list[str] | None,
    Option(
        "--clear",
        group=Group.OUTPUT,
        brief=True,
        metavar="KIND[/NAME]",
        help="Remove exports, texts, features, rates, hashes, outputs, all (all but outputs), or "
        "one entry as KIND/NAME; repeatable. What a run uses stays.",
    ),
]
OlderThan = Annotated[
    str | None,
    Option(
        "--older-than",
        group=Group.OUTPUT,
        brief=True,
        metavar="AGE",
        help="Only entries that were last used before: 30d, 12h, 2w.",
    ),
]
DryRun = Annotated[
    bool,
    Option(
        "--dry-run",
        group=Group.OUTPUT,
        brief=True,
        help="With --clear: say what would be removed, remove nothing.",
    ),
]


def cache(
    clear: Clear = None,
    older_than: OlderThan = None,
    dry_run: DryRun = False,
    as_json: o.Json = False,
) -> None:
    """List what the cache holds, or clear it.

    The cache (VIT_CACHE, or else ~/.cache/vitcli) has exports of models for --engine, vectors of
    classes in words, features for vit finetune, rates of this CPU for --dtype, hashes of weight
    files, and outputs that are not yet sent to their store. Outputs are removed only by --clear
    outputs. Downloaded models are in the cache of the hub: hf cache ls.

    Example:  vit cache --clear exports --older-than 30d
    """
    from vitcli.tasks.cache import clear as task

    if dry_run and not clear:
        raise UsageError("--dry-run needs --clear", "say what would be cleared: --clear all")
    age = parse_age("--older-than", older_than)
    report = task.cache(task.CacheJob(clear=tuple(clear or ()), older_than=age, is_dry_run=dry_run))
    for note in report.notes:
        _say(note)
    for entry in report.entries:
        if entry.outcome in ("in use", "failed"):
            _say(f"{entry.kind}/{entry.name}: {_refusal(entry)}")
    if as_json:
        show(json.dumps(_record(report, is_clearing=bool(clear)), ensure_ascii=False))
    elif is_terminal():
        from vitcli.cli.screen.table import print_cache

        print_cache(report.entries)
    else:
        show("\n".join("\t".join(row) for row in _rows(report.entries, is_clearing=bool(clear))))
    _say(_total(report, is_clearing=bool(clear)))
    if any(entry.outcome == "failed" for entry in report.entries):
        raise typer.Exit(ExitCode.SOME_FAILED)


def _say(text: str) -> None:
    print(f"vit: {printable(text)}", file=sys.stderr, flush=True)


def _refusal(entry: Entry) -> str:
    return f"kept: {entry.why}" if entry.outcome == "in use" else f"not removed: {entry.why}"


def _total(report: CacheReport, *, is_clearing: bool) -> str:
    """The line after the list."""
    if not is_clearing:
        return f"{in_bytes(report.bytes)} in {report.folder}"
    gone = [entry for entry in report.entries if entry.outcome in ("removed", "would be removed")]
    is_dry = any(entry.outcome == "would be removed" for entry in gone)
    count = f"{len(gone)} {'entry' if len(gone) == 1 else 'entries'}"
    return f"{count}, {in_bytes(report.freed)}, {'would be ' * is_dry}removed from {report.folder}"


def _rows(entries: Sequence[Entry], *, is_clearing: bool) -> Iterator[tuple[str, ...]]:
    yield COLUMNS + ("outcome",) * is_clearing
    for entry in entries:
        numbers = (str(entry.bytes), str(entry.files), _time(entry))
        said = (printable(entry.about), *((entry.outcome,) if is_clearing else ()))
        yield (entry.kind, printable(entry.name), *numbers, *said)


def _record(report: CacheReport, *, is_clearing: bool) -> dict[str, Any]:
    """The report as JSON. `freed` and each `outcome` are of a run with --clear."""
    entries = []
    for entry in report.entries:
        record: dict[str, Any] = {"kind": entry.kind, "name": printable(entry.name)}
        record |= {"path": printable(str(entry.path)), "bytes": entry.bytes}
        record |= {"files": entry.files, "used": _time(entry), "about": entry.about}
        if is_clearing:
            record |= {"outcome": entry.outcome} | ({"why": entry.why} if entry.why else {})
        entries.append(record)
    total = {"folder": printable(str(report.folder)), "bytes": report.bytes}
    return {**total, **({"freed": report.freed} if is_clearing else {}), "entries": entries}


def _time(entry: Entry) -> str:
    """When an entry was last used, in UTC."""
    return datetime.fromtimestamp(entry.used, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
