"""Rows as they lie on disk or on the hub: read one by one, each with the place it came from.

`read_rows` yields `(where, row)`; `read_items` finds out by the columns which known form the rows have and builds
items. Nothing is guessed in silence: whatever does not fit is a `DataError` that names `file:line`.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml

from discretion.errors import DataError, MissingExtra, nearest
from discretion.schema import Item, digest, from_json

Row = Mapping[str, Any]
Skip = Callable[[str, str], None]
"""Told (where, why) of a line that is left out."""
ItemT = TypeVar("ItemT", bound=Item)

SUFFIXES = (".jsonl", ".json", ".csv", ".yaml", ".yml", ".parquet", ".arrow")
_HUB = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]*){0,2}")
_SHARD = re.compile(r"(.*?)-\d{5}-of-\d{5}\.\w+")
DEEPEST = 100
"""Levels of objects and lists in a row; a deeper one could be neither looked through nor written."""
_NESTED = f"more than {DEEPEST} levels of objects and lists"
CELL = 1 << 24
"""Characters of a CSV cell; a quote that is never closed must not read a whole file into memory."""
_HALF = re.compile(r"[\ud800-\udfff]")
_BYTE = re.compile(r"[\udc80-\udcff]")
"""Stands for a byte that is not UTF-8, where such a byte was let through."""


def read_rows(
    source: str | Path, *, offline: bool = False, skip: Skip | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a file, a folder or a hub id, each with its place (`file:line` where lines exist).

    Files: `.jsonl`, `.json` and `.yaml` (a list of objects), `.csv`, and `.parquet` and `.arrow` with the
    extra `data`; `.jsonl`, `.csv` and `.parquet` are never held as a whole. A folder is one written by
    `datasets.save_to_disk`, or one that holds exactly one data set. A hub id is `owner/name[:config[:split]]`. With
    `skip`, a line of a `.jsonl` file that cannot be read, a row of a `.csv` file that is not UTF-8, and any row with
    half a character (a lone surrogate) or nested too deeply are told to it and left out. Raises `DataError` or
    `MissingExtra`.
    """
    path = Path(source)
    skipped: Counter[str] = Counter()

    def counted(place: str, reason: str) -> None:
        skipped[reason] += 1
        if skip is not None:
            skip(place, reason)

    left_out = None if skip is None else counted
    if path.is_dir():
        rows = _folder(path, left_out)
    elif path.is_file():
        rows = _file(path, left_out)
    elif _HUB.fullmatch(str(source)) and path.suffix not in SUFFIXES:
        rows = _hub(str(source), offline)
    else:
        raise DataError(f"{source}: no such file or folder; give a file ({', '.join(SUFFIXES)}), a folder or a hub id")
    empty = True
    for where, row in rows:
        if (fault := _unfit(row)) is not None:
            if left_out is None:
                raise DataError(f"{where}: {fault}; repair the row")
            left_out(where, fault)
            continue
        empty = False
        yield where, row
    if empty:
        raise DataError(f"{source}: holds no rows{_unread(skipped)}; give a file with at least one")


def _unfit(row: Row) -> str | None:
    """Why a row could not be written again; None where it can."""
    level: list[Any] = [row]
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, str):
                if not value.isascii() and _HALF.search(value):
                    return "half a character (a lone surrogate)"
            elif isinstance(value, Mapping):
                inner += (*value, *value.values())
            elif isinstance(value, list):
                inner += value
        if not inner:
            return None
        level = inner
    return _NESTED


def _unread(skipped: Counter[str]) -> str:
    most = skipped.most_common(1)
    return f" that can be read ({most[0][1]} lines: {most[0][0]})" if most else ""


def beside(source: str | Path) -> tuple[str | Path, tuple[str, ...]]:
    """`SOURCE::LIST.txt` taken apart: the source, and the list's lines, each once; no lines where no list is named.

    Raises `DataError` for a list that is missing or empty.
    """
    where, mark, name = str(source).rpartition("::")
    if not mark or not name.endswith(".txt"):
        return source, ()
    return where, entries(Path(name), f"{source}: no such list")


def entries(path: Path, missing: str) -> tuple[str, ...]:
    """The lines of a text file, each once, blank ones left out.

    Raises `DataError` for a file that is not there, in the words of `missing`, or holds no lines.
    """
    if not path.is_file():
        raise DataError(f"{missing} {path}; give a text file with one entry per line")
    lines = tuple(dict.fromkeys(line.strip() for line in _text(path).split("\n") if line.strip()))
    if not lines:
        raise DataError(f"{path}: holds no lines; write one entry per line")
    return lines


