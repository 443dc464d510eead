"""Write docs/models.md: what every listed class of models does here, found by trying each.

python tools/models_page.py            writes the page (some minutes)
python tools/models_page.py --print    prints it instead
"""

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from steps.errors import UserError  # noqa: E402
from steps.models.layout import find_layout  # noqa: E402
from tests.support.architectures import ARCHITECTURES, CAUSAL, MASKED, Architecture  # noqa: E402
from tests.support.tiny_architectures import save  # noqa: E402
from tests.support.tiny_runs import build_trainer, papers, training_by_method  # noqa: E402

PAGE = ROOT / "docs" / "models.md"
METHODS = ("lora", "qlora", "dora", "full")
HEAD = """# The models that can be adapted

Written by `tools/models_page.py`, which builds a tiny model of each class, trains it by each method
and notes what happened. `tests/training/test_architectures.py` holds every class to it: the loss of
a batch is that of its documents one by one (to 1e-5, against transformers' own), a paper scores the
same alone and in any batch, a saved adapter loads to the same logits, and what is served is what
transformers and peft generate.

**Of {all_causal} causal classes {trained_causal} train, of {all_masked} masked {trained_masked}.**
A class that is not listed is tried in the same way when it is loaded, and refused by name where it
does not hold.

**Rows**: how documents reach the model. *packed*: several in a row, none seeing another (fastest).
*padded*: one a row, filled up. *single*: one a forward pass. Which one a model bears is found by
giving it a long and a short document, alone and together. `finetune` says what it costs where
documents are not packed.

**Methods**: on two layers of tiny width, on a CPU in float32. `rslora` and `lora_8bit` go as LoRA
and QLoRA do. Experts that a class holds as one 3-D parameter stay in 16 bits under QLoRA, and the
plan counts them so.
"""


@dataclass(frozen=True)
class Findings:
    """What was found of a class.

    Attributes:
        name: The class.
        layout: "packed", "padded", "single", or "" where it is refused.
        methods: For each method "yes", or what it is refused for.
        notes: What its user should know.
    """

    name: str
    layout: str
    methods: dict[str, str]
    notes: tuple[str, ...]

    @property
    def trains(self) -> bool:
        """Whether any method trains it."""
        return "yes" in self.methods.values()


def findings_of(architecture: Architecture) -> Findings:
    """Train a tiny model of the class by each method."""
    methods, notes = {}, []
    layout = ""
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["FORGE_CACHE"] = str(Path(scratch) / "cache")
        folder = save(architecture, Path(scratch) / str(architecture))
        for method in METHODS:
            try:
                training = training_by_method(folder, method, max_steps=1)
                trainer = build_trainer(training, Path(scratch) / method, papers(6), [])
                trainer.train()
            except UserError as refusal:
                methods[method] = "no"
                notes.append(f"{method}: {refusal}".replace(f"{scratch}/", ""))
                continue
            methods[method] = "yes"
            inner = trainer.model
            inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
            found = find_layout(inner, [[5]], 2)
            layout = found.kind
            if found.reason and method == "lora":
                notes.append(found.reason)
            if method == "lora" and not inner.supports_gradient_checkpointing:
                notes.append("no gradient checkpointing")
    if layout:
        notes += beyond_its_switch(architecture, layout)
    name = type(architecture.build()).__name__
    # What refuses all methods is one reason.
    alike = {note.partition(": ")[2] for note in notes}
    return Findings(
        name, layout, methods, tuple(alike if len(alike) == 1 and not layout else notes)
    )


def beyond_its_switch(architecture: Architecture, layout: str) -> list[str]:
    """What becomes of documents so long that the model reads them in another way."""
    mask = 4 if architecture.objective == "masked" else None
    documents = [[5 + i % 390 for i in range(length)] for length in (150, 24)]
    try:
        longer = find_layout(architecture.build(), documents, 2, mask).kind
    except UserError:
        return ["reads texts beyond its switch of attention in another way: refused there"]
    return [] if longer == layout else [f"{longer} beyond its switch of positions"]


def table(architectures: tuple[Architecture, ...], found: dict[str, Findings]) -> list[str]:
    """The rows of one objective."""
    lines = [
        "| class | known as | rows | LoRA | QLoRA | DoRA | full | limits |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for architecture in architectures:
        one = found[str(architecture)]
        methods = " | ".join(one.methods[method] for method in METHODS)
        variant = f" ({architecture.variant})" if architecture.variant else ""
        lines.append(
            f"| `{one.name}`{variant} | {architecture.known_as} | {one.layout or '–'} "
            f"| {methods} | {'; '.join(one.notes)} |"
        )
    return lines


def page() -> str:
    """The whole page."""
    found = {str(one): findings_of(one) for one in ARCHITECTURES}
    counts = {
        "trained_causal": sum(found[str(one)].trains for one in CAUSAL),
        "all_causal": len(CAUSAL),
        "trained_masked": sum(found[str(one)].trains for one in MASKED),
        "all_masked": len(MASKED),
    }
    lines = [HEAD.format(**counts), "## Causal models", "", *table(CAUSAL, found), ""]
    lines += ["## Masked models", "", *table(MASKED, found)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    text = page()
    if sys.argv[1:] == ["--print"]:
        sys.stdout.write(text)
    else:
        PAGE.write_text(text, encoding="utf-8")
