"""Readers of papers, a module for each format."""

# What a record can come in, and how the report calls it. JSON records are told apart by shape.
FORMATS = {
    "json": "papers layout",
    "pubmed_xml": "PubMed XML",
    "jats": "JATS XML",
    "bioc_xml": "BioC XML",
    "bioc_json": "BioC JSON",
    "europe_pmc": "Europe PMC JSON",
    "tei": "GROBID TEI",
    "s2orc": "S2ORC JSON",
    "cord19": "CORD-19 JSON",
    "csv": "CSV",
    "tsv": "TSV",
    "parquet": "Parquet",
}