def marked(source: str | Path, known: Iterable[str]) -> tuple[str, frozenset[str]]:
    """`SOURCE#MARK+MARK` taken apart: the source, and its marks; none where a file of the whole name is there.

    Raises `DataError` for a mark that is not among `known`.
    """
    path, mark, words = str(source).rpartition("#")
    if not mark or Path(source).exists():
        return str(source), frozenset()
    for word in words.split("+"):
        if word not in known:
            raise DataError(f"{source}: unknown mark {word!r}; {nearest(word, known)}")
    return path, frozenset(words.split("+"))


def read_lines(source: str | Path) -> list[tuple[str, str]]:
    """The lines of a text file, blank ones too, without their ends, each with its place `file:line`.

    Raises `DataError` for a file that is missing, not UTF-8, or blank.
    """
    path = Path(source)
    if not path.is_file():
        raise DataError(f"{source}: no such file; give a text file")
    lines = [(f"{path}:{number}", text.rstrip("\r\n")) for number, text in _lines(path)]
    if not any(text.strip() for _, text in lines):
        raise DataError(f"{source}: holds no lines; give a file with at least one")
    return lines


# ------------------------------------------------------------------------------------------------ files


def _file(path: Path, skip: Skip | None) -> Iterator[tuple[str, dict[str, Any]]]:
    match path.suffix.lower():
        case ".jsonl":
            return _jsonl(path, skip)
        case ".json":
            return _json(path)
        case ".csv":
            return _csv(path, skip)
        case ".yaml" | ".yml":
            return _yaml(path)
        case ".parquet" | ".arrow":
            return _table(path)
    raise DataError(f"{path}: unknown kind of file {path.suffix!r}; known: {', '.join(SUFFIXES)}")


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be read ({error.strerror}); check the file and its permissions")


def _not_utf8(path: Path, line: int, byte: int) -> DataError:
    return DataError(f"{path}:{line}: not UTF-8 (byte {byte:#04x}); convert the file to UTF-8")


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, data.count(b"\n", 0, error.start) + 1, data[error.start]) from None


def _lines(path: Path, skip: Skip | None = None, errors: str = "strict") -> Iterator[tuple[int, str]]:
    """Number and text of each line, its end kept, one at a time; `errors` as `bytes.decode` takes it.

    Only "\\n" ends a line: str.splitlines would also cut at U+2028, which JSON allows inside a string.
    """
    try:
        with path.open("rb") as stream:
            for number, raw in enumerate(stream, start=1):
                try:
                    text = raw.decode("utf-8-sig" if number == 1 else "utf-8", errors)
                except UnicodeDecodeError as error:
                    if skip is None:
                        raise _not_utf8(path, number, raw[error.start]) from None
                    skip(f"{path}:{number}", "not UTF-8")
                    continue
                yield number, text
    except OSError as error:
        raise _unreadable(path, error) from None


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected a JSON object, found {type(value).__name__}; write one object per row")
    return value


def _jsonl(path: Path, skip: Skip | None) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in _lines(path, skip):
        if line.strip():
            where = f"{path}:{number}"
            try:
                value = _DECODER.decode(line.strip())
            except (ValueError, RecursionError) as error:
                if skip is None:
                    raise DataError(f"{where}: broken JSON ({_why(error)}); write one object per line") from None
                skip(where, _NESTED if isinstance(error, RecursionError) else "broken JSON")
                continue
            if skip is not None and not isinstance(value, dict):
                skip(where, "no JSON object")
                continue
            yield where, _object(value, where)


def _why(error: ValueError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return _NESTED
    return error.msg.lower() if isinstance(error, json.JSONDecodeError) else str(error)


def _json(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    text = _text(path)
    blank = re.compile(r"[ \t\r\n]*")
    at = blank.match(text).end()  # type: ignore[union-attr]
    if at == len(text):
        return
    # Some sets lie under one name, such as AgentHarm's "behaviors".
    named = re.compile(r'\{\s*"[^"\\]*"\s*:\s*(?=\[)').match(text, at)
    at = at if named is None else named.end()
    if text[at] != "[":
        raise DataError(f"{path}: expected a list of objects, found {text[at]!r} first; wrap the rows in [ ]")
    line, counted = 1, 0
    at = blank.match(text, at + 1).end()  # type: ignore[union-attr]
    while text[at : at + 1] != "]":
        line, counted = line + text.count("\n", counted, at), at
        where = f"{path}:{line}"
        try:
            value, at = _DECODER.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}:{error.lineno}: broken JSON ({_why(error)}); repair the file") from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: broken JSON ({_why(error)}); repair the file") from None
        yield where, _object(value, where)
        at = blank.match(text, at).end()  # type: ignore[union-attr]
        if text[at : at + 1] == ",":
            at = blank.match(text, at + 1).end()  # type: ignore[union-attr]
        elif text[at : at + 1] != "]":
            line += text.count("\n", counted, at)
            raise DataError(f"{path}:{line}: broken JSON (',' or ']' expected); repair the file")
    if named is not None and text[at + 1 :].strip() != "}":
        raise DataError(f"{path}: holds more than one list of rows under a name; keep the one you mean")


