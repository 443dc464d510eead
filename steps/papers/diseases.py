"""Disease words in a text: `retinoblastoma`, `breast cancer`, `von Willebrand disease`.

    [text[span.start : span.end] for span in find_diseases(text)]

There is no dictionary of diseases here, so they are told by how they are written: by the ending of
a word (-oma, -emia, -itis), or by a word for an illness with what stands before it and says which.
That misses diseases with a name of their own (malaria is in a short list), and finds none by a
general word alone: "the disease", "an inherited disorder" name nothing.
"""

import re
from collections.abc import Iterator

from steps.papers.text import Span

_ENDINGS = (
    "omas?|a?emias?|itis|osis|oses|path(?:y|ies)|troph(?:y|ies)|plasias?|penia|uria|algia|sclerosis"
)
_BY_ENDING = re.compile(r"(?<![\w-])(?:[A-Za-z]+-)?[A-Za-z]{3,}(?:" + _ENDINGS + r")(?![\w-])")
# Words with these endings that are no disease.
_NO_DISEASE = re.compile(
    r".*(?:apopt|necr|mit|mei|diagn|progn|phagocyt|endocyt|exocyt|pinocyt|transcyt|osm|symbi|hypn|"
    r"anastom|metamorph|zyg)os[ie]s|(?:purp|exp|disp|predisp|comp|supp|prop|cl|ch|d)oses|"
    r"(?:hybrid|str|s|c|chrom|dipl|ar|trypanos|quadr|heter|xen)omas?|caenorhabditis|"
    r"(?:em|sym|homeo)path(?:y|ies)",
    re.IGNORECASE,
)
_NAMED = re.compile(
    r"(?<![\w-])(?:diabetes(?: mellitus| insipidus)?|asthma|autism|schizophrenia|epilepsy|obesity|"
    r"tuberculosis|malaria|AIDS|psoriasis|eczema|stroke|dementia|gout|choroideremia|albinism|"
    r"deafness|hypertension|glaucoma|cystic fibrosis|sickle cell disease|spina bifida)(?![\w-])"
)
_ILLNESS = re.compile(
    r"(?<=[A-Za-z'’]\s)(?:cancers?|carcinomas?|tumou?rs?|leuka?emias?|lymphomas?|diseases?|"
    r"syndromes?|dystroph(?:y|ies)|ataxias?|neuropath(?:y|ies)|polyposis|fibrosis|sclerosis)"
    r"(?![\w-])"
)
# The three words before an illness, which may say which one it is.
_WHICH = re.compile(r"(?<![\w-])(?:[A-Za-z][\w'’-]*\s){1,3}\Z")
_LONGEST_WHICH = 80
# Say nothing about which illness it is: the name begins behind them.
_GENERAL_WORDS = """
a an the this that these those of in on at to for from with without by as is are was were be been
and or but nor not no than both either such other all any some most many several few each every
its their our his her which whose who where when while if into between among against after
before during under over via per also only more less very well known called cause causes caused
causing cases case patients families risk including develop developing development has have had
having may can could will would might must shows show showed associated related linked type
human mouse murine rat animal familial hereditary inherited sporadic genetic autosomal dominant
recessive x-linked rare common severe mild acute chronic early late early-onset late-onset
classic classical typical atypical new novel first second clinical primary secondary progressive
incurable fatal lethal neonatal childhood adult juvenile infantile sex-linked allergic multiple
complex different various certain specific particular underlying affected advanced metastatic
malignant benign solid residual minimal invasive male female pediatric paediatric high-risk
increased suspected contiguous gene x-chromosomal congenital heterogeneous neurological
neurodegenerative multisystem metabolic human's lysosomal storage infectious autoimmune
inflammatory systemic degenerative same one two three four five diverse phenotype
"""
_GENERAL = frozenset(_GENERAL_WORDS.split())
# Before a disease word: it is part of the name of what causes it.
_ORGANISM = re.compile(r"(?:Mycobacterium|\bM\.)\s\Z")
# Behind a disease word: it is part of the name of something else.
_PART_OF_NAME = re.compile(
    r"[- ](?:viruse?s?|suppress\w+|necrosis|zinc|inhibitory|antigens?|growth|proteins?|factors?|"
    r"cells?|lines?|promoters?|promoting|oncogenes?|specific|related|derived|associated)\b"
)
_BRITISH = (("aemia", "emia"), ("tumour", "tumor"), ("haem", "hem"), ("oedema", "edema"))


def find_diseases(text: str) -> list[Span]:
    """Find what is written like a disease.

    Args:
        text: A title, an abstract or a sentence.

    Returns:
        Spans in reading order, no two of which overlap; their label is `same_disease` of what
        they cover.
    """
    found: list[Span] = []
    end = 0
    for start, stop in sorted(_candidates(text), key=lambda place: (place[0], -place[1])):
        if start >= end and not _PART_OF_NAME.match(text, stop):
            found.append(Span(start, stop, same_disease(text[start:stop])))
            end = stop
    return found


def same_disease(words: str) -> str:
    """A spelling that all writings of one disease have in common: small, American, singular."""
    name = re.sub(r"['’]s?(?!\w)", "", words.casefold())
    name = " ".join(name.split())
    for british, american in _BRITISH:
        name = name.replace(british, american)
    name = re.sub(r"(?<=[td])rophies$", "rophy", name)
    name = re.sub(r"pathies$", "pathy", name)
    return re.sub(r"(?<=oma|mia|sia|cer|mor|ase|ome)s$", "", name)


def _candidates(text: str) -> Iterator[tuple[int, int]]:
    for illness in _ILLNESS.finditer(text):
        before = text[max(0, illness.start() - _LONGEST_WHICH) : illness.start()]
        which = _WHICH.search(before)
        start = illness.start()
        for word in reversed(re.findall(r"\S+\s", which[0]) if which else []):
            if word.strip().casefold() in _GENERAL:
                break
            start -= len(word)
        if start < illness.start():
            yield start, illness.end()
    for pattern in (_BY_ENDING, _NAMED):
        for match in pattern.finditer(text):
            organism = _ORGANISM.search(text[max(0, match.start() - 20) : match.start()])
            if not organism and not _NO_DISEASE.fullmatch(match[0]):
                yield match.span()
