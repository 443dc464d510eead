"""The jobs of preprocess, built from the blocks of datatrove: the peer of `benchmarks.preprocess`.

    python -m benchmarks.preprocess --papers papers.json --against-datatrove PYTHON

runs this file with PYTHON, an interpreter that has `datatrove[io,processing]`, `spacy` and
`py3langid` but none of our libraries, so it imports nothing of the project. By itself:

    PYTHON benchmarks/datatrove_pipeline.py FOLDER_OF_JSON_LINES OUTPUT_FOLDER

Both sides read JSON Lines (title and abstract), clean the text, drop the short and those in
another language, find near-duplicates by MinHash over word trigrams and write what is left.

Only here: nothing. With `--annotate`, genes and variants are found here too: the same
dictionary through an Aho-Corasick automaton, whole tokens, and regexes of the usual notations.
Only ours: every record is checked against the layout, each rule of cleaning in full and until
nothing changes (here one regex or two a rule, once), proposed pairs compared exactly, the
better-scored duplicate kept, duplicate identifiers, ambiguous gene symbols judged by their
context, splits, leakage, digests, rejected records with their reasons, the manifest.
So whatever differs is to the advantage of this side.

The settings are those of datatrove's own MinHash example, but for: 25 buckets of 5 hashes (which
is what our threshold of 0.7 with 128 permutations comes to), no compression, as many tasks
as workers, and signatures computed while the cleaned text is written. Words are taken by
`str.split`; `--tokenizer english` takes datatrove's default for English (spaCy), which is slower.
"""

import argparse
import gzip
import html
import json
import re
import time
import unicodedata
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import ahocorasick  # type: ignore[import-not-found]  # of the other interpreter
import ftfy
from datatrove.data import Document, DocumentsPipeline
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.filters import LambdaFilter
from datatrove.pipeline.formatters.base import BaseFormatter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers.jsonl import JsonlWriter

MINHASH = MinhashConfig(n_grams=3, num_buckets=25, hashes_per_bucket=5)
MIN_WORDS = 20
GENE_SYMBOLS = Path(__file__).resolve().parents[1] / "data" / "gene_symbols.tsv.gz"

