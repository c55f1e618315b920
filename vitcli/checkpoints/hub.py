"""Download a repository of the hub into a local folder through huggingface_hub, which provides the
cache, the token, revisions and offline mode."""

from __future__ import annotations

import errno
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vitcli.errors import CheckpointError, ModelNotFound, OutputError, hidden, in_bytes

PROBES = ("config.json", "model.safetensors", "pytorch_model.bin")  # one is in every snapshot
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".npz")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)
MAX_JSON = 10_000_000  # bytes
MAX_VOCABULARY = 200_000_000  # bytes; XLM-V's tokenizer.json, of 901,629 tokens, has 62 MB
VOCABULARIES = ("tokenizer.json", "vocab.json")  # JSON that is larger than any config
# The errors of huggingface_hub for JSON of another shape, a web page, or an invalid address.
ODD = (ValueError, TypeError, LookupError, AttributeError, RecursionError)
WEB_PAGE = re.compile(rb"\s*<(!doctype|html|\?xml)", re.IGNORECASE)
PORTAL = "a proxy or a login page answers in place of the hub"
TIMEOUT = 5.0  # seconds until the hub's first answer


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A folder of the cache, the commit it holds, and notes for the user."""

    folder: Path
    revision: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Hub:
    """The hub's address and the cache of its files, whether it may be asked, and whether there is a
    token for it."""

    endpoint: str
    folder: str
    is_offline: bool
    has_token: bool


def describe_hub() -> Hub:
    """Describe the settings for the hub, which huggingface_hub reads."""
    from huggingface_hub import constants, get_token

    return Hub(
        hidden(constants.ENDPOINT),
        constants.HF_HUB_CACHE,
        constants.HF_HUB_OFFLINE,
        get_token() is not None,
    )


def download(
    repo: str,
    revision: str | None,
    choose: Callable[[list[str]], list[str]],
    *,
    offline: bool,
    probes: Sequence[str] = PROBES,
) -> Snapshot:
    """Fetch the files of the repository that `choose` picks, or find them in the cache, which has
    them if it has one of `probes`.

    Raises ModelNotFound for a missing repository, revision or permission, and if the hub cannot be
    reached and nothing is cached; and what `choose` raises.
    """
    # Imported here: it brings an HTTP client, which a local model does not need.
    from huggingface_hub import HfApi, constants, errors, hf_hub_download, utils

    utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    if sys.stderr is None or not sys.stderr.isatty():
        utils.disable_progress_bars()  # type: ignore[attr-defined]
    cached = _cached(repo, revision, probes)
    if offline or constants.HF_HUB_OFFLINE:
        if cached is None:
            raise _not_cached(repo, revision, "--offline forbids asking the hub")
        return cached
    _check_endpoint(constants.ENDPOINT)
    try:
        info = HfApi().model_info(repo, revision=revision, timeout=TIMEOUT, files_metadata=True)
        sizes = {sibling.rfilename: sibling.size for sibling in info.siblings or []}
        chosen = choose(list(sizes))
        # The first file is fetched by branch, which records the branch's commit in the cache. The
        # others are fetched by that commit, so that all files belong to it.
        first, *others = chosen

        def fetch(name: str, revision: str | None) -> Path:
            limit = _limit(name)
            if limit and (sizes[name] or 0) > limit:
                raise _too_large(repo, name, in_bytes(sizes[name] or 0), limit)
            bar = _bounded(repo, name, limit) if limit else None
            with warnings.catch_warnings():  # about a full disk: an error follows
                warnings.simplefilter("ignore", UserWarning)
                file = Path(hf_hub_download(repo, name, revision=revision, tqdm_class=bar))
            _check_fetched(file, sizes[name], repo, name)
            return file

        folder = fetch(first, revision).parents[first.count("/")]
        for name in others:
            fetch(name, folder.name)
    except errors.GatedRepoError as error:
        raise _gated(repo, has_token=_status(error) != 401) from None
    except errors.RepositoryNotFoundError:
        from vitcli.checkpoints.catalogue import nearest

        near = nearest(repo)
        check = "check the name" if near in (None, repo) else f"did you mean {near}?"
        raise ModelNotFound(
            f"{repo} is not on the hub, or it is private",
            f"{check}; for a private model set HF_TOKEN or run: hf auth login",
        ) from None
    except errors.RevisionNotFoundError:
        raise ModelNotFound(
            f"{repo} has no revision {revision}",
            f"{constants.ENDPOINT}/{repo}/commits lists them; {repo} alone is the newest",
        ) from None
    except errors.HFValidationError as error:
        raise ModelNotFound(f"{repo} is not a hub id: {error}") from None
    except (errors.HTTPError, OSError, *ODD) as error:  # type: ignore[attr-defined]
        # Any network failure (HTTPError is httpx's), and a server that answers with an error.
        number = getattr(error, "errno", None)
        if isinstance(number, int) and number in NO_ROOM:
            raise OutputError(
                f"cannot write to the cache ({constants.HF_HUB_CACHE}): {os.strerror(number)}",
                "make room there, or set HF_HOME to another folder",
            ) from None
        reason = _reason(error)
        if reason == "it answers 401":
            raise ModelNotFound("the hub refuses this token", "check HF_TOKEN") from None
        if cached is None:
            raise _not_cached(repo, revision, f"the hub cannot be reached ({reason})") from None
        note = f"hub not reachable ({reason}), using the cached revision {cached.revision[:10]}"
        return replace(cached, notes=(note,))
    return Snapshot(folder, folder.name)


def _gated(repo: str, *, has_token: bool) -> ModelNotFound:
    """The error for a repository that an account must be admitted to."""
    from huggingface_hub import constants

    from vitcli.checkpoints.catalogue import open_twin

    account = "your token's account has not" if has_token else "no token is set"
    login = "" if has_token else ", and set HF_TOKEN or run: hf auth login"
    steps = f"accept its terms at {constants.ENDPOINT}/{repo}{login}"
    twin = open_twin(repo)
    return ModelNotFound(
        f"{repo} is gated: its files are for accounts that have accepted its terms, and {account}",
        f"{twin} has the same weights and is open; or {steps}" if twin else steps,
    )


def _check_endpoint(endpoint: str) -> None:
    """Raise ModelNotFound if the hub's address is not a URL."""
    try:
        parts = urlsplit(endpoint)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url:
        raise ModelNotFound(
            f"HF_ENDPOINT is {endpoint[:200]}, which is not an address of a hub",
            "give https://HOST, or leave it unset",
        )


