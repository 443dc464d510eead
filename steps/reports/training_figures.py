"""The curves of a training run as pictures: loss, validation, learning rate."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_LOSSES = (
    ("loss", "training"),
    ("replay_loss", "replay"),
    ("study_loss", "study texts"),
    ("eval_loss", "validation"),
)
# Of the history that transformers' Trainer keeps: key, name in the legend.
PANELS = (
    ("Loss, nats per token", _LOSSES),
    ("Validation, nats per masked token", (("eval_mlm_loss", "validation"),)),
    ("Validation, bits per byte", (("eval_bits_per_byte", "validation"),)),
    ("Learning rate", (("learning_rate", "learning rate"),)),
    ("Gradient norm before clipping", (("grad_norm", "gradient norm"),)),
)


def write_training_curves(history: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draw the curves of a run into one picture, a panel for each thing that was measured.

    Args:
        history: `trainer.state.log_history`: one mapping a report, with its `step`.
        file: The picture, `.png` or `.svg`.
    """
    from matplotlib.figure import Figure

    panels = [
        (title, [(name, _curve(history, key)) for key, name in curves]) for title, curves in PANELS
    ]
    shown = [(title, curves) for title, curves in panels if any(points for _, points in curves)]
    figure = Figure(figsize=(10, 3.2 * max(1, (len(shown) + 1) // 2)), layout="constrained")
    for number, (title, curves) in enumerate(shown):
        axes = figure.add_subplot((len(shown) + 1) // 2, 2, number + 1)
        for name, points in curves:
            if points:
                steps, values = zip(*points, strict=True)
                axes.plot(steps, values, marker="o" if len(points) < 30 else "", label=name)
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xlabel("optimiser step")
        axes.grid(alpha=0.3)
        if len(curves) > 1:
            axes.legend(frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def _curve(history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    return [(int(entry["step"]), float(entry[key])) for entry in history if key in entry]
