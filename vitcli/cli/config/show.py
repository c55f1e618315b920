"""Write the options of a command as a config file: for --show-config, and for the meta of a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vitcli.cli.config.settings import Settings, sources
from vitcli.cli.config.toml import aligned, value_text, why_not
from vitcli.cli.config.values import key_of, keys_of

NOT_IN_META = frozenset(
    {
        *("quiet", "no-progress", "log-json", "summary", "json", "show"),  # what is told, and where
        *("overwrite", "resume", "retry-failed", "keep-missing"),  # what becomes of an earlier run
        *("shard", "devices", "ray"),  # who does which part
        "offline",
    }
)


def shown(settings: Settings, command: Any, context: Any) -> str:
    """All options of a command, and where the value of each comes from. An option without a value
    is a comment."""
    name = settings.table.replace(".", " ") or context.command_path.partition(" ")[2]
    read = settings.file.shown if settings.file else "no config file"
    head = [
        f"# The options of vit {name}, and where each comes from. Read: {read}.",
        "# Relative paths are relative to the working folder, as on the command line.",
        f"[{name.replace(' ', '.')}]",
    ]
    lines = []
    keys = keys_of(command)
    for parameter, value, source in sources(settings, command, context):
        key, text = key_of(parameter), value_text(value)
        if value in (None, [], ()) or text is None:
            why = "required" if parameter.required else why_not(value or None)
            lines.append((f"# {key} =", why if source == "default" else f"{source}; {why}"))
        else:
            comment = "" if key in keys else "# "  # an argument that a file cannot give
            lines.append((f"{comment}{key} = {text}", source))
    return "\n".join([*head, *aligned(lines)]) + "\n"


def config_of_run(settings: Settings, command: Any, context: Any) -> str:
    """A config file that repeats the run: the options that its results depend on, defaults
    included, since those of another version may differ. Secrets are left out."""
    name = settings.table or context.command_path.partition(" ")[2].replace(" ", ".")
    return "\n".join([f"[{name}]", *_lines(settings, command, context)]) + "\n"


def _lines(settings: Settings, command: Any, context: Any) -> Iterator[str]:
    keys = keys_of(command)
    for parameter, value, _ in sources(settings, command, context):
        key, text = key_of(parameter), value_text(value)
        if key in NOT_IN_META or key not in keys or value in (None, [], ()):
            continue
        yield f"{key} = {text}" if text is not None else f"# {key}: {why_not(value)}"
