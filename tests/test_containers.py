"""The Dockerfiles agree with the package: versions, extras, files and the command.

They are not built here. What docker would refuse is left to hadolint.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def instructions(name: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, each with its words in one line."""
    text = re.sub(r"^#.*\n", "", (ROOT / name).read_text("utf-8"), flags=re.MULTILINE)
    lines = text.replace("\\\n", "").splitlines()
    return [
        (word, " ".join(rest.split())) for word, _, rest in (s.partition(" ") for s in lines if s)
    ]


def values(name: str, word: str) -> list[str]:
    return [rest for instruction, rest in instructions(name) if instruction == word]


@pytest.fixture(params=["Dockerfile", "Dockerfile.cuda"])
def dockerfile(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_both_stages_have_the_oldest_python_that_is_supported(dockerfile: str) -> None:
    first, last = (rest.split()[0] for rest in values(dockerfile, "FROM"))
    [version] = re.findall(r"^python:(\d+\.\d+)-slim-\w+$", first)
    assert first == last and PROJECT["project"]["requires-python"] == f">={version}"


def test_torch_is_the_one_of_ci(dockerfile: str) -> None:
    [pinned] = re.findall(r"torch==([\d.]+)", (ROOT / ".ci" / "run").read_text("utf-8"))
    [command] = [run for run in values(dockerfile, "RUN") if "torch" in run]
    assert command.split()[-1] == f"torch=={pinned}"
    assert ("/whl/cpu" in command) == (dockerfile == "Dockerfile")


def test_the_extras_are_those_of_the_package(dockerfile: str) -> None:
    [extras] = [arg.removeprefix("EXTRAS=") for arg in values(dockerfile, "ARG")]
    assert {*extras.split(",")} <= {*PROJECT["project"]["optional-dependencies"]}
    assert any('"/src[$EXTRAS]"' in run for run in values(dockerfile, "RUN"))


def test_vit_runs_as_a_user_whose_caches_are_in_the_volume(dockerfile: str) -> None:
    [user], [volume], [entry] = (
        values(dockerfile, word) for word in ("USER", "VOLUME", "ENTRYPOINT")
    )
    assert int(user) > 0 and any(f"--uid {user} vit" in run for run in values(dockerfile, "RUN"))
    assert entry == '["vit"]' and "vit" in PROJECT["project"]["scripts"]
    settings = dict(pair.split("=", 1) for env in values(dockerfile, "ENV") for pair in env.split())
    for name in ("VIT_CACHE", "HF_HOME"):
        assert settings[name].startswith(f"{volume}/")


def test_the_two_differ_in_what_a_gpu_needs_alone() -> None:
    def plain(name: str) -> set[tuple[str, str]]:
        drop = r" --index-url \S+"
        return {(word, re.sub(drop, "", rest)) for word, rest in instructions(name)}

    visible = "NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility"
    assert plain("Dockerfile.cuda") - plain("Dockerfile") == {("ENV", visible)}
    assert plain("Dockerfile") <= plain("Dockerfile.cuda")


def test_an_image_is_built_from_what_the_wheel_is_made_of() -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    kept = {line[1:] for line in lines if line.startswith("!")}
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    project = PROJECT["project"]
    needed = [project["readme"], *project["license-files"], *wheel["packages"]]
    needed += [source.split("/")[0] for source in wheel["shared-data"]]
    assert "*" in lines and kept == {"pyproject.toml", *needed}
