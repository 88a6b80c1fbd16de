"""Identifiers replaced and put back on the command line."""

import json
import stat
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast

from discretion.data.chats import write_chats
from discretion.data.recipes import identifiers, recipe

ROWS = recipe("support", n=500)[:20]


def test_identifiers_are_replaced_and_put_back_with_the_key(typed) -> None:
    write_chats("rows.jsonl", ROWS)
    code, out, _ = typed("pii", "replace", "rows.jsonl", "--out", "clean.jsonl", "--key", "key.json", "--json")
    assert code == 0 and json.loads(out)["rows"] == 20
    clean = Path("clean.jsonl").read_text()
    assert not [held["e-mail"] for held in identifiers(n=500)[:20] if held["e-mail"] in clean]
    assert {stat.S_IMODE(Path(name).stat().st_mode) for name in ("clean.jsonl", "key.json")} == {0o600}
    code, _, _ = typed("pii", "restore", "clean.jsonl", "--key", "key.json", "--out", "back.jsonl")
    assert code == 0 and Path("back.jsonl").read_text() == Path("rows.jsonl").read_text()


def test_names_and_patterns_of_ones_own_are_replaced_too(typed) -> None:
    write_chats("rows.jsonl", [{"text": "then Zbigniew took BK-123456 along"}])
    Path("names.txt").write_text("Zbigniew\n")
    words = ("--out", "o.jsonl", "--key", "k.json", "--style", "placeholder")
    code, _, _ = typed(
        "pii", "replace", "rows.jsonl", *words, "--names", "names.txt", "--pattern", "BOOKING=BK-[0-9]{6}"
    )
    assert code == 0
    assert json.loads(Path("o.jsonl").read_text()) == {"text": "then [PERSON_1] took [BOOKING_1] along"}


def labelled(text: str, *found: tuple[str, str]) -> str:
    """A line of the presidio-research form."""
    spans = [
        {"entity_type": kind, "entity_value": value, "start_position": at, "end_position": at + len(value)}
        for kind, value in found
        for at in [text.index(value)]
    ]
    return json.dumps({"full_text": text, "spans": spans}) + "\n"


def test_names_and_patterns_of_ones_own_are_screened_and_checked_too(typed) -> None:
    said = "Then Zbigniew took BK-123456 along. I feel so sad today."
    turns = [{"role": "user", "content": said}, {"role": "assistant", "content": "Yes."}]
    write_chats("rows.jsonl", [{"messages": turns}])
    Path("names.txt").write_text("Zbigniew\n")
    Path("labels.jsonl").write_text(labelled(said, ("PERSON", "Zbigniew"), ("BOOKING", "BK-123456")))
    own = ("--names", "names.txt", "--pattern", "BOOKING=BK-[0-9]{6}")
    code, out, _ = typed("screen", "rows.jsonl", "--quiet", "--json", *own)
    told = json.loads(out)
    assert code == 0 and {c["type"] for c in told["identifiers"]} == {"PERSON", "BOOKING"} and told["identified"] == 1
    assert "⟨PERSON⟩" in out and "Zbigniew" not in out and "Zbigniew" not in Path("screen.html").read_text()
    code, out, _ = typed("pii", "check", "--labels", "labels.jsonl", "--json", *own)
    assert code == 0 and {kind: f["f1"] for kind, f in json.loads(out)["types"].items()} == {"BOOKING": 1, "PERSON": 1}


def test_a_spacy_model_is_asked_for_names_and_its_absence_says_what_to_type(typed, monkeypatch) -> None:
    said = "then Zbigniew went along"
    Path("labels.jsonl").write_text(labelled(said, ("PERSON", "Zbigniew")))
    words = ("pii", "check", "--labels", "labels.jsonl", "--json", "--tagger", "spacy:en_core_web_sm")
    monkeypatch.setitem(sys.modules, "spacy", None)
    code, _, err = typed(*words)
    assert code == 2 and "type: pip install spacy && python -m spacy download en_core_web_sm" in err

    def load(name: str) -> SimpleNamespace:
        if name != "en_core_web_sm":
            raise OSError("no such model")
        entity = SimpleNamespace(start_char=5, end_char=13, label_="PERSON")
        return SimpleNamespace(pipe=lambda texts: [SimpleNamespace(ents=[entity]) for _ in texts])

    monkeypatch.setitem(sys.modules, "spacy", SimpleNamespace(load=load))
    code, out, _ = typed(*words)
    assert code == 0 and json.loads(out)["types"]["PERSON"]["recall"] == 1
    code, _, err = typed(*words[:-1], "spacy:other")
    assert code == 2 and "type: python -m spacy download other" in err and len(err.strip().splitlines()) == 1


def classifier(folder: Path, labels: tuple[str, ...]) -> Path:
    """A BERT that gives its second label to the pieces of one name, and its first to all other tokens."""
    words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "then": 4, "went": 5, "along": 6, "Zbi": 7, "##gniew": 8}
    split = Tokenizer(WordPiece(words, unk_token="[UNK]"))
    split.pre_tokenizer = Whitespace()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=split, **names).save_pretrained(folder)
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = BertConfig(
        vocab_size=len(words), max_position_embeddings=34, id2label=dict(enumerate(labels)),
        label2id={label: n for n, label in enumerate(labels)}, **size,
    )  # fmt: skip
    model = BertForTokenClassification(config).eval()
    with torch.no_grad():
        # Only the name's own embedding reaches the classifier.
        for weights in model.parameters():
            weights.zero_()
        model.bert.embeddings.LayerNorm.weight.fill_(1)
        for layer in model.bert.encoder.layer:
            layer.attention.output.LayerNorm.weight.fill_(1)
            layer.output.LayerNorm.weight.fill_(1)
        model.bert.embeddings.word_embeddings.weight[7:] = torch.tensor([8.0] + [0.0] * 7)
        model.classifier.weight[1, 0] = 1
        model.classifier.bias[0] = 0.1
    model.save_pretrained(folder)
    return folder


