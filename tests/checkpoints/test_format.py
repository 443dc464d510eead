"""Checkpoints exist whole or not at all, whatever happens to the process that writes them."""

import errno
import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steps.checkpoints.format import (
    MANIFEST,
    CheckpointInfo,
    list_checkpoints,
    list_names,
    remove_leftovers,
    rotate,
    validate_checkpoint,
    writing_checkpoint,
)
from steps.errors import UserError

FACTS = {"dataset_digest": "sha256:d", "config_digest": "sha256:c"}
WEIGHTS = "adapter_model.safetensors"
RESUME_FILES = ["optimizer.pt", "rng_state.pth", "scheduler.pt"]
fork = multiprocessing.get_context("fork")


def content_of(name: str, step: int) -> bytes:
    return f"{name} of step {step};".encode() * 500


def save(root: Path, step: int, facts: dict[str, Any] = FACTS) -> Path:
    with writing_checkpoint(root, step, facts) as folder:
        for name in [WEIGHTS, *RESUME_FILES, "trainer_state.json"]:
            (folder / name).write_bytes(content_of(name, step))
        (folder / "tokenizer").mkdir()
        (folder / "tokenizer" / "vocab.txt").write_bytes(content_of("vocab", step))
    return root / f"checkpoint-{step}"


def valid(folder: Path) -> CheckpointInfo:
    checkpoint = validate_checkpoint(folder)
    assert isinstance(checkpoint, CheckpointInfo), checkpoint
    return checkpoint


def refused(folder: Path) -> str:
    reason = validate_checkpoint(folder)
    assert isinstance(reason, str), f"{folder} is taken for a valid checkpoint"
    assert "\n" not in reason
    return reason


def newest_of(root: Path) -> CheckpointInfo | None:
    """The newest folder that is called a checkpoint, which has to be a valid one."""
    while names := list_names(root):
        _, folder = names[-1]
        checkpoint = validate_checkpoint(folder)
        if isinstance(checkpoint, CheckpointInfo):
            return checkpoint
        # The writer may be two saves ahead by now and have rotated this one away: look again.
        assert not folder.exists(), checkpoint
    return None


def hidden(root: Path) -> list[str]:
    return [path.name for path in root.iterdir() if path.name.startswith(".")]


def run_in_child(work: Callable[[], int]) -> int:
    """Run `work` in a process of its own and return the exit code that it gives."""
    child = fork.Process(target=lambda: sys.exit(work()))
    child.start()
    child.join()
    assert child.exitcode is not None
    return child.exitcode


def save_for_ever(root: Path, step: int, ready: Any) -> None:
    ready.set()
    while True:
        step += 1
        save(root, step)
        rotate(root, keep=2)


def test_a_saved_checkpoint_is_read_back_with_its_step_and_facts(tmp_path: Path) -> None:
    folder = save(tmp_path / "new" / "root", 50)
    checkpoint = valid(folder)
    assert (checkpoint.step, checkpoint.facts, checkpoint.resumable) == (50, FACTS, True)
    assert set(checkpoint.files) == {
        WEIGHTS,
        *RESUME_FILES,
        "trainer_state.json",
        "tokenizer/vocab.txt",
    }
    assert checkpoint.files[WEIGHTS].bytes == len(content_of(WEIGHTS, 50))
    assert hidden(folder.parent) == []


def test_killed_at_any_moment_a_saving_process_leaves_a_whole_newest_checkpoint(
    tmp_path: Path,
) -> None:
    save(tmp_path, 1)
    newest_step, leftovers = 1, 0
    moments = random.Random(0)

    def read_newest() -> int:
        newest = newest_of(tmp_path)
        assert newest is not None
        assert newest.step >= newest_step
        return newest.step

    for _ in range(30):
        ready = fork.Event()
        child = fork.Process(target=save_for_ever, args=(tmp_path, newest_step, ready))
        child.start()
        try:
            ready.wait()
            kill_at = time.monotonic() + moments.uniform(0.0, 0.05)
            # A reader beside the living writer sees no half checkpoint either.
            while time.monotonic() < kill_at:
                newest_step = read_newest()
        finally:
            child.kill()
            child.join()
        newest_step = read_newest()
        newest = tmp_path / f"checkpoint-{newest_step}"
        assert (newest / WEIGHTS).read_bytes() == content_of(WEIGHTS, newest_step)
        for folder in tmp_path.glob("checkpoint-*"):
            valid(folder)
        leftovers += len(remove_leftovers(tmp_path))
        assert hidden(tmp_path) == []
    assert newest_step > 1, "the writer never got to the end of a save"
    assert leftovers > 0, "no kill hit a save or a rotation midway"