def _limit(name: str) -> int | None:
    """The largest size of a JSON file, in bytes; None for other files."""
    if not name.endswith(".json"):
        return None
    return MAX_VOCABULARY if name in VOCABULARIES else MAX_JSON


def _bounded(repo: str, name: str, limit: int) -> Any:
    """The class of a progress bar that draws nothing, and aborts a download beyond the limit,
    whatever length the hub announced."""
    from huggingface_hub.utils.tqdm import tqdm

    class Bounded(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.received = 0
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> bool | None:
            self.received += int(n or 0)
            if self.received > limit:
                raise _too_large(repo, name, f"more than {in_bytes(limit)}", limit)
            return None

    return Bounded


def _too_large(repo: str, name: str, size: str, limit: int) -> CheckpointError:
    what = "vocabulary" if name in VOCABULARIES else "config"
    return CheckpointError(
        f"{repo}: {name} on the hub is too large for a {what}: {size}",
        f"at most {in_bytes(limit)} are read",
    )


def _check_fetched(file: Path, size: int | None, repo: str, name: str) -> None:
    """Delete a file that differs from the hub's listing, and raise ModelNotFound."""
    real = file.resolve()
    with real.open("rb") as stream:
        is_page = WEB_PAGE.match(stream.read(256)) is not None
    length = real.stat().st_size
    if not is_page and size in (None, length):
        return
    file.unlink(missing_ok=True)
    real.unlink(missing_ok=True)
    received = "a web page" if is_page else f"{in_bytes(length)} of {in_bytes(size or 0)}"
    raise ModelNotFound(f"{repo}: {received} came for {name}", PORTAL)


def _cached(repo: str, revision: str | None, probes: Sequence[str]) -> Snapshot | None:
    """The snapshot of an earlier download."""
    from huggingface_hub import errors, try_to_load_from_cache

    for name in probes:
        try:
            path = try_to_load_from_cache(repo, name, revision=revision)
        except (errors.HFValidationError, ValueError):
            return None
        if isinstance(path, str):
            folder = Path(path).parent
            return Snapshot(folder, folder.name)
    return None


def _not_cached(repo: str, revision: str | None, why: str) -> ModelNotFound:
    from huggingface_hub import constants

    from vitcli.checkpoints.catalogue import nearest, open_twin

    requested = f"{repo}@{revision}" if revision else repo
    option = f" --revision {revision}" if revision else ""
    if twin := open_twin(repo):  # the repository itself is gated
        repo, option = twin, ""
    near = nearest(repo)
    meant = "" if near in (None, repo) else f"did you mean {near}? else "
    return ModelNotFound(
        f"{requested} is not in the cache ({constants.HF_HUB_CACHE}) and {why}",
        f"{meant}on a connected machine: hf download {repo}{option}",
    )


def _reason(error: BaseException) -> str:
    cause = error.__cause__ or error  # the outer error may only say "not in the cache"
    if isinstance(cause, ODD) and not isinstance(cause, OSError):
        return f"the server is not a hub: {PORTAL}"
    status = _status(cause)
    if status is not None:
        return f"it answers {status}"
    return " ".join(str(cause).split())[:100] or type(cause).__name__


def _status(error: BaseException) -> int | None:
    """The HTTP status of the answer that an error is about."""
    status: int | None = getattr(getattr(error, "response", None), "status_code", None)
    return status
