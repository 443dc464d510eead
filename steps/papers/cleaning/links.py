"""Links and mail addresses."""

import re

from steps.papers.cleaning.gaps import GONE, close_gaps
from steps.papers.possessive import compile_possessive

# Up to white space, round brackets only in pairs, and not the punctuation behind the address.
_REST_OF_ADDRESS = r"(?:[^\s<>\"“”()\x00]|\([^\s<>\"“”()\x00]{0,60}\))*(?<![.,;:!?'’‘\[\]{}])"
_ADDRESS = (
    rf"(?:(?:https?|ftps?)://|www\d?\.)(?=[\w~]){_REST_OF_ADDRESS}"
    rf"|(?<![\w./-])(?:doi:?\s?|DOI:?\s?)?10\.\d{{4,9}}/(?=\w){_REST_OF_ADDRESS}"
    r"|(?<![\w@./-])(?:[a-z][a-z0-9-]{1,40}\.){1,4}(?:org|com|edu|gov|net|info|ac\.uk)(?![\w-])"
    rf"(?:/{_REST_OF_ADDRESS})?"
)
_LINK = re.compile(
    rf"[(\[<]\s?(?:(?:URLs?|see|at|available at|via)\b:?\s?)?(?:{_ADDRESS})\s?[)\]>]|{_ADDRESS}"
)
_MAYBE_LINK = re.compile(r"\.(?:org|com|edu|gov|net|info|ac\.uk|\d{4,9}/)")
_AND_BETWEEN_GONE = compile_possessive(r"\x00(?:\s?(?:[,;&]|,?\s?\b(?:and|or)\b)\s?\x00){1,60}+")
_PREPOSITION_OF_GONE = compile_possessive(
    r"(?<=\S) (?:(?:at|from|via|under|on)(?=:?\s{1,2}\x00)"
    r"|(?:in|to|through|by|of|with|using|visit)(?=:?\s{1,2}\x00(?:\s?[.,;:)\]]|\s*+\Z))):?\s{1,2}(?=\x00)"
)
_LABEL_OF_GONE = compile_possessive(
    r"(?:\b(?:[Tt]he|[Ii]ts|[Oo]ur) )?(?:\b(?:[Dd]atabase|[Pp]roject|[Tt]ool) )?"
    r"\b(?:URLs?|DOI|doi|[Ww]eb ?(?:site|page|server|address)|[Hh]ome ?page)"
    r"(?:\s?:|\sis(?: at)?)\s?(?=\x00(?:\s?[.,;:)\]]|\s*+\Z))"
)


def remove_links(text: str) -> str:
    """Drop URLs, bare web hosts and DOIs, with the brackets or the "at" that held them."""
    if "://" not in text and "www" not in text and not _MAYBE_LINK.search(text):
        return text
    return _without_addresses(_LINK, text)


def _without_addresses(address: re.Pattern[str], text: str) -> str:
    return close_gaps(address.sub(GONE, text), _without_pointers)


def _without_pointers(text: str) -> str:
    """Drop the preposition or the label that leads to an address that is gone."""
    text = _AND_BETWEEN_GONE.sub(GONE, text)
    return str(_PREPOSITION_OF_GONE.sub("", _LABEL_OF_GONE.sub("", text)))


_MAIL_ADDRESS = r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,6}[A-Za-z]{2,24}(?![\w-])"
_MAIL_LABEL = r"(?:E-?mails?|e-?mails?|Contact|CONTACT|Electronic address|mailto)\s?:\s?"
_MAIL = rf"(?:{_MAIL_LABEL})?{_MAIL_ADDRESS}"
_EMAIL = re.compile(rf"[(\[<]\s?{_MAIL}\s?[)\]>]|{_MAIL}")


def remove_emails(text: str) -> str:
    """Drop e-mail addresses, with the brackets and the "E-mail:" that held them."""
    if "@" not in text:
        return text
    return _without_addresses(_EMAIL, text)
