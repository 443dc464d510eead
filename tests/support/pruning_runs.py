"""The step `prune_checkpoints`, run in this process over an experiment called `pruned`."""

from pathlib import Path

from click.testing import CliRunner

from steps import prune_checkpoints
from tests.support.project import ROOT

# Checkpoints by step, and the metric of each.
MEASURED = {10: 3.0, 20: 1.0, 30: 2.0, 40: 4.0}


def prune(*arguments: str, policy: str = "", code: int = 0) -> str:
    """Run the step in this process and return what it says."""
    overrides = "training.mlflow.experiment_name=pruned " + " ".join(
        f"training.{entry}" for entry in policy.split()
    )
    config = str(ROOT / "configs" / "training.yaml")
    given = ["--config", config, "--overrides", overrides.strip(), *arguments]
    result = CliRunner().invoke(prune_checkpoints.main, given, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def error_line(*arguments: str, policy: str = "") -> str:
    said = [line for line in prune(*arguments, policy=policy, code=2).splitlines() if line]
    assert len(said) == 1
    return said[0]


def spoil(folder: Path) -> None:
    """Change one byte of the optimizer state and no size."""
    file = folder / "optimizer.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


LAST_ONE = "pruning.keep_last=1 pruning.keep_best=0"
