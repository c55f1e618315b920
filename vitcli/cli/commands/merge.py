"""`vit merge`."""

from __future__ import annotations

from typing import Annotated

from vitcli.cli.options import options as o
from vitcli.cli.options.declare import Argument, Group, Option
from vitcli.cli.screen.exit import end
from vitcli.cli.screen.screen import Screen

Shards = Annotated[
    list[str],
    Argument(
        "SHARDS...",
        group=Group.INPUTS,
        help="Outputs of all shards: files, URLs, or quoted patterns of URLs.",
    ),
]
Out = Annotated[
    str,
    Option(
        "-o",
        "--out",
        group=Group.OUTPUT,
        brief=True,
        help="Write to FILE, in the format of the shards, or to a URL (s3://...).",
        metavar="FILE",
    ),
]


def merge(shards: Shards, out: Out, overwrite: o.Overwrite = False, quiet: o.Quiet = False) -> None:
    """Join the outputs of all shards, as if one run had made them.

    Example:  vit merge feats-*-of-00004.npy -o feats.npy
    """
    from vitcli.stores import place_of
    from vitcli.tasks.merge import merge as run

    place = place_of(out)
    with Screen(quiet=quiet, progress=False) as screen:
        summary = run(
            [place_of(shard) for shard in shards], place, overwrite=overwrite, reporter=screen
        )
    end(screen, summary, place)
