"""Take the pictures of README from a store in which the demo has run.

    mlflow run . --env-manager uv && python -m tools.pictures

Needs Chromium. The pages are those that the steps left in the store, cut to what fits README.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENT = "scientificllm-forge-demo"
# The step, the artifact, the height of the picture in pixels.
PICTURES = {
    "comparison": ("main", "comparison.html", 900),
    "report": ("evaluate", "report.html", 900),
}
WIDTH = 1000
COLOURS = 64


@click.command()
@click.option("--store", default="sqlite:///mlflow.db", show_default=True, help="Tracking URI.")
def main(store: str) -> None:
    """Write docs/images/*.png."""
    import mlflow

    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        raise click.ClickException(f"{store} has no experiment {EXPERIMENT}: run the demo first")
    target = ROOT / "docs" / "images"
    target.mkdir(exist_ok=True)
    for name, (step, page, height) in PICTURES.items():
        runs = client.search_runs(
            [experiment.experiment_id],
            f"tags.`forge.step` = '{step}' and attributes.status = 'FINISHED'",
            order_by=["metrics.`test/bits_per_byte` ASC", "attributes.start_time DESC"],
            max_results=1,
        )
        if not runs:
            raise click.ClickException(f"{store} has no finished run of {step}: run the demo first")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(client.download_artifacts(runs[0].info.run_id, page, folder))
            take(file, target / f"{name}.png", height)
        click.echo(f"{target / name}.png: {page} of run {runs[0].info.run_id}")


def take(page: Path, picture: Path, height: int) -> None:
    """Take a picture of the top of a page, in few colours, so that it stays small."""
    from PIL import Image

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise click.ClickException("Chromium is needed: apt install chromium")
    subprocess.run(
        [
            *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *(f"--window-size={WIDTH},{height}", f"--screenshot={picture}", page.as_uri()),
        ],
        check=True,
        capture_output=True,
    )
    with Image.open(picture) as taken:
        taken.convert("RGB").quantize(COLOURS).save(picture, optimize=True)


if __name__ == "__main__":
    main()
