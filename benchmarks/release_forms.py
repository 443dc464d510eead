"""How close each form of a release is to the version: SmolLM2-135M, adapted by the demo's settings.

    python -m benchmarks.release_forms --folder out
    python -m benchmarks.release_forms --folder out --method qlora --max-steps 60

Runs the steps preprocess, finetune and release as their command lines would, in a store below the
folder, and prints the table of `fidelity.json`. What is refused is in it, with the reason.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

FORMS = "adapter,merged,gguf:f16,gguf:q8_0,gguf:q4_k_m"


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), required=True, help="Where to work.")
@click.option("--method", default="lora", show_default=True, help="qlora.method of the version.")
@click.option("--max-steps", default=6, show_default=True, help="Training steps.")
@click.option("--formats", default=FORMS, show_default=True, help="Forms to make.")
@click.option("--overrides", default="", help="Of the release.")
def main(folder: Path, method: str, max_steps: int, formats: str, overrides: str) -> None:
    """Train, release, and print how each form scored."""
    folder.mkdir(parents=True, exist_ok=True)
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{(folder / 'mlflow.db').resolve()}"}
    os.environ |= store
    training = (
        f"training.qlora.method={method} training.hyperparameters.max_steps={max_steps} "
        f"training.qlora.quantization.load_in_4bit={str(method == 'qlora').lower()}"
    )
    if not (folder / "mlflow.db").is_file():
        run_step("preprocess", folder)
        run_step("finetune", folder, "--overrides", training)
    words = ("--formats", formats, "--overrides", overrides)
    run_step("release", folder, "--model", "models:/scientificllm-forge-demo@challenger", *words)
    print_table(newest_fidelity())


def run_step(name: str, folder: Path, *options: str) -> None:
    """Run a step in a folder; a release that refuses a form ends with 2, and its table counts."""
    command = [sys.executable, "-m", f"steps.{name}", "--config", "configs/demo.yaml", *options]
    paths = {"PYTHONPATH": os.getcwd()}
    done = subprocess.run(command, cwd=folder, env={**os.environ, **paths}, check=False)
    if done.returncode not in ((0, 2) if name == "release" else (0,)):
        raise SystemExit(f"{name} ended with {done.returncode}")


def newest_fidelity() -> dict[str, Any]:
    """The `fidelity.json` of the last release."""
    import mlflow

    client = mlflow.MlflowClient()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (run,) = client.search_runs(experiments, "tags.`forge.step` = 'release'", max_results=1)
    content: dict[str, Any] = json.loads(
        Path(client.download_artifacts(run.info.run_id, "fidelity.json")).read_text()
    )
    return content


def print_table(content: dict[str, Any]) -> None:
    """The results as a table for RESULTS.md."""
    print(f"\nversion: {content['forms'][0]['promoted']:.5f} on {content['forms'][0]['papers']}")
    print("| form | bits per byte | difference (95 %) | limit | greedy | MB | tokens/s | leaves |")
    print("|---|---|---|---|---|---|---|---|")
    for form in content["forms"]:
        low, high = form["interval"] or (float("nan"), float("nan"))
        if form["score"] is None:
            print(f"| {form['form']} | | | | | | | {form['refusal']} |")
            continue
        print(
            f"| {form['form']} | {form['score']:.5f} | {form['difference']:+.5f} ({low:+.5f} to "
            f"{high:+.5f}) | {form['limit']:g} | {form['identical']} of {form['prompts']}, "
            f"{form['agreement']:.0%} | {form['bytes'] / 1e6:.1f} | "
            f"{form['tokens_per_second']:.0f} | {form['refusal'] or 'yes'} |"
        )


if __name__ == "__main__":
    main()
