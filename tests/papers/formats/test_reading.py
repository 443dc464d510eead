"""Any mix of files is read, each by what is in it."""

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest
import zstandard

from steps.config.paper_sections import Deduplication, Filters, Limits, ScientificData, Split
from steps.errors import UserError
from steps.papers.formats.convert import paper_fields, unwrapped
from steps.papers.formats.detect import detect, recognised
from steps.papers.formats.reading import read_papers
from steps.papers.importing import import_papers
from steps.papers.inputs import resolve_inputs
from steps.papers.pipeline import Preparation, prepare_dataset
from tests.support.papers_in_formats import JATS_ARTICLE, PUBMED_RECORD

WORDS = "We saw that the loss of the gene changed the cells of the patients in this study. "
PUBMED = f"<?xml version='1.0'?><PubmedArticleSet>{PUBMED_RECORD}</PubmedArticleSet>"
BIOC_XML = f"""<?xml version="1.0"?><collection><source>PMC</source><document><id>333</id><passage>
<infon key="type">title</infon><offset>0</offset><text>A title in BioC</text></passage><passage>
<infon key="type">abstract</infon><offset>9</offset><text>{WORDS}</text></passage></document>
</collection>"""
BIOC_JSON = json.dumps(
    [{"source": "PMC", "documents": [
        {"id": "444", "infons": {}, "passages": [
            {"infons": {"type": "title"}, "text": "A title in JSON"},
            {"infons": {"type": "abstract"}, "text": WORDS * 2}]}]}]
)  # fmt: skip
EUROPE_PMC = json.dumps(
    {"version": "6", "resultList": {"result": [
        {"id": "555", "source": "MED", "pmid": "555", "title": "From Europe",
         "abstractText": f"<h4>Aim</h4>{WORDS * 3}"}]}}
)  # fmt: skip
TEI = f"""<TEI xmlns="http://www.tei-c.org/ns/1.0"><teiHeader><fileDesc><titleStmt><title level="a"
 type="main">From GROBID</title></titleStmt><sourceDesc><biblStruct>
<idno type="DOI">10.1000/tei</idno>
</biblStruct></sourceDesc></fileDesc><profileDesc><abstract><p>{WORDS * 4}</p></abstract>
</profileDesc>
</teiHeader><text><body><div><head>Methods</head><p>Mice were used.</p></div></body></text></TEI>"""
CORD19 = json.dumps(
    {"paper_id": "PMC777", "metadata": {"title": "From CORD", "authors": []},
     "body_text": [{"text": WORDS * 5, "section": "Results", "cite_spans": [], "ref_spans": []}],
     "bib_entries": {}, "ref_entries": {}}
)  # fmt: skip
LAYOUT = json.dumps({"papers": [{"pmid": "888", "title": "In the layout", "abstract": WORDS * 6}]})
TABLE = f"Title,Abstract,PubMed ID\nIn a table,{WORDS * 7},999\n"

FILES = {
    "pubmed": PUBMED,
    "jats": JATS_ARTICLE,
    "bioc.xml": BIOC_XML,
    "bioc": BIOC_JSON,
    "epmc": EUROPE_PMC,
    "tei": TEI,
    "cord": CORD19,
    "papers": LAYOUT,
    "table": TABLE,
}
FORMATS = {
    "pubmed_xml": 1, "jats": 1, "bioc_xml": 1, "bioc_json": 1, "europe_pmc": 1, "tei": 1,
    "cord19": 1, "json": 1, "csv": 1,
}  # fmt: skip
IDS = {"12345678", "11111111", "333", "444", "555", "10.1000/tei", "PMC777", "888", "999"}
ALL_TRAIN = ScientificData(
    split=Split(validation_fraction=0, test_fraction=0),
    filters=Filters(language=None),
    deduplication=Deduplication(enabled=False),
    num_workers=1,
)


def prepare(location: Path, output: Path) -> Preparation:
    return prepare_dataset(resolve_inputs(str(location)), ALL_TRAIN, output)


def check(made: Preparation) -> None:
    assert set(made.manifest["splits"]["train"]["paper_ids"]) == IDS
    assert made.manifest["sources"]["formats"] == FORMATS
    assert made.manifest["sources"]["licenses"] == {"not said": 8, "cc-by": 1}
    assert any("table" in note and "title from 'Title'" in note for note in made.notes)


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
def test_a_folder_of_all_formats_is_read_whatever_the_names(tmp_path: Path, packing: str) -> None:
    folder = tmp_path / "papers"
    folder.mkdir()
    for name, text in FILES.items():
        data = text.encode()
        if packing == ".gz":
            data = gzip.compress(data)
        if packing == ".zst":
            data = zstandard.ZstdCompressor().compress(data)
        (folder / (name + packing)).write_bytes(data)
    (folder / "README").write_text("Not a paper.")
    (folder / "figure.jpg").write_bytes(b"\xff\xd8\xff\xe0 picture")
    check(prepare(folder, tmp_path / "out"))


