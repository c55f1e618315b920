"""Lay out what `vit info --env` shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vitcli.errors import in_bytes, listed
from vitcli.files import at_home
from vitcli.tasks.environment import Environment

ABSENT = "not installed"
ALL = 1000  # names: as many as there are


def facts_of(found: Environment) -> Iterator[tuple[str, str]]:
    """Yield names and values; a value may have several lines."""
    python = found.python
    yield "vitcli", found.vitcli
    yield "python", f"{python.implementation} {python.version}, {_short(python.executable)}"
    if python.encoding != "utf-8":
        yield "encoding", f"{python.encoding}, of the names of files"
    yield "packages", _versions(found.packages)
    yield "torch", _torch(found)
    for name, packages in found.extras.items():
        yield f"[{name}]", _versions(packages)
    yield "system", "\n".join(filter(None, (found.system.platform, found.system.name)))
    yield "cpu", "\n".join(_cpu(found))
    yield "memory", _memory(found)
    devices = (
        f"{device.name}, {device.model}" + (f", {in_bytes(device.memory)}" if device.memory else "")
        for device in found.devices
    )
    yield "devices", "\n".join(devices) or "the CPU only"
    engines = [
        f"{name} ({ABSENT if row.missing else listed(row.dtypes, ALL)})"
        for name, row in found.engines.items()
    ]
    yield "engines", listed(engines, ALL)
    missing = [name for name, codec in found.formats.items() if codec is None]
    codecs = [f"{name} ({codec})" for name, codec in found.formats.items() if codec is not None]
    yield "images", listed(codecs, ALL) + (f"\nnot read: {listed(missing, ALL)}" if missing else "")
    cache = found.cache
    free = f", {in_bytes(cache.free)} free" if cache.free is not None else ""
    if cache.folder is not None:
        yield "cache", f"{_short(cache.folder)}\n{in_bytes(sum(cache.bytes.values()))}{free}"
    hub = found.hub
    token = "with a token" if hub.has_token else "no token"
    state = f"{token}, offline" if hub.is_offline else token
    yield "hub", f"{_short(hub.folder)}\n{hub.endpoint}, {state}"
    for name, value in found.variables.items():
        yield "variable", f"{name}={_short(value)}" if value is not None else f"{name} is set"
    for name in found.unread:
        yield "note", f"{name}: no option reads this variable"
    for note in found.notes:
        yield "note", note


def _versions(packages: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} {version or ABSENT}" for name, version in packages.items())


def _torch(found: Environment) -> str:
    """Describe the build of torch."""
    built = found.torch
    if built.cuda is not None:
        return f"built for CUDA {built.cuda}"
    if built.rocm is not None:
        return f"built for ROCm {built.rocm}"
    return "built for the CPU" if found.packages.get("torch") else ABSENT


def _cpu(found: Environment) -> Iterator[str]:
    cpu = found.cpu
    yield cpu.model
    if cpu.instructions is not None:
        yield listed(cpu.instructions, ALL) or "no instructions that matter here"
    quota = f", a quota of {cpu.quota:g}" if cpu.quota is not None else ""
    yield f"{cpu.cores} cores, {cpu.affinity} of them for this process{quota}"


def _memory(found: Environment) -> str:
    memory = found.memory
    parts = (
        (memory.total, ""),
        (memory.free, " free"),
        (memory.limit, " allowed by the control group"),
    )
    return ", ".join(in_bytes(size) + what for size, what in parts if size is not None) or "unknown"


def _short(path: str) -> str:
    """A path with ~ for the home folder."""
    home = str(at_home("~"))
    return "~" + path[len(home) :] if path == home or path.startswith(f"{home}/") else path
