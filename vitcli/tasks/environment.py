"""Describe the installation and the machine, as a bug report needs it. torch is imported only if it
may find a device other than the CPU."""

from __future__ import annotations

import ast
import math
import os
import platform
import re
import shutil
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from vitcli import __version__
from vitcli.cache import cache_folder
from vitcli.checkpoints.hub import Hub, describe_hub
from vitcli.engines import ENGINES, DtypeName, EngineName
from vitcli.errors import OutputError, hidden, printable, shortened
from vitcli.images.kinds import codecs
from vitcli.machine import (
    affinity,
    available_cpus,
    cpu_quota,
    first_processor,
    instruction_sets,
    memory,
    memory_limit,
)
from vitcli.schemas import SCHEMA
from vitcli.tasks.cache.entries import KINDS, entries

# The extras of the package that install no feature.
NO_FEATURES = ("all", "dev", "docs")

# The variables that change what vit does, and those of which only the names are shown.
VARIABLES = re.compile(
    r"""((VIT|HF|OMP|KMP|MKL|OPENBLAS|ONEDNN|DNNL|TORCH|TORCHINDUCTOR|PYTORCH|CUDA|NVIDIA|HIP|ROCR
          |NCCL)_\w+
        |RANK|WORLD_SIZE|LOCAL_RANK
        |AWS_((DEFAULT_)?REGION|PROFILE|ENDPOINT_URL\w*)|RAY_ADDRESS
        |(HTTPS?|ALL|NO|https?|all|no)_(PROXY|proxy)|SSL_CERT_(FILE|DIR)
        |DO_NOT_TRACK|XDG_CACHE_HOME|TMPDIR|LANG|LC_ALL|COLUMNS|NO_COLOR
        |PYTHONPATH|LD_PRELOAD|LD_LIBRARY_PATH)""",
    re.VERBOSE,
)
UNSHOWN = re.compile(r"(AWS|GOOGLE|GCSFS|FSSPEC|RAY|HUGGING_?FACE)_\w+")
OWN = frozenset({"VIT_CACHE", "VIT_CONFIG", "VIT_DEBUG"})  # read by vit, and of no option
SET_BY_VIT = (("OMP_WAIT_POLICY", "PASSIVE"), ("HF_HUB_DISABLE_TELEMETRY", "1"))
SECRET = re.compile(r"(^|_)(TOKENS?|KEYS?|SECRETS?|PASSWORDS?|PASS|AUTH|CREDENTIALS?)(_|$)")
TOKEN = re.compile(r"\b(hf_|ghp_|AKIA|ASIA|eyJ)[\w.-]{8,}")  # within a value
MAX_VALUE = 200  # bytes of a variable's value


@dataclass(frozen=True, slots=True)
class Python:
    """The interpreter."""

    version: str
    implementation: str
    executable: str
    encoding: str


@dataclass(frozen=True, slots=True)
class Torch:
    """The versions of CUDA and of ROCm that torch was built for; None without them."""

    cuda: str | None
    rocm: str | None


@dataclass(frozen=True, slots=True)
class System:
    """The operating system. `name` is the distribution's, or empty."""

    platform: str
    name: str


@dataclass(frozen=True, slots=True)
class Cpu:
    """The processors. `instructions` is None if the system does not say; `quota` is None without
    one; `usable` are those that vit counts on."""

    model: str
    instructions: tuple[str, ...] | None
    cores: int
    affinity: int
    quota: float | None
    usable: int


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory in bytes; None for what the system does not say. `limit` is that of the control
    group."""

    total: int | None
    free: int | None
    limit: int | None


@dataclass(frozen=True, slots=True)
class Device:
    """A device, as --device takes it, and its memory in bytes."""

    name: str
    model: str
    memory: int | None


@dataclass(frozen=True, slots=True)
class Engine:
    """The dtypes of an engine, and the packages of it that are not installed."""

    dtypes: tuple[DtypeName, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cache:
    """The folder of the cache, the bytes of each kind of entry, and the free space on its disk. The
    folder is None for a user who has no home folder."""

    folder: str | None
    bytes: Mapping[str, int]
    free: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Everything about the installation and the machine. A version is None for a package that is
    not installed, or a library that Pillow lacks. The value of a variable is None if it is a
    secret."""

    schema: int
    vitcli: str
    python: Python
    packages: Mapping[str, str | None]
    extras: Mapping[str, Mapping[str, str | None]]
    torch: Torch
    system: System
    cpu: Cpu
    memory: Memory
    devices: tuple[Device, ...]
    engines: Mapping[EngineName, Engine]
    formats: Mapping[str, str | None]
    cache: Cache
    hub: Hub
    variables: Mapping[str, str | None]
    unread: tuple[str, ...]
    notes: tuple[str, ...]


