"""The import rules of the project, held over the syntax trees of all its modules."""

from __future__ import annotations

import ast
import gc
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "vitcli"

# A unit may import itself and what stands further right; those of one rank not each other.
RANKS = (
    ("__main__",),
    ("cli",),
    ("__init__", "demo"),
    ("api",),
    ("fleet",),
    ("tasks",),
    ("jobs",),
    ("pipeline", "runs", "training", "indexes"),
    ("checkpoints", "images", "sinks", "render"),
    ("models", "stores", "cache", "files", "bar"),
    ("records", "interrupts", "machine", "processes", "engines", "schemas"),
    ("errors",),
)
RANK = {unit: rank for rank, units in enumerate(RANKS) for unit in units}

# Libraries that belong to certain rooms.
ROOMS = {
    "typer": {"cli"},
    "rich": {"cli", "bar"},
    "huggingface_hub": {"checkpoints"},
    "yaml": {"checkpoints"},
    "safetensors": {"checkpoints", "sinks", "demo"},
    "tokenizers": {"checkpoints"},
    "PIL": {"images", "render", "demo"},
    "jinja2": {"render"},
    "fsspec": {"stores"},
    "pyarrow": {"images", "sinks", "indexes", "api"},
    "pandas": {"sinks", "api"},
    "ray": {"fleet"},
    "usearch": {"indexes"},
    "sklearn": set(),
    "transformers": set(),
    "timm": set(),
    "torchvision": set(),
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def unit_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def all_nodes() -> dict[Path, list[ast.AST]]:
    """The nodes of all trees: 400,000 objects, of which none is garbage."""
    gc.disable()
    try:
        return {path: list(ast.walk(ast.parse(path.read_text("utf-8")))) for path in MODULES}
    finally:
        gc.enable()


def nodes_of(path: Path) -> list[ast.AST]:
    """Every node of a module's tree, the module first."""
    return all_nodes()[path]


@pytest.fixture(scope="module", autouse=True)
def _no_nodes_stay() -> Iterator[None]:
    """Each collection during the tests of other modules would visit all nodes."""
    yield
    all_nodes.cache_clear()


@cache
def imports_of(path: Path) -> list[str]:
    """Dotted names of everything a module imports, wherever the import stands."""
    names: list[str] = []
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            names += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            assert node.module is not None
            names += (f"{node.module}.{alias.name}" for alias in node.names)
    return names


def imported_unit(name: str) -> str | None:
    """`models` of `vitcli.models.vit`; a name of the package itself counts as `__init__`."""
    head, *rest = name.split(".")
    if head != "vitcli":
        return None
    return rest[0] if rest and rest[0] in RANK else "__init__"


def test_every_module_belongs_to_a_unit_that_has_a_rank() -> None:
    assert {unit_of(path) for path in MODULES} <= RANK.keys()


def test_imports_point_one_way() -> None:
    for path in MODULES:
        unit = unit_of(path)
        for name in imports_of(path):
            target = imported_unit(name)
            if target is not None and target != unit:
                is_version = name == "vitcli.__version__"
                assert is_version or RANK[target] > RANK[unit], f"{path} imports {name}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Not even within a unit, inside a function, or for types alone."""
    names = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(
            ".__init__"
        ): path
        for path in MODULES
    }

    def module_of(name: str) -> str:
        """`vitcli.stores` of `vitcli.stores.Url`."""
        while name and name not in names:
            name = name.rpartition(".")[0]
        return name

    graph = {name: set(map(module_of, imports_of(path))) - {name} for name, path in names.items()}
    for name in graph:  # its version is all that the package itself is imported for
        graph[name].discard("vitcli")
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_libraries_stay_in_their_rooms() -> None:
    for path in MODULES:
        for name in imports_of(path):
            rooms = ROOMS.get(name.split(".")[0])
            assert rooms is None or unit_of(path) in rooms, f"{path} imports {name}"


def test_no_module_works_at_import() -> None:
    """Definitions and constants only; a script guards its work with `__main__`."""
    for path in MODULES:
        module = nodes_of(path)[0]
        assert isinstance(module, ast.Module)
        for node in module.body:
            if isinstance(node, ast.Expr):
                is_docstring = isinstance(node.value, ast.Constant)
                is_registration = path.name == "app.py" and isinstance(node.value, ast.Call)
                assert is_docstring or is_registration, f"{path}:{node.lineno} does something"
            assert not isinstance(node, ast.For | ast.While | ast.With), f"{path}:{node.lineno}"


