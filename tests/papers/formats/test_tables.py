"""Tables of papers become records in the papers layout, whoever wrote them."""

import csv
import datetime
import decimal
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from steps.config.paper_sections import Limits
from steps.errors import UserError
from steps.papers.file_bytes import Bytes
from steps.papers.formats import tables
from steps.papers.formats.tables import guess_columns, read_delimited, read_parquet
from steps.papers.records import RawRecord

MEBIBYTE = 1 << 20
LIMITS = Limits()
# Columns of well-known exports, and what is read from them (with _ for a blank).
HEADERS = {
    # PubMed, CORD-19
    "PMID,Title,Authors,Citation,Journal/Book,Publication Year,Create Date,PMCID,NIHMS ID,DOI":
    "title=Title pmid=PMID pmcid=PMCID doi=DOI journal=Journal/Book "
    "publication_date=Publication_Year",
    "cord_uid,sha,source_x,title,doi,pmcid,pubmed_id,license,abstract,publish_time,journal":
    "title=title abstract=abstract pmid=pubmed_id pmcid=pmcid doi=doi journal=journal "
    "publication_date=publish_time license=license",
    # Scopus
    "Authors,Title,Year,Source title,DOI,Abstract,Author Keywords,Index Keywords,PubMed ID,"
    "Language of Original Document,Source":
    "title=Title abstract=Abstract pmid=PubMed_ID doi=DOI journal=Source_title "
    "publication_date=Year keywords=Author_Keywords language=Language_of_Original_Document",
    # Web of Science and its tags, Zotero, Europe PMC, Lens
    "Article Title,Source Title,Language,Abstract,Publication Date,Publication Year,DOI,Pubmed Id":
    "title=Article_Title abstract=Abstract pmid=Pubmed_Id doi=DOI journal=Source_Title "
    "publication_date=Publication_Year language=Language",
    "PT,AU,TI,SO,LA,DE,ID,AB,PY,DI,PM":
    "title=TI abstract=AB pmid=PM doi=DI journal=SO publication_date=PY keywords=DE language=LA",
    "Key,Item Type,Author,Title,Publication Title,DOI,Abstract Note,Date":
    "title=Title abstract=Abstract_Note doi=DOI journal=Publication_Title publication_date=Date",
    "id,source,pmid,doi,title,journalTitle,pubYear,abstractText,firstPublicationDate":
    "title=title abstract=abstractText pmid=pmid doi=doi journal=journalTitle "
    "publication_date=firstPublicationDate",
    "Lens ID,Title,Date Published,Publication Year,Source Title,PMID,Open Access License":
    "title=Title pmid=PMID journal=Source_Title publication_date=Date_Published "
    "license=Open_Access_License",
    "id,Full-Text,quality_score,TIER": "full_text=Full-Text score=quality_score tier=TIER",
    "n,text": "full_text=text",
    "body,so,de,ab": "full_text=body",  # tags mean something beside others only
}  # fmt: skip


def silent(line: str) -> None:
    del line


def records(
    text: str | bytes, columns: dict[str, str] | None = None, limit: int = MEBIBYTE
) -> list[RawRecord]:
    content = text.encode() if isinstance(text, str) else text
    source = Bytes(io.BytesIO(content), "papers.csv", 100 * MEBIBYTE)
    return list(read_delimited(source, columns, limit, silent))


def papers(text: str | bytes, columns: dict[str, str] | None = None) -> list[Any]:
    found = records(text, columns)
    assert [record.problem for record in found] == [None] * len(found)
    return [json.loads(record.data) for record in found]


def error_of(text: str | bytes, columns: dict[str, str] | None = None) -> str:
    with pytest.raises(UserError) as caught:
        records(text, columns)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- columns -----------------------------------------------------------------------------


@pytest.mark.parametrize(("header", "expected"), HEADERS.items())
def test_columns_are_known_by_the_names_that_people_use(header: str, expected: str) -> None:
    found = guess_columns(header.split(","), None, "papers.csv")
    assert {field: name.replace(" ", "_") for field, name in found.items()} == dict(
        pair.split("=") for pair in expected.split()
    )


