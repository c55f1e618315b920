"""The directory of a training: the best model, the state to resume from, metrics and a report."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vitcli.checkpoints.card import CARD
from vitcli.checkpoints.load import Model
from vitcli.checkpoints.write import write_trained
from vitcli.errors import CheckpointError, OutputError, printable
from vitcli.files import explained, sync, write_whole
from vitcli.images.scan import Scan
from vitcli.jobs.apart import Read, check_apart
from vitcli.jobs.cards.card import TrainingFacts, card, is_foreign
from vitcli.records import ErrorType, Failure, FoundImage, ImageRef
from vitcli.render.charts import Line, lines_chart
from vitcli.render.report import ReportPage, html
from vitcli.schemas import SCHEMA
from vitcli.tasks.embed import versions
from vitcli.tasks.evaluate.one_label import OneLabelResult
from vitcli.tasks.evaluate.scores import failure_record
from vitcli.tasks.finetune.job import option_of
from vitcli.training.example import SPLIT, Example, read_split, write_split
from vitcli.training.metrics import Answers
from vitcli.training.pretrain import copied
from vitcli.training.recipe import Trained, filled
from vitcli.training.state import START_OVER, read_state, save_state

RUN, METRICS, REPORT, LAST = "run.json", "metrics.jsonl", "report.html", "last"
PARTIAL_MODEL = ".best.partial"
MODEL = ("config.json", "preprocessor_config.json", "model.safetensors")  # the weights come last
FILES = (RUN, SPLIT, METRICS, REPORT, LAST, PARTIAL_MODEL, *MODEL)


@dataclass(frozen=True, slots=True)
class EarlierRun:
    """The examples of the run to resume, and the images that this run could not read."""

    examples: list[Example]
    left_out: list[Failure]


class RunDirectory:
    """The files of a run. Each file is complete whenever it has its name.

    `run.json` holds the options, `split.jsonl` the split of each image, `metrics.jsonl` a line for
    each epoch, and `last/` the state. The best model is in the directory itself, with its card.
    """

    def __init__(
        self, folder: Path, options: Mapping[str, object], config: str | None = None
    ) -> None:
        self.folder = folder
        self._config = config
        self.is_resumed = False
        self._options: dict[str, Any] = json.loads(json.dumps(options, default=str))

    def open(
        self, scan: Scan, *, overwrite: bool, resume: bool, read: Iterable[Read] = ()
    ) -> EarlierRun | None:
        """Prepare the directory, and return the run to resume; None for a new run. Raises
        OutputError, also if the run would overwrite a file or folder in `read`."""
        folder = self.folder
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder} is not a folder", "name a folder with --out")
        check_apart([folder, *(folder / name for name in FILES)], read)
        exists = os.path.lexists(folder / RUN)
        if resume and not exists and any((folder / n).exists() for n in (LAST, METRICS, *MODEL)):
            raise CheckpointError(f"{printable(str(folder))} has no {RUN}", START_OVER)
        if resume and exists:
            left_out = self._compare()
            self.is_resumed = True
            return EarlierRun(read_split(folder / SPLIT, scan), left_out)
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()) and not overwrite and not resume:
                hint = "--overwrite replaces its run, --resume resumes it"
                raise OutputError(f"{folder} is not empty", hint)
        return None

    def begin(self, examples: Sequence[Example], failures: Sequence[Failure]) -> None:
        """Remove the files of an earlier run, and write the options and the split."""
        with explained(self.folder / SPLIT):
            self._clear()
            partial = self.folder / f"{SPLIT}.partial"
            write_split(partial, examples)
            partial.replace(self.folder / SPLIT)
        described = {
            "schema": SCHEMA,
            "asked": self._options,
            "left_out": list(map(failure_record, failures)),
            **versions(),
            **({} if self._config is None else {"config": self._config}),
        }
        write_whole(self.folder / RUN, (json.dumps(described, indent=2) + "\n").encode())

    def state(self) -> dict[str, Any] | None:
        """The last saved state; None if the run had not saved one. Raises CheckpointError if a file
        that the run had written is missing."""
        state = read_state(self.folder / LAST)
        if state is None:
            missing = [LAST] if (self.folder / METRICS).exists() else []
        else:
            names = _model_files(self.folder) if state.get("epoch") else ()
            missing = [name for name in names if not (self.folder / name).is_file()]
        if missing:
            raise CheckpointError(f"{printable(str(self.folder))} has no {missing[0]}", START_OVER)
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Save the state, and the metrics of the epochs so far."""
        save_state(self.folder / LAST, state)
        lines = "".join(json.dumps(row) + "\n" for row in state["history"])
        write_whole(self.folder / METRICS, lines.encode())

    def write_best(self, model: Model, trained: Trained) -> None:
        """Write the current model for transformers or timm."""
        partial = self.folder / PARTIAL_MODEL
        with explained(partial):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            write_trained(snapshot(model, trained), partial)
            for name in MODEL:
                if (partial / name).exists():
                    (partial / name).replace(self.folder / name)
            partial.rmdir()
            sync(self.folder)

    def finish(
        self,
        model: Model,
        history: Sequence[Mapping[str, Any]],
        answers: Answers | None,
        val: Sequence[FoundImage],
        failures: Sequence[Failure],
        why: str,
    ) -> None:
        """Write the report."""
        best = [row for row in history if row["is_best"]][-1:]
        data = printable(str(self._options["data"]).rstrip("/"))
        facts = [("model", printable(model.spec)), ("data", data), ("recipe", why)]
        if best and best[0]["val_top1"] is not None:
            score = f"{best[0]['val_top1']:.2%} of {len(val):,} held-out images"
            facts.append(("best epoch", f"{best[0]['epoch']}: {score}"))
        sections = []
        if answers is not None and model.labels:
            held_out = OneLabelResult("Held-out images", model.labels, answers)
            sections.append(held_out.section(val))
        page = ReportPage(
            title=f"Training on {Path(data).name or data}",
            about=f"from {printable(model.spec)}, in {printable(self.folder.resolve().name)}",
            facts=facts,
            charts=_curves(history),
            sections=sections,
            failures=[(printable(f.ref.path), f"{f.type}: {f.message}") for f in failures],
        )
        write_whole(self.folder / REPORT, html(page).encode("utf-8"))

    def write_card(self, model: Model, training: TrainingFacts) -> None:
        """Write the card of the model, unless the folder has one of the user's. Call it when the
        model is written."""
        if not is_foreign(self.folder):
            name = self.folder.resolve().name
            write_whole(self.folder / CARD, card(model, self.folder, name, training))

    def _compare(self) -> list[Failure]:
        """Compare the options with run.json, and return the images that the run left out. Raises
        OutputError with the options that differ, CheckpointError for a damaged file."""
        try:
            if not (self.folder / RUN).is_file():
                raise ValueError("no file")
            described = json.loads((self.folder / RUN).read_text("utf-8"))
            before = {**described["asked"]}
            left_out = [
                _left_out(place, row) for place, row in enumerate(list(described["left_out"]))
            ]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            file = printable(str(self.folder / RUN))
            raise CheckpointError(
                f"cannot read {file}: it has changed since it was written", START_OVER
            ) from None
        now = self._options
        names = [n for n in now if _plain(n, before.get(n)) != _plain(n, now[n])]
        if names:
            differences = ", ".join(
                f"{option_of(name)} was {before.get(name)}, is {now[name]}" for name in names[:4]
            )
            raise OutputError(
                f"{self.folder} holds another run: {differences}",
                "repeat its command with --resume, or start over with --overwrite",
            )
        return left_out

    def _clear(self) -> None:
        if not is_foreign(self.folder):
            (self.folder / CARD).unlink(missing_ok=True)
        for name in FILES:
            path = self.folder / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _left_out(place: int, row: Any) -> Failure:
    """Read an item of `left_out` in run.json. Raises ValueError, KeyError or TypeError for an item
    that `begin` does not write."""
    path, message = row["path"], row["error"]["message"]
    if not isinstance(path, str) or not isinstance(message, str):
        raise ValueError("not a text")
    return Failure(ImageRef(place, path), ErrorType(row["error"]["type"]), message)


