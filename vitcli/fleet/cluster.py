"""Connect to a Ray cluster at an address, with a token, or start a cluster on this machine."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from vitcli.errors import DeviceError

REACHED_WITHIN = 10.0  # seconds
TRIES_TO_REACH = "4"  # Ray makes one a second
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # send nothing over the network but the work
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # without it Ray prints a warning
}


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Yield the connected module `ray`. A cluster that was started for this run ends with the
    context."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if address not in ("auto", "local"):  # those may start a cluster, which takes longer
        _reach(address)
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", TRIES_TO_REACH)
    import ray

    if ray.is_initialized():
        with _unprinted():
            yield ray
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        try:
            _connect(ray, address)
        except _TokenWanted:
            _take_token(ray)
            _connect(ray, address)
    except (RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        raise _unreachable(address, " ".join(str(error).split())) from None
    finally:
        with suppress(ValueError):  # not in the main thread
            for number, handler in before.items():
                signal.signal(number, handler)
    with _unprinted():
        try:
            yield ray
        finally:
            ray.shutdown()  # prints output that Ray has delayed


class _TokenWanted(OSError):
    """The cluster requires a token, and this process sent none or a wrong one."""


def _connect(ray: Any, address: str) -> None:
    with _muted() as output:
        try:
            ray.init(
                address=None if address == "auto" else address,
                include_dashboard=None if address != "auto" else False,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
            )
        except OSError as error:
            output.seek(0)
            if b"Unauthenticated" in output.read():
                raise _TokenWanted("it requires its token") from error
            raise


def _take_token(ray: Any) -> None:
    """Make Ray send the token of this machine.

    A cluster requires a token if `ray start` found one, but a client sends its token only if
    RAY_AUTH_MODE is "token". Ray reads that variable once, so this makes Ray read it again.
    """
    if "RAY_AUTH_MODE" in os.environ:
        raise _TokenWanted("it does not accept the token of this process")
    os.environ["RAY_AUTH_MODE"] = "token"
    ray._raylet.Config.initialize("")


def _reach(address: str) -> None:
    """Raise DeviceError if nothing listens at the address; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), REACHED_WITHIN).close()
        except (OSError, OverflowError) as error:
            raise _unreachable(address, getattr(error, "strerror", "") or str(error)) from None


def _unreachable(address: str, why: str) -> DeviceError:
    return DeviceError(
        f"no Ray cluster at {address}: {why}",
        "`ray start --head` starts one; if it requires a token, set RAY_AUTH_TOKEN or write the"
        " token to ~/.ray/auth_token",
    )


@contextmanager
def _muted() -> Iterator[IO[bytes]]:
    """Redirect descriptor 2, to which Ray's C++ library writes, to the file that is yielded."""
    sys.stderr.flush()
    saved = os.dup(2)
    with TemporaryFile() as output:
        os.dup2(output.fileno(), 2)
        try:
            yield output
        finally:
            os.dup2(saved, 2)
            os.close(saved)


@contextmanager
def _unprinted() -> Iterator[None]:
    """Discard the lines that Ray prints to standard output about actors that end."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        yield
