"""The section `tokenizer`: tokens that are added to the base's vocabulary."""

from pydantic import field_validator

from steps.config.base import Positive, Section

# What stands between a token and the words that its first embedding is made of.
DESCRIBES = " = "


class NewGenes(Section):
    """The most frequent genes of the training papers, as they are written there."""

    genes: Positive


class Tokenizer(Section):
    """What is changed in the base's tokenizer."""

    new_tokens: tuple[str, ...] | str | NewGenes | None = None

    @field_validator("new_tokens")
    @classmethod
    def _are_words(
        cls, value: tuple[str, ...] | str | NewGenes | None
    ) -> tuple[str, ...] | str | NewGenes | None:
        for entry in value if isinstance(value, tuple) else ():
            check_entry(entry, "tokenizer.new_tokens")
        return value


def check_entry(entry: str, where: str) -> None:
    """Refuse what cannot be a token.

    Raises:
        ValueError: It is empty, or has a space in it.
    """
    token = entry.partition(DESCRIBES)[0]
    if not token or token != "".join(token.split()):
        raise ValueError(
            f"{where} holds {entry!r}: a token is one word without spaces, as TOKEN or "
            "TOKEN = description"
        )
