"""Prepares papers on Ray in a process of its own: Ray is an extra, and stays in what imports it.

    python -m tests.support.ray_program FOLDER CASE.json ...

Each case names `inputs`, `settings`, and perhaps `instructions`; what comes of it goes to
`FOLDER/CASE`, with the message of a refusal in `refused.txt`. One Ray prepares them all.
"""

import sys
from pathlib import Path

import msgspec

from steps.config.paper_sections import ScientificData
from steps.errors import UserError
from steps.papers.engines import ray_data
from steps.papers.engines.choice import choose_engine
from steps.papers.engines.engine import Engine
from steps.papers.pipeline import prepare_dataset


def prepare(case: Path, output: Path, engine: Engine | None) -> None:
    """Prepare one case, and leave what came of it."""
    asked = msgspec.json.decode(case.read_bytes())
    output.mkdir(parents=True)
    try:
        prepare_dataset(
            [Path(path) for path in asked["inputs"]],
            ScientificData.model_validate(asked["settings"]),
            output,
            lambda stage, done: print(stage, done, flush=True),
            instructions=[Path(path) for path in asked.get("instructions", ())],
            engine=engine,
        )
    except UserError as error:
        (output / "refused.txt").write_text(str(error))


def main() -> None:
    # Small files come in several groups, and few papers in several blocks.
    ray_data.GROUP_BYTES, ray_data.PAPERS_A_BLOCK = 1, 100
    folder, cases = Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]
    settings = ScientificData(engine="ray", num_workers=2)
    with choose_engine(settings, []).opened(settings) as engine:
        for case in cases:
            prepare(case, folder / case.stem, engine)


if __name__ == "__main__":
    main()
