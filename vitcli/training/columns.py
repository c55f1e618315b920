"""Find the columns of path, label and split in the header of a table, by their usual names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from vitcli.errors import listed, printable
from vitcli.training.parts import part_named
from vitcli.training.table_file import TableFile

PATHS = (
    *("path", "file", "file_name", "filename", "image_path", "image"),
    *("filepath", "file_path", "img_path", "img", "image_file", "image_name", "img_name"),
    *("imagename", "images", "paths", "filepaths", "files", "filenames", "photo", "picture"),
    *("fname", "image_id", "imageid", "img_id", "id", "name"),
)
NAMED = ("class_name", "label_name", "category_name", "target_name", "classname", "labelname")
LABELS = (
    *("label", "class", "category", *NAMED, "labels", "target", "targets", "breed", "species"),
    *("class_label", "classes", "cls", "tag", "variety", "y", "class_id", "label_id"),
)
LISTS = ("labels", "tags", "classes", "targets")  # columns whose cells may hold several labels
SPLITS = ("split",)
POSSIBLE_SPLITS = ("set", "data_set", "dataset", "subset", "partition")  # if all cells name parts
UNDERSTOOD = (
    "columns that are understood: path, filename, image_id or the like; "
    "label, class, target or the like; and split"
)


@dataclass(frozen=True, slots=True)
class Columns:
    """The numbers of the columns of a CSV. `one_hot` are columns of 0 and 1, one for each class,
    that replace the column of labels. If `has_header` is False, the first row is data. With
    `several`, columns of classes and a column of LISTS give an image any number of labels."""

    header: Sequence[str]
    path: int | None = 0
    label: int | None = 1
    split: int | None = 2
    one_hot: tuple[int, ...] = ()
    has_header: bool = True
    several: bool = False

    def fields(self, file: TableFile, line: int, cells: Sequence[str]) -> dict[str, object]:
        """The path, label and split of a row, where it has them."""
        places = {"path": self.path, "label": self.label, "split": self.split}
        values: dict[str, object] = {
            name: cells[n] for name, n in places.items() if n is not None and n < len(cells)
        }
        if self.one_hot:
            on = [
                self.header[n].strip() for n in self.one_hot if n < len(cells) and _flag(cells[n])
            ]
            values["label"] = on if self.several else self._class(file, line, on)
        elif self.several and self.has_header and self.label is not None:
            values["label"] = _listed(self.header[self.label], values.get("label"))
        return values

    def _class(self, file: TableFile, line: int, on: Sequence[str]) -> str:
        """The only class whose column is 1."""
        if len(on) == 1:
            return on[0]
        count = len(self.one_hot)
        names = ", ".join(printable(self.header[n]) for n in self.one_hot)
        which = f"of the columns {names}" if count <= 6 else f"of {count} columns of classes"
        raise file.fault(line, f" sets {len(on)} {which}", "an image has one label")


def record_fields(record: dict[str, object], *, several: bool = False) -> dict[str, object]:
    """The path, label and split of a JSON object, where it has them. With `several`, the label of a
    column of LISTS is a list."""
    names, values = [plain_name(name) for name in record], list(record.values())
    places = {"path": place(names, PATHS), "label": place(names, LABELS)}
    places["split"] = place(names, SPLITS)
    fields = {name: values[n] for name, n in places.items() if n is not None}
    if several and places["label"] is not None:
        fields["label"] = _listed(names[places["label"]], fields["label"])
    return fields


def _listed(name: str, value: object) -> object:
    """A text in a column of LISTS as a list, which is empty for an empty text."""
    if not isinstance(value, str) or plain_name(name) not in LISTS:
        return value
    return [value] if value.strip() else []


@dataclass(frozen=True, slots=True)
class Header:
    """The first row of a CSV, which is usually a header, and the rows below it."""

    file: TableFile
    is_labelled: bool
    is_image: Callable[[str], bool]
    is_image_name: Callable[[str], bool]
    note: Callable[[str], None]
    several: bool = False

    def columns(self) -> Columns | None:
        """Find the columns; None for an empty table. Raises InputError for an unknown header."""
        line, first = next(self.file.rows(self._separator), (0, None))
        if first is None:
            return None
        names = [plain_name(cell) for cell in first]
        path, label, split = (place(names, known) for known in (PATHS, LABELS, SPLITS))
        second = next(self._body(), None)
        possible = place(names, POSSIBLE_SPLITS)
        if None not in (path, label, possible) and split is None:
            split = (
                possible if self._all(possible, lambda cell: part_named(cell) is not None) else None
            )
        if path is not None and label is None and self.is_labelled and second:
            rest = [n for n in range(len(names)) if n not in (path, split)]
            one_hot = [n for n in rest if self._all(n, lambda cell: _flag(cell) is not None)]
            if len(one_hot) > 1 and len(one_hot) >= len(names) - 2:
                shown = listed([printable(first[n].strip()) for n in one_hot], 5)
                self._note(f"one column for each class: {shown}")
                return Columns(first, path, None, split, tuple(one_hot), several=self.several)
            if len(rest) == 1 and not self.is_image(first[path]):
                label = rest[0]
                self._note(f"the labels are column {printable(first[label])}")
        if label is not None and path is None and second:
            rest = [n for n in range(len(names)) if n not in (label, split)]
            if len(rest) == 1 and rest[0] < len(second) and self.is_image(second[rest[0]]):
                path = rest[0]
                self._note(f"the images are column {printable(first[path])}")
        if path is not None and (label is not None or not self.is_labelled):
            return Columns(first, path, label, split, several=self.several)
        self._check_is_data(line, first, second)
        return Columns(first, has_header=False)

    def rows(self) -> Iterator[tuple[int, dict[str, object]]]:
        """The path, label and split of each row below the header, by line."""
        columns = self.columns()
        if columns is not None:
            for line, cells in self.file.rows(self._separator, int(columns.has_header)):
                yield line, columns.fields(self.file, line, cells)

    def _note(self, text: str) -> None:
        self.note(f"{printable(self.file.path)}: {text}")

    def _body(self) -> Iterator[list[str]]:
        """The rows below the first."""
        return (cells for _, cells in self.file.rows(self._separator, 1))

    def _all(self, column: int | None, is_so: Callable[[str], bool]) -> bool:
        """Whether `is_so` holds for every cell of a column."""
        return column is not None and all(
            column < len(cells) and is_so(cells[column]) for cells in self._body()
        )

    def _check_is_data(self, line: int, first: Sequence[str], second: Sequence[str] | None) -> None:
        """Raise InputError if the first row seems to be a header with unknown names."""
        if self.is_image_name(first[0]) or self.is_image(first[0]):
            return
        is_known = any(plain_name(cell) in (*PATHS, *LABELS) for cell in first)
        label = first[1].strip() if len(first) > 1 else ""
        is_unique = second is not None and not any(
            len(cells) > 1 and cells[1].strip() == label for cells in self._body()
        )
        if is_known or (is_unique and second and self.is_image(second[0])):
            shown = ", ".join(printable(cell.strip()[:50]) for cell in first[:6])
            more = ", ..." if len(first) > 6 else ""
            raise self.file.fault(
                line,
                f": the header is not understood: {shown}{more}",
                f"{UNDERSTOOD}; if it is not a header, there is no such file",
            )
        if is_unique and label:
            raise self.file.fault(
                line,
                f": there is no file {printable(first[0].strip()[:100])}, "
                f"and no other image is {printable(label[:100])}",
                f"if this is a header: {UNDERSTOOD}",
            )

    def _separator(self, head: str) -> str:
        """The separator of cells, found in the first line."""
        if self.file.path.lower().endswith(".tsv"):
            return "\t"
        if head.lower().startswith("sep=") and len(head.strip()) == 5:
            return head.strip()[4]
        for separator in (",", ";", "\t"):
            names = [plain_name(cell) for cell in head.split(separator)]
            if place(names, PATHS) is not None and len(names) > 1:
                return separator
        return next((s for s in (",", ";", "\t") if s in head), ",")


def plain_name(cell: object) -> str:
    """The name of a column without quotes, in lower case, and with `_` for spaces and hyphens."""
    return "_".join(str(cell).strip().strip("\"'").casefold().replace("-", " ").split())


def place(names: Sequence[str], known: Sequence[str]) -> int | None:
    """The column whose name comes first in `known`. Among LABELS, the columns that hold names come
    before those that may hold numbers."""
    present = [name for name in known if name in names]
    if known is LABELS and (named := [name for name in present if name in NAMED]):
        present = named
    return names.index(present[0]) if present else None


def _flag(cell: str) -> bool | None:
    """The value of a cell of 0 and 1; None for any other cell."""
    plain = re.sub(r"(?<=[01])\.0*$", "", cell.strip()).casefold()
    return {"0": False, "false": False, "1": True, "true": True}.get(plain)
