"""Models from a hub: a real client against a hub on this machine; in a process of its own where
that process is to be killed, limited or watched."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import constants, file_download
from safetensors.torch import save_file

from tests.checkpoints.files import copied, read_state
from tests.conftest import Ended, Vit
from tests.fixtures.forks import ForkServer
from tests.fixtures.hub import MEMBER, STRANGER, FakeHub
from tests.fixtures.weights import photo
from vitcli.checkpoints.resolve import _choose
from vitcli.errors import CheckpointError

GATED = "facebook/dinov3-vitb16-pretrain-lvd1689m"


@dataclass
class Hub:
    """The hub with its models, and `vit classify` pointed at it."""

    fake: FakeHub
    vit: Vit
    home: Path
    picture: Path
    patch: pytest.MonkeyPatch
    downloads: list[str] = field(default_factory=list)

    def classify(self, model: str, *options: str, token: str | None = None) -> Ended:
        """One run; `downloads` then holds the files it fetched."""
        self._point(token)
        before = len(self.fake.requests)
        ended = self.vit("classify", self.picture, "-m", model, "-j", "0", *options)
        made = self.fake.requests[before:]
        paths = [path for method, path in made if method == "GET" and "/resolve/" in path]
        self.downloads = [path.rpartition("/")[2] for path in paths]
        assert token is None or token not in ended.err + ended.out.decode()
        return ended

    def _point(self, token: str | None) -> None:
        """What the environment says when a process starts: see `FakeHub.env`."""
        self.home.mkdir(exist_ok=True)
        (self.home / "token").write_text(token or "")
        template = self.fake.url + "/{repo_id}/resolve/{revision}/{filename}"
        self.patch.setattr(constants, "ENDPOINT", self.fake.url)
        self.patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        self.patch.setattr(constants, "HF_HUB_CACHE", str(self.home / "hub"))
        self.patch.setattr(constants, "HF_TOKEN_PATH", str(self.home / "token"))

    def fails(self, model: str, *options: str, token: str | None = None) -> list[str]:
        """The lines of a run that has to end quickly, with exit code 1 and nothing on stdout."""
        start = time.monotonic()
        ended = self.classify(model, *options, token=token)
        assert time.monotonic() - start < 30
        assert (ended.code, ended.out) == (1, b"")
        lines = ended.err.splitlines()
        assert len(lines) <= 2
        assert all(line.startswith("  ") for line in lines[1:])
        return lines


@pytest.fixture(scope="module")
def filled(tiny_model: Callable[[str], Path]) -> Iterator[FakeHub]:
    with FakeHub() as fake:
        folder = tiny_model("vit")
        for revision in ("main", "v1.0"):
            fake.add("org/tiny", folder, revision=revision)
        fake.add("org/private", folder, private=True)
        fake.add("org/gated", folder, gated=True)
        fake.add(GATED, folder, gated=True)
        yield fake


@pytest.fixture
def hub(
    filled: FakeHub, vit: Vit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Hub]:
    photo(80, 60).save(tmp_path / "photo.png")
    yield Hub(filled, vit, tmp_path / "home", Path("photo.png"), monkeypatch)
    filled.heal()


def labels(ended: Ended) -> list[str]:
    assert ended.code == 0, ended.err
    return [p["label"] for p in json.loads(ended.out)["predictions"]]


def notes(ended: Ended) -> list[str]:
    """What stands on stderr beside the summary."""
    return ended.err.splitlines()[:-1]


def test_a_model_is_downloaded_once_and_then_used_from_the_cache(hub: Hub) -> None:
    first = hub.classify("org/tiny")
    assert sorted(hub.downloads) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    again = hub.classify("org/tiny")
    assert hub.downloads == []
    seen = len(hub.fake.requests)
    offline = hub.classify("org/tiny", "--offline")
    assert len(hub.fake.requests) == seen, "--offline asked the hub"
    hub.fake.fail_with(503)
    unreachable = hub.classify("org/tiny")
    assert labels(first) == labels(again) == labels(offline) == labels(unreachable)
    assert notes(first) == notes(again) == notes(offline) == []
    (note,) = notes(unreachable)
    assert "hub not reachable (it answers 503), using the cached revision" in note


def test_a_tag_is_a_revision_and_is_cached_under_its_name(hub: Hub) -> None:
    named = hub.classify("org/tiny@v1.0")
    assert len(hub.downloads) == 3
    assert labels(named) == labels(hub.classify("org/tiny@v1.0", "--offline"))


def test_a_hub_that_is_gone_leaves_the_cache(
    hub: Hub, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    with FakeHub() as other:
        other.add("org/tiny", tiny_model("vit"))
        hub.fake = other
        first = hub.classify("org/tiny")
    gone = hub.classify("org/tiny")
    assert labels(gone) == labels(first)
    (note,) = notes(gone)
    assert "hub not reachable" in note
    message, hint = hub.fails("org/never-seen")
    assert f"org/never-seen is not in the cache ({tmp_path}/home/hub)" in message
    assert "the hub cannot be reached" in message
    assert hint == "  on a connected machine: hf download org/never-seen"


def test_what_is_not_cached_is_not_asked_for_offline(hub: Hub) -> None:
    seen = len(hub.fake.requests)
    message, hint = hub.fails("org/tiny@v1.0", "--offline")
    assert len(hub.fake.requests) == seen
    assert "org/tiny@v1.0 is not in the cache" in message
    assert hint == "  on a connected machine: hf download org/tiny --revision v1.0"


@pytest.mark.parametrize("model", ["org/absent", "org/private"])
def test_a_model_that_is_missing_or_private_may_be_either(hub: Hub, model: str) -> None:
    message, hint = hub.fails(model)
    assert message == f"vit: {model} is not on the hub, or it is private"
    assert "set HF_TOKEN" in hint


def test_a_token_is_in_nothing_that_is_written(hub: Hub, tmp_path: Path) -> None:
    """Neither in what is printed (`classify` looks at that) nor in a file beside the output."""
    options = ("-o", "out.jsonl", "--summary", "summary.json", "--log-json")
    assert hub.classify("org/private", *options, token=MEMBER).code == 0
    assert (tmp_path / "summary.json").exists()
    written = [p for p in tmp_path.rglob("*") if p.is_file() and p != hub.home / "token"]
    assert len(written) > 5  # the cache's own, too
    assert not [path for path in written if MEMBER.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("token", "why", "login"),
    [
        (None, "no token is set", ", and set HF_TOKEN or run: hf auth login"),
        (STRANGER, "your token's account has not", ""),
    ],
)
def test_a_gated_model_says_what_that_is_and_how_to_get_in(
    hub: Hub, token: str | None, why: str, login: str
) -> None:
    gate = "is gated: its files are for accounts that have accepted its terms"
    assert hub.fails("org/gated", token=token) == [
        f"vit: org/gated {gate}, and {why}",
        f"  accept its terms at {hub.fake.url}/org/gated{login}",
    ]


def test_a_gated_model_names_its_open_twin(hub: Hub) -> None:
    message, hint = hub.fails(GATED)
    assert message.startswith(f"vit: {GATED} is gated: ")
    twin = "timm/vit_base_patch16_dinov3.lvd1689m"
    assert hint.startswith(f"  {twin} has the same weights and is open; or accept its terms at ")


def test_a_gated_model_is_there_for_those_who_have_accepted(hub: Hub) -> None:
    labels(hub.classify("org/gated", token=MEMBER))


def test_a_token_that_the_hub_refuses_is_said_to_be_so(hub: Hub) -> None:
    assert hub.fails("org/private", token="hf_nonsense")[0] == "vit: the hub refuses this token"


def test_a_revision_that_is_not_there_is_named(hub: Hub) -> None:
    message, hint = hub.fails("org/tiny@v9")
    assert message == "vit: org/tiny has no revision v9"
    assert hint.endswith("/org/tiny/commits lists them; org/tiny alone is the newest")


def test_a_hub_that_answers_with_an_error_is_quoted(hub: Hub) -> None:
    hub.fake.fail_with(429)
    message, _ = hub.fails("org/tiny")
    assert "the hub cannot be reached (it answers 429)" in message


def test_the_hub_is_asked_for_the_model_and_told_versions_alone(
    hub: Hub, clean_env: dict[str, str]
) -> None:
    """docs/privacy.md names all of them."""
    hub.fake.agents.clear()
    before = len(hub.fake.requests)
    env = clean_env | hub.fake.env(hub.home)
    del env["HF_HUB_DISABLE_TELEMETRY"]
    command = [sys.executable, "-m", "vitcli", "models", "pull", "org/tiny"]
    subprocess.run(command, env=env, check=True, capture_output=True)
    python = ".".join(map(str, sys.version_info[:3]))
    told = f"unknown/None; hf_hub/{version('huggingface_hub')}; python/{python}"
    assert hub.fake.agents == {told}
    paths = [path.removeprefix("/api/models") for _, path in hub.fake.requests[before:]]
    assert paths and all(path.startswith("/org/tiny") for path in paths)


@pytest.mark.parametrize("option", ["--offline", "HF_HUB_OFFLINE"])
def test_offline_opens_no_socket(
    option: str, hub: Hub, tmp_path: Path, clean_env: dict[str, str]
) -> None:
    """Python tells of every attempt to connect."""
    labels(hub.classify("org/tiny"))
    script = (
        "import sys\n"
        "def told(event, args):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo'): sys.exit(f'{event} {args}')\n"
        "sys.addaudithook(told)\n"
        "from vitcli.checkpoints.load import load\n"
        f"print(load('org/tiny', offline={option == '--offline'}).revision)\n"
    )
    env = clean_env | hub.fake.env(hub.home)
    env |= {} if option == "--offline" else {option: "1"}
    run = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.strip()) == 40


def test_a_server_error_is_quoted(hub: Hub) -> None:
    hub.fake.fail_with(500)
    message, _ = hub.fails("org/tiny")
    assert "the hub cannot be reached (it answers 500)" in message


def test_a_hub_that_does_not_answer_is_given_up(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitcli.checkpoints.hub.TIMEOUT", 0.2)
    hub.fake.delay = 30
    message, _ = hub.fails("org/tiny")
    assert "the hub cannot be reached" in message
    assert "timed out" in message


def test_a_hub_that_stalls_within_a_file_is_given_up(
    hub: Hub, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client asks five times for the rest, and waits for it each time: a minute in all."""
    assert constants.HF_HUB_DOWNLOAD_TIMEOUT <= 10
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    at_once(monkeypatch)
    hub.fake.stall = 5000
    message, _ = hub.fails("org/tiny", token=MEMBER)
    assert "org/tiny is not in the cache" in message
    assert "the hub cannot be reached" in message
    assert "timed out" in message
    assert hub.downloads.count("model.safetensors") == 6
    whole_files(hub, tiny_model("vit"))
    hub.fake.heal()
    assert len(labels(hub.classify("org/tiny"))) == 5


