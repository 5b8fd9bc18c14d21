"""Tables that name videos: lists of paths, CSV and Parquet manifests; and what they share."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from soundsight.core.errors import DataError, MissingExtraError, first_line

BOM = b"\xef\xbb\xbf"
"""The byte order mark that some programs put before UTF-8."""

SPLITS = ("train", "val", "test")


class Row(NamedTuple):
    """A line of a list or a manifest; its fields are the columns, of which only ``path`` must be.

    ``path`` is as written, with surrogates for bytes that are no UTF-8; times are seconds of the
    file; what was left blank is None.
    """

    path: str
    start_s: float | None = None
    end_s: float | None = None
    label: str | None = None
    split: str | None = None
    group: str | None = None
    licence: str | None = None


COLUMNS = Row._fields


def read_list(data: bytes, name: str) -> list[Row]:
    """Read a list file: a path a line; blank lines and those that start with ``#`` are left out."""
    # Not splitlines(): a file's name may hold any of the other characters it breaks at.
    lines = text_of(data, name, errors="surrogateescape").split("\n")
    return [
        Row(line.removesuffix("\r")) for line in lines if line.strip() and not line.startswith("#")
    ]


def read_manifest(data: bytes, name: str) -> list[Row]:
    """Read a CSV manifest, or a Parquet one where ``name`` ends so; see ``COLUMNS``."""
    parquet = name.lower().endswith((".parquet", ".pq"))
    found: dict[tuple[str, float, float | None], str] = {}
    checked = []
    for place, record in (_parquet_rows if parquet else _csv_records)(data, name):
        where = f"{name}, {place}"
        row = _checked(where, record)
        key = (row.path, row.start_s or 0.0, row.end_s)
        if key in found:
            raise DataError(f"{where}: the same path and times as {found[key]}")
        found[key] = place
        checked.append(row)
    return checked


def _csv_records(data: bytes, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    header: list[str] | None = None
    for line, row in csv_rows(text_of(data, name, errors="surrogateescape"), name):
        if header is None:
            header = [column.strip() for column in row]
            _check_header(header, f"{name}, line {line}")
        else:
            yield (
                f"line {line}",
                dict(zip(header, _fields(row, len(header), name, line), strict=True)),
            )
    if header is None:
        raise DataError(f"{name} is empty: a header with at least path is expected")


def _parquet_rows(data: bytes, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise MissingExtraError("a Parquet manifest", "prepare", "pyarrow") from None
    try:
        table = parquet.read_table(io.BytesIO(data))
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"{name} is no readable Parquet file: {first_line(error)}") from None
    _check_header(table.column_names, name)
    for number, record in enumerate(table.to_pylist(), start=1):
        yield f"row {number}", record


def _check_header(header: list[str], where: str) -> None:
    if "path" not in header:
        raise DataError(
            f"{where}: no column path; the columns are {', '.join(COLUMNS)} "
            "(for a dataset's own csv name its folder, with --layout)"
        )
    for column in header:
        if column not in COLUMNS:
            raise DataError(
                f"{where}: unknown column {column[:40]!r}; choose from {', '.join(COLUMNS)}"
            )
        if header.count(column) > 1:
            raise DataError(f"{where}: the column {column} stands there twice")


def _checked(where: str, record: dict[str, Any]) -> Row:
    values: dict[str, Any] = {}
    for column, value in record.items():
        if value is None or not str(value).strip():
            continue
        if column in ("start_s", "end_s"):
            values[column] = seconds(str(value).strip(), where, column)
        elif not isinstance(value, str):
            raise DataError(f"{where}: {column} is {str(value)[:40]!r}, a text is expected")
        elif column == "path":
            values[column] = value
        else:
            values[column] = value.strip()
            if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
                raise DataError(f"{where}: {column} is no UTF-8 text: save it as UTF-8")
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
    text: str, name: str, *, comments: bool = False, fields: str = ""
) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of its first line, fields) of every row of a comma-separated text.

    Empty rows are left out.

    Args:
        text: the table.
        name: what errors call it.
        comments: leave out rows whose first field starts with ``#``; spaces after a comma are no
            part of a field, as in AudioSet's tables.
        fields: names of the fields that each row must have, with commas; empty for any.
    """
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=comments, strict=True)
    line = 1
    try:
        for row in reader:
            if any(row) and not (comments and row[0].startswith("#")):
                count = len(fields.split(",")) if fields else len(row)
                yield line, _fields(row, count, name, line, fields)
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{name}, line {line}: {error}") from None


def _fields(row: list[str], count: int, name: str, line: int, names: str = "") -> list[str]:
    if len(row) != count:
        named = f" ({names})" if names else ""
        raise DataError(f"{name}, line {line}: {count} fields expected{named}, {len(row)} found")
    return row


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
