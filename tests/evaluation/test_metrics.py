"""The metrics as modules of the `evaluate` library."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

METRICS = Path(__file__).parents[2] / "steps" / "evaluation" / "metrics"

CASES = {
    "bits_per_byte": (
        {"nats": [10.0, 300.0], "bytes": [100, 300]},
        {"bits_per_byte": 310 / (math.log(2) * 400)},
    ),
    "token_perplexity": (
        {"nats": [10.0, 300.0], "tokens": [10, 60]},
        {"perplexity": math.exp(310 / 70)},
    ),
    "word_perplexity": (
        {"nats": [10.0, 300.0], "words": [5, 50]},
        {"word_perplexity": math.exp(310 / 55)},
    ),
    "mlm_loss": ({"nats": [10.0, 30.0], "targets": [4, 12]}, {"mlm_loss": 40 / 16}),
    "pseudo_bits_per_byte": (
        {"pseudo_nats": [10.0, 300.0], "pseudo_bytes": [100, 300]},
        {"pseudo_bits_per_byte": 310 / (math.log(2) * 400)},
    ),
    "mlm_accuracy": ({"hits": [1, 8], "targets": [4, 12]}, {"mlm_accuracy": 9 / 16}),
    "gene_f1": (
        {"hits": [2, 0], "predicted": [3, 1], "expected": [2, 3]},
        {"gene_precision": 2 / 4, "gene_recall": 2 / 5, "gene_f1": 4 / 9},
    ),
}


@pytest.fixture(autouse=True, scope="module")
def caches_of_these_tests(tmp_path_factory):
    # One for the module and not for each test: Python imports the copied modules by name.
    import evaluate.config

    folder = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate.config, "HF_METRICS_CACHE", folder / "metrics")
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", str(folder / "modules"))
        yield


def test_every_metric_is_tried_here():
    folders = {
        folder.name for folder in METRICS.iterdir() if folder.joinpath(f"{folder.name}.py").exists()
    }
    assert folders == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_a_metric_loads_by_its_folder_and_sums_over_papers(name):
    import evaluate

    given, expected = CASES[name]
    metric = evaluate.load(str(METRICS / name))
    assert metric.compute(**given) == pytest.approx(expected)
    assert metric.description
    assert metric.citation


@pytest.mark.parametrize("name", CASES)
def test_a_metric_filled_paper_by_paper_gives_the_same(name):
    import evaluate

    given, expected = CASES[name]
    metric = evaluate.load(str(METRICS / name))
    for place in range(2):
        metric.add(**{key: values[place] for key, values in given.items()})
    assert metric.compute() == pytest.approx(expected)


def test_undefined_ratios_of_genes_are_left_out():
    import evaluate

    metric = evaluate.load(str(METRICS / "gene_f1"))
    assert metric.compute(hits=[0], predicted=[0], expected=[3]) == {"gene_recall": 0, "gene_f1": 0}


def test_a_metric_needs_nothing_of_this_project_but_its_folder(tmp_path):
    # A stranger's process: another working folder, no hub, no `steps` to import.
    code = (
        "import evaluate, importlib.util, json, sys\n"
        "assert importlib.util.find_spec('steps') is None\n"
        "for path, given in json.loads(sys.argv[1]):\n"
        "    print(json.dumps(evaluate.load(path).compute(**given)))\n"
    )
    given = json.dumps([(str(METRICS / name), arguments) for name, (arguments, _) in CASES.items()])
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "HOME": str(tmp_path)}
    said = subprocess.run(
        [sys.executable, "-c", code, given],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    results = [json.loads(line) for line in said.stdout.splitlines()]
    assert results == [pytest.approx(expected) for _, expected in CASES.values()]
