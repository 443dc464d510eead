"""Write requirements.lock anew from conda.yaml, for all platforms, with uv.

python tools/lock.py            writes the lock file; what it pins stays where that is possible
python tools/lock.py --upgrade  the newest version of all that conda.yaml leaves open
python tools/lock.py --print    prints the direct requirements instead
"""

import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
HEADER = "# Written by tools/lock.py from conda.yaml: exact versions of all that it pulls in.\n"


def direct_requirements() -> list[str]:
    """The pip requirements of conda.yaml, without its reference to the lock file."""
    content = yaml.safe_load((ROOT / "conda.yaml").read_text(encoding="utf-8"))
    pip = next(entry["pip"] for entry in content["dependencies"] if isinstance(entry, dict))
    return [requirement for requirement in pip if not requirement.startswith("-c")]


def main() -> None:
    """Compile and write, or print."""
    if sys.argv[1:] == ["--print"]:
        sys.stdout.write("\n".join(direct_requirements()) + "\n")
        return
    command = "uv pip compile --universal --python-version 3.11 --no-annotate --no-header --quiet -"
    # uv prefers the versions that its output file holds.
    subprocess.run(
        [*command.split(), "--output-file", str(LOCK), *sys.argv[1:]],
        input="\n".join(direct_requirements()),
        stdout=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    compiled = LOCK.read_text(encoding="utf-8").splitlines()
    lines = [line for line in compiled if not line.startswith(("-", "#"))]
    LOCK.write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
