"""One output of a command: its files, its format, and the options that its rows depend on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitcli.errors import UsageError
from vitcli.files import is_special, real
from vitcli.records import ImageRef, Row
from vitcli.runs.fingerprint import Fingerprint, fingerprint
from vitcli.runs.shard import Resuming
from vitcli.sinks import FORMATS
from vitcli.sinks.files import FileSet, Grown, Target
from vitcli.sinks.format import JSONL, OPTION_DEFAULTS, Format
from vitcli.sinks.page import PAGE, PageParts, PageSink
from vitcli.sinks.sink import FileSink
from vitcli.sinks.text import LineSink


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Where the rows of a command go, and how they are written.

    `options` has the options that a row depends on, apart from those of the format; `defaults` has
    their default values. `page` makes the page at `html` from the meta. `takes` selects rows;
    `has_files` says whether the files that a row's text names exist. `config` is a config file that
    repeats the run, for the meta.
    """

    out: Path | None
    command: str
    format: Format = JSONL
    options: Mapping[str, object] = field(default_factory=dict)
    defaults: Mapping[str, object] = field(default_factory=dict)
    overwrite: bool = False
    resuming: Resuming = Resuming()
    html: Path | None = None
    page: Callable[[Mapping[str, Any]], PageParts] | None = None
    takes: Callable[[Row], bool] | None = None
    has_files: Callable[[ImageRef, bytes], bool] | None = None
    config: str | None = None

    @property
    def kind(self) -> type[FileSink]:
        """The class of the format. Raises KeyError for an unknown name."""
        return FORMATS[self.command][self.format.name]

    @property
    def files(self) -> FileSet:
        """The files of the format, and of a page."""
        match self.format.page:
            case "alone":
                return FileSet()
            case "beside":
                return FileSet(text=PAGE, copies=("",))
        return self.kind.files

    @property
    def paths(self) -> dict[str, Path]:
        """The real path of each file, by suffix."""
        target = self.target()
        return {suffix: real(target.path(suffix)) for suffix in ("", *self.files.beside)}

    @property
    def is_special(self) -> bool:
        """Whether the output is standard output, a pipe or a device."""
        return self.target().is_special

    def described(self, meta: Mapping[str, object]) -> dict[str, object]:
        """The meta of the models, and the config of the run."""
        return {**meta, **({} if self.config is None else {"config": self.config})}

    def target(self, grown: Mapping[str, Grown] | None = None) -> Target:
        """The target of the files. Files in `grown` are continued. Raises UsageError for a shard
        that would not be a file."""
        out, shard = self.html if self.format.page == "alone" else self.out, self.resuming.shard
        if shard is not None:
            if out is None or is_special(out):
                raise UsageError("a shard has to be written to a file", "name it with --out FILE")
            out = shard.named(out)
        elsewhere = {PAGE: self.html} if self.html and self.format.page == "beside" else {}
        replaces = self.overwrite or self.resuming.resume
        return Target(out, overwrite=replaces, elsewhere=elsewhere, grown=grown)

    def check(self) -> None:
        """Raise VitError for mistakes that can be seen before the model is loaded."""
        self.kind.check_installed()
        target = self.target()
        target.check(*self.files.beside)
        if target.is_special and self.files.data is not None:
            raise UsageError(
                f"{self.format.name} cannot be written to a pipe",
                "use --format jsonl, or --out FILE",
            )
        if target.is_special and self.kind.is_sealed:
            name = self.format.name.capitalize()
            raise UsageError(f"{name} cannot be written to a pipe", "name a file with --out")
        if target.is_special and self.resuming.resume:
            raise UsageError("a pipe cannot be resumed", "write to a file with --out")

    def open(self, meta: Mapping[str, Any], grown: Mapping[str, Grown] | None = None) -> FileSink:
        """Open the files. Files in `grown` are continued from that state."""
        target = self.target(grown)
        if self.page is None:
            return self.kind(target, meta, self.format)
        lines = None
        if self.format.page == "beside":
            lines = self.kind(target, meta, self.format)
        elif self.format.echo:
            lines = self.kind(Target(None), meta)
        assert lines is None or isinstance(lines, LineSink)
        return PageSink(target, self.page(meta), lines)

    def fingerprint(self, weights: Sequence[Mapping[str, Any]]) -> Fingerprint:
        """The fingerprint of the command, the weights and the options that the rows depend on."""
        shard = self.resuming.shard
        options = {**self.format.options, **self.options, "shard": shard and str(shard)}
        defaults = {**OPTION_DEFAULTS, **self.defaults, "shard": None}
        return fingerprint(self.command, weights, options, defaults)