def test_only_the_command_line_prints() -> None:
    for path in MODULES:
        if unit_of(path) in ("cli", "demo"):
            continue
        for node in nodes_of(path):
            is_print = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
            assert not is_print, f"{path}:{node.lineno} prints"


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import vitcli", ("torch", "numpy", "PIL", "typer", "rich")),
        ("import vitcli.cli.app", ("torch", "numpy", "PIL", "huggingface_hub", "jinja2")),
        (
            "import vitcli.jobs.run",
            ("torch", "fsspec", "huggingface_hub", "typer", "rich", "jinja2"),
        ),
        ("import vitcli.images.workers", ("torch", "huggingface_hub", "typer", "rich")),
        ("import vitcli.checkpoints.load", ("torch", "huggingface_hub", "typer", "rich", "PIL")),
        (
            "import sys; from vitcli.cli import main; main(['classify', '--help'])",
            ("torch", "numpy", "PIL", "huggingface_hub"),
        ),
        (
            "import sys; from vitcli.cli import main; main(['models', '--for', 'speed'])",
            ("torch", "numpy", "PIL", "huggingface_hub"),
        ),
        ("from vitcli.cli import main; main(['info', 'demo'])", ("torch", "huggingface_hub")),
    ],
)
def test_what_is_not_needed_is_not_imported(code: str, absent: tuple[str, ...]) -> None:
    check = f"{code}\nimport sys\nprint([m for m in {absent!r} if m in sys.modules])"
    out = subprocess.run(
        [sys.executable, "-c", check],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
    )
    assert out.stdout.splitlines()[-1] == "[]", out.stdout


# A docstring begins with a verb, or with the noun that is returned.
FIRST_WORDS = re.compile(
    r"(Of|Those|That|By|What|Who|Whom|Whose|Whoever|Whatever|Be|It|They|Or|So|Nobody|Somebody)\b"
)
# A phrase that is to be read twice, and plain English for it.
PHRASES = {
    r"\bso (many|few)\b(?! that\b)": "at most N, N times, the number of",
    r"\banew\b": "again, or start over",
    r"\bbe it\b(?!s)": "whether",
    r"\bgoes on with\b": "resumes",
    r"\bwhich see\b": "see",
    r"\bof (its|their) own accord\b": "by itself",
    r"\bthere is said\b": "the message says",
    r"(?<!there )\bis no (?!longer|more|less|larger|smaller|better|worse|such)": "is not",
}
MOST_FILES = 25  # of a folder, beside its __init__


def docstrings_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text."""
    for node in nodes_of(path):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield node.body[0].lineno, text


def comments_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text; the lines of one comment together."""
    lines: list[str] = []
    start = last = 0
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type != tokenize.COMMENT:
                continue
            if lines and token.start[0] != last + 1:
                yield start, " ".join(lines)
                lines = []
            start = start if lines else token.start[0]
            last = token.start[0]
            lines.append(token.string.lstrip("#! "))
    if lines:
        yield start, " ".join(lines)


def test_a_docstring_begins_with_a_verb_or_with_what_is_returned() -> None:
    found = [
        f"{path}:{line}: {text[:60]}"
        for path in MODULES
        for line, text in docstrings_of(path)
        if FIRST_WORDS.match(text)
    ]
    assert not found, "\n".join(found)


def test_docstrings_and_comments_are_plain_english() -> None:
    found = [
        f"{path}:{line}: {match[0]!r}: {plain}"
        for path in MODULES
        for line, text in (*docstrings_of(path), *comments_of(path))
        for phrase, plain in PHRASES.items()
        if (match := re.search(phrase, " ".join(text.split()), re.IGNORECASE))
    ]
    assert not found, "\n".join(found)


def test_no_folder_has_more_modules_than_a_reader_can_survey() -> None:
    for folder in {path.parent for path in MODULES}:
        assert len(list(folder.glob("[!_]*.py"))) <= MOST_FILES, folder
