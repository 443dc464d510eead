"""Tokenises a dataset as a finetune does, for tests that start several processes or kill one.

    python -m tests.support.row_program DATASET MODEL LENGTH DIGEST [MOST_BYTES_OF_A_FILE]

Prints `ready` and waits for a line, so that several can begin at once; then the name of the entry,
the number of its file on the disk, and a digest of its tokens.
"""

import hashlib
import resource
import signal
import sys
from pathlib import Path

from steps.errors import UserError
from steps.models.tokenizer import load_tokenizer
from steps.papers.stored_papers import open_papers
from steps.training import tokenising
from steps.training.tokenising import Recipe, Source, columns_of


def main(dataset: Path, model: Path, length: int, digest: str) -> None:
    """Make the rows, or find them."""
    tokenising.MIN_TEXTS_FOR_PROCESSES = 1
    source = Source(
        open_papers(dataset, "train", None, digest),
        Recipe("papers", load_tokenizer(model), length, 16),
    )
    folder = source.folder
    assert folder is not None
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        columns = columns_of(source)
    except UserError as error:
        print(error)
        sys.exit(UserError.exit_code)
    content = hashlib.sha256(columns.tokens["ids"][0 : len(columns.tokens["ids"])].tobytes())
    file = (folder / "tokens.arrow").stat()
    print(folder.name, file.st_ino, content.hexdigest())


if __name__ == "__main__":
    if len(sys.argv) > 5:
        # Else the kernel ends the process instead of refusing the write.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[5]),) * 2)
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
