"""Bundles of paper files give the files that may hold papers, and say what is wrong."""

import gzip
import io
import random
import tarfile
import tracemalloc
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from steps.config.paper_sections import Limits
from steps.errors import UserError
from steps.papers.file_bytes import Bytes
from steps.papers.formats.bundles import (
    is_parquet,
    is_tar,
    is_zip,
    tar_members,
    zip_members,
)

LIMITS = Limits(max_decompressed_bytes=10_000_000)
PACKAGE = {
    "PMC1/foo.nxml": b"<article>1</article>",
    "PMC1/foo.pdf": b"%PDF",
    "PMC1/fig1.JPG": b"jpg",
    "PMC1/fig1.gif": b"gif",
    "__MACOSX/PMC1/._foo.nxml": b"junk",
    "PMC1/._foo.nxml": b"junk",
    "PMC1/.DS_Store": b"junk",
    "README": b"read me",
    "PMC1/LICENSE": b"licence",
    "PMC1/license.txt": b"licence",
    "PMC1/index.html": b"<html>",
    "PMC1/table.csv.gz": gzip.compress(b"title\n"),
    "PMC1/movie.pdf.gz": gzip.compress(b"%PDF"),
    "PMC2/empty.xml": b"",
    "no_suffix": b"<article>2</article>",
}
PAPERS = ["PMC1/foo.nxml", "PMC1/table.csv.gz", "PMC2/empty.xml", "no_suffix"]


def tar(files: Any = PACKAGE, layout: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=layout) as bundle:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            bundle.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def opened(content: bytes, name: str = "b.tar") -> Bytes:
    return Bytes(io.BytesIO(content), name, LIMITS.max_decompressed_bytes)


def zipped(path: Path, files: Any = PACKAGE, packing: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", packing) as bundle:
        for name, content in files.items():
            bundle.writestr(name, content)
    return path


def read(members: Iterable[tuple[str, IO[bytes]]]) -> dict[str, bytes]:
    return {name: file.read() for name, file in members}


def error_of(members: Iterable[tuple[str, IO[bytes]]]) -> str:
    with pytest.raises(UserError) as caught:
        read(members)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what is read ------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.ZstdCompressor().compress])
def test_a_tar_gives_the_files_that_may_hold_papers(layout: int, pack: Any) -> None:
    found = read(tar_members(opened(pack(tar(layout=layout))), LIMITS))
    assert found == {name: PACKAGE[name] for name in PAPERS}
    assert list(found) == PAPERS


