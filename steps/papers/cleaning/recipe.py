"""Text of a genomics paper, cleaned by a list of small rules.

    clean_text("BRCA1 c.68_69del [12,15–18] (P=.03)")       # "BRCA1 c.68_69del (P = 0.03)"

`RECIPE` is the list; each rule is a function from text to text, switched by its name. What
makes this cleaning one for genomics is what it leaves alone: gene symbols, HGVS names, rs
numbers, cytobands, coordinates, accessions, HLA alleles, isotopes, karyotypes, sequences,
Greek letters and primes come through letter for letter.

Numbers get one form each: powers of ten as 5e-8 (digits of the mantissa as the authors gave
them), P values as P = 0.03, temperatures as 37 °C, shares as 50%.

`clean_text` is idempotent, and takes time linear in the length of the text: patterns are
bounded, possessive or anchored, and everything costly hides behind an `in`.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import cycle, islice

from steps.errors import UserError
from steps.papers.cleaning.back_matter import (
    remove_acknowledgements,
    remove_publisher_notes,
    remove_reference_list,
)
from steps.papers.cleaning.characters import (
    expand_ligatures,
    normalize_whitespace,
    repair_unicode,
)
from steps.papers.cleaning.citations import remove_citations
from steps.papers.cleaning.links import remove_emails, remove_links
from steps.papers.cleaning.markup import decode_entities, strip_latex, strip_tags
from steps.papers.cleaning.notation import normalize_scientific_notation, normalize_units
from steps.papers.cleaning.pages import (
    join_broken_words,
    remove_figure_debris,
    remove_page_numbers,
    remove_running_heads,
)

# A removal may uncover work for an earlier rule ("&amp;amp;lt;", "[e.g. [24]]"), so the recipe
# runs until nothing changes. Real text needs two or three rounds.
_MOST_ROUNDS = 20

# The recipe -----------------------------------------------------------------------------------

Recipe = tuple[Callable[[str], str], ...]
RECIPE: Recipe = (
    repair_unicode,
    decode_entities,
    strip_latex,
    strip_tags,
    expand_ligatures,
    remove_running_heads,
    remove_page_numbers,
    join_broken_words,
    remove_reference_list,
    remove_acknowledgements,
    remove_figure_debris,
    remove_publisher_notes,
    remove_links,
    remove_emails,
    remove_citations,
    normalize_scientific_notation,
    normalize_units,
    normalize_whitespace,
)
"""All rules, in the order in which they run. Pages come before words, since a running head may
stand inside a broken word; markup before citations, since <sup>12</sup> becomes one."""
RULE_NAMES: tuple[str, ...] = tuple(rule.__name__ for rule in RECIPE)
"""The switches of single rules: the names of the functions of `RECIPE`."""
GROUP_SWITCHES: Mapping[str, tuple[str, ...]] = {
    "handle_special_tokens": (
        "repair_unicode",
        "decode_entities",
        "strip_latex",
        "strip_tags",
        "expand_ligatures",
    ),
}
"""Switches for several rules at once, known from older configuration files. A rule of a group
runs when its own switch and that of the group are both on."""


def clean_text(text: str, rules: Mapping[str, bool] | None = None) -> str:
    """Clean a text by the rules of `RECIPE` that are on, until they change nothing more.

    Args:
        text: Title, abstract, section or whole article.
        rules: Switches by name, of `RULE_NAMES` or `GROUP_SWITCHES`; what is not named is on.
            None switches everything on.

    Returns:
        The cleaned text; `clean_text(clean_text(x)) == clean_text(x)`.

    Raises:
        UserError: If a switch has a name that no rule has.
    """
    active = RECIPE if rules is None else _active(rules)
    idle = 0  # rules in a row that changed nothing
    for rule in islice(cycle(active), _MOST_ROUNDS * len(active)):
        cleaned = rule(text)
        idle = idle + 1 if cleaned == text else 0
        text = cleaned
        if idle == len(active):
            break
    return text


def _active(rules: Mapping[str, bool]) -> Recipe:
    return _recipe_of(tuple(rules.items()))


@lru_cache(maxsize=64)  # a run cleans a million texts with one set of switches
def _recipe_of(switches: tuple[tuple[str, bool], ...]) -> Recipe:
    rules = dict(switches)
    off = {name for name, on in switches if not on}
    unknown = [name for name in rules if name not in RULE_NAMES and name not in GROUP_SWITCHES]
    if unknown:
        raise UserError(
            f"preprocessing.{unknown[0]}: no cleaning rule has this name; "
            f"expected one of {', '.join((*RULE_NAMES, *GROUP_SWITCHES))}"
        )
    for group in off & GROUP_SWITCHES.keys():
        off.update(GROUP_SWITCHES[group])
    return tuple(rule for rule in RECIPE if rule.__name__ not in off)
