"""What the base and the adapted model write after the same prompt.

    mlflow run . -e generate -P prompt="Variants in BRCA1"
    python -m steps.generate --file prompts.jsonl --model models:/scientificllm-forge@champion

Leaves `generations.jsonl` and `generations.html` in its run, and prints them side by side. A masked
model fills the masks of a prompt; a model that answers is asked by its chat template. How they
write is `training.generate`.
"""

import click

from steps.cli import step_command
from steps.config.file import load_config
from steps.terminal import say, show_notices


@click.command()
@click.option(
    "--model",
    default="",
    help="models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID/adapter, a run id, or base (alone); "
    "empty: the champion.",
)
@click.option("--prompt", default="", help="What to go on from, or to answer.")
@click.option(
    "--file", default="", help="Prompts: one a line, or JSON Lines with prompt or messages, and id."
)
@step_command()
def main(
    model: str, prompt: str, file: str, config_path: str, overrides: str, verbose: bool
) -> None:
    """Let base and model write after a prompt, side by side."""
    from steps.evaluation.prompts import read_prompts

    loaded = load_config(config_path, overrides)
    training = loaded.training
    show_notices(loaded.notices)
    prompts = read_prompts(prompt, file)

    from steps.tracking.generations import resolve_asked, store_generations
    from steps.tracking.registry.model_reference import fetch_adapter
    from steps.tracking.runs import step_run

    with step_run("generate", training, verbose=verbose) as run:
        from steps.evaluation.side_by_side import ask_both
        from steps.reports.generations import SHOWN, show_generations

        reference = resolve_asked(run.client, model, training)
        alone = reference.uri == "base"
        adapter = None if alone else fetch_adapter(run.client, reference, run.scratch / "version")
        answered = ask_both(training, adapter, prompts)
        names = store_generations(run, training, reference, adapter, answered)
        show_generations(names, answered)
        if len(answered) > SHOWN:
            say(f"and {len(answered) - SHOWN} more in generations.html")
        say(f"generations.jsonl and generations.html are in run {run.id}")


if __name__ == "__main__":
    main()