# --- cleaning: one entry a rule of steps/papers/cleaning/, in order --------------------------

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f\u200b-\u200f\u2060\ufeff]")
MAYBE_MOJIBAKE = re.compile("[ÂÃâ][\x80-\xbf€™œ“”]")
LIGATURES = str.maketrans({"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl"})
HYPHENS_AND_SPACES = str.maketrans(
    {"\u2010": "-", "\u2011": "-", "\xa0": " ", "\u2009": " ", "\u202f": " ", "\xad": ""}
)
LATEX_LETTERS = {"alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "mu": "μ", "times": "×"}
LATEX_LETTER = re.compile(r"\\(" + "|".join(LATEX_LETTERS) + r")(?![A-Za-z])")
LATEX_MATH = re.compile(r"\$([^$\n]{1,200})\$")
LATEX_COMMAND = re.compile(r"\\[A-Za-z]{2,16}\s?\{([^{}\n]{0,300})\}|\\[A-Za-z]{2,16}")
TAG = re.compile(r"</?[A-Za-z][\w:-]{0,30}(?:\s[^<>]{0,300})?/?>")
PAGE_NUMBER = re.compile(r"\n[ \t]*(?:Page )?\d{1,4}[ \t]*(?=\n|$)")
BROKEN_WORD = re.compile(r"(?<=[a-z])-\n\s*(?=[a-z])")
REFERENCES = re.compile(r"\n\W*(?:References|REFERENCES|Bibliography)\W*\n.*", re.DOTALL)
THANKS = re.compile(r"\n\W*(?:Acknowledgements?|Acknowledgments?|Funding)\W*\n[^\n]*")
CAPTION = re.compile(r"\n(?:Figure|Fig\.|Table) \d{1,3}[.:] [^\n]*")
PUBLISHER = re.compile(
    r"(?:Copyright|©)[^.\n]{0,100}\.?$|\(ABSTRACT TRUNCATED[^)]*\)", re.MULTILINE
)
LINK = re.compile(r"(?:https?://|www\.)[^\s<>]+|\b(?:doi:\s?)?10\.\d{4,9}/[^\s<>]+")
MAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
NUMBERED_CITATION = re.compile(r" ?\[\d{1,3}(?:\s?[,;–-]\s?\d{1,3})*\]")
RAISED_CITATION = re.compile("(?<=[a-z.,)])[¹²³⁴-⁹][⁰¹²³⁴-⁹,–-]*")
NAMED_CITATION = re.compile(
    r" ?\((?:[^()]{0,200}?(?:et al\.?|and [A-Z][a-z]+),? ?(?:19|20)\d\d[a-z]?[;,]? ?)+\)"
)
POWER = re.compile(r"(\d(?:\.\d+)?)\s?[×xX·]\s?10\s?[\^(]{0,2}([-−–⁻]?)\s?(\d{1,3})\)?")
P_VALUE = re.compile(r"\b([Pp])\s?([<>=≤≥])\s?0?\.(\d+)")
MICRO = re.compile(r"\bmicro(M|g|l|L|m|mol)\b")
DEGREES = re.compile(r"(?<=\d)\s?(?:°\s?|degrees )C\b")
PERCENT = re.compile(r"(?<=\d)\s%")
SPACES = re.compile(r"[^\S\n]+")
LINE_BREAKS = re.compile(r" ?\n ?")


class Clean(BaseFormatter):  # type: ignore[misc]  # untyped here
    """All rules of cleaning, once each."""

    name = "clean"

    def format(self, text: str) -> str:
        """The text after all rules."""
        text = CONTROL.sub("", text)
        if not text.isascii():
            if MAYBE_MOJIBAKE.search(text):
                text = ftfy.fix_text(text)
            text = unicodedata.normalize("NFC", text.translate(HYPHENS_AND_SPACES))
            text = text.translate(LIGATURES)
            text = RAISED_CITATION.sub("", text)
        if "&" in text:
            text = html.unescape(text)
        if "\\" in text or "$" in text:
            text = LATEX_LETTER.sub(lambda letter: LATEX_LETTERS[letter[1]], text)
            text = LATEX_COMMAND.sub(r"\1", LATEX_MATH.sub(r"\1", text))
        if "<" in text:
            text = TAG.sub("", text)
        if "\n" in text:
            text = without_running_heads(text)
            for pattern in (PAGE_NUMBER, BROKEN_WORD, REFERENCES, THANKS, CAPTION):
                text = pattern.sub("", text)
        text = PUBLISHER.sub("", text)
        text = LINK.sub("", text)
        if "@" in text:
            text = MAIL.sub("", text)
        if "[" in text:
            text = NUMBERED_CITATION.sub("", text)
        if "(" in text:
            text = NAMED_CITATION.sub("", text)
        text = POWER.sub(r"\1e\2\3", text)
        text = P_VALUE.sub(r"\1 \2 0.\3", text)
        text = PERCENT.sub("%", DEGREES.sub(" °C", MICRO.sub(r"μ\1", text)))
        return LINE_BREAKS.sub("\n", SPACES.sub(" ", text)).strip()


def without_running_heads(text: str) -> str:
    """The text without short lines that stand in it three times or more."""
    lines = text.split("\n")
    counts = Counter(line for line in lines if 8 <= len(line) <= 110)
    return "\n".join(line for line in lines if counts[line] < 3)


# --- filters -------------------------------------------------------------------------------------

_ENGLISH = """the of and in to a is with for that by are was were on as we from this an be at
which or not these have has its it between also can may been"""
ENGLISH_FUNCTION_WORDS = frozenset(_ENGLISH.split())


def is_long_enough(document: Document) -> bool:
    """Whether a paper has enough words."""
    return len(document.text.split()) >= MIN_WORDS


def is_english(document: Document) -> bool:
    """Whether a text reads as English: by its small words, and in doubt by py3langid.

    The language filter of datatrove downloads a model; this is what our side does.
    """
    sample = document.text[:600]
    words = sample.lower().split()
    if sum(word in ENGLISH_FUNCTION_WORDS for word in words) >= 0.15 * len(words):
        return True
    language, probability = language_identifier().classify(sample)
    return bool(language == "en" or probability < 0.9)


@cache
def language_identifier() -> Any:
    """The identifier, loaded once a process."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


# --- annotation ----------------------------------------------------------------------------------

AMINO_ACID = "(?:Ala|Arg|Asn|Asp|Cys|Gln|Glu|Gly|His|Ile|Leu|Lys|Met|Phe|Pro|Ser|Thr|Trp|Tyr|Val)"
VARIANT = re.compile(
    r"\b[cgmnr]\.[*-]?\d{1,9}(?:[+-]\d{1,5})?(?:_\d{1,9}(?:[+-]\d{1,5})?)?"
    r"(?:[ACGT]{1,20}>[ACGT]{1,20}|(?:delins|del|ins|dup|inv)[ACGT]{0,30})"
    rf"|\bp\.\(?{AMINO_ACID}\d{{1,5}}(?:{AMINO_ACID}|Ter|\*|fs|del|dup|=)"
    rf"|\b{AMINO_ACID}-?\d{{1,5}}-?(?:{AMINO_ACID}|Ter|stop)\b"
    r"|\b[ACDEFGHIKLMNPQRSTVWY][1-9]\d{1,4}[ACDEFGHIKLMNPQRSTVWYX*]\b"
    r"|\brs\d{3,10}\b"
    r"|\bIVS\d{1,3}\s?[+-]\s?\d{1,4}\s?[ACGT]\s?-{0,2}>\s?[ACGT]\b"
    r"|(?<!\w)-?\d{1,6}\s?[ACGT]\s?(?:-{0,2}>|/)\s?[ACGT]\b"
    r"|\b\d{1,6}(?:_\d{1,6})?(?:del|ins|dup)[ACGT]{0,30}\b"
    r"|\b(?:[1-9]|1\d|2[0-2]|X|Y)[pq][1-4]\d?(?:\.\d{1,3})?\b"
)


class Annotate(PipelineStep):  # type: ignore[misc]
    """Gene and variant mentions, as spans in the metadata."""

    name = "annotate"
    type = "annotate"

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Annotate document by document."""
        automaton = gene_automaton()
        for document in data:
            text = document.text
            document.metadata["genes"] = [
                (end - len(surface) + 1, end + 1, symbol)
                for end, (surface, symbol) in automaton.iter_long(text)
                if is_whole_token(text, end - len(surface) + 1, end + 1)
            ]
            document.metadata["variants"] = [match.span() for match in VARIANT.finditer(text)]
            yield document


@cache
def gene_automaton() -> Any:
    """Symbols and aliases of the shipped dictionary, without those that are words too."""
    automaton = ahocorasick.Automaton()
    lines = gzip.decompress(GENE_SYMBOLS.read_bytes()).decode().splitlines()
    for row in (line.split("\t") for line in lines if not line.startswith("#")):
        if not row[5]:
            for surface in (row[0], *row[4].split("|")):
                if len(surface) > 2:
                    automaton.add_word(surface, (surface, row[0]))
    automaton.make_automaton()
    return automaton


def is_whole_token(text: str, start: int, end: int) -> bool:
    """Whether no letter or digit goes on across either end."""
    return not (start and text[start - 1].isalnum()) and not text[end : end + 1].isalnum()


# --- the pipeline --------------------------------------------------------------------------------


class Words:
    """Tokens of a text that datatrove has already rid of case and punctuation."""

    def word_tokenize(self, text: str) -> list[str]:
        """Split at white space."""
        return text.split()


def title_and_abstract(
    _reader: Any, data: dict[str, Any], path: str, line: int | str
) -> dict[str, Any]:
    """Our record as a document of datatrove."""
    parts = (data.get("title"), data.get("abstract"))
    metadata = {key: data.get(key) for key in ("score", "tier", "journal", "publication_date")}
    text = "\n\n".join(part for part in parts if part)
    return {"text": text, "id": str(data.get("pmid", line)), "metadata": metadata}


def run(source: Path, output: Path, workers: int, annotate: bool, tokenizer: str) -> None:
    """Clean, filter, deduplicate and write, in the four executors of datatrove's MinHash."""
    cleaned, signatures, duplicates, removals = (
        str(output / name) for name in ("cleaned", "signatures", "duplicates", "removals")
    )
    signature = MinhashDedupSignature(output_folder=signatures, config=MINHASH)
    if tokenizer == "split":
        signature.word_tokenizer = Words()
    prepared = LocalPipelineExecutor(
        pipeline=[
            JsonlReader(str(source), adapter=title_and_abstract),
            Clean(),
            LambdaFilter(is_long_enough),
            LambdaFilter(is_english),
            *([Annotate()] if annotate else []),
            JsonlWriter(cleaned, compression=None),
            signature,
        ],
        tasks=workers,
        workers=workers,
        logging_dir=str(output / "logs" / "1"),
    )
    bucketed = LocalPipelineExecutor(
        pipeline=[
            MinhashDedupBuckets(input_folder=signatures, output_folder=duplicates, config=MINHASH)
        ],
        tasks=MINHASH.num_buckets,
        workers=workers,
        logging_dir=str(output / "logs" / "2"),
        depends=prepared,
    )
    clustered = LocalPipelineExecutor(
        pipeline=[
            MinhashDedupCluster(input_folder=duplicates, output_folder=removals, config=MINHASH)
        ],
        tasks=1,
        logging_dir=str(output / "logs" / "3"),
        depends=bucketed,
    )
    LocalPipelineExecutor(
        pipeline=[
            JsonlReader(cleaned),
            MinhashDedupFilter(input_folder=removals),
            JsonlWriter(str(output / "dataset"), compression=None),
        ],
        tasks=workers,
        workers=workers,
        logging_dir=str(output / "logs" / "4"),
        depends=clustered,
    ).run()


def main() -> None:
    """Run the pipeline and print what it took as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--annotate", action="store_true")
    parser.add_argument("--tokenizer", choices=["split", "english"], default="split")
    options = parser.parse_args()
    start = time.perf_counter()
    run(options.source, options.output, options.workers, options.annotate, options.tokenizer)
    seconds = time.perf_counter() - start
    written = (options.output / "dataset").glob("*.jsonl")
    accepted = sum(file.read_bytes().count(b"\n") for file in written)
    print(json.dumps({"seconds": seconds, "accepted": accepted}))


if __name__ == "__main__":
    main()