def whole_files(hub: Hub, folder: Path) -> None:
    """No file of the cache has its final name and is not whole."""
    for path in hub.home.rglob("snapshots/*/*"):
        assert path.read_bytes() == (folder / path.name).read_bytes(), path


def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client waits a second before it asks again; here it does not."""
    clock = SimpleNamespace(**vars(time) | {"sleep": lambda seconds: None})
    monkeypatch.setattr(file_download, "time", clock)


@pytest.mark.parametrize("share", [0.5, 0.0])
def test_a_broken_connection_leaves_no_half_file(
    share: float, hub: Hub, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch)
    folder = tiny_model("vit")
    hub.fake.cut = int((folder / "model.safetensors").stat().st_size * share)
    ended = hub.classify("org/tiny")  # the client asks again for the rest
    assert ended.code == (1 if share == 0 else 0) or (ended.code == 1 and "hub" in ended.err)
    whole_files(hub, folder)
    hub.fake.cut = None
    assert len(labels(hub.classify("org/tiny"))) == 5


def test_a_download_that_is_killed_is_begun_again(
    hub: Hub, tiny_model: Callable[[str], Path], vits: ForkServer, clean_env: dict[str, str]
) -> None:
    hub.fake.delay = 0.3
    seen = len(hub.fake.requests)
    child = vits.start("info", "org/tiny", env=clean_env | hub.fake.env(hub.home))
    while not any("model.safetensors" in path for _, path in hub.fake.requests[seen:]):
        assert Path(f"/proc/{child.pid}").exists(), child.err
        time.sleep(0.02)
    child.kill()
    child.wait()
    hub.fake.delay = 0.0
    whole_files(hub, tiny_model("vit"))
    assert len(labels(hub.classify("org/tiny"))) == 5


def test_two_processes_may_fetch_one_model(
    hub: Hub, vits: ForkServer, clean_env: dict[str, str]
) -> None:
    hub.fake.delay = 0.1
    env = clean_env | hub.fake.env(hub.home)
    both = [vits.start("info", "org/tiny", "--json", env=env) for _ in range(2)]
    assert [child.wait() for child in both] == [0, 0]
    first, second = both
    assert json.loads(first.out) == json.loads(second.out)


def test_a_full_disk_is_said_to_be_full(
    hub: Hub, tiny_model: Callable[[str], Path], vits: ForkServer, clean_env: dict[str, str]
) -> None:
    """A limit on the size of files is a disk that ends."""
    size = (tiny_model("vit") / "model.safetensors").stat().st_size // 2
    env = clean_env | hub.fake.env(hub.home)
    child = vits.vit("info", "org/tiny", env=env, limits={"FSIZE": size})
    assert (child.code, child.out) == (1, b"")
    assert f"cannot write to the cache ({hub.home}/hub): File too large" in child.err
    whole_files(hub, tiny_model("vit"))
    assert len(labels(hub.classify("org/tiny"))) == 5


PAGE = b"<!DOCTYPE html><html><body>Please log in to the network</body></html>"
FILE = {"ETag": '"abc"', "X-Repo-Commit": "0" * 40}
ODD_ANSWERS = {
    "a page for the API": ("/api/", 200, PAGE, {"Content-Type": "text/html"}),
    "nothing": ("/api/", 200, b"", {}),
    "a list": ("/api/", 200, b"[1, 2]", {}),
    "null": ("/api/", 200, b"null", {}),
    "a number for the files": ("/api/", 200, b'{"id": "org/tiny", "siblings": 5}', {}),
    "files without names": ("/api/", 200, b'{"id": "org/tiny", "siblings": [{"a": 1}]}', {}),
    "deep JSON": ("/api/", 200, b"[" * 100_000, {}),
    "a redirect without end": ("/api/", 302, b"", {"Location": "/api/models/org/tiny"}),
    "a redirect to nowhere": ("/api/", 302, b"", {"Location": "http://[::"}),
    "a page for the config": ("/config.json", 200, PAGE, FILE),
    "a page for the weights": ("/model.safetensors", 200, PAGE, FILE),
    "a page without headers": ("/resolve/", 200, PAGE, {}),
    "another length": ("/config.json", 200, b"{}", FILE | {"Content-Length": "2"}),
}


@pytest.mark.parametrize("answer", ODD_ANSWERS)
def test_what_answers_in_the_hubs_place_is_told_and_not_kept(
    answer: str, hub: Hub, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch)
    hub.fake.portal = ODD_ANSWERS[answer]
    lines = hub.fails("org/tiny")
    assert len("".join(lines)) < 700
    whole_files(hub, tiny_model("vit"))
    hub.fake.heal()
    assert len(labels(hub.classify("org/tiny"))) == 5


@pytest.mark.parametrize("length", [True, False])
def test_a_config_of_gigabytes_is_not_fetched(
    length: bool, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused by the length that is announced, or by what has come."""
    monkeypatch.setattr("vitcli.checkpoints.hub.MAX_JSON", 3000 if length else 100)
    body = b'{"a": "' + b"a" * 5_000_000 + b'"}'
    headers = FILE | ({"Content-Length": str(len(body))} if length else {})
    hub.fake.portal = ("/config.json", 200, body, headers)
    message, _ = hub.fails("org/tiny")
    assert "config.json on the hub is too large for a config" in message