def _model_files(folder: Path) -> tuple[str, ...]:
    """The files of the model. timm's has its preprocessing in config.json."""
    config = folder / "config.json"
    is_timm = config.is_file() and b'"architecture":' in config.read_bytes()
    return tuple(name for name in MODEL if not is_timm or name != "preprocessor_config.json")


def snapshot(model: Model, trained: Trained) -> Model:
    """A copy of the model with the current weights of the training."""
    if model.reconstruction is not None:
        reconstruction = copied(model.reconstruction)
        return replace(model, source=reconstruction.encoder, reconstruction=reconstruction)
    tensors = trained.tensors()
    if trained.network is not model.network:  # only the head trained
        tensors = {f"head.{name}": tensor for name, tensor in tensors.items()}
        tensors = model.network.state_dict() | tensors
    return replace(model, source=filled(model.network, tensors))


def _curves(history: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    epochs = tuple(float(row["epoch"]) for row in history)

    def chart(caption: str, **names: str) -> tuple[str, str]:
        lines = [
            Line(label, epochs, tuple(_number(row[name]) for row in history))
            for label, name in names.items()
        ]
        return caption, lines_chart(caption, lines)

    charts = [chart("Loss", train="train_loss", val="val_loss")]
    if any(row["val_top1"] is not None for row in history):
        charts.append(chart("Accuracy", train="train_accuracy", val="val_top1"))
    return [*charts, chart("Learning rate", lr="lr")]


def _plain(name: str, value: object) -> object:
    """Normalise the value of an option that is a path; return other values unchanged."""
    is_path = name in ("data", "val", "model") and isinstance(value, str)
    return os.path.normpath(str(value)) if is_path else value


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