def test_given_columns_come_before_guesses() -> None:
    header = ["text", "Title", "Abstract", "score"]
    given = {"title": "text", "score": "", "pmid": None}
    assert guess_columns(header, given, "papers.csv") == {"title": "text", "abstract": "Abstract"}


@pytest.mark.parametrize(
    ("header", "given", "message"),
    [
        (
            ["Titel", "Zusammenfassung"],
            {"title": "titel"},
            "papers.csv: no column 'titel' for scientific_data.columns.title, did you mean "
            "'Titel'?: the header has 'Titel', 'Zusammenfassung'",
        ),
        (
            ["a", "Title"],
            {"doi": "zzzzz"},
            "papers.csv: no column 'zzzzz' for scientific_data.columns.doi: "
            "the header has 'a', 'Title'",
        ),
        (
            ["a", "pmid"],
            None,
            "papers.csv: no column holds a title, an abstract or a full text: name one under "
            "scientific_data.columns, such as {title: NAME}; the header has 'a', 'pmid'",
        ),
        (
            ["x" * 90] * 50,
            {},
            "papers.csv: no column holds a title, an abstract or a full text: name one under "
            "scientific_data.columns, such as {title: NAME}; the header has "
            + ", ".join([repr("x" * 40)] * 40)
            + " and 10 more",
        ),
    ],
)
def test_columns_that_are_not_there_are_named(
    header: list[str], given: dict[str, str] | None, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        guess_columns(header, given, "papers.csv")
    assert str(caught.value) == message


def test_a_field_that_no_table_has_is_refused() -> None:
    with pytest.raises(UserError, match="columns names 'tilte', expected one of title, abstract"):
        guess_columns(["Title"], {"tilte": "Title"}, "papers.csv")


def test_one_line_tells_what_is_read_as_what() -> None:
    source = Bytes(io.BytesIO(b"Title,Abstract Note,x\nA,B,C\nD,E,F\n"), "papers.csv", MEBIBYTE)
    said: list[str] = []
    assert len(list(read_delimited(source, None, MEBIBYTE, said.append))) == 2
    assert said == [
        "papers.csv: title from 'Title', abstract from 'Abstract Note'; "
        "name others under scientific_data.columns"
    ]


# --- CSV and TSV -------------------------------------------------------------------------

ROWS = [
    ["pmid", "title", "abstract"],
    ["1", 'A "quoted", title; with | all', "Line one\nline two\ttabbed"],
    ["2", "β-globin ☃", "naïve\u2028separator"],
]
PAPERS = [dict(zip(ROWS[0], row, strict=True)) for row in ROWS[1:]]


def written(delimiter: str, end: str = "\r\n") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows(ROWS)
    return text.getvalue().encode()


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_delimiter_quotes_line_ends_and_bom_do_not_matter(
    delimiter: str, end: str, bom: bytes
) -> None:
    content = bom + written(delimiter, end)
    found = records(content)
    assert [json.loads(record.data) for record in found] == PAPERS
    assert [record.number for record in found] == [0, 1]
    assert {record.source_format for record in found} == {"tsv" if delimiter == "\t" else "csv"}
    assert content[found[1].offset :].decode().startswith(f'"2"{delimiter}"β-globin')


def test_packed_tables_read_the_same() -> None:
    assert papers(zstandard.ZstdCompressor().compress(written(","))) == PAPERS


@pytest.mark.parametrize("times", [1, 3000])
def test_tsv_that_does_not_know_quotes_keeps_them(times: int) -> None:
    titles = ['"Omics" of yeast', '"Unclosed title', "plain"] * times
    text = "title\tdoi\n" + "".join(f"{t}\t10.1/{n}\n" for n, t in enumerate(titles))
    assert [paper["title"] for paper in papers(text)] == titles


def test_cells_that_say_nothing_are_left_out_and_blank_rows_passed_over() -> None:
    text = "\n pmid , title ,doi,journal\n\n1,A,nan,NA\n,,,\n  \n2,B,null,N/A\n"
    assert papers(text) == [{"pmid": "1", "title": "A"}, {"pmid": "2", "title": "B"}]


def test_values_become_those_of_the_papers_layout() -> None:
    text = (
        "pmid;pmcid;title;score;publication_date;keywords;language;text\n"
        '12345678.0;7654321;2023.0;81.5;2020/3/7;"[""a"", ""b, c""]";English;"[{""x"": null}]"\n'
        "MED:1;PMC5;T;high;2020.0;a, b;ENG;[not JSON\n"
        "1.2E+07;PMC5.1;T;inf;2020 Mar;\"['a', 'b']\";35064163;text\n"
        "2;;T;1e400;x;one;German;text\n"
    )
    assert papers(text) == [
        {
            "pmid": "12345678", "pmcid": "PMC7654321", "title": "2023.0", "score": 81.5,
            "publication_date": "2020-03-07", "keywords": ["a", "b, c"], "language": "en",
            "full_text": [{"x": None}],
        },
        {
            "pmid": "MED:1", "pmcid": "PMC5", "title": "T", "score": "high",
            "publication_date": "2020", "keywords": ["a", "b"], "language": "en",
            "full_text": "[not JSON",
        },
        {
            "pmid": "1.2E+07", "pmcid": "PMC5.1", "title": "T", "score": "inf",
            "publication_date": "2020 Mar", "keywords": ["a", "b"], "full_text": "text",
        },
        {
            "pmid": "2", "title": "T", "score": "1e400", "publication_date": "x",
            "keywords": ["one"], "language": "de", "full_text": "text",
        },
    ]  # fmt: skip


def test_rows_of_another_length_keep_their_cells_and_their_line() -> None:
    text = 'title,doi\n"two\nlines",1\nA,2,3\nB\nC,4,,\nD,5\n'
    found = records(text)
    assert [(record.number, record.problem) for record in found] == [
        (0, None),
        (1, ("malformed_row", "line 4: 3 cells, the header has 2")),
        (2, ("malformed_row", "line 5: 1 cells, the header has 2")),
        (3, None),
        (4, None),
    ]
    assert json.loads(found[1].data) == ["A", "2", "3"]
    assert json.loads(found[3].data) == {"title": "C", "doi": "4"}
    assert text[found[1].offset :].startswith("A,2,3")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "papers.csv: is empty: expected a table with a header"),
        (b" \n,,\n", "papers.csv: is empty: expected a table with a header"),
        (
            "title\n".encode("utf-16"),
            "papers.csv: is not UTF-8 (first bytes ff fe 74 00, as of UTF-16 or UTF-32): "
            "convert it, for example with iconv -f UTF-16 -t UTF-8",
        ),
        (
            "title,doi\nA,1\nnaïve Müller,2\n".encode("cp1252"),
            "papers.csv: line 3 is not UTF-8 (byte 0xef at 16), it looks like Windows-1252, in "
            "which it says 'naïve Müller,2': convert the file with iconv -f CP1252 -t UTF-8",
        ),
        (
            b"title,doi\nA\x81,1\n",
            "papers.csv: line 2 is not UTF-8 (byte 0x81 at 11), it looks like Windows-1252, in "
            "which it says 'A\ufffd,1': convert the file with iconv -f CP1252 -t UTF-8",
        ),
        (
            b'title,doi\nA,1\n"B,2\nC,3\n',
            "papers.csv: ends within the row of line 3: a quote is not closed, or the file is "
            "truncated: mend or export it again",
        ),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(content: bytes, message: str) -> None:
    assert error_of(content) == message