def test_a_token_classifier_is_asked_for_names_in_texts_of_any_length(typed, tmp_path: Path) -> None:
    tagger = classifier(tmp_path / "tagger", ("O", "B-PER"))
    write_chats("rows.jsonl", [{"text": "then " * 100 + "Zbigniew went along"}, {"text": " "}])
    words = ("--out", "o.jsonl", "--key", "k.json", "--style", "placeholder", "--tagger")
    code, _, err = typed("pii", "replace", "rows.jsonl", *words, tagger)
    assert code == 0, err
    assert json.loads(Path("o.jsonl").read_text().splitlines()[0])["text"] == "then " * 100 + "[PERSON_1] went along"
    for wrong, said in (
        (classifier(tmp_path / "odd", ("O", "B-GENE")), "its labels are GENE, O"),
        ("none", "no folder"),
    ):
        code, _, err = typed("pii", "replace", "rows.jsonl", "--out", "p.jsonl", "--key", "q.json", "--tagger", wrong)
        assert code == 2 and said in err.strip().splitlines()[-1] and not Path("q.json").exists()


def test_names_are_read_from_a_file_of_any_suffix_and_a_missing_one_stops(typed) -> None:
    write_chats("rows.jsonl", [{"text": "then Zbigniew went along"}])
    Path("people.csv").write_text("Zbigniew\n")
    words = ("pii", "replace", "rows.jsonl", "--out", "o.jsonl", "--key", "k.json", "--style", "placeholder", "--names")
    code, _, err = typed(*words, "poeple")
    assert code == 2 and "no such file poeple" in err and not Path("o.jsonl").exists()
    assert typed(*words, "people.csv")[0] == 0
    assert json.loads(Path("o.jsonl").read_text()) == {"text": "then [PERSON_1] went along"}


UNFIT = ('{"text": "half \\ud83d"}', '{"text": ' + "[" * 100_000 + "]" * 100_000 + "}")


@pytest.mark.parametrize("line", UNFIT, ids=["half a character", "nested too deeply"])
def test_a_row_that_could_not_be_written_stops_a_replacing_in_one_line_and_nothing_is_left_there(typed, line) -> None:
    Path("rows.jsonl").write_text(f'{{"text": "x"}}\n{line}\n')
    code, _, err = typed("pii", "replace", "rows.jsonl", "--out", "o.jsonl", "--key", "k.json")
    assert code == 2 and "rows.jsonl:2: " in err and len(err.strip().splitlines()) == 1
    assert [path.name for path in Path().iterdir()] == ["rows.jsonl"]


def test_a_column_that_json_has_not_stops_in_one_line_without_a_key_left_behind(typed) -> None:
    Path("rows.yaml").write_text("- text: x\n  when: 2026-01-05\n")
    code, _, err = typed("pii", "replace", "rows.yaml", "--out", "o.jsonl", "--key", "k.json")
    assert code == 2 and "cannot be written as JSON" in err and len(err.strip().splitlines()) == 1
    assert [path.name for path in Path().iterdir()] == ["rows.yaml"]


@pytest.mark.parametrize(
    "words",
    [
        ("screen", "rows.jsonl", "--quiet"),
        ("canaries", "plant", "rows.jsonl", "--out", "o.jsonl", "--book", "b.jsonl"),
        ("members", "hold-out", "rows.jsonl", "--train", "t.jsonl", "--held-out", "h.jsonl", "--share", "0.5"),
    ],
    ids=lambda words: words[0],
)
def test_rows_that_could_not_be_written_are_left_out_and_counted(typed, words) -> None:
    rows = [*map(json.dumps, ROWS), *(line.replace('"text"', '"messages"') for line in UNFIT)]
    Path("rows.jsonl").write_text("\n".join(rows))
    code, out, _ = typed(*words, "--json")
    left_out = {"half a character (a lone surrogate)": 1, "more than 100 levels of objects and lists": 1}
    assert code == 0 and json.loads(out)["left_out"] == left_out


def test_a_page_without_a_place_stops_before_the_rows_are_read(typed) -> None:
    Path("pages").mkdir()
    for out, said in (("pages", "is a folder"), ("nowhere/page.html", "no folder nowhere")):
        code, _, err = typed("screen", "no-such-rows.jsonl", "--out", out)
        assert code == 2 and said in err and len(err.strip().splitlines()) == 1
    assert not list(Path().glob("*.part"))


def test_wrong_words_are_one_line_and_nothing_is_written_over(typed) -> None:
    write_chats("rows.jsonl", ROWS)
    Path("there.json").write_text("mine")
    for words, said in (
        (("--out", "o.jsonl", "--key", "there.json"), "a file already"),
        (("--out", "o.jsonl", "--key", "k.json", "--style", "other"), "give surrogate or placeholder"),
        (("--out", "o.jsonl", "--key", "k.json", "--pattern", "BOOKING"), "not TYPE=REGEX"),
        (("--out", "nowhere/o.jsonl", "--key", "k.json"), "no folder nowhere"),
        (("--out", "o.jsonl", "--key", "o.jsonl"), "is named twice"),
    ):
        code, _, err = typed("pii", "replace", "rows.jsonl", *words)
        assert code == 2 and said in err and len(err.strip().splitlines()) == 1
    assert not Path("o.jsonl").exists() and not Path("k.json").exists() and Path("there.json").read_text() == "mine"