@pytest.mark.parametrize("endpoint", ["nonsense", "ftp://hub", "http://", "http://[", "http://a:b"])
def test_an_endpoint_that_is_no_address_is_told(
    endpoint: str, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = hub._point

    def misled(token: str | None) -> None:
        point(token)
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)

    monkeypatch.setattr(hub, "_point", misled)
    assert "which is not an address of a hub" in hub.fails("org/tiny")[0]


def test_files_of_the_hub_are_not_trusted_either(
    hub: Hub, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = copied(tiny_model("vit"), tmp_path / "repo")
    state = read_state(folder)
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    hub.fake.add("org/only-bin", folder)
    assert len(labels(hub.classify("org/only-bin"))) == 5
    (folder / "pytorch_model.bin").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    hub.fake.add("org/pointer", folder)
    assert "is a git-LFS pointer" in hub.fails("org/pointer")[0]
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(os.system))
    hub.fake.add("org/hostile", folder)
    assert "wants to run `posix.system`" in hub.fails("org/hostile")[0]
    (folder / "pytorch_model.bin").unlink()
    index = folder / "model.safetensors.index.json"
    save_file(state, folder / "model-00001-of-00001.safetensors")
    index.write_text(json.dumps({"weight_map": {"a": "../x.safetensors"}}))
    hub.fake.add("org/outside", folder)
    assert "names a file that is not a shard next to it: ../x" in hub.fails("org/outside")[0]


