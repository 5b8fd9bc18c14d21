"""Tables that name videos: lists of paths, CSV and Parquet manifests; and what they share."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from soundsight.core.errors import DataError, first_line
from soundsight.data.records import SPLITS

BOM = b"\xef\xbb\xbf"
"""The byte order mark that some programs put before UTF-8."""

_NOT_UTF8 = re.compile("[\ud800-\udfff]")


class Row(NamedTuple):
    """A video or a part of one, as a list, a manifest or a dataset's own table tells of it.

    The fields are the columns of a manifest, of which only ``path`` must be. It is as written, with
    surrogates for bytes that are no UTF-8; times are seconds of the file; None is not known.
    """

    path: str
    start_s: float | None = None
    end_s: float | None = None
    label: str | None = None
    split: str | None = None
    group: str | None = None
    licence: str | None = None


COLUMNS = ", ".join(Row._fields)


def read_list(data: bytes, name: str) -> list[Row]:
    """Read a list file: a path a line; blank lines and those that start with ``#`` are left out."""
    # Not splitlines(): a file's name may hold any of the other characters it breaks at.
    lines = text_of(data, name, errors="surrogateescape").split("\n")
    return [
        Row(line.removesuffix("\r")) for line in lines if line.strip() and not line.startswith("#")
    ]


def read_manifest(data: bytes, name: str) -> list[Row]:
    """Read a CSV manifest, or a Parquet one where ``name`` ends so; see ``Row``."""
    parquet = name.lower().endswith((".parquet", ".pq"))
    lines: Iterator[tuple[str, list[Any]]]
    if parquet:
        lines = _parquet_rows(data, name)
    else:
        lines = csv_rows(text_of(data, name, errors="surrogateescape"), name)
    where, header = next(lines, (name, []))
    header = [column.strip() for column in header]
    if not header:
        raise DataError(f"{name} is empty: a header with at least path is expected")
    if "path" not in header:
        raise DataError(
            f"{where}: no column path; the columns are {COLUMNS} (for a dataset's own csv name its "
            "folder, with --layout)"
        )
    for column in header:
        if column not in Row._fields:
            raise DataError(f"{where}: unknown column {column[:40]!r}; choose from {COLUMNS}")
        if header.count(column) > 1:
            raise DataError(f"{where}: the column {column} stands there twice")
    found: dict[tuple[str, float, float | None], str] = {}
    rows = []
    for where, values in lines:
        row = _checked(where, dict(zip(header, _counted(values, len(header), where), strict=True)))
        key = (row.path, row.start_s or 0.0, row.end_s)
        if key in found:
            raise DataError(f"{where}: the same path and times as {place_of(found[key])}")
        found[key] = where
        rows.append(row)
    return rows


def _parquet_rows(data: bytes, name: str) -> Iterator[tuple[str, list[Any]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(io.BytesIO(data))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{name} is no readable Parquet file: {first_line(error)}") from None
    yield name, table.column_names
    for number, record in enumerate(table.to_pylist(), start=1):
        yield f"{name}, row {number}", list(record.values())


def _checked(where: str, record: dict[str, Any]) -> Row:
    values: dict[str, Any] = {}
    for column, value in record.items():
        text = "" if value is None else str(value).strip()
        if not text:
            continue
        if column in ("start_s", "end_s"):
            values[column] = seconds(text, where, column)
        elif not isinstance(value, str):
            raise DataError(f"{where}: {column} is {text[:40]!r}, a text is expected")
        elif column != "path" and _NOT_UTF8.search(text):
            raise DataError(f"{where}: {column} is no UTF-8 text: save it as UTF-8")
        else:
            values[column] = value if column == "path" else text
    if "path" not in values:
        raise DataError(f"{where}: path is blank")
    row = Row(**values)
    if row.end_s is not None and row.end_s <= (row.start_s or 0.0):
        raise DataError(f"{where}: end_s must be greater than start_s")
    if row.split not in (None, *SPLITS):
        raise DataError(
            f"{where}: unknown split {row.split[:40]!r}; choose from {', '.join(SPLITS)}"
        )
    return row


def text_of(data: bytes, name: str, *, errors: str = "strict") -> str:
    """Decode a UTF-8 table; a byte order mark is dropped, line ends are left as they are."""
    end = data.find(b"\0")
    if end < 0:
        try:
            return data.removeprefix(BOM).decode("utf-8", errors)
        except UnicodeDecodeError as error:
            end = error.start
    line = data[:end].count(b"\n") + 1
    raise DataError(f"{name}, line {line}: no UTF-8 text: save it as UTF-8")


def csv_rows(
    text: str, name: str, *, comments: bool = False, fields: str = "", **dialect: Any
) -> Iterator[tuple[str, list[str]]]:
    """Yield (where, fields) of every row of a table that is not empty.

    ``comments``: leave out rows whose first field starts with ``#``; spaces after a comma are no
    part of a field, as in AudioSet's tables. ``fields`` names those that each row must have, with
    commas; ``dialect`` is that of ``csv.reader``.
    """
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, skipinitialspace=comments, strict=True, **dialect)
    where = f"{name}, line 1"
    try:
        for row in reader:
            if any(row) and not (comments and row[0].startswith("#")):
                yield where, _counted(row, len(fields.split(",")), where, fields) if fields else row
            where = f"{name}, line {reader.line_num + 1}"
    except csv.Error as error:
        raise DataError(f"{where}: {error}") from None


def _counted(row: list[Any], count: int, where: str, names: str = "") -> list[Any]:
    if len(row) != count:
        named = f" ({names})" if names else ""
        raise DataError(f"{where}: {count} fields expected{named}, {len(row)} found")
    return row


def place_of(where: str) -> str:
    """Return the line out of what ``csv_rows`` says of where a row stands."""
    return where.rpartition(", ")[2]


def seconds(text: str, where: str, column: str) -> float:
    """Read a time in seconds: a finite number that is not negative."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: {column} is {text!r}, a number of seconds is expected")
    if value < 0:
        raise DataError(f"{where}: {column} is {text!r}, it cannot be negative")
    return value + 0.0
