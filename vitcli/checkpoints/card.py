"""Read what the card of a model says of its origin, and write the metadata of a new card."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vitcli.checkpoints import catalogue
from vitcli.checkpoints.load import Model
from vitcli.checkpoints.resolve import hub_parts
from vitcli.errors import printable
from vitcli.files import at_home

CARD = "README.md"
MAX_CARD = 1 << 20  # bytes of a card that is read
# The hub knows these licences by their names; another one is `other`, with a name.
LICENCES = ("apache-2.0", "mit", "cc-by-nc-4.0", "apple-amlr", "apple-ascl")
OF_LICENCE = ("license", "license_name", "license_link")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, slots=True)
class Origin:
    """The origin of a model. `repo` is its hub id, if it is from the hub; `base_models` are the hub
    ids that it descends from, which its own card may name; `licence` has fields of the metadata."""

    spec: str
    repo: str | None = None
    revision: str | None = None
    base_models: tuple[str, ...] = ()
    licence: Mapping[str, str] = field(default_factory=dict)
    datasets: tuple[str, ...] = ()


def origin_of(model: Model) -> Origin:
    """Find the origin of a model, by its hub id, its card and the catalogue."""
    card = _metadata(model)
    licence = {key: card[key] for key in OF_LICENCE if isinstance(card.get(key), str)}
    datasets, base_models = _texts(card.get("datasets")), _texts(card.get("base_model"))
    if model.revision is None:
        base_models = tuple(name for name in base_models if HUB_ID.fullmatch(name))
        return Origin(model.spec, None, None, base_models, licence, datasets)
    repo, _ = hub_parts(model.spec)
    listed = next((entry.licence for entry in catalogue.entries() if entry.id == repo), None)
    if listed and not licence:
        name = listed.lower()
        is_known = name in LICENCES
        licence = {"license": name} if is_known else {"license": "other", "license_name": name}
    return Origin(model.spec, repo, model.revision, (repo,), licence, datasets)


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure of the model: its type on the hub, its name, and its value."""

    type: str
    name: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """The metadata of a card. `data` is the name of the data that the metrics are measured on."""

    title: str
    library: str
    pipeline: str
    origin: Origin
    relation: str | None = None
    datasets: Sequence[str] = ()
    data: str = ""
    metrics: Sequence[Metric] = ()

    def yaml(self) -> str:
        """Return the metadata as the hub reads it: the YAML between the first lines of a card."""
        from huggingface_hub import EvalResult, ModelCardData  # takes 0.1 s

        results = [
            EvalResult(
                task_type=self.pipeline,
                dataset_type="imagefolder",
                dataset_name=self.data,
                dataset_split="val",
                metric_type=metric.type,
                metric_name=metric.name,
                metric_value=round(metric.value, 6),
            )
            for metric in self.metrics
        ]
        bases = list(self.origin.base_models)
        more: dict[str, Any] = dict(self.origin.licence)
        if self.relation and bases:
            more["base_model_relation"] = self.relation
        data = ModelCardData(
            library_name=self.library,
            pipeline_tag=self.pipeline,
            base_model=bases[0] if len(bases) == 1 else bases or None,
            tags=["vision", "vitcli"],
            datasets=list(self.datasets) or None,
            model_name=printable(self.title) if results else None,
            eval_results=results or None,
            **more,
        )
        return str(data.to_yaml()) + "\n"


def _metadata(model: Model) -> Mapping[str, Any]:
    """The metadata of the card next to a model; empty for a single weight file, or for a card that
    cannot be read: nothing but the new card depends on it."""
    import yaml  # a requirement of huggingface_hub
    from huggingface_hub import metadata_load

    spec = at_home(model.spec) if model.revision is None else None
    file = model.files[0].parent / CARD
    if spec is not None and not spec.is_dir():
        return {}
    try:
        if not file.is_file() or file.stat().st_size > MAX_CARD:
            return {}
        return metadata_load(file) or {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}


def _texts(value: object) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(text for text in values if isinstance(text, str))