@pytest.mark.parametrize(
    ("limit", "payload"),
    [(10_000, 50_000), (300, 10)],
    ids=["in the block", "in the manifest"],
)
def test_a_full_disk_raises_oserror_and_leaves_the_previous_checkpoint(
    tmp_path: Path, limit: int, payload: int
) -> None:
    previous = valid(save(tmp_path, 1))

    def save_with_little_room() -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            with writing_checkpoint(tmp_path, 2, FACTS) as folder:
                (folder / WEIGHTS).write_bytes(b"x" * payload)
        except OSError as error:
            return error.errno or 0
        return 0

    assert run_in_child(save_with_little_room) == errno.EFBIG
    assert newest_of(tmp_path) == previous
    assert hidden(tmp_path) == []


@contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Give up root's right to read and write everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that an ordinary user may enter (pytest's own are closed to others)."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_a_folder_without_write_permission_raises_oserror_and_stays_as_it_is(
    public_folder: Path,
) -> None:
    previous = valid(save(public_folder, 1))
    public_folder.chmod(0o555)
    with as_ordinary_user():
        with pytest.raises(PermissionError), writing_checkpoint(public_folder, 2, FACTS):
            raise AssertionError("the block must not be entered")
        assert newest_of(public_folder) == previous


def test_an_unreadable_checkpoint_is_passed_over_with_the_reason(public_folder: Path) -> None:
    save(public_folder, 1)
    (save(public_folder, 2) / WEIGHTS).chmod(0)
    with as_ordinary_user():
        reason = validate_checkpoint(public_folder / "checkpoint-2")
        assert [checkpoint.step for checkpoint in list_checkpoints(public_folder, hashes=True)] == [
            1
        ]
    assert isinstance(reason, str)
    assert "it cannot be read" in reason
    assert "Permission denied" in reason