@pytest.mark.parametrize("bundle", ["all.tar", "all.tar.gz", "all.zip"])
def test_a_bundle_is_read_as_the_folder_in_it(tmp_path: Path, bundle: str) -> None:
    path = tmp_path / bundle
    files = {f"PMC1/{name}": text.encode() for name, text in FILES.items()}
    files["PMC1/figure.jpg"] = b"\xff\xd8\xff\xe0 picture"
    if bundle.endswith(".zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(path, "w:gz" if bundle.endswith("gz") else "w") as tar:
            for name, data in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    check(prepare(path, tmp_path / "out"))


def test_a_broken_file_costs_itself_and_not_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "papers"
    folder.mkdir()
    (folder / "a.xml").write_text(PUBMED.replace("</ArticleTitle>", "</Title>", 1))
    (folder / "b.xml").write_text(JATS_ARTICLE[:-30])
    (folder / "c.json").write_text(LAYOUT)
    with zipfile.ZipFile(folder / "d.zip", "w") as archive:
        archive.writestr("x/broken.json", '{"papers": [{"pmid": "1"')
        archive.writestr("x/whole.json", LAYOUT.replace("888", "889").replace("cells", "mice"))
    made = prepare(folder, tmp_path / "out")
    assert made.rejected == {"malformed_xml": 2, "unreadable_file": 1}
    assert set(made.manifest["splits"]["train"]["paper_ids"]) == {"888", "889"}
    lines = (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()
    rejected = {entry["file"]: entry["detail"] for entry in map(json.loads, lines)}
    assert rejected.keys() == {"a.xml", "b.xml", "d.zip:x/broken.json"}
    assert "line" in rejected["a.xml"]
    assert "breaks off" in rejected["d.zip:x/broken.json"]


def test_one_paper_in_two_formats_is_one(tmp_path: Path) -> None:
    folder = tmp_path / "papers"
    folder.mkdir()
    (folder / "a.xml").write_text(JATS_ARTICLE)
    (folder / "b.json").write_text(
        json.dumps([{"doi": "10.1000/JST.1", "title": "T", "abstract": WORDS},
                    {"pmcid": "2222222", "title": "T", "abstract": WORDS}])
    )  # fmt: skip
    made = prepare(folder, tmp_path / "out")
    assert made.rejected == {"duplicate_identifier": 2}
    assert made.manifest["splits"]["train"]["paper_ids"] == ["11111111"]


@pytest.mark.parametrize(
    ("head", "name", "words"),
    [
        (b"%PDF-1.7", "a.pdf", "a PDF: turn it into TEI with GROBID"),
        (b"<!DOCTYPE html><html><body>", "a.xml", "is a web page"),
        (b"<svg xmlns='x'>", "a.xml", "is XML with the root <svg>"),
        (b"PK\x03\x04....[Content_Types].xml", "a.xlsx", "Office document: save the table as CSV"),
        (b"BZh91AY", "a.bz2", "compressed with bzip2"),
        (b"PMID- 123\nTI  - A title", "a.txt", "references as tagged text"),
        (b"TY  - JOUR\nTI  - A title", "a.ris", "references as tagged text"),
        (b"", "a.xml", "is empty"),
        (b"Dear all,", "a.txt", "begins with 'Dear all,'"),
        ("<article>".encode("utf-16"), "a.xml", "iconv"),
    ],
)
def test_what_is_no_file_of_papers_is_named(head: bytes, name: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        detect(head, name)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert recognised(head, name) is None


def test_an_import_gives_the_same_dataset_as_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "papers"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    made = import_papers(
        resolve_inputs(str(folder)), ALL_TRAIN, tmp_path / "import", lambda stage, done: None
    )
    assert made.formats == FORMATS
    assert (made.num_read, made.unnamed, made.rejected) == (9, 0, {})
    direct = prepare(folder, tmp_path / "direct")
    again = prepare(tmp_path / "import" / "papers", tmp_path / "again")
    assert again.digest == direct.digest
    assert again.manifest["sources"] == direct.manifest["sources"]


def test_a_paper_one_object_deeper_comes_up() -> None:
    assert unwrapped({"id": "1", "attributes": {"title": "T", "doi": "10.1/x"}}) == {
        "id": "1", "title": "T", "doi": "10.1/x",
    }  # fmt: skip
    deeper = {"identifiers": {"pmid": "5"}, "paper": {"title": "T", "body": []}}
    assert unwrapped(deeper).items() >= {"title": "T", "pmid": "5"}.items()
    own = {"title": "T", "pmid": "1", "metadata": {"pmid": "2", "journal": "J"}}
    assert unwrapped(own).items() >= {"pmid": "1", "journal": "J"}.items()


def test_a_collection_tells_its_documents_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    (collection,) = json.loads(BIOC_JSON)
    collection = {"source": "PMC", "infons": {"license": "CC BY"}, **collection}
    collection["documents"].append({"id": "445", "passages": []})
    for content in ([collection], collection):
        path.write_text(json.dumps(content))
        first, second = read_papers(path, Limits(), None, print)
        assert (first.number, second.number) == (0, 1)
        assert paper_fields(first)[1]["license"] == "CC BY"
        assert paper_fields(second)[1] == {"pmid": "445", "license": "CC BY"}