def _csv(path: Path, skip: Skip | None) -> Iterator[tuple[str, dict[str, Any]]]:
    # The library's limit holds for the whole process, and cannot be given to one reader.
    csv.field_size_limit(max(CELL, csv.field_size_limit()))
    # Lines keep their ends: csv needs them inside quoted cells. A byte that is not UTF-8 is let through to its cell: a
    # line left out of a quoted cell would change the row in silence.
    reader = csv.reader((line for _, line in _lines(path, errors="surrogateescape")), strict=True)
    header: list[str] = []
    start = 1
    while True:
        where = f"{path}:{start}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{where}: broken CSV ({error}); repair the row") from None
        byte = next((found for cell in cells if not cell.isascii() and (found := _BYTE.search(cell))), None)
        if byte is not None:
            if skip is None or not header:
                raise _not_utf8(path, start, ord(byte.group()) - 0xDC00)
            skip(where, "not UTF-8")
        elif header and cells:
            if len(cells) != len(header):
                raise DataError(f"{where}: {len(cells)} cells under {len(header)} columns; repair the row")
            yield where, dict(zip(header, cells, strict=True))
        elif cells:
            header = cells
            if len(set(header)) != len(header):
                raise DataError(f"{where}: a column name comes twice in the header; name each column once")
        start = reader.line_num + 1