@pytest.mark.parametrize("row", [b'"' + b"x\n" * 2000, b"x" * 4000])
def test_a_row_without_end_is_refused(row: bytes) -> None:
    with pytest.raises(UserError) as caught:
        records(b"title,doi\nA,1\n" + row, limit=2000)
    assert str(caught.value) == (
        "papers.csv: the row of line 3 is longer than 2000 bytes: close its quote, or if that is "
        "one paper, raise scientific_data.limits.max_record_bytes"
    )


def test_a_cell_larger_than_the_limit_of_csv_is_read() -> None:
    text = "word " * 60_000
    assert papers(f"title,text\nA,{text}\n") == [{"title": "A", "full_text": text.strip()}]


def test_nul_and_other_control_characters_pass() -> None:
    assert papers(b"title,doi\nA\0B\x1b,1\n") == [{"title": "A\0B\x1b", "doi": "1"}]


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        found = records(b"title,doi\n" + content)
    except UserError:
        return
    for record in found:
        json.loads(record.data)


CELL = st.text(st.characters(codec="utf-8"), max_size=20)


@given(st.lists(st.tuples(CELL, CELL), max_size=20), st.sampled_from(tables.DELIMITERS))
def test_what_csv_writes_is_read(rows: list[tuple[str, str]], delimiter: str) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerows([("title", "journal"), *rows])
    expected = [
        {
            key: cell.strip()
            for key, cell in zip(("title", "journal"), row, strict=True)
            if cell.strip() not in tables._NO_VALUE
        }
        for row in rows
        if any(cell.strip() for cell in row)
    ]
    assert papers(text.getvalue()) == expected