@pytest.mark.parametrize(
    "packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_a_zip_gives_the_files_that_may_hold_papers(tmp_path: Path, packing: int) -> None:
    found = read(zip_members(zipped(tmp_path / "b.zip", packing=packing), LIMITS))
    assert found == {name: PACKAGE[name] for name in PAPERS}
    assert list(found) == PAPERS


def test_files_that_are_not_read_are_stepped_over(tmp_path: Path) -> None:
    names = [name for name, _ in tar_members(opened(tar()), LIMITS)]
    assert names == PAPERS
    assert [name for name, _ in zip_members(zipped(tmp_path / "b.zip"), LIMITS)] == PAPERS


def test_folders_links_and_devices_are_passed_over(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as bundle:
        for name, kind in (
            ("dir.xml", tarfile.DIRTYPE), ("sym.xml", tarfile.SYMTYPE),
            ("hard.xml", tarfile.LNKTYPE),
            ("pipe.xml", tarfile.FIFOTYPE), ("device.xml", tarfile.CHRTYPE),
        ):  # fmt: skip
            member = tarfile.TarInfo(name)
            member.type = kind
            member.linkname = "/etc/passwd"
            bundle.addfile(member)
    assert read(tar_members(opened(buffer.getvalue()), LIMITS)) == {}
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as bundle_zip:
        bundle_zip.mkdir("dir.xml")
        link = zipfile.ZipInfo("sym.xml")
        link.external_attr = 0o120777 << 16
        bundle_zip.writestr(link, "/etc/passwd")
    assert read(zip_members(tmp_path / "b.zip", LIMITS)) == {}


def test_names_can_be_shown_and_lead_nowhere(tmp_path: Path) -> None:
    names = ["../../evil.xml", "/root/a.xml", "a\x1b[31m.xml", "b\nc.xml"]
    files = dict.fromkeys(names, b"x")
    shown = ["../../evil.xml", "/root/a.xml", "a\\x1b[31m.xml", "b c.xml"]
    assert list(read(tar_members(opened(tar(files)), LIMITS))) == shown
    assert list(read(zip_members(zipped(tmp_path / "b.zip", files), LIMITS))) == shown
    latin = tar({"M\udcfcller.xml": b"x"}, tarfile.GNU_FORMAT)
    assert list(read(tar_members(opened(latin), LIMITS))) == ["M\\udcfcller.xml"]


def test_a_file_is_read_in_pieces_and_by_other_readers() -> None:
    content = bytes(range(256)) * 2000
    for _, file in tar_members(opened(tar({"a.xml": content})), LIMITS):
        inner = Bytes(file, "a.xml", 10_000_000)
        assert inner.head(10) == content[:10]
        assert inner.read() == content


def test_bundles_within_are_passed_over_and_said_once(tmp_path: Path) -> None:
    files = {"a/x.zip": b"PK", "b.tar.gz": b"", "c.tgz": b"", "p.xml": b"x"}
    said: list[str] = []
    assert list(read(tar_members(opened(tar(files)), LIMITS, said.append))) == ["p.xml"]
    zipped(tmp_path / "b.zip", {"a/x.zip": b"PK"})
    assert read(zip_members(tmp_path / "b.zip", LIMITS, said.append)) == {}
    assert said == [
        "b.tar: passed over 'a/x.zip' and 2 more, bundles within the bundle: "
        "unpack it to read them",
        "b.zip: passed over 'a/x.zip', bundles within the bundle: unpack it to read them",
    ]


def test_memory_does_not_grow_with_the_number_of_files() -> None:
    content = tar({f"PMC{number}.xml": b"x" * 600 for number in range(5000)})
    source = opened(content)
    tracemalloc.start()
    count = sum(1 for _, file in tar_members(source, Limits()) if file.read())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 5000
    assert peak < 3_000_000


# --- what is wrong -----------------------------------------------------------------------

TWO = {"a.xml": b"a" * 3000, "b.xml": b"b" * 3000}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            tar(TWO)[:2000],
            "b.tar: corrupt or truncated tar, in or after 'a.xml' (unexpected end of data): "
            "pack or download it again",
        ),
        (
            tar(TWO)[:3700],
            "b.tar: corrupt or truncated tar, in or after 'a.xml' (truncated header): "
            "pack or download it again",
        ),
        (
            tar(TWO)[:3600] + b"\xff" * 512 + tar(TWO)[4112:],
            "b.tar: corrupt or truncated tar, in or after 'a.xml' (bad checksum): "
            "pack or download it again",
        ),
        (
            b"no tar" * 200,
            "b.tar: corrupt or truncated tar (invalid header): pack or download it again",
        ),
        (b"", "b.tar: corrupt or truncated tar (empty file): pack or download it again"),
    ],
)
def test_a_broken_tar_is_refused_in_one_line(content: bytes, message: str) -> None:
    assert error_of(tar_members(opened(content), LIMITS)) == message


def test_going_on_behind_a_truncated_file_is_an_error_again() -> None:
    members = tar_members(opened(tar(TWO)[:2000]), LIMITS)
    _, file = next(members)
    with pytest.raises(UserError, match="unexpected end of data"):
        file.read()
    with pytest.raises(UserError, match="in or after 'a.xml'"):
        next(members)


def test_a_broken_packing_of_a_tar_is_named() -> None:
    packed = bytearray(gzip.compress(tar({"a.xml": random.Random(0).randbytes(50_000)})))
    assert "b.tar.gz: corrupt gzip data after" in error_of(
        tar_members(opened(bytes(packed[:20_000]), "b.tar.gz"), LIMITS)
    )
    packed[-6] ^= 1  # the checksum, which stands behind all that tar reads
    said = error_of(tar_members(opened(bytes(packed), "b.tar.gz"), LIMITS))
    assert said.startswith("b.tar.gz: corrupt gzip data after")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (tar(TWO)[: 2 * 3584], "b.tar: has no end marker: it may be cut short"),
        (
            tar(TWO) + tar(TWO),
            "b.tar: goes on behind its end marker, which is not read: are several tars joined?",
        ),
    ],
)
def test_a_doubtful_end_is_said(content: bytes, line: str) -> None:
    said: list[str] = []
    assert read(tar_members(opened(content), LIMITS, said.append)) == TWO
    assert said == [line]


def test_a_name_that_would_fill_the_memory_is_refused() -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type = tarfile.GNUTYPE_LONGNAME
    header.size = 1 << 33
    content = header.tobuf(tarfile.GNU_FORMAT) + bytes(1024)
    assert "(a name or attributes of 8589934592 bytes)" in error_of(
        tar_members(opened(content), LIMITS)
    )