def test_shards_of_the_cache_are_links_to_its_blobs(
    hub: Hub, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = copied(tiny_model("vit"), tmp_path / "repo")
    state = read_state(folder)
    (folder / "model.safetensors").unlink()
    parts = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for number, name in enumerate(parts):
        save_file({k: state[k] for k in list(state)[number::2]}, folder / name)
    names = {key: parts[i % 2] for i, key in enumerate(state)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    hub.fake.add("org/shards", folder)
    assert labels(hub.classify("org/shards")) == labels(hub.classify("org/tiny"))
    assert any(path.is_symlink() for path in hub.home.rglob("model-00001*"))


# What of a repository is downloaded, and what is refused: without a network.


def test_safetensors_are_chosen_before_pickles_and_shards_with_their_index() -> None:
    repo = "org/tiny"
    junk = ["README.md", "tf_model.h5", "model.onnx", "sub/model.safetensors"]
    json_files = ["config.json", "preprocessor_config.json"]
    both = [*junk, *json_files, "pytorch_model.bin", "model.safetensors"]
    assert _choose(repo, both) == [*json_files, "model.safetensors"]
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    index = "model.safetensors.index.json"
    assert _choose(repo, [*junk, *shards, index, "pytorch_model.bin"]) == [index, *shards]
    assert _choose(repo, [*junk, "pytorch_model.bin"]) == ["pytorch_model.bin"]
    with pytest.raises(CheckpointError, match="org/tiny on the hub has no weights"):
        _choose(repo, [*junk, "config.json"])


def test_which_of_a_repositorys_weights_were_taken_is_told(
    hub: Hub, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = copied(tiny_model("vit"), tmp_path / "repo")
    torch.save(read_state(folder), folder / "pytorch_model.bin")
    hub.fake.add("org/both", folder)
    assert labels(hub.classify("org/both")) == labels(hub.classify("org/tiny"))
    told = json.loads(hub.vit("info", "org/both", "--json").out)
    assert [file["name"] for file in told["files"]] == ["model.safetensors"]
    assert not list(hub.home.rglob("pytorch_model.bin"))


def test_weights_under_another_name_are_told(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "README.md").touch()
    hub.fake.add("org/none", tmp_path / "repo")
    message, hint = hub.fails("org/none")
    assert message == "vit: org/none on the hub has no weights under a standard name"
    assert "another library" in hint
    (tmp_path / "repo" / "dino_small.pth").touch()
    hub.fake.add("org/other", tmp_path / "repo")
    assert hub.fails("org/other")[1] == (
        "  it has dino_small.pth; download one and give the file: "
        "hf download org/other dino_small.pth"
    )
