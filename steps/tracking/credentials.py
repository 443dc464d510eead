"""Passwords and tokens: kept out of what is stored, printed, and passed on a command line."""

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

# Keys whose value is a secret, as the last part of a dotted key or in the query of a URI.
_SECRET_KEYS = r"password|passwd|pwd|secret|token|auth_token|hf_token|api_key|access_key|secret_key"
_IN_URI = re.compile(r"(?<=://)[^/@\s]*@")
_IN_QUERY = re.compile(rf"(?i)([?&](?:{_SECRET_KEYS})=)[^&\s]*")
_ASSIGNED = re.compile(rf"(?i)(?:^|[\s.])(?:{_SECRET_KEYS})=\S")
# Tokens that can be told by their shape: Hugging Face, GitHub, AWS, and the like of OpenAI.
_TOKEN = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|AKIA[0-9A-Z]{16}|sk-[A-Za-z0-9_-]{20,})"
)


def without_credentials(text: str) -> str:
    """A text in which no URI holds a user or a password, and no token stands."""
    text = _IN_QUERY.sub(r"\g<1>***", _IN_URI.sub("", text))
    return _TOKEN.sub("***", text)


def holds_secret(text: str) -> bool:
    """Whether a value of the command line holds a password or a token."""
    return without_credentials(text) != text or _ASSIGNED.search(text) is not None


def masked(content: Any) -> Any:
    """Nested values of a configuration without credentials in any text."""
    if isinstance(content, Mapping):
        return {key: masked(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [masked(value) for value in content]
    return without_credentials(content) if isinstance(content, str) else content


def login_in_environment(uri: str) -> str:
    """Move user and password of a server's URI to the variables that MLflow reads them from.

    MLflow prints the URI of a run, and processes that are started get it: the login goes to them
    by MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, which only this user can read.

    Args:
        uri: A tracking URI; others than those of a server are given back as they are.

    Returns:
        The URI without user and password.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return uri
    if parts.username:
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
    if parts.password:
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password)
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        if os.environ.get(name) == uri:
            os.environ[name] = bare
    return bare
