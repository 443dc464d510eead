"""A turn of a conversation, as data files hold it and chat templates take it."""

import msgspec


class Message(msgspec.Struct, frozen=True):
    """One turn.

    Attributes:
        role: "system", "user" or "assistant".
        content: What is said.
    """

    role: str
    content: str