def test_a_broken_zip_is_refused_in_one_line(tmp_path: Path) -> None:
    path = zipped(tmp_path / "b.zip", TWO, zipfile.ZIP_STORED)
    content = path.read_bytes()
    path.write_bytes(content[:-30])
    assert error_of(zip_members(path, LIMITS)) == (
        "b.zip: corrupt or truncated zip (File is not a zip file): pack or download it again"
    )
    path.write_bytes(content.replace(b"aaaa", b"aaab", 1))
    assert error_of(zip_members(path, LIMITS)) == (
        "b.zip: 'a.xml': corrupt or truncated zip (Bad CRC-32 for file 'a.xml'): "
        "pack or download it again"
    )
    path.unlink()
    assert error_of(zip_members(path, LIMITS)).startswith(
        "b.zip: corrupt or truncated zip ([Errno 2]"
    )


def test_packed_bytes_of_a_zip_that_are_broken_are_named(tmp_path: Path) -> None:
    path = zipped(tmp_path / "b.zip", {"a.xml": random.Random(0).randbytes(1000).hex().encode()})
    content = bytearray(path.read_bytes())
    content[100:140] = bytes(40)
    path.write_bytes(content)
    assert error_of(zip_members(path, LIMITS)).startswith(
        "b.zip: 'a.xml': corrupt or truncated zip (Error -3 while decompressing data"
    )


def test_files_behind_an_unreadable_one_of_a_zip_are_read(tmp_path: Path) -> None:
    path = zipped(tmp_path / "b.zip", TWO)
    content = path.read_bytes()
    directory = content.index(b"PK\x01\x02")
    encrypted = bytearray(content)
    encrypted[6] |= 1  # flags of the file's header and of its entry in the directory
    encrypted[directory + 8] |= 1
    path.write_bytes(encrypted)
    members = zip_members(path, LIMITS)
    _, first = next(members)
    with pytest.raises(UserError) as caught:
        first.read()
    assert str(caught.value) == (
        "b.zip: 'a.xml': is encrypted: unpack the zip with its password first"
    )
    assert read(members) == {"b.xml": TWO["b.xml"]}

    unknown = bytearray(content)
    unknown[directory + 10] = unknown[8] = 97
    path.write_bytes(unknown)
    assert error_of(zip_members(path, LIMITS)) == (
        "b.zip: 'a.xml': packed in a way that is not read (That compression method is not "
        "supported): unpack it, and pack it again as .zip or .tar.gz"
    )


def test_a_zip_bomb_is_refused_whatever_its_directory_says(tmp_path: Path) -> None:
    path = zipped(tmp_path / "b.zip", {f"{n}.xml": bytes(4_000_000) for n in range(5)})
    said = (
        "b.zip: decompresses to more than 10000000 bytes: if the file is meant to be that large, "
        "raise scientific_data.limits.max_decompressed_bytes"
    )
    assert error_of(zip_members(path, LIMITS)) == said
    members = zip_members(path, LIMITS)
    for _ in range(2):
        next(members)[1].read()
    with pytest.raises(UserError):
        next(members)[1].read()
    with pytest.raises(UserError, match="decompresses to more than"):
        next(members)


def test_a_sparse_file_counts_as_what_it_expands_to() -> None:
    member = tarfile.TarInfo("a.xml")
    member.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (0, 0)
    header[483:495] = b"%011o\0" % 100_000_000
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    assert "decompresses to more than 10000000 bytes" in error_of(
        tar_members(opened(bytes(header) + bytes(1024)), LIMITS)
    )


# --- what a file is ----------------------------------------------------------------------


@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_is_known_by_its_header(layout: int) -> None:
    assert is_tar(tar(layout=layout)[:512])


def test_an_old_tar_is_known_by_its_checksum() -> None:
    header = bytearray(tar()[:512])
    header[257:265] = bytes(8)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    assert is_tar(header)
    header[0] ^= 1
    assert not is_tar(header)


@pytest.mark.parametrize("head", [b"", b"x", bytes(512), b"title,abstract\n" * 100, b"\xff" * 600])
def test_other_files_are_no_bundles(head: bytes) -> None:
    assert not is_tar(head)
    assert not is_zip(head)
    assert not is_parquet(head)


def test_zip_and_parquet_are_known_by_their_content(tmp_path: Path) -> None:
    bundle = zipped(tmp_path / "b.zip")
    assert is_zip(bundle.read_bytes())
    assert is_zip(zipped(tmp_path / "empty.zip", {}).read_bytes())
    buffer = io.BytesIO()
    pq.write_table(pa.table({"title": ["A"]}), buffer)
    assert is_parquet(buffer.getvalue())
