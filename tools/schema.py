"""Write configs/training.schema.json, which editors check configurations against.

python -m tools.schema
"""

import json
from pathlib import Path

from steps.config.file import json_schema
from steps.config.paths import PROJECT_ROOT

SCHEMA_FILE = PROJECT_ROOT / "configs" / "training.schema.json"


def main(file: Path = SCHEMA_FILE) -> None:
    """Generate the schema from the types."""
    text = json.dumps(json_schema(), indent=1, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
