"""Load a stored model in a fresh process and compare it with what the trainer had.

python -m steps.tracking.registry.check_model models:/NAME@champion
"""

import sys

import click

# Two kernels or thread counts may round differently; a wrong adapter is off by far more.
TOLERANCE = 1e-3


@click.command()
@click.argument("model_uri")
@click.option("--tracking-uri", default=None, help="Store of the model.")
def main(model_uri: str, tracking_uri: str | None) -> None:
    """Exit 0 if MODEL_URI gives the logits that the trainer had, else 1."""
    import mlflow

    if tracking_uri:
        mlflow.set_tracking_uri(tracking_uri)
    model = mlflow.pyfunc.load_model(model_uri).unwrap_python_model()
    difference = model.probe_difference()
    click.echo(f"largest difference of the probe logits: {difference:g}")
    if not difference <= TOLERANCE:
        click.echo(f"the probe logits differ by {difference:g} (tolerance {TOLERANCE:g})", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
