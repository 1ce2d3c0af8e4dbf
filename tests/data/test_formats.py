"""Every format gives the same rows, whatever the unit size; every mistake of a file is one line or one rejected row."""

import bz2
import csv
import gzip
import io
import json
import lzma
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unimir.data import archives, readers, records
from unimir.data.corpora import Corpora, Source
from unimir.data.files import find
from unimir.data.readers import plan, read_unit
from unimir.data.rows import Rejects

TEXTS = ["a lazy dog", "two\nlines", 'a "quoted" fox', "日本 winter", "commas, here"]
ROWS = [{"id": str(i), "text": text} for i, text in enumerate(TEXTS)]
CLEAN = [" ".join(text.split()) for text in TEXTS]


def write_parquet(path: Path) -> str:
    pq.write_table(
        pa.table({"id": [int(row["id"]) for row in ROWS], "text": TEXTS}), path / "r.parquet", row_group_size=2
    )
    return "r.parquet"


def write_jsonl(path: Path) -> str:
    (path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return "r.jsonl"


def write_csv(path: Path) -> str:
    with (path / "r.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, ["id", "text"])
        writer.writeheader()
        writer.writerows(ROWS)
    return "r.csv"


def write_tsv(path: Path) -> str:
    (path / "r.tsv").write_text(
        "id\ttext\n" + "".join(f"{row['id']}\t{' '.join(row['text'].split())}\n" for row in ROWS)
    )
    return "r.tsv"


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def write_tar(path: Path) -> str:
    with tarfile.open(path / "r.tar", "w") as archive:
        for row in ROWS:
            add(archive, f"d/{row['id']}.json", json.dumps(row).encode())
            add(archive, f"d/{row['id']}.jpg", b"never looked at")
    return "r.tar"


def write_dataset(path: Path) -> str:
    folder = path / "saved"
    folder.mkdir()
    table = pa.table({"id": [row["id"] for row in ROWS], "text": TEXTS})
    with pa.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    (folder / "state.json").write_text("{}")
    return "saved"


WRITERS = {
    "parquet": write_parquet,
    "jsonl": write_jsonl,
    "csv": write_csv,
    "tsv": write_tsv,
    "webdataset": write_tar,
    "hf_dataset": write_dataset,
}


@pytest.mark.parametrize("unit_rows", [1, 2, 3, 100])
@pytest.mark.parametrize("format", WRITERS)
def test_formats_agree(prepared: Callable[..., Any], source: Any, tmp_path: Path, format: str, unit_rows: int) -> None:
    columns = (
        {"text": "json.text", "group_id": "json.id"} if format == "webdataset" else {"text": "text", "group_id": "id"}
    )
    path = WRITERS[format](tmp_path)
    done = prepared(source(path, format=format, columns=columns), unit_rows=unit_rows, language_check="off")
    assert done.texts("parallel") == CLEAN
    assert len({row["group"] for row in done.rows("parallel")}) == len(TEXTS)
    assert done.rejected() == []


def test_dataset_of_the_library(prepared: Callable[..., Any], source: Any, tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    assert prepared(source("saved", format="hf_dataset")).texts("parallel") == CLEAN
    saved = datasets.load_from_disk(str(tmp_path / "saved"))  # which leaves files of its own there:
    saved.map(lambda row: {"text": row["text"].upper()}).filter(lambda row: row["id"] != "1")
    assert list((tmp_path / "saved").glob("cache-*.arrow"))
    assert prepared(source("saved", format="hf_dataset")).texts("parallel") == CLEAN
    datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(str(tmp_path / "dict"))
    with pytest.raises(ValueError, match="dict of datasets; give the directory of one split"):
        prepared(source("dict", format="hf_dataset"))


def test_globs_lists_and_uris(prepared: Callable[..., Any], source: Any, jsonl: Any, tmp_path: Path) -> None:
    for name, text in (("a-1.jsonl", "one dog"), ("a-2.jsonl", "two dogs"), ("b.jsonl", "three dogs")):
        jsonl([{"id": name, "text": text}], name)
    done = prepared(source(["a-*.jsonl", (tmp_path / "b.jsonl").as_uri()]))
    assert done.texts("parallel") == ["one dog", "two dogs", "three dogs"]


def test_globs_stay_within_their_folder(prepared: Callable[..., Any], source: Any, jsonl: Any, tmp_path: Path) -> None:
    (tmp_path / "x" / "deep").mkdir(parents=True)
    for name in ("x/a.jsonl", "x/deep/b.jsonl"):
        jsonl([{"id": name, "text": f"dog {name}"}], name)
    assert prepared(source("x/*.jsonl")).texts("parallel") == ["dog x/a.jsonl"]
    assert prepared(source("x/**/*.jsonl")).texts("parallel") == ["dog x/a.jsonl", "dog x/deep/b.jsonl"]


def test_memory_uri(prepared: Callable[..., Any], source: Any) -> None:
    import fsspec

    with fsspec.open("memory://corpus/x.jsonl", "wb") as handle:
        handle.write(b'{"id": 1, "text": "a remote dog"}\n')
    assert prepared(source("memory://corpus/x.jsonl")).texts("parallel") == ["a remote dog"]


def test_folder_of_pictures(prepared: Callable[..., Any], picture: Callable[..., bytes], tmp_path: Path) -> None:
    for seed, name in enumerate(("dog/1.png", "dog/2.png", "fox/1.png", "fox/notes.txt")):
        (tmp_path / "pics" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pics" / name).write_bytes(picture(seed))
    captions = {
        "name": "caps",
        "kind": "image_text",
        "format": "imagefolder",
        "path": "pics",
        "columns": {"image_id": "image_id", "text": "folder"},
        "images": "pics",
        "lang": "en",
        "split": {"only": "train"},
    }
    done = prepared(captions, images=({"name": "pics", "format": "imagefolder", "path": "pics"},), unit_rows=16)
    assert [(row["image_id"], row["text"]) for row in done.rows("image_text")] == [
        ("pics/dog/1.png", "dog"),
        ("pics/dog/2.png", "dog"),
        ("pics/fox/1.png", "fox"),
    ]
    assert done.counts["images/pics"] == {"read": 3, "kept": 3, "rejected": {}}


def test_a_folder_is_listed_once_for_all_its_units(
    picture: Callable[..., bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every worker's every unit needs the list: to make it each time would cost the square of the pictures."""
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
    file = archives.folder_file(str(tmp_path), ".", "pics")
    listed: list[str] = []
    find = archives.find
    monkeypatch.setattr(archives, "find", lambda *given: (listed.append(given[0]), find(*given))[1])
    rows = [row for start in range(0, 5, 2) for row in archives.read_folder(file, start, start + 2, {"image": "image"})]
    assert [row[0] for row in rows] == list(range(5)) and len(listed) == 1
    assert [row[1]["image"] for row in rows] == [picture(number) for number in range(5)]


def test_the_first_rows_of_a_large_column_cost_not_all_of_it(tmp_path: Path) -> None:
    """Pictures lie in one row group as a rule."""
    pictures = [np.random.default_rng(n).bytes(1 << 20) for n in range(40)]
    pq.write_table(pa.table({"image": pictures}), tmp_path / "pics.parquet", compression="none", write_batch_size=1)
    before = pa.total_allocated_bytes()
    (file,) = readers.find(str(tmp_path), ["pics.parquet"], "pics")
    batches = readers._parquet_batches(readers.Unit(0, 0, file, 0, 40, 0), {"image": "image"}, 2)
    assert [value.as_py() for value in next(batches)["image"]] == pictures[:2]
    assert pa.total_allocated_bytes() - before < 20 << 20
    batches.close()


CONLL = """# text = wake me at 9:30, ok
# intent = alarm/set
1\twake\talarm/set\tO
2\tme\talarm/set\tO
3\tat\talarm/set\tB-datetime
4\t9\talarm/set\tOdatetime
5\t:\talarm/set\tI-datetime
6\t30\talarm/set\tI-datetime
7\t,\talarm/set\tO
8\tok\talarm/set\tI-noise

1\tno\tx/y\tO
2\tcomments\tx/y\tB-b

# text = words differ
1\tother\tx/y\tO

# text = three cells
1\tthree\tx/y
"""


def test_conll(prepared: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "de-ba.valid.conll").write_text(CONLL)
    done = prepared(
        {
            "name": "xsid",
            "kind": "nlu",
            "format": "conll",
            "path": "*.valid.conll",
            "lang_from_path": r"([^/.]+)\.valid",
            "label_set": "xsid",
            "rename_labels": {"Odatetime": "I-datetime", "x/y": "other"},
            "split": {"only": "train"},
        }
    )
    first, second = done.rows("nlu")
    spans = [(first["text"][slot["start"] : slot["end"]], slot["label"]) for slot in first["slots"]]
    assert spans == [("at 9:30", "datetime"), ("ok", "noise")]
    assert (first["lang"], first["intent"], first["label_set"]) == ("de-BA", "alarm/set", "xsid")
    assert (second["text"], second["intent"]) == ("no comments", "other")
    assert done.rejected() == [
        ("de-ba.valid.conll", 2, "malformed sentence"),
        ("de-ba.valid.conll", 3, "malformed sentence"),
    ]


def test_malformed_json_lines(prepared: Callable[..., Any], source: Any, jsonl: Any) -> None:
    path = jsonl(
        [
            {"id": 0, "text": "good"},
            b"{broken",
            b'{"id": 2, "text": "\xff\xfe"}',
            b"[1, 2]",
            {"id": 4, "text": {"a": 1}},
            b"",
            {"id": 6},
            b'{"id": 7, "text": "\\ud800 lone"}',
            {"id": 8, "text": "good too"},
            {"text": "no group"},
            {"id": 10, "text": "\u200b\t"},
            b"[" * 100_000,
        ]
    )
    for unit_rows in (3, 100):
        done = prepared(source(path), unit_rows=unit_rows)
        assert done.texts("parallel") == ["good", "good too"]
        assert sorted((row, reason) for _, row, reason in done.rejected()) == [
            (1, "invalid JSON"),
            (2, "invalid UTF-8"),
            (3, "wrong type"),
            (4, "wrong type"),
            (5, "empty line"),
            (6, "empty text"),
            (7, "invalid UTF-8"),
            (9, "no group_id"),
            (10, "empty text"),
            (11, "invalid JSON"),
        ]
        assert done.counts["texts"]["read"] == 12


def test_malformed_csv(prepared: Callable[..., Any], source: Any, tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_bytes(b'id,text\n1,good\n2\n3,a,b\n4,"two\nlines"\n5,\xff\n\n7,good too\n')
    done = prepared(source("r.csv", format="csv"))
    assert done.texts("parallel") == ["good", "two lines", "good too"]
    assert sorted((row, reason) for _, row, reason in done.rejected()) == [
        (1, "malformed row"),
        (2, "malformed row"),
        (4, "invalid UTF-8"),
        (5, "empty line"),
    ]


@settings(deadline=None)
@given(st.text('a",\n', max_size=60), st.integers(1, 4), st.integers(1, 9))
def test_units_of_csv_end_where_rows_do(tmp_path_factory: Any, text: str, rows: int, block: int) -> None:
    """Quotes where none belong included; what Python's csv says of the whole file is right."""
    path = tmp_path_factory.getbasetemp() / "units.csv"
    path.write_bytes(("id,text\n" + text).encode())
    (file,) = find(str(path.parent), ("units.csv",), "test")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "_BLOCK", block)
        bounds = list(records._line_bounds(file, rows, 8, quoted=True))
    parts = [list(csv.reader(io.StringIO(("id,text\n" + text)[a:b], newline=""))) for a, b, _ in bounds]
    assert [row for part in parts for row in part] == list(csv.reader(io.StringIO(text, newline="")))
    assert all(len(part) == rows for part in parts[:-1]) and [row for *_, row in bounds] == [
        rows * at for at in range(len(bounds))
    ]


def test_a_cell_of_csv_may_be_long_and_hold_inches(prepared: Callable[..., Any], source: Any, tmp_path: Path) -> None:
    html = "x" * 140_000 + "\nnoise,99,junk\n"
    (tmp_path / "r.csv").write_text(
        f'id,text,html\n1,tv 55" wide,\n2,dog,"{html}"\n3,"fox ""red""",\n4,"two\nlines",\n'
    )
    for unit_rows in (1, 100):
        done = prepared(source("r.csv", format="csv"), unit_rows=unit_rows)
        assert done.texts("parallel") == ['tv 55" wide', "dog", 'fox "red"', "two lines"]
        assert done.rejected() == []


def test_empty_cells_are_no_group(prepared: Callable[..., Any], source: Any, jsonl: Any, tmp_path: Path) -> None:
    """Else all that have none would be the same thing."""
    (tmp_path / "r.csv").write_text("text,id\nred cat,\nblue house,\nfast car,7\n")
    done = prepared(source("r.csv", format="csv"))
    assert done.texts("parallel") == ["fast car"] and done.reasons() == ["no group_id"] * 2
    keys = [("1", None), (None, "1"), (None, None), ("1", "1"), ("1", None)]
    rows = [{"text": f"dog {number}", "p": p, "q": q} for number, (p, q) in enumerate(keys)]
    done = prepared(source(jsonl(rows), columns={"text": "text", "group_id": ["p", "q"]}))
    groups = [row["group"] for row in done.rows("parallel")]
    assert len(groups) == 4 and len(set(groups)) == 3 and groups[0] == groups[3]
    assert done.reasons() == ["no group_id"]


def test_queries_of_csv_may_lack_what_is_optional(prepared: Callable[..., Any], source: Any, tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("text,id,intent,document,doc_lang,filters\nfind a dog,1,find,,,\n")
    names = ("text", "intent", "document", "doc_lang", "filters")
    columns = {**{name: name for name in names}, "group_id": "id"}
    done = prepared(source("r.csv", format="csv", kind="intent_query", label_set="search", columns=columns))
    (row,) = done.rows("intent_query")
    assert (row["text"], row["doc_text"], row["image_id"]) == ("find a dog", None, None)


def test_booleans_are_compared_as_the_manifest_writes_them(
    prepared: Callable[..., Any], source: Any, jsonl: Any, parquet: Any
) -> None:
    rows = [{"id": 1, "text": "old dog", "active": False}, {"id": 2, "text": "new dog", "active": True}]
    columns = {name: [row[name] for row in rows] for name in ("id", "text", "active")}
    for path, format in ((jsonl(rows), "jsonl"), (parquet(columns), "parquet")):
        for rule, kept in (("true", ["new dog"]), ({"not": "false"}, ["new dog"]), ("false", ["old dog"])):
            assert prepared(source(path, format=format, where={"active": rule})).texts("parallel") == kept
        split = {"column": "active", "train": ["true"], "evaluation": ["false"]}
        assert prepared(source(path, format=format, split=split)).texts("parallel", "evaluation") == ["old dog"]


def test_invalid_utf8_in_parquet(prepared: Callable[..., Any], source: Any, parquet: Any) -> None:
    raw = pa.array([b"good dog", b"\xff\xfe bad", b"good fox"], pa.binary())
    text = pa.StringArray.from_buffers(3, raw.buffers()[1], raw.buffers()[2])
    done = prepared(source(parquet({"id": [1, 2, 3], "text": text}), format="parquet"))
    assert done.texts("parallel") == ["good dog", "good fox"]
    assert done.rejected() == [("rows.parquet", 1, "invalid UTF-8")]


def test_bad_values_in_parquet_cost_their_own_rows_only(
    prepared: Callable[..., Any], source: Any, parquet: Any
) -> None:
    """In lists, mappings and slots too, and in dictionaries and row groups that several units read."""
    count = 40
    words = [f"dog {number}".encode() for number in range(count)]
    words[7], words[31] = b"\xff", b"fox \xc3"
    raw = pa.array(words, pa.binary())
    text = pa.StringArray.from_buffers(count, raw.buffers()[1], raw.buffers()[2])
    ends = pa.array(range(count + 1), pa.int32())
    listed = pa.ListArray.from_arrays(ends, text)
    mapped = pa.MapArray.from_arrays(ends, pa.array(["en"] * count), text)
    coded = pa.DictionaryArray.from_arrays(pa.array(range(count), pa.int32()), text)
    named = {"columns": {"group_id": "id"}, "texts": "text"}
    wanted = [f"dog {number}" for number in range(count) if number not in (7, 31)]
    for column, changes in ((text, {}), (listed, {}), (coded, {}), (listed, named), (mapped, named)):
        path = parquet(pa.table({"id": range(count), "text": column}))
        for unit_rows in (9, 100):
            done = prepared(source(path, format="parquet", **changes), unit_rows=unit_rows)
            assert sorted(done.texts("parallel")) == sorted(wanted)
            assert done.rejected() == [("rows.parquet", row, "invalid UTF-8") for row in (7, 31)]
    slots = [[{"start": 0, "end": 3, "label": "noise"}] for _ in range(count)]
    slots[5] = [{"start": 0, "end": 1 << 40, "label": "noise"}]
    path = parquet({"id": range(count), "text": ["dog house"] * count, "intent": ["other"] * count, "slots": slots})
    columns = {name: name for name in ("text", "intent", "slots")} | {"group_id": "id"}
    done = prepared(source(path, format="parquet", kind="nlu", label_set="xsid", columns=columns))
    assert done.counts["texts"]["read"] == count
    assert ("rows.parquet", 5, "slot outside the text") in done.rejected()
    assert [row for _, row, reason in done.rejected() if reason == "slot outside the text"] == [5]


def test_a_key_of_json_lines_may_come_up_late(prepared: Callable[..., Any], source: Any, jsonl: Any) -> None:
    rows = [{"id": number, "text": f"dog {number}"} for number in range(300)]
    rows[250]["about"] = "a big fox"
    columns = {"text": ["about", "text"], "group_id": "id"}
    for unit_rows in (20, 1000):
        texts = prepared(source(jsonl(rows), columns=columns), unit_rows=unit_rows).texts("parallel")
        assert len(texts) == 300 and sorted(texts)[0] == "a big fox dog 250"


def test_broken_members_of_a_tar(prepared: Callable[..., Any], source: Any, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "r.tar", "w") as archive:
        add(archive, "a.json", b'{"id": 1, "text": "good"}')
        add(archive, "b.json", b"{broken")
        add(archive, "c.json", b'"\xff"')
        add(archive, "d.txt", b"no json at all")
    done = prepared(source("r.tar", format="webdataset", columns={"text": "json.text", "group_id": "json.id"}))
    assert done.texts("parallel") == ["good"]
    assert [(row, reason) for _, row, reason in done.rejected()] == [
        (1, "invalid JSON"),
        (2, "invalid UTF-8"),
        (3, "empty text"),
    ]


OTHER = {"text": "txt", "group_id": "id"}
MISTAKES: list[tuple[dict[str, Any], Mapping[str, Any] | bytes | None, str]] = [
    ({"path": "none.jsonl"}, None, r"no file matches .*none\.jsonl"),
    ({"path": "none-*.jsonl"}, None, r"no file matches .*none-\*\.jsonl"),
    ({"path": "nope://x/y"}, None, r"scheme 'nope' is not supported"),
    ({"columns": OTHER}, b'{"id": 1, "text": "a"}', "rows: no column 'txt'; available columns: id, text"),
    ({"format": "csv", "columns": OTHER}, b"id,text\n1,a\n", "rows: no column 'txt'; available columns: id, text"),
    ({"columns": OTHER}, b'{"id": 1, "text": "a"}\n' * 100_001, "no column 'txt' in its first 100,000 rows; available"),
    ({"format": "csv", "columns": OTHER}, b"id,text\n", "rows: no column 'txt'; available columns: id, text"),
    ({"format": "csv"}, b"id,text\r1,a\r2,b\r", "rows: its lines end in a carriage return alone"),
    ({"format": "csv"}, gzip.compress(b"id,text\n1,a\n", mtime=0), r"rows: is compressed \(gzip\), .* unpack it first"),
    ({"format": "conll"}, bz2.compress(b"# text: a\n"), r"rows: is compressed \(bzip2\)"),
    ({}, lzma.compress(b"{}\n"), r"rows: is compressed \(xz\)"),
    ({"format": "csv"}, b"", "no header line"),
    ({"format": "parquet"}, b"not parquet", "rows: not a Parquet file"),
    ({"format": "webdataset"}, b"not a tar", "rows: not a readable tar"),
    ({"format": "parquet", "columns": OTHER}, {"id": [1], "text": ["a"]}, "rows: no column 'txt'; available columns"),
    ({"format": "parquet"}, {"id": [1], "text": [b"a"]}, "rows: column 'text' has type binary, which cannot be read"),
    ({"format": "parquet"}, {"id": [1], "text": [{"a": 1}]}, "column 'text' has type struct"),
    ({"format": "parquet", "split": {"by": ["page"]}}, {"id": [1], "text": ["a"]}, "no column 'page'"),
    ({"format": "hf_dataset", "path": "."}, None, "holds no .arrow file"),
    ({"format": "imagefolder", "path": "."}, None, "no picture below"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "content", "message"), MISTAKES)
def test_mistakes_of_files(
    prepared: Callable[..., Any], source: Any, tmp_path: Path, change: dict[str, Any], content: Any, message: str
) -> None:
    if isinstance(content, bytes):
        (tmp_path / "rows").write_bytes(content)
    elif content is not None:
        pq.write_table(pa.table(content), tmp_path / "rows")
    with pytest.raises(ValueError, match=message) as error:
        prepared(source(**{"path": "rows", **change}))
    assert "\n" not in str(error.value)


def test_extension_types_are_no_text(prepared: Callable[..., Any], source: Any, parquet: Any) -> None:
    table = pa.table(
        {"id": [1], "text": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes(16)], pa.binary(16)))}
    )
    with pytest.raises(ValueError, match="cannot be read as text"):
        prepared(source(parquet(table), format="parquet"))


@given(
    lines=st.lists(st.text(st.sampled_from('ab"\n,é'), max_size=6), min_size=1, max_size=30),
    unit_rows=st.integers(1, 12),
    format=st.sampled_from(["csv", "jsonl"]),
)
@settings(max_examples=60, deadline=None)
def test_units_cut_no_row(tmp_path_factory: Any, lines: list[str], unit_rows: int, format: str) -> None:
    path = tmp_path_factory.mktemp("cut") / "rows"
    if format == "csv":
        with path.open("w", newline="") as handle:
            csv.writer(handle).writerows([["id", "text"], *enumerate(lines)])
    else:
        path.write_text("".join(json.dumps({"id": i, "text": line}) + "\n" for i, line in enumerate(lines)))
    table = Source(
        name="s", kind="parallel", format=format, path=(str(path),), lang="en",  # type: ignore[arg-type]
        columns={"text": ("text",), "group_id": ("id",)},
    )  # fmt: skip
    corpora = Corpora("c", str(path.parent), (), (table,))
    found = [raw for unit in plan(corpora, unit_rows) for raw in read_unit(table, unit, Rejects("s", "f"), 5)]
    rows = [row for raw in found for row in raw.to_pylist()]
    assert [(row["_row"], row["id"], row["text"]) for row in rows] == [
        (i, str(i), line) for i, line in enumerate(lines)
    ]


def test_join_filter_and_split_column(prepared: Callable[..., Any], jsonl: Any) -> None:
    pages = jsonl(
        [
            {
                "id": "a",
                "lang": "en",
                "title": "ls",
                "about": "list files",
                "examples": ["one", "two"],
                "part": "train",
            },
            {"id": "a", "lang": "de", "title": "ls", "about": "zeige Dateien", "part": "train"},
            {"id": "b", "lang": "de", "title": "cp", "about": "kopiere Dateien", "part": "train"},
            {"id": "c", "lang": "en", "title": "mv", "about": "move files", "part": "test"},
            {"id": "c", "lang": "fr", "title": "mv", "about": "bouge", "part": "other"},
        ]
    )
    join = {"path": pages, "format": "jsonl", "on": "id", "where": {"lang": ["en"]}}
    done = prepared(
        {
            "name": "pages",
            "kind": "text_text",
            "format": "jsonl",
            "path": pages,
            "columns": {"query": "about", "query_lang": "lang", "group_id": "id"},
            "join": {**join, "columns": {"document": ["title", "about", "examples"], "doc_lang": "lang"}},
            "split": {"column": "part", "train": ["train"], "evaluation": ["dev", "test"]},
            "leak": [],
        }
    )
    train = done.rows("text_text")
    assert [(row["lang"], row["text"], row["doc_lang"], row["doc_text"]) for row in train] == [
        ("en", "list files", "en", "ls list files one two"),
        ("de", "zeige Dateien", "en", "ls list files one two"),
    ]
    assert train[0]["doc_ids"] == train[1]["doc_ids"] and train[0]["group"] == train[1]["group"]
    assert done.texts("text_text", "evaluation") == ["move files"]
    assert sorted(done.reasons()) == ["not in the join table", "split value not listed"]


def test_no_key_is_no_key_of_a_join(prepared: Callable[..., Any], source: Any, jsonl: Any) -> None:
    pages = jsonl([{"id": "a", "about": "big dog"}, {"about": "of nothing"}], "pages.jsonl")
    rows = jsonl([{"id": "a", "text": "dog"}, {"text": "fox", "id": None}, {"text": "cat", "id": "b"}])
    join = {"path": pages, "format": "jsonl", "on": "id", "columns": {"document": "about"}}
    change = {"kind": "text_text", "columns": {"query": "text", "group_id": "text"}, "join": join}
    done = prepared(source(rows, **change))
    assert [(row["text"], row["doc_text"]) for row in done.rows("text_text")] == [("dog", "big dog")]
    assert done.rejected() == [("rows.jsonl", row, "not in the join table") for row in (1, 2)]
    join["path"] = jsonl([b"", b""], "none.jsonl")
    with pytest.raises(ValueError, match=r"join none\.jsonl has no row"):
        prepared(source(rows, **change))


def test_several_texts_per_row(prepared: Callable[..., Any], jsonl: Any) -> None:
    rows = [
        {"id": 1, "names": {"en": "dog", "de": "Hund", "fr": None}},
        {"id": 2, "names": {}},
        {"id": 3, "names": {"xx-bad-tag-": "x", "en": "fox"}},
    ]
    base = {"kind": "parallel", "format": "jsonl", "columns": {"group_id": "id"}, "split": {"only": "train"}}
    done = prepared({**base, "name": "map", "path": jsonl(rows), "texts": "names"})
    assert [(row["lang"], row["text"]) for row in done.rows("parallel")] == [
        ("en", "dog"),
        ("de", "Hund"),
        ("en", "fox"),
    ]
    assert done.rejected() == [("rows.jsonl", 1, "empty text"), ("rows.jsonl", 2, "unknown language")]
    listed = jsonl([{"id": 1, "names": ["dog", "hound"]}, {"id": 2, "names": ["fox"]}], "listed.jsonl")
    done = prepared({**base, "name": "list", "path": listed, "texts": "names", "lang": "en"})
    assert done.texts("parallel") == ["dog", "hound", "fox"]


def test_texts_of_parquet_types(prepared: Callable[..., Any], parquet: Any) -> None:
    mapped = pa.array([[("en", "dog"), ("de", "Hund")], [("en", "fox")]], pa.map_(pa.string(), pa.string()))
    struct = pa.array([{"en": "dog", "de": "Hund"}, {"en": "fox", "de": None}])
    for name, column in (("map", mapped), ("struct", struct)):
        path = parquet({"id": [1, 2], "names": column}, f"{name}.parquet")
        done = prepared(
            {
                "name": name,
                "kind": "parallel",
                "format": "parquet",
                "path": path,
                "columns": {"group_id": "id"},
                "texts": "names",
                "split": {"only": "train"},
            }
        )
        assert done.texts("parallel") == ["dog", "Hund", "fox"]


def test_where_excludes(prepared: Callable[..., Any], source: Any, jsonl: Any) -> None:
    path = jsonl([{"id": i, "text": f"dog {'abc'[i]}", "kind": "xyz"[i]} for i in range(3)])
    assert prepared(source(path, where={"kind": {"not": ["y"]}})).texts("parallel") == ["dog a", "dog c"]
    kept = prepared(source(path, where={"kind": "y"}))
    assert kept.texts("parallel") == ["dog b"] and kept.counts["texts"]["read"] == 1
