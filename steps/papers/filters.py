"""Which papers are let in: by score, tier, length and language.

Each check raises a `RecordProblem` with the reason under which the paper is listed in
`rejected.jsonl`, or returns nothing.
"""

from functools import cache
from typing import TYPE_CHECKING, Any

from steps.config.paper_sections import Filters, ScientificData
from steps.errors import UserError
from steps.papers.licences import license_name
from steps.papers.paper import Paper, canonical_tier
from steps.papers.records import RecordProblem

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

LANGUAGE_SAMPLE_CHARACTERS = 600
# Lowest probability at which another language is believed. Of 3,756 titles of English
# biomedical papers taken alone, none was given another language with 0.9 or more.
LANGUAGE_CONFIDENCE = 0.9
# English biomedical abstracts hold 16% or more of these; other languages 0 to 5%.
# The identifier takes 50 times longer, so it is asked only about the rest.
_ENGLISH = """the of and in to a is with for that by are was were on as we from this an be at
which or not these have has its it between also can may been"""
ENGLISH_FUNCTION_WORDS = frozenset(_ENGLISH.split())
ENGLISH_SHARE = 0.15


def check_kind(paper: Paper, settings: ScientificData) -> None:
    """Reject a paper that was retracted, or that is of a kind or a licence not wanted.

    Raises:
        RecordProblem: With reason retracted, withdrawn, publication_type_not_wanted,
            no_license or license_not_wanted.
    """
    filters = settings.filters
    if paper.retracted and settings.retracted != "keep":
        reason = "withdrawn" if "withdr" in paper.retracted else "retracted"
        raise RecordProblem(
            reason, f"the source says that the paper was {reason} (scientific_data.retracted)"
        )
    unwanted = {name.casefold() for name in filters.exclude_publication_types}
    for name in paper.publication_types:
        if name.casefold() in unwanted:
            raise RecordProblem(
                "publication_type_not_wanted",
                f"publication type {name!r} is in filters.exclude_publication_types",
            )
    if filters.licenses is None:
        return
    if not paper.license:
        raise RecordProblem("no_license", "the paper names none and filters.licenses is set")
    name = license_name(paper.license)
    if name not in {license_name(wanted) for wanted in filters.licenses}:
        raise RecordProblem("license_not_wanted", f"licence {name!r} is not in filters.licenses")


def check_quality(paper: Paper, filters: Filters) -> None:
    """Reject a paper by its score or tier.

    A filter that is set also rejects papers that lack the figure it asks for.

    Raises:
        RecordProblem: With reason score_too_low, no_score, tier_not_wanted, no_tier or
            unknown_tier.
    """
    tier = canonical_tier(paper.tier)
    if filters.tiers is not None:
        wanted = {canonical_tier(name) for name in filters.tiers}
        if tier is None:
            raise RecordProblem("no_tier", "the paper has no tier and filters.tiers is set")
        if tier not in wanted:
            raise RecordProblem("tier_not_wanted", f"tier {tier} is not in filters.tiers")
    if filters.min_score is not None:
        if paper.score is None:
            raise RecordProblem("no_score", "the paper has no score and filters.min_score is set")
        if paper.score < filters.min_score:
            raise RecordProblem(
                "score_too_low", f"score {paper.score:g} is below {filters.min_score:g}"
            )


def check_text(text: str, num_words: int, filters: Filters) -> None:
    """Reject a paper by the length or the language of its cleaned text.

    Raises:
        RecordProblem: With reason no_text, too_few_words or other_language.
    """
    if num_words == 0:
        raise RecordProblem("no_text", "no text is left in the fields that are used")
    if num_words < filters.min_words:
        raise RecordProblem("too_few_words", f"{num_words} words, at least {filters.min_words}")
    if filters.language is None:
        return
    language, confidence = detect_language(text, filters.language)
    if language != filters.language and confidence >= LANGUAGE_CONFIDENCE:
        raise RecordProblem(
            "other_language",
            f"the text reads as {language!r} ({confidence:.2f}), wanted {filters.language!r}",
        )


def check_language_name(language: str | None) -> None:
    """Refuse a language code that the identifier does not know.

    Raises:
        UserError: Names the code and gives examples.
    """
    if language in (None, "en"):  # without loading the model, which takes a second
        return
    known = sorted(str(label) for label in _identifier().labels)
    if language not in known:
        raise UserError(
            f"scientific_data.filters.language {language!r} is not known: expected null or one of "
            f"{', '.join(known)}"
        )


def detect_language(text: str, expected: str) -> tuple[str, float]:
    """The language of a text as an ISO 639-1 code, and the probability given to it."""
    sample = text[:LANGUAGE_SAMPLE_CHARACTERS]
    if expected == "en":
        words = sample.lower().split()
        if sum(map(ENGLISH_FUNCTION_WORDS.__contains__, words)) >= ENGLISH_SHARE * len(words):
            return "en", 1.0
    language, confidence = _identifier().classify(sample)
    return str(language), float(confidence)


@cache
def _identifier() -> "LanguageIdentifier":
    """The identifier with its model, loaded once a process."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier: Any = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    return identifier