def environment(read: Collection[str]) -> Environment:
    """Describe this installation and this machine. `read` are the variables that options read:
    `unread` names the other variables that begin with VIT_."""
    notes: list[str] = []
    packages, extras = _packages()
    torch = _torch()
    processor = first_processor()
    quota = cpu_quota()
    variables = _variables(os.environ)
    ours = {name for name in variables if name.startswith("VIT_")}
    return Environment(
        schema=SCHEMA,
        vitcli=__version__,
        python=Python(
            platform.python_version(),
            platform.python_implementation(),
            sys.executable,
            sys.getfilesystemencoding(),
        ),
        packages=packages,
        extras=extras,
        torch=torch,
        system=System(platform.platform(), _distribution()),
        cpu=Cpu(
            processor.get("model name", platform.machine()),
            instruction_sets(processor),
            os.cpu_count() or 1,
            affinity(),
            None if math.isinf(quota) else quota,
            available_cpus(),
        ),
        memory=Memory(*memory(), memory_limit()),
        devices=tuple(_devices(torch, notes)),
        engines={
            name: Engine(row.dtypes, tuple(p for p in row.packages if find_spec(p) is None))
            for name, row in ENGINES.items()
        },
        formats=codecs(),
        cache=_cache(notes),
        hub=describe_hub(),
        variables=variables,
        unread=tuple(sorted(ours - OWN - set(read))),
        notes=tuple(notes),
    )


def _packages() -> tuple[dict[str, str | None], dict[str, dict[str, str | None]]]:
    """The versions of the packages that vitcli requires, and of those of each extra."""
    needed: dict[str, str | None] = {}
    extras: dict[str, dict[str, str | None]] = {}
    try:
        listed = requires("vitcli") or []
    except PackageNotFoundError:  # a checkout on PYTHONPATH
        listed = ["torch", "numpy", "pillow"]
    for requirement in listed:
        [name] = re.findall(r"^[\w.-]+", requirement)
        extra = re.search(r"""extra\s*==\s*["']([\w-]+)["']""", requirement)
        if extra is None:
            needed[name] = _version(name)
        elif extra[1] not in NO_FEATURES:
            extras.setdefault(extra[1], {})[name] = _version(name)
    return needed, dict(sorted(extras.items()))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _torch() -> Torch:
    """Read what torch was built for from its file version.py: importing torch takes a second."""
    found = dict.fromkeys(("cuda", "hip"))
    spec = find_spec("torch")
    with suppress(OSError, SyntaxError, ValueError):
        file = Path((spec and spec.origin) or "").with_name("version.py")
        for node in ast.parse(file.read_text("utf-8")).body:
            match node:
                case (
                    ast.AnnAssign(target=ast.Name(name), value=ast.Constant(value))
                    | ast.Assign(targets=[ast.Name(name)], value=ast.Constant(value))
                ) if name in found:
                    found[name] = value
    return Torch(found["cuda"], found["hip"])


def _devices(built: Torch, notes: list[str]) -> Iterator[Device]:
    """Yield the devices that torch finds. What it warns of becomes a note."""
    if built == Torch(None, None) and sys.platform != "darwin":
        return
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            from vitcli.models.prepare import devices

            for device in devices():
                yield Device(*device)
        notes += [printable(shortened(str(warning.message))) for warning in told]
    except (ImportError, OSError, RuntimeError) as error:
        notes.append(f"torch does not work: {printable(shortened(str(error)))}")


def _distribution() -> str:
    """The name of a Linux distribution, or ""."""
    with suppress(OSError, AttributeError):
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    return ""


def _cache(notes: list[str]) -> Cache:
    sizes: dict[str, int] = dict.fromkeys(KINDS, 0)
    try:
        folder = cache_folder()
    except OutputError as error:
        notes.append(f"{error.message}; {error.hint}")
        return Cache(None, sizes, None)
    with suppress(OSError):  # a folder that may not be read
        for entry in entries():
            sizes[entry.kind] += entry.bytes
    free = None
    with suppress(OSError, StopIteration):
        there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
        free = shutil.disk_usage(there).free
    return Cache(printable(str(folder)), sizes, free)


def _variables(environ: Mapping[str, str]) -> dict[str, str | None]:
    """The variables that change what vit does, with their values."""
    return {
        name: _shown(name, value)
        for name, value in sorted(environ.items())
        if (VARIABLES.fullmatch(name) or UNSHOWN.fullmatch(name))
        and (name, value) not in SET_BY_VIT
    }


def _shown(name: str, value: str) -> str | None:
    """A value without passwords and tokens; None if all of it may be a secret."""
    if SECRET.search(name) or not VARIABLES.fullmatch(name):
        return None
    if name.lower().endswith("_proxy"):  # which may have no scheme: user:password@host
        value = re.sub(r"[^/@,\s]+@", "***@", value)
    return printable(shortened(TOKEN.sub(r"\1***", hidden(value)), MAX_VALUE))
