"""Rows into lines: JSONL, CSV and TSV of predictions, JSONL of vectors."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vitcli.errors import OutputError
from vitcli.records import (
    Attended,
    Classified,
    Embedded,
    ErrorType,
    Failure,
    ImageRef,
    Kept,
    Prediction,
    Row,
    TextRef,
    image_of,
)
from vitcli.schemas import SCHEMA
from vitcli.sinks.files import FileSet, PartialFile
from vitcli.sinks.sink import FileSink

META = ".meta.json"
SCORE_DECIMALS = 6


def path_fields(path: str) -> dict[str, str]:
    """`path` in UTF-8; if its bytes are not UTF-8, `path_bytes` has them as base64."""
    raw = os.fsencode(path)
    try:
        return {"path": raw.decode("utf-8")}
    except UnicodeDecodeError:
        encoded = base64.b64encode(raw).decode("ascii")
        return {"path": raw.decode("utf-8", "replace"), "path_bytes": encoded}


def name_fields(ref: ImageRef | TextRef) -> dict[str, str]:
    """The fields that name an image: its path, and the key of a WebDataset sample. Or a text."""
    if isinstance(ref, TextRef):
        return {"text": ref.text}
    fields = path_fields(ref.path)
    return fields | {"__key__": path_fields(ref.key)["path"]} if ref.key else fields


def error_field(failure: Failure) -> dict[str, str]:
    """The field `error` of an image that failed."""
    return {"type": failure.type.value, "message": failure.message}


def json_line(record: Mapping[str, object]) -> bytes:
    """One line of JSON. Raises ValueError for NaN, which is not JSON."""
    text = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace") + b"\n"


def meta_bytes(meta: Mapping[str, object]) -> bytes:
    """The content of a meta file: JSON that people can read."""
    return (
        json.dumps({"schema": SCHEMA, **meta}, indent=2, ensure_ascii=False).encode(
            "utf-8", "replace"
        )
        + b"\n"
    )


class LineSink(FileSink):
    """Writes the lines that `lines` makes of each row, flushed after each batch."""

    def _open(self) -> None:
        self._file = self._target.open()
        self._echo = PartialFile(None) if self._format.echo else None
        self._file.write_header(self.header())

    def line_of(self, ref: ImageRef, record: Mapping[str, Any]) -> bytes:
        """The output line for a row, given its JSON record."""
        return json_line(record)

    def header(self) -> bytes:
        return b""

    def lines(self, row: Row) -> bytes:
        raise TypeError(f"{type(self).__name__} has no lines")

    def write(self, rows: Sequence[Row]) -> list[int]:
        texts = [row.text if isinstance(row, Kept) else self.lines(row) for row in rows]
        for file in filter(None, (self._file, self._echo)):
            file.write(b"".join(texts))
            file.flush()
        return list(map(len, texts))

    def complete(self, meta: Mapping[str, object]) -> list[PartialFile]:
        return [self._file]


class JsonlSink(LineSink):
    """`{"path":…,"predictions":[{"label":…,"index":…,"score":…}, …]}` or `{"path":…,"error":…}`."""

    def lines(self, row: Row) -> bytes:
        return json_line(record_of(row))


def record_of(row: Row) -> dict[str, object]:
    """The JSON record of a row."""
    record: dict[str, object] = dict(name_fields(row.ref))
    match row:
        case Failure():
            record["error"] = error_field(row)
        case Classified():
            record["predictions"] = [_prediction(p) for p in row.predictions]
        case Attended():
            record |= _attention(row)
    return record


def _prediction(p: Prediction) -> dict[str, object]:
    return {"label": p.label, "index": p.index, "score": round(p.score, SCORE_DECIMALS)}


def _attention(row: Attended) -> dict[str, object]:
    """The fields of attention maps: a list has a value for each layer, if there are several."""
    layers = [int(m.layer) if m.layer.isdecimal() else m.layer for m in row.maps]
    heads = [[int(h) if h.isdecimal() else h for h in m.heads] for m in row.maps]
    grids = [list(m.values.shape[1:]) for m in row.maps]
    is_one = len(row.maps) == 1
    longest = max(heads, key=len)
    record: dict[str, object] = {
        "files": [path_fields(file)["path"] for file in row.files],
        "method": row.method,
        "layer": layers[0] if is_one else layers,
        "head": longest[0] if len(longest) == 1 else longest,
        "grid": grids[0] if is_one or all(g == grids[0] for g in grids) else grids,
    }
    if longest == [""]:
        del record["head"]
    if row.query is not None:
        record["query"] = list(row.query)
    if row.target is not None:
        record["class"] = _prediction(row.target)
    if row.predictions:
        record["predictions"] = [_prediction(p) for p in row.predictions]
    return record


class CsvSink(LineSink):
    """`path,rank,label,index,score,error`: a line for each prediction, and one for a failure.

    Paths keep their bytes, even if they are not UTF-8.
    """

    dialect = "excel"

    def header(self) -> bytes:
        return self._encode([("path", "rank", "label", "index", "score", "error")])

    def lines(self, row: Row) -> bytes:
        return self._encode(self._records(row))

    def line_of(self, ref: ImageRef, record: Mapping[str, Any]) -> bytes:
        if (error := record.get("error")) is not None:
            return self.lines(Failure(ref, ErrorType(error["type"]), error["message"]))
        return self.lines(Classified(ref, tuple(Prediction(**p) for p in record["predictions"])))

    def _records(self, row: Row) -> Iterator[tuple[object, ...]]:
        path = image_of(row).path
        if isinstance(row, Failure):
            yield path, "", "", "", "", f"{row.type}: {row.message}"
        elif isinstance(row, Classified):
            for rank, p in enumerate(row.predictions, start=1):
                yield path, rank, p.label, p.index, f"{p.score:.{SCORE_DECIMALS}f}", ""
            if not row.predictions:  # all below the threshold: the image keeps its row
                yield path, "", "", "", "", ""

    def _encode(self, records: Iterable[tuple[object, ...]]) -> bytes:
        return "".join(map(self._line, records)).encode("utf-8", "surrogateescape")

    def _line(self, record: tuple[object, ...]) -> str:
        text = io.StringIO(newline="")
        csv.writer(text, dialect=self.dialect, lineterminator="\r\n").writerow(record)
        return text.getvalue().removesuffix("\r\n") + "\n"  # "\n" alone would leave \r unquoted


class TsvSink(CsvSink):
    """CSV, separated by tabs."""

    dialect = "excel-tab"


class VectorJsonlSink(LineSink):
    """`{"path":…,"embedding":[…]}` with enough digits to restore each float exactly. Tokens of a
    model for images of any shape have the `grid` of their patches."""

    files = FileSet(at_end=(META,))

    def _open(self) -> None:
        super()._open()
        self._digits = 9 if self._meta["array_dtype"] == "float32" else 5

    def lines(self, row: Row) -> bytes:
        record: dict[str, object] = dict(name_fields(row.ref))
        if isinstance(row, Failure):
            record["error"] = error_field(row)
            return json_line(record)
        assert isinstance(row, Embedded)
        if not np.isfinite(row.embedding).all():
            raise OutputError(
                f"the embedding of {next(iter(record.values()))} holds NaN or infinity"
            )
        if row.grid is not None:
            record["grid"] = row.grid
        head = json_line(record).removesuffix(b"}\n")
        return head + b',"embedding":' + self._array(row.embedding) + b"}\n"

    def _array(self, values: np.ndarray) -> bytes:
        if values.ndim > 1:
            return b"[" + b",".join(map(self._array, values)) + b"]"
        return b"[" + b",".join(b"%.*g" % (self._digits, v) for v in values.tolist()) + b"]"

    def complete(self, meta: Mapping[str, object]) -> list[PartialFile]:
        if self._target.is_special:
            return [self._file]
        return [self._target.write_beside(META, meta_bytes(meta)), self._file]