def _yaml(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    loader = yaml.SafeLoader(_text(path))
    try:
        node = loader.get_single_node()
        if node is None:
            return
        rows = loader.construct_document(node)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise DataError(f"{where}: broken YAML; repair the file") from None
    finally:
        loader.dispose()
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a list of objects, found {type(rows).__name__}; begin each row with '- '")
    for row, written in zip(rows, node.value, strict=True):
        where = f"{path}:{written.start_mark.line + 1}"
        yield where, _object(row, where)


def _table(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        import pyarrow  # type: ignore[import-untyped]
        import pyarrow.parquet  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise MissingExtra(f"reading {path}", "datasets", "data") from None
    try:
        if path.suffix.lower() == ".parquet":
            batches = pyarrow.parquet.ParquetFile(path).iter_batches(1024)
        else:
            batches = iter(_arrow(pyarrow, path).to_batches())
        rows = (row for batch in batches for row in batch.to_pylist())
        for number, row in enumerate(rows, start=1):
            yield f"{path}:row {number}", row
    except (pyarrow.ArrowException, OSError):
        raise DataError(f"{path}: no readable {path.suffix[1:]} file; write it again") from None


def _arrow(pyarrow: Any, path: Path) -> Any:
    with path.open("rb") as stream:
        try:
            return pyarrow.ipc.open_stream(stream).read_all()
        except pyarrow.ArrowInvalid:
            stream.seek(0)
            return pyarrow.ipc.open_file(stream).read_all()


# ------------------------------------------------------------------------------------------------ folders and the hub


def _folder(path: Path, skip: Skip | None) -> Iterator[tuple[str, dict[str, Any]]]:
    if (path / "state.json").is_file():
        return _saved(path)
    saved = sorted(p.parent for p in path.rglob("state.json"))
    files = sorted(
        p
        for p in path.iterdir()
        if p.suffix.lower() in SUFFIXES and p.name not in ("dataset_dict.json", "dataset_info.json")
    )
    parts = {m.group(1) for p in files if (m := _SHARD.fullmatch(p.name))}
    if not files and len(saved) == 1:
        return _saved(saved[0])
    if not saved and files and (len(files) == 1 or (len(parts) == 1 and all(_SHARD.fullmatch(p.name) for p in files))):
        return (row for file in files for row in _file(file, skip))
    found = ", ".join(str(p.relative_to(path)) for p in [*saved, *files]) or "none"
    raise DataError(f"{path}: expected exactly one data set in this folder, found {found}; name the one you mean")


def _saved(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        state = json.loads(_text(path / "state.json"))
        files = [path / file["filename"] for file in state.get("_data_files", ())]
    except (ValueError, KeyError, TypeError, AttributeError):
        files, state = [], {}
    if files and not any(state.get(key) for key in ("_indices_files", "_format_columns", "_format_type")):
        # The rows lie there as they are: reading them so spares the import of datasets, which takes seconds.
        rows = (row for file in files for _, row in _table(file))
        return ((f"{path}:row {number}", row) for number, row in enumerate(rows, start=1))
    datasets = _datasets(f"reading {path}")
    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError):
        raise DataError(f"{path}: no readable data set; write it again with datasets.save_to_disk") from None
    return ((f"{path}:row {number}", row) for number, row in enumerate(loaded, start=1))


def _datasets(wanted: str) -> Any:
    try:
        import datasets
    except ModuleNotFoundError:
        raise MissingExtra(wanted, "datasets", "data") from None
    return datasets


def _hub(source: str, offline: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    if offline:
        raise DataError(f"{source}: no such file or folder, and hub ids are not read offline; give a local copy")
    name, config, split = (*source.split(":"), "", "")[:3]
    datasets = _datasets(f"reading the hub id {source}")
    try:
        splits = datasets.get_dataset_split_names(name, config or None)
        if not split and len(splits) == 1:
            split = splits[0]
        if split not in splits:
            raise DataError(f"{source}: splits are {', '.join(splits)}; give {name}:{config or 'CONFIG'}:SPLIT")
        rows = datasets.load_dataset(name, config or None, split=split)
    except (OSError, ValueError) as error:
        why = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise DataError(f"{source}: the hub gave no such data set ({why}); check owner/name:config:split") from None
    return ((f"{name}:{config}:{split}:row {number}", row) for number, row in enumerate(rows, start=1))


# ------------------------------------------------------------------------------------------------ items


@dataclass(frozen=True, slots=True)
class Form:
    """One way in which a public instrument writes its rows."""

    name: str
    columns: frozenset[str]
    """All must be there."""
    build: Callable[[str, Row], Iterable[Item]]
    """(where, row) to items."""
    alone: bool = False
    """No further column may be there: for forms whose columns are too common to tell anything."""
    keyed: bool = True
    """The instrument gives ids. Where it does not, an id is made of the content, and a repeated row gets a number."""

    def fits(self, columns: frozenset[str]) -> bool:
        """Do rows with these columns have this form?"""
        return columns == self.columns if self.alone else columns >= self.columns


def read_items(source: str | Path, kind: type[ItemT], forms: Iterable[Form], *, offline: bool = False) -> list[ItemT]:
    """Items of `source`: rows of `kind`'s own fields, or of the first public form whose columns fit the first row.

    Raises `DataError` for a row that does not fit, an id that comes twice, and columns no form knows.
    """
    forms = tuple(forms)
    items: list[Any] = []
    seen: dict[str, str] = {}
    copies: dict[str, int] = {}
    form: Form | None = None
    for where, row in read_rows(source, offline=offline):
        if form is None:
            form = _form(where, row, kind, forms)
        lacking = sorted(form.columns - row.keys())
        if lacking:
            raise DataError(f"{where}: column {lacking[0]!r} is missing in a row of the form {form.name}; add it")
        for item in form.build(where, row):
            if not form.keyed:
                copies[item.id] = copies.get(item.id, 0) + 1
                if copies[item.id] > 1:
                    item = _renamed(item, f"{item.id}~{copies[item.id]}")
            if item.id in seen:
                raise DataError(f"{where}: id {item.id!r} was already used at {seen[item.id]}; give each item its own")
            seen[item.id] = where
            items.append(item)
    return items


def _renamed(item: Any, new: str) -> Any:
    return type(item)(**{f.name: getattr(item, f.name) for f in fields(item)} | {"id": new})


def _form(where: str, row: Row, kind: type[Any], forms: tuple[Form, ...]) -> Form:
    columns = frozenset(row)
    required = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
    own = Form("own JSONL", frozenset(), lambda where, row: [native(kind, where, row)])
    if columns >= required:
        return own
    for form in forms:
        if form.fits(columns):
            return form
    # A misspelt or forgotten key of our own form deserves the error that names it.
    if 2 * len(columns & required) >= len(required):
        return own
    known = [f"own JSONL ({', '.join(sorted(required))})"]
    known += [f"{form.name} ({', '.join(sorted(form.columns))})" for form in forms]
    raise DataError(f"{where}: no known form has the columns {', '.join(sorted(columns))}; known: {'; '.join(known)}")


def native(kind: type[ItemT], where: str, row: Row) -> ItemT:
    """An item of our own JSONL form. Raises `DataError` that names `where` and the field."""
    try:
        return from_json(kind, dict(row))
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None


def text_field(where: str, row: Row, key: str, *, empty: bool = False) -> str:
    """`row[key]` as text. Raises `DataError` when it is no text, or blank where it must not be."""
    value = row.get(key)
    if not isinstance(value, str):
        raise DataError(f"{where}: {key!r} must be text, found {type(value).__name__}; {nearest(key, row)}")
    if not empty and not value.strip():
        raise DataError(f"{where}: {key!r} is empty; give it a text")
    return value


def content_id(prefix: str, *parts: Any) -> str:
    """An id made of content alone, for instruments that have none: the same row has the same id anywhere."""
    return f"{prefix}-{digest(list(parts))[:12]}"
