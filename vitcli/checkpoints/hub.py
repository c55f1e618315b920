"""A hub id into a local folder, through huggingface_hub: cache, token, revision, offline."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from vitcli.errors import CheckpointError, ModelNotFound, OutputError

PROBES = ("config.json", "model.safetensors", "pytorch_model.bin")
OTHER_WEIGHTS = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".npz")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)
TIMEOUT = 5.0  # seconds for the first answer of the hub


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A folder of the cache, the commit it holds, and what a user should know of it."""

    folder: Path
    revision: str
    notes: tuple[str, ...] = ()


def download(
    repo: str,
    revision: str | None,
    choose: Callable[[list[str]], list[str]],
    *,
    offline: bool,
) -> Snapshot:
    """Fetch what `choose` takes of the repository's files, or find it in the cache.

    Raises ModelNotFound for a repository, revision or permission that is not there, and for a
    hub that cannot be reached while nothing is cached.
    """
    # Imported here: it brings an HTTP client along, which a local model does not need.
    from huggingface_hub import HfApi, constants, errors, hf_hub_download, utils

    utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    if sys.stderr is None or not sys.stderr.isatty():
        utils.disable_progress_bars()  # type: ignore[attr-defined]
    cached = _cached(repo, revision)
    if offline or constants.HF_HUB_OFFLINE:
        if cached is None:
            raise _not_cached(repo, revision, "--offline forbids to ask the hub")
        return cached
    try:
        info = HfApi().model_info(repo, revision=revision, timeout=TIMEOUT)
        names = [sibling.rfilename for sibling in info.siblings or []]
        chosen = choose(names)
        if not any(name.endswith((".safetensors", ".bin")) for name in chosen):
            others = sorted(name for name in names if name.endswith(OTHER_WEIGHTS))
            raise CheckpointError(
                f"{repo} on the hub has no weights under a name that is looked for",
                f"it has {', '.join(others[:5])}; download one and give the file: "
                f"hf download {repo} {others[0]}"
                if others
                else "it may be of another library: look for one with model.safetensors",
            )
        # The first by the name of the branch, which notes in the cache what that is; the others
        # by commit, so that all are of one.
        first, *others = chosen
        folder = Path(hf_hub_download(repo, first, revision=revision)).parents[first.count("/")]
        for name in others:
            hf_hub_download(repo, name, revision=folder.name)
    except errors.GatedRepoError:
        raise ModelNotFound(
            f"{repo} is gated, and this account may not read it",
            f"accept its terms at {constants.ENDPOINT}/{repo} and set HF_TOKEN",
        ) from None
    except errors.RepositoryNotFoundError:
        raise ModelNotFound(
            f"{repo} is not on the hub, or it is private",
            "check the name; for a private model set HF_TOKEN or run: hf auth login",
        ) from None
    except errors.RevisionNotFoundError:
        raise ModelNotFound(f"{repo} has no revision {revision}") from None
    except errors.HFValidationError as error:
        raise ModelNotFound(f"{repo} is not a hub id: {error}") from None
    except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]  # also httpx's own
        # Network trouble of every kind, and a server that answers with an error.
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


def _cached(repo: str, revision: str | None) -> Snapshot | None:
    """The snapshot that an earlier download left."""
    from huggingface_hub import errors, try_to_load_from_cache

    for name in PROBES:
        try:
            found = try_to_load_from_cache(repo, name, revision=revision)
        except (errors.HFValidationError, ValueError):
            return None
        if isinstance(found, str):
            folder = Path(found).parent
            return Snapshot(folder, folder.name)
    return None


def _not_cached(repo: str, revision: str | None, why: str) -> ModelNotFound:
    from huggingface_hub import constants

    named = f"{repo}@{revision}" if revision else repo
    at = f" --revision {revision}" if revision else ""
    return ModelNotFound(
        f"{named} is not in the cache ({constants.HF_HUB_CACHE}) and {why}",
        f"on a connected machine: hf download {repo}{at}",
    )


def _reason(error: BaseException) -> str:
    cause = error.__cause__ or error  # "not in the cache" hides why it was asked
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if status is not None:
        return f"it answers {status}"
    return " ".join(str(cause).split())[:100] or type(cause).__name__