def test_memory_stays_flat(tmp_path: Path) -> None:
    path = tmp_path / "large.csv"
    with path.open("w", encoding="utf-8") as file:
        file.write("pmid,title,abstract\n")
        for number in range(20_000):
            file.write(f'{number},A title,"{"Some words about genes. " * 50}"\n')
    assert path.stat().st_size > 20 * MEBIBYTE
    source = Bytes.open(path, 100 * MEBIBYTE)
    tracemalloc.start()
    number = sum(1 for _ in read_delimited(source, None, MEBIBYTE, silent))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    source.close()
    assert number == 20_000
    assert peak < 8 * MEBIBYTE


# --- Parquet -----------------------------------------------------------------------------


def parquet(columns: dict[str, Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, **options)
    return buffer.getvalue()


def rows_of(content: bytes, limits: Limits = LIMITS) -> list[Any]:
    found = list(read_parquet(content, "papers.parquet", None, limits, silent))
    assert [record.number for record in found] == list(range(len(found)))
    assert {record.source_format for record in found} <= {"parquet"}
    return [json.loads(record.data) for record in found]


def test_columns_of_every_type_become_fields() -> None:
    content = parquet(
        {
            "pmid": pa.array([12345678.0, None, float("nan")]),
            "Title": pa.array([" A ", "β", None]).dictionary_encode(),
            "abstract": pa.array(["x", None, "NA"], pa.large_string()),
            "body": pa.array([["one", None, "two"], [], None], pa.list_(pa.string())),
            "Keywords": pa.array([["a", "b"], [], None], pa.list_(pa.string())),
            "score": pa.array([1.5, float("nan"), float("inf")]),
            "date": pa.array([datetime.datetime(2020, 3, 7, 12, 0, 0, 1), None, None]),
            "journal": pa.array([b"Gen\xc3\xa9", None, None]),
            "tier": pa.array([decimal.Decimal("1.0"), None, None]),
            "language": pa.array([["eng", "fre"], [], None], pa.list_(pa.string())),
            "vector": pa.array([[0.5], None, None]),
        }
    )
    assert rows_of(content) == [
        {
            "pmid": "12345678", "title": "A", "abstract": "x", "full_text": "one\n\ntwo",
            "keywords": ["a", "b"], "score": 1.5, "publication_date": "2020-03-07",
            "journal": "Gené", "tier": "1", "language": "en",
        },
        {"title": "β"},
        {"score": "inf"},
    ]  # fmt: skip


def test_whole_numbers_dates_and_sections_are_kept() -> None:
    sections = [{"heading": "Methods", "paragraphs": ["One.", "Two."]}]
    numbers = {"pmid": [7], "pmcid": [99], "score": [80], "year": [2021]}
    content = parquet(numbers | {"title": ["A"], "full_text": [sections]})
    assert rows_of(content) == [
        {
            "pmid": "7", "pmcid": "PMC99", "title": "A", "full_text": sections, "score": 80.0,
            "publication_date": "2021",
        }
    ]  # fmt: skip
    dated = parquet({"title": ["A"], "date": [datetime.date(2020, 3, 7)]})
    assert rows_of(dated) == [{"title": "A", "publication_date": "2020-03-07"}]


def test_a_parquet_file_tells_its_columns_and_takes_given_ones(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    path.write_bytes(parquet({"Titel": ["A"], "a.b": ["text"], "Abstract": ["x"]}))
    said: list[str] = []
    columns = {"title": "Titel", "full_text": "a.b"}
    found = list(read_parquet(path, path.name, columns, Limits(), said.append))
    assert json.loads(found[0].data) == {"title": "A", "abstract": "x", "full_text": "text"}
    assert said == [
        "p.parquet: title from 'Titel', abstract from 'Abstract', full_text from 'a.b'; "
        "name others under scientific_data.columns"
    ]
    with pytest.raises(UserError, match="no column holds a title"):
        rows_of(parquet({"a": [1]}))


def test_columns_of_the_same_name_do_no_harm() -> None:
    table = pa.table([pa.array(["A"]), pa.array(["B"])], names=["title", "title"])
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    assert rows_of(buffer.getvalue()) == [{"title": "A"}]


@pytest.mark.parametrize("change", ["cut", "tail", "page", "no parquet"])
def test_a_broken_parquet_file_is_refused_in_one_line(change: str) -> None:
    content = bytearray(parquet({"title": ["word " * 50] * 500 + list("abc")}))
    if change == "cut":
        del content[-50:]
    elif change == "tail":
        content[-100:-20] = bytes(80)
    elif change == "page":
        content[4:60] = bytes(56)
    else:
        content[:] = b"PAR1"
    with pytest.raises(UserError) as caught:
        rows_of(bytes(content))
    assert str(caught.value).startswith("papers.parquet: cannot be read as Parquet (")
    assert str(caught.value).endswith("): download or write the file again")
    assert "\n" not in str(caught.value)


def test_text_that_is_not_utf8_is_refused() -> None:
    broken = pa.array([b"naive", b"na\xefve"]).view(pa.string())
    for column in (broken, [b"na\xefve"]):
        with pytest.raises(UserError, match=r"cannot be read as Parquet \(.*(utf-8|UTF8)"):
            rows_of(parquet({"title": column}))


def test_a_parquet_file_keeps_the_limits() -> None:
    content = parquet({"title": ["x" * 1000] * 50})
    with pytest.raises(UserError) as caught:
        rows_of(content, Limits(max_record_bytes=900))
    assert str(caught.value) == (
        "papers.parquet: record 0 is longer than 900 bytes: if that is one paper, raise "
        "scientific_data.limits.max_record_bytes"
    )
    with pytest.raises(UserError) as caught:
        rows_of(content, Limits(max_decompressed_bytes=20_000))
    assert str(caught.value) == (
        "papers.parquet: decompresses to more than 20000 bytes: if the file is meant to be that "
        "large, raise scientific_data.limits.max_decompressed_bytes"
    )


def test_a_text_that_all_rows_share_is_refused_before_it_fills_the_memory() -> None:
    # Read at once these 2,000 rows are 2 GB, of a file of a few kB.
    shared = pa.DictionaryArray.from_arrays(
        pa.array([0] * 2000, pa.int32()), pa.array(["x" * MEBIBYTE])
    )
    content = parquet(
        {"title": shared}, compression="zstd", dictionary_pagesize_limit=1 << 30, store_schema=False
    )
    assert len(content) < 100_000
    limits = Limits(max_decompressed_bytes=20 * MEBIBYTE)
    before = pa.total_allocated_bytes()
    with pytest.raises(UserError, match="decompresses to more than"):
        for _ in read_parquet(content, "bomb.parquet", None, limits, silent):
            assert pa.total_allocated_bytes() - before < 300 * MEBIBYTE


def test_memory_stays_flat_with_parquet(tmp_path: Path) -> None:
    path = tmp_path / "large.parquet"
    texts = [f"{number} " + "words about genes " * 100 for number in range(20_000)]
    path.write_bytes(parquet({"text": texts}))
    del texts
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    peak = 0
    for record in read_parquet(path, path.name, None, Limits(), silent):
        if record.number % 1000 == 0:
            peak = max(peak, pa.total_allocated_bytes() - before)
    traced = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert record.number == 19_999
    assert peak < 12 * MEBIBYTE
    assert traced < 8 * MEBIBYTE
