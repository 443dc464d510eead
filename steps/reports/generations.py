"""What models wrote after prompts, side by side: as JSON Lines, as a page, on the terminal."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps import terminal
from steps.config.generate_section import Generate
from steps.errors import printable
from steps.reports.page import PageSection, render_page

if TYPE_CHECKING:
    from steps.evaluation.side_by_side import Answered

# In the order in which they are shown.
SIDES = ("base", "model")
# Prompts on the terminal; the files have all.
SHOWN = 20
TITLE_CHARACTERS = 60


def is_masked(answered: "Sequence[Answered]") -> bool:
    """Whether words for masks were asked for."""
    return any(
        not isinstance(text, str)
        for one in answered
        for texts in one.written.values()
        for text in texts
    )


def write_json_lines(path: Path, answered: "Sequence[Answered]", settings: Generate) -> None:
    """Write one line a prompt, or one a sample where there are several.

    Args:
        path: The file to write.
        answered: What was written.
        settings: How; each line states it.
    """
    stated = {} if is_masked(answered) else settings.model_dump(mode="json")
    lines = (
        json.dumps({**row, "settings": stated}, ensure_ascii=False)
        for one in answered
        for row in _rows(one, settings.num_samples)
    )
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _rows(one: "Answered", samples: int) -> Iterator[dict[str, Any]]:
    asked: dict[str, Any] = {"id": one.prompt.prompt_id, "prompt": one.prompt.text}
    if one.prompt.messages:
        asked["messages"] = [
            {"role": message.role, "content": message.content} for message in one.prompt.messages
        ]
    if one.cut:
        asked["tokens_cut"] = one.cut
    written = {side: one.written[side] for side in SIDES if side in one.written}
    if is_masked([one]):
        words = {
            side: [[asdict(word) for word in mask] for mask in masks]
            for side, masks in written.items()
        }
        yield {**asked, **words}
        return
    for number in range(samples):
        sample = {"sample": number + 1} if samples > 1 else {}
        yield {**asked, **sample, **{side: texts[number] for side, texts in written.items()}}


def write_generations_page(
    path: Path,
    names: dict[str, str],
    answered: "Sequence[Answered]",
    settings: Generate,
) -> None:
    """Write the page.

    Args:
        path: The HTML file to write.
        names: What people call the base and the model.
        answered: What was written.
        settings: How.
    """
    shown = [side for side in SIDES if side in names]
    facts: list[tuple[str, Any]] = [(side, names[side]) for side in shown]
    if not is_masked(answered):
        facts += [(name.replace("_", " "), value) for name, value in settings]
    sections = [
        PageSection(
            f"{one.prompt.prompt_id}: {_title(one.prompt.text)}",
            paragraphs=[cut_note(one.cut)] if one.cut else (),
            passages=[(role, said) for role, said in _asked(one)],
            rows=_numbered([[(side, text) for text in shown_texts(one, side)] for side in shown]),
        )
        for one in answered
    ]
    count = len(answered)
    lead = f"{count} prompt{'' if count == 1 else 's'}, {' and '.join(names[s] for s in shown)}."
    path.write_text(render_page("Generations", lead, facts, sections), encoding="utf-8")


def _numbered(sides: list[list[tuple[str, str]]]) -> list[list[tuple[str, str]]]:
    """A row a sample, or a mask, whose labels carry its number where there are several."""
    several = len(sides[0]) > 1
    return [
        [(f"{side} {number}" if several else side, text) for side, text in row]
        for number, row in enumerate(zip(*sides, strict=True), start=1)
    ]


def _title(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= TITLE_CHARACTERS else f"{words[:TITLE_CHARACTERS]}…"


def _asked(one: "Answered") -> list[tuple[str, str]]:
    if one.prompt.messages:
        return [(message.role, message.content) for message in one.prompt.messages]
    return [("prompt", one.prompt.text)]


def cut_note(cut: int) -> str:
    """That the beginning of a prompt was left out."""
    return f"The prompt is longer than the model reads: its first {cut} tokens were left out."


def shown_texts(one: "Answered", side: str) -> list[str]:
    """What one model wrote, as people read it: a text a sample, or the words for each mask."""
    texts = one.written[side]
    if is_masked([one]):
        return [
            "\n".join(f"{word.probability:.3f}  {printable(word.word)}" for word in mask)
            for mask in texts
        ]
    return [_lines(text) for text in texts]


def show_generations(names: dict[str, str], answered: "Sequence[Answered]") -> None:
    """Print the first of them as tables, side by side.

    Args:
        names: What people call the base and the model.
        answered: What was written.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    sides = [side for side in SIDES if side in names]
    for one in answered[:SHOWN]:
        title = Text(f"{one.prompt.prompt_id}: {_lines(one.prompt.text)}", style="bold")
        terminal.show(title, soft_wrap=True)
        if one.cut:
            terminal.show(cut_note(one.cut))
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), expand=True)
        for side in sides:
            table.add_column(Text(f"{side}: {names[side]}"), ratio=1, overflow="fold")
        for texts in zip(*(shown_texts(one, side) for side in sides), strict=True):
            # What a model writes is no markup.
            table.add_row(*map(Text, texts), end_section=True)
        terminal.show(table)


def _lines(text: str) -> str:
    """A text whose control characters, which would move a terminal's cursor, are written out."""
    return "\n".join(printable(line) for line in text.splitlines())