def test_an_error_in_the_block_removes_the_folder_and_propagates(tmp_path: Path) -> None:
    save(tmp_path, 1)
    with pytest.raises(KeyboardInterrupt), writing_checkpoint(tmp_path, 2, FACTS) as folder:
        (folder / WEIGHTS).write_bytes(b"half")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_one_flipped_bit_is_noticed_in_every_file(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.getbasetemp() / "flipped"
    if not root.exists():
        save(root, 7)
    original = valid(root / "checkpoint-7")
    name = data.draw(st.sampled_from([MANIFEST, *original.files]))
    path = root / "checkpoint-7" / name
    whole = path.read_bytes()
    place = data.draw(st.integers(0, 8 * len(whole) - 1))
    flipped = bytearray(whole)
    flipped[place // 8] ^= 1 << place % 8
    path.write_bytes(flipped)
    try:
        result = validate_checkpoint(root / "checkpoint-7")
    finally:
        path.write_bytes(whole)
    if name == MANIFEST:
        # The only flips that may pass are those that mean the same (`T` and `t` in a time).
        assert isinstance(result, str) or result == original
    else:
        assert result == f"{name} does not have the SHA-256 that its manifest says"


def test_a_size_is_noticed_without_reading_the_files(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    with open(folder / WEIGHTS, "ab") as file:
        file.write(b"!")
    size = len(content_of(WEIGHTS, 1))
    expected = f"{WEIGHTS} has {size + 1} bytes, its manifest says {size}"
    assert validate_checkpoint(folder, hashes=False) == expected
    assert list_checkpoints(tmp_path) == []


def test_the_cheap_listing_trusts_content_and_the_full_one_does_not(tmp_path: Path) -> None:
    save(tmp_path, 10)
    save(tmp_path, 9)
    damaged = save(tmp_path, 100)
    whole = (damaged / WEIGHTS).read_bytes()
    (damaged / WEIGHTS).write_bytes(b"?" + whole[1:])
    assert [checkpoint.step for checkpoint in list_checkpoints(tmp_path)] == [9, 10, 100]
    assert [checkpoint.step for checkpoint in list_checkpoints(tmp_path, hashes=True)] == [9, 10]


def test_stale_folders_with_higher_numbers_do_not_win(tmp_path: Path) -> None:
    save(tmp_path, 20)
    renamed = tmp_path / "checkpoint-400"
    shutil.copytree(save(tmp_path, 10), renamed)
    without_manifest = tmp_path / "checkpoint-500"
    shutil.copytree(save(tmp_path, 15), without_manifest)
    (without_manifest / MANIFEST).unlink()
    save(tmp_path, 600, facts={**FACTS, "config_digest": "sha256:other"})
    assert [checkpoint.step for checkpoint in list_checkpoints(tmp_path)] == [10, 15, 20, 600]
    assert refused(without_manifest) == f"{without_manifest / MANIFEST} is missing"
    assert refused(renamed) == "its manifest is that of step 10"


def test_nothing_valid_means_none(tmp_path: Path) -> None:
    assert list_checkpoints(tmp_path / "absent") == []
    assert remove_leftovers(tmp_path / "absent") == []


def test_an_unlisted_file_makes_a_checkpoint_invalid_and_a_hidden_one_does_not(
    tmp_path: Path,
) -> None:
    folder = save(tmp_path, 1)
    (folder / ".DS_Store").write_bytes(b"")
    valid(folder)
    (folder / "training_args.bin").write_bytes(b"a pickle from somewhere else")
    assert refused(folder) == "training_args.bin is not listed in its manifest"


def test_a_link_out_of_the_folder_makes_a_checkpoint_invalid(tmp_path: Path) -> None:
    folder = save(tmp_path / "root", 1)
    (tmp_path / "elsewhere").write_bytes((folder / WEIGHTS).read_bytes())
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to(tmp_path / "elsewhere")
    assert "neither a file nor a folder" in refused(folder)


def test_without_its_weights_a_checkpoint_is_invalid(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    (folder / WEIGHTS).unlink()
    assert refused(folder) == f"{WEIGHTS} is missing"


def test_without_its_optimizer_a_checkpoint_is_valid_and_not_resumable(tmp_path: Path) -> None:
    slim = save(tmp_path, 2)
    (slim / "optimizer.pt").unlink()
    assert valid(slim).resumable is False


def test_resume_only_are_optimizer_files_and_never_the_only_weights(tmp_path: Path) -> None:
    checkpoint = valid(save(tmp_path, 1))
    marked = [name for name, entry in checkpoint.files.items() if entry.resume_only]
    assert sorted(marked) == RESUME_FILES
    # ZeRO-3 without gathering: the weights are in the sharded state and nowhere else.
    with writing_checkpoint(tmp_path, 2, FACTS) as folder:
        (folder / "global_step2").mkdir()
        (folder / "global_step2" / "mp_rank_00_model_states.pt").write_bytes(b"weights")
    files = valid(tmp_path / "checkpoint-2").files
    assert [(name, entry.resume_only) for name, entry in files.items()] == [
        ("global_step2/mp_rank_00_model_states.pt", False)
    ]


def test_a_manifest_of_a_later_format_is_refused_with_both_versions(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest |= {"format_version": 2, "compression": "zstd"}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert refused(folder) == f"{MANIFEST} has format version 2, this program reads 1"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format_version": 1}', b"\xff\xfe"])
def test_a_broken_manifest_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = save(tmp_path, 1)
    (folder / MANIFEST).write_bytes(content)
    assert refused(folder).startswith(f"{MANIFEST} is broken: ")


def test_a_repeated_save_leaves_the_valid_checkpoint(tmp_path: Path) -> None:
    before = valid(save(tmp_path, 1))
    with writing_checkpoint(tmp_path, 1, FACTS) as folder:
        (folder / WEIGHTS).write_bytes(b"other bytes")
    assert valid(tmp_path / "checkpoint-1") == before
    assert hidden(tmp_path) == []


def test_a_repeated_save_replaces_an_invalid_checkpoint(tmp_path: Path) -> None:
    before = save(tmp_path, 1)
    (before / WEIGHTS).write_bytes(b"torn")
    with writing_checkpoint(tmp_path, 1, FACTS) as folder:
        (folder / WEIGHTS).write_bytes(b"whole")
    assert list(valid(before).files) == [WEIGHTS]
    assert (before / WEIGHTS).read_bytes() == b"whole"
    assert hidden(tmp_path) == []


def test_a_save_over_another_runs_checkpoint_is_refused(tmp_path: Path) -> None:
    before = valid(save(tmp_path, 1))
    other = {**FACTS, "dataset_digest": "sha256:other"}
    with pytest.raises(UserError) as caught, writing_checkpoint(tmp_path, 1, other):
        raise AssertionError("the block must not be entered")
    assert str(caught.value) == (
        f"{tmp_path / 'checkpoint-1'}: holds a checkpoint of another run (its dataset_digest is "
        "'sha256:d', expected 'sha256:other'): give a fresh output folder or remove that checkpoint"
    )
    assert valid(tmp_path / "checkpoint-1") == before


def test_facts_compare_as_they_are_read_back(tmp_path: Path) -> None:
    facts = {"tuple": (1, 2), "number": 2e-4, "nothing": None, "nested": {"b": [1], "a": "µ"}}
    save(tmp_path, 1, facts)
    save(tmp_path, 1, facts)
    newest = newest_of(tmp_path)
    assert newest is not None
    assert newest.facts == {**facts, "tuple": [1, 2]}


def test_leftovers_of_dead_processes_go_and_those_of_a_living_one_stay(tmp_path: Path) -> None:
    child = fork.Process(target=time.sleep, args=(60,))
    child.start()
    leftovers = [
        f".checkpoint-3.partial-{child.pid}",
        f".checkpoint-2.trash-{child.pid}",
        f".checkpoint-1.partial-{os.getpid()}",
    ]
    for name in [*leftovers, ".something-else", "checkpoint-9"]:
        (tmp_path / name).mkdir()
    removed = [path.name for path in remove_leftovers(tmp_path)]
    assert removed == [leftovers[2]]
    child.kill()
    child.join()
    removed = [path.name for path in remove_leftovers(tmp_path)]
    assert removed == [leftovers[1], leftovers[0]]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".something-else", "checkpoint-9"]


def test_rotation_keeps_the_newest_and_the_protected_and_what_it_did_not_write(
    tmp_path: Path,
) -> None:
    for step in (5, 10, 20, 100):
        save(tmp_path, step)
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "somebody.txt").write_text("else's")
    # An invalid higher number must not push a good one out.
    (tmp_path / "checkpoint-200").mkdir()
    assert rotate(tmp_path, keep=2, protect={5}) == [10]
    assert [checkpoint.step for checkpoint in list_checkpoints(tmp_path)] == [5, 20, 100]
    assert (tmp_path / "checkpoint-1" / "somebody.txt").exists()
    assert rotate(tmp_path, keep=4) == []
    assert hidden(tmp_path) == []


def test_rotation_to_nothing_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 1)
    with pytest.raises(ValueError, match="keep is 0, expected at least 1"):
        rotate(tmp_path, keep=0)
    assert [checkpoint.step for checkpoint in list_checkpoints(tmp_path)] == [1]


def test_stray_folders_and_broken_files_among_checkpoints_are_passed_over(tmp_path: Path) -> None:
    """What somebody copied or edited there is no checkpoint; the next valid one is."""
    save(tmp_path, 10)
    save(tmp_path, 20)
    (tmp_path / "checkpoint-20" / "trainer_state.json").write_text("{")
    for name in ("checkpoint-30", "checkpoint-x", "checkpoint-40.bak", "notes", "checkpoint--5"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-50").write_text("a file of that name")
    (tmp_path / "checkpoint-60").symlink_to(tmp_path / "nowhere")
    valid_ones = [
        folder.name
        for _, folder in list_names(tmp_path)
        if isinstance(validate_checkpoint(folder), CheckpointInfo)
    ]
    assert valid_ones == ["checkpoint-10"]
    assert [one.step for one in list_checkpoints(tmp_path)] == [10]
    for name in ("checkpoint-20", "checkpoint-30", "checkpoint-50"):
        assert "\n" not in refused(tmp_path / name)
