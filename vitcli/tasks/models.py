"""Choose checkpoints of the catalogue for a purpose, and download one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vitcli.checkpoints.catalogue import MEASURES, CatalogueEntry, entries

# The layouts whose files have a text tower, too.
TEXT_LAYOUTS = ("hf-clip", "hf-siglip", "openai", "open-clip", "open-clip-timm", "pe")
Purpose = Literal["speed", "accuracy", "memory", "resolution", "features", "words"]


@dataclass(frozen=True, slots=True)
class Choice:
    """Entries in the order to try them, and one line that explains the choice and the order."""

    entries: tuple[CatalogueEntry, ...]
    why: str = ""


@dataclass(frozen=True, slots=True)
class Pulled:
    """The cache folder of a downloaded checkpoint, and notes for the user."""

    folder: Path
    notes: tuple[str, ...] = ()


def choose_models(purpose: Purpose | None = None) -> Choice:
    """Choose all entries in the catalogue's order, or those for a purpose, the best first."""
    every = entries()
    if purpose is None:
        return Choice(every)
    match purpose:
        case "speed":
            why = "fewest GFLOPs first; classifiers that no other beats in both GFLOPs and accuracy"
            return Choice(_frontier(_classifiers(every), lambda e: e.gflops), why)
        case "memory":
            why = "fewest parameters first (4 bytes each in fp32); none beaten in size and accuracy"
            return Choice(_frontier(_classifiers(every), lambda e: e.parameters), why)
        case "accuracy":
            why = "classifiers, highest published ImageNet-1k top-1 first"
            return Choice(_best(_classifiers(every)), why)
        case "resolution":
            fine = [e for e in every if grid(e) > 16]
            why = "finest grid of patches first; more than 16x16 patches, for small things"
            return Choice(tuple(sorted(fine, key=lambda e: (-grid(e), e.gflops))), why)
        case "features":
            why = "backbones of today; only figures of one measure compare, highest first"
            today = [e for e in every if e.is_of_today and not e.is_gated and e.accuracy]
            # Of copies of the same weights for several libraries, the first is enough.
            frozen = {(e.family, e.accuracy): e for e in reversed(_best(today))}.values()
            by_measure = sorted(_best([*frozen]), key=lambda e: MEASURES.index(e.measure))
            return Choice(tuple(by_measure), why)
        case "words":
            why = "models with a text tower, for --classes; highest zero-shot top-1 first"
            measured = [e for e in every if _has_text(e) and e.measure == "zero-shot"]
            others = [e for e in every if _has_text(e) and e.measure != "zero-shot"]
            return Choice((*_best(measured), *others), why)


def _has_text(entry: CatalogueEntry) -> bool:
    """Whether the files have a text tower next to the images'."""
    return entry.layout in TEXT_LAYOUTS and not entry.has_classifier


def grid(entry: CatalogueEntry) -> int:
    """The number of patches on a side, at the size for which the positions were trained."""
    return entry.stored // entry.patch


def download(spec: str, *, offline: bool = False) -> Pulled:
    """Fetch the files of a hub id, in the catalogue or not, into the cache.

    Raises ModelNotFound or CheckpointError.
    """
    from vitcli.checkpoints.resolve import pull  # imports torch, which the table does not need

    snapshot = pull(spec, offline=offline)
    return Pulled(snapshot.folder, snapshot.notes)


def _classifiers(catalogue: Sequence[CatalogueEntry]) -> list[CatalogueEntry]:
    return [e for e in catalogue if e.has_classifier and e.accuracy is not None]


def _best(catalogue: Sequence[CatalogueEntry]) -> tuple[CatalogueEntry, ...]:
    return tuple(sorted(catalogue, key=lambda e: (-(e.accuracy or 0.0), e.gflops)))


def _frontier(
    catalogue: Sequence[CatalogueEntry], price: Callable[[CatalogueEntry], float]
) -> tuple[CatalogueEntry, ...]:
    """Keep the entries that no cheaper one matches in accuracy, the cheapest first."""
    kept: list[CatalogueEntry] = []
    best = 0.0
    for entry in sorted(catalogue, key=lambda e: (price(e), -(e.accuracy or 0.0))):
        if (entry.accuracy or 0.0) > best:
            best = entry.accuracy or 0.0
            kept.append(entry)
    return tuple(kept)
