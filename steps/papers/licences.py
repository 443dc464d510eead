"""One name for a licence, however a source writes it."""

import re

_COMMONS_TERMS = (
    ("nc", r"non-?\s?commercial"), ("nd", r"no-?\s?deriv"), ("sa", r"share-?\s?alike"),
)  # fmt: skip


def commons_licence(text: str) -> str:
    """The Creative Commons licence that a statement names in words, such as cc-by-nc; or ""."""
    named = re.search(r"creative commons attribution[^.]{0,80}", text, re.IGNORECASE)
    if named:
        terms = [short for short, words in _COMMONS_TERMS if re.search(words, named[0], re.I)]
        return "-".join(["cc-by", *terms])
    return "public-domain" if re.search(r"\bpublic domain\b", text, re.IGNORECASE) else ""


def license_name(license_or_url: str) -> str:
    """One name for a licence however it is written: the URL of CC BY 4.0 is "cc-by"."""
    text = license_or_url.strip().casefold()
    if "publicdomain" in text or "public domain" in text or "public-domain" in text:
        return "cc0" if "zero" in text else "public-domain"
    if "creative commons" in text:
        return commons_licence(text) or "cc"
    commons = re.search(r"creativecommons\.org/licen[cs]es/([a-z-]+)", text)
    name = f"cc-{commons[1]}" if commons else re.sub(r"[\s_-]+", "-", text)
    name = re.sub(r"-?v?\d(?:\.\d)?(?:-(?:international|unported|generic|igo))?$", "", name)
    return re.sub(r"^ccby", "cc-by", name) or text
