import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from discretion.data.rows import Form, content_id, read_items, read_rows
from discretion.errors import DataError, MissingExtra
from discretion.schema import RefusalItem

RIGHT = {"id": "r1", "cluster": "c1", "prompt": "How?", "harmful": True}


def rows(path: Path | str) -> list[tuple[str, dict[str, object]]]:
    return list(read_rows(path))


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_line_separator_inside_a_json_string_is_no_line_break(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '\ufeff{"t": "one\u2028two\u0085three"}\n\n{"t": "b"}\r\n')
    assert rows(path) == [(f"{path}:1", {"t": "one\u2028two\u0085three"}), (f"{path}:3", {"t": "b"})]


def test_csv_cells_keep_line_breaks_and_rows_know_their_first_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", '\ufeffid,text\r\n1,"two\nlines, ""quoted"""\n\n2,\u2028\n')
    assert rows(path) == [
        (f"{path}:2", {"id": "1", "text": 'two\nlines, "quoted"'}),
        (f"{path}:5", {"id": "2", "text": "\u2028"}),
    ]


def test_objects_of_a_json_list_know_their_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", '[\n {"a": 1},\n\n {"a":\n 2}, {"a": 3}\n]\n')
    assert [where.rsplit(":", 1)[1] for where, _ in rows(path)] == ["2", "4", "5"]


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": \n', "a.jsonl:2: broken JSON"),
        ("a.jsonl", '{"a": NaN}\n', "a.jsonl:1: broken JSON (NaN is not JSON)"),
        ("a.jsonl", "[1]\n", "a.jsonl:1: expected a JSON object, found list"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', "a.jsonl:2: not UTF-8"),
        ("a.jsonl", "\n", "holds no rows"),
        ("a.json", '[{"a": 1},\n{"a": }]', "a.json:2: broken JSON"),
        ("a.json", '[{"a": 1}\n{"a": 2}]', "a.json:2: broken JSON"),
        ("a.json", '[{"a": 1}', "broken JSON"),
        ("a.json", '{"a": 1}', "expected a list of objects"),
        ("a.json", "[]", "holds no rows"),
        ("a.json", "", "holds no rows"),
        ("a.csv", "a,b\n1,2\n3\n", "a.csv:3: 1 cells under 2 columns"),
        ("a.csv", "a,a\n1,2\n", "a.csv:1: a column name comes twice"),
        ("a.csv", 'a,b\n1,"2\n', "a.csv:2: broken CSV"),
        ("a.csv", b'a,b\n1,2\n1,"x\n\xff"\n', "a.csv:3: not UTF-8 (byte 0xff)"),
        ("a.csv", b"a,\xff\n1,2\n", "a.csv:1: not UTF-8"),
        ("a.jsonl", '{"a": 1}\n{"a": "x \\ud83d y"}\n', "a.jsonl:2: half a character"),
        ("a.json", '[{"a": {"x \\ud83d": 1}}]', "a.json:1: half a character"),
        ("a.yaml", '- a: "x \\ud83d"\n', "a.yaml:1: half a character"),
        ("a.jsonl", '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "more than 100 levels"),
        ("a.jsonl", '{"a": ' + "[" * 200 + "]" * 200 + "}", "more than 100 levels"),
        ("a.json", '[{"a": ' + "[" * 100_000 + "]" * 100_000 + "}]", "more than 100 levels"),
        ("a.yaml", "- a: " + "[" * 5_000 + "]" * 5_000, "broken YAML"),
        ("a.txt", "x", "unknown kind of file '.txt'"),
        ("a.parquet", "x", "no readable parquet file"),
        ("a.arrow", "x", "no readable arrow file"),
    ],
)
def test_a_bad_file_is_one_line_that_names_the_place(tmp_path: Path, name: str, text: str | bytes, wanted: str) -> None:
    with pytest.raises(DataError, match=r"^[^\n]+$") as caught:
        rows(write(tmp_path / name, text))
    assert wanted in str(caught.value)


def test_rows_that_could_not_be_written_again_are_left_out_and_counted(tmp_path: Path) -> None:
    lines = [
        '{"a": "\\ud83d\\ude00"}',
        '{"a": "\\ud83d"}',
        '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"a": "é"}',
    ]
    told: list[tuple[str, str]] = []
    found = read_rows(write(tmp_path / "a.jsonl", "\n".join(lines)), skip=lambda *why: told.append(why))
    assert [row["a"] for _, row in found] == ["😀", "é"]
    assert [(where[-2:], why) for where, why in told] == [
        (":2", "half a character (a lone surrogate)"),
        (":3", "more than 100 levels of objects and lists"),
    ]


def test_a_csv_row_that_is_not_utf_8_is_left_out_whole_and_the_next_is_read(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", b'a,b\n1,"x\n\xff\ny"\n3,4\n')
    told: list[tuple[str, str]] = []
    assert [row for _, row in read_rows(file, skip=lambda *why: told.append(why))] == [{"a": "3", "b": "4"}]
    assert told == [(f"{file}:2", "not UTF-8")]


def test_a_long_csv_cell_is_read(tmp_path: Path) -> None:
    ((_, row),) = rows(write(tmp_path / "a.csv", f"a,b\n1,{'x' * 200_000}\n"))
    assert len(row["b"]) == 200_000  # type: ignore[arg-type]


def test_a_file_of_which_no_line_can_be_read_is_not_called_empty(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", b"\xff\n\xfe\n")
    with pytest.raises(DataError, match=r"no rows that can be read \(2 lines: not UTF-8\)"):
        list(read_rows(file, skip=lambda place, reason: None))


@pytest.mark.parametrize("source", ["missing.jsonl", "no/such/folder", "/no/such"])
def test_a_missing_file_is_said_to_be_missing(source: str) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        rows(source)


def test_a_hub_id_is_not_read_offline() -> None:
    with pytest.raises(DataError, match="hub ids are not read offline"):
        list(read_rows("owner/name:config:test", offline=True))


def test_a_hub_id_names_config_and_split_and_runs_no_remote_code(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def load(*args: object, **options: object) -> list[dict[str, int]]:
        asked.append((args, options))
        return [{"a": 1}]

    fake = SimpleNamespace(get_dataset_split_names=lambda name, config: ["dev", "test"], load_dataset=load)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    assert rows("owner/name:all:test") == [("owner/name:all:test:row 1", {"a": 1})]
    assert rows("owner/name::dev") == [("owner/name::dev:row 1", {"a": 1})]
    assert asked == [(("owner/name", "all"), {"split": "test"}), (("owner/name", None), {"split": "dev"})]
    for source in ("owner/name", "owner/name:all", "owner/name:all:train"):
        with pytest.raises(DataError, match="splits are dev, test; give owner/name:"):
            rows(source)


def test_without_the_library_a_saved_folder_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "state.json", "{}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"discretion\[data\]"):
        rows(tmp_path)


def test_every_container_gives_the_same_rows(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    wanted = [{"a": 1, "b": "x\u2028y"}, {"a": 2, "b": ""}]
    data = datasets.Dataset.from_list(wanted)
    data.save_to_disk(tmp_path / "saved" / "inner")
    data.to_parquet(tmp_path / "a.parquet")
    write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in wanted))
    arrow = next((tmp_path / "saved" / "inner").glob("*.arrow"))
    for source in ("saved", "saved/inner", "a.parquet", "a.jsonl", arrow):
        assert [row for _, row in rows(tmp_path / source)] == wanted


def test_a_saved_folder_is_read_without_the_library_and_as_the_library_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list([{"a": n, "b": {"label": ["A", "B"], "text": ["x", str(n)]}} for n in range(5)])
    data.shuffle(seed=1).select([3, 0, 2]).save_to_disk(tmp_path / "chosen", num_shards=2)
    data.with_format(columns=["a"]).save_to_disk(tmp_path / "format")
    known = {name: list(datasets.load_from_disk(str(tmp_path / name))) for name in ("chosen", "format")}
    assert [row for _, row in rows(tmp_path / "format")] == known["format"] == [{"a": n} for n in range(5)]
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert [row for _, row in rows(tmp_path / "chosen")] == known["chosen"]


def test_a_folder_with_two_data_sets_is_ambiguous(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", '{"a": 1}')
    assert len(rows(tmp_path)) == 1
    write(tmp_path / "test.jsonl", '{"a": 1}')
    with pytest.raises(DataError, match=r"found test\.jsonl, train\.jsonl; name the one you mean"):
        rows(tmp_path)


def test_a_misspelt_key_names_its_nearest(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", json.dumps(RIGHT) + "\n" + json.dumps(RIGHT | {"id": "r2", "twinof": "r1"}))
    with pytest.raises(DataError, match=r"a\.jsonl:2: unknown key 'twinof'; did you mean 'twin_of'\?"):
        read_items(path, RefusalItem, [])


def test_columns_no_form_knows_are_listed_with_the_known_forms(tmp_path: Path) -> None:
    form = Form("Other", frozenset({"goal"}), lambda where, row: [])
    with pytest.raises(DataError, match=r"no known form has the columns colour; known: own JSONL .*; Other .goal."):
        read_items(write(tmp_path / "a.jsonl", '{"colour": "red"}'), RefusalItem, [form])


def test_an_id_that_comes_twice_names_both_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", (json.dumps(RIGHT) + "\n") * 2)
    with pytest.raises(DataError, match=r"a\.jsonl:2: id 'r1' was already used at .*a\.jsonl:1"):
        read_items(path, RefusalItem, [])


def test_a_row_of_another_shape_in_the_middle_is_refused(tmp_path: Path) -> None:
    form = Form("Goals", frozenset({"goal"}), lambda where, row: [])
    with pytest.raises(DataError, match=r"a\.jsonl:2: column 'goal' is missing"):
        read_items(write(tmp_path / "a.jsonl", '{"goal": "a"}\n{"gaol": "b"}'), RefusalItem, [form])


def test_rows_without_ids_are_named_by_content_and_repeats_are_numbered(tmp_path: Path) -> None:
    def build(where: str, row: object) -> list[RefusalItem]:
        name = content_id("g", row["goal"])  # type: ignore[index]
        return [RefusalItem(id=name, cluster=name, prompt="p", harmful=True)]

    form = Form("Goals", frozenset({"goal"}), build, keyed=False)
    there = read_items(write(tmp_path / "a.jsonl", '{"goal": "a"}\n{"goal": "b"}\n{"goal": "a"}'), RefusalItem, [form])
    assert there[2].id == f"{there[0].id}~2" and there[2].cluster == there[0].cluster
    again = read_items(write(tmp_path / "b.jsonl", '{"goal": "b"}\n{"goal": "a"}'), RefusalItem, [form])
    assert [item.id for item in again] == [there[1].id, there[0].id]
