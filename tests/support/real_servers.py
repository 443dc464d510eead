"""Servers that a lab has, started for tests: PostgreSQL, a store like S3, MLflow with a login.

    with postgresql() as database, s3() as bucket:
        server = Server(folder, database.uri, "--artifacts-destination", bucket.uri, ...)

PostgreSQL is the distribution's (`apt-get install postgresql`), which `.ci/run` installs where it
is missing; the store is moto's, in an environment of its own.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from steps.cache_folder import cache_folder
from steps.digests import file_sha256
from tests.support.extras import extra_folder, installed
from tests.support.server import Server

HERE = Path(__file__).parent
# What the tests' own databases and buckets are opened with.
PASSWORD = "password-of-the-tests"
BUCKET = "lab"


@dataclass(frozen=True)
class Database:
    """A running PostgreSQL with an empty database.

    Attributes:
        port: On this machine.
        uri: With user and password, for a server before it.
    """

    port: int
    uri: str


@dataclass(frozen=True)
class Bucket:
    """A running store like S3, with an empty bucket.

    Attributes:
        uri: Of the bucket.
        environment: By which clients find and may use it.
    """

    uri: str
    environment: Mapping[str, str]


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def postgresql_programs() -> Path:
    """The folder of PostgreSQL's own programs, the newest where there are several."""
    folders = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    found = shutil.which("initdb")
    if found and not folders:
        folders = [Path(found).resolve().parent]
    if not folders:
        raise RuntimeError("no PostgreSQL here: apt-get install postgresql")
    return max(
        folders, key=lambda path: [int(n) for n in path.parent.name.split(".") if n.isdigit()]
    )


@contextmanager
def postgresql() -> Iterator[Database]:
    """A PostgreSQL of this test's own, with a password, gone at the end."""
    programs, port = postgresql_programs(), free_port()
    # It refuses to run as root, and another user may not enter pytest's folders.
    user = "postgres" if os.getuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="postgresql-", dir="/tmp"))
    try:
        password = folder / "password"
        password.write_text(PASSWORD, encoding="ascii")
        if user is not None:
            for path in (folder, password):
                shutil.chown(path, user)

        def run(program: str, *arguments: str) -> None:
            subprocess.run(
                [str(programs / program), *arguments],
                user=user,
                cwd=folder,
                env={**os.environ, "PGPASSWORD": PASSWORD, "LC_ALL": "C.UTF-8"},
                check=True,
                stdout=subprocess.DEVNULL,
            )

        data = str(folder / "data")
        run("initdb", "-D", data, "-U", "lab", "--auth=scram-sha-256", f"--pwfile={password}", "-N")
        # A test's data may be lost with the machine: no waiting for the disk.
        options = f"-p {port} -h 127.0.0.1 -k {folder} -c fsync=off"
        run("pg_ctl", "-D", data, "-o", options, "-l", str(folder / "log"), "-w", "start")
        try:
            run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "lab", "mlflow")
            yield Database(port, f"postgresql://lab:{PASSWORD}@127.0.0.1:{port}/mlflow")
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def moto_python() -> Path:
    """The interpreter of moto's environment; made where there is none yet."""
    requirements = HERE / "moto.txt"
    folder = cache_folder() / "extras" / f"moto-{file_sha256(requirements)[:12]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / "whole").exists():
            shutil.rmtree(folder, ignore_errors=True)
            uv = ["uv"] if shutil.which("uv") else [sys.executable, "-m", "uv"]
            subprocess.run([*uv, "venv", "-q", "--python", sys.executable, str(folder)], check=True)
            install = [*uv, "pip", "install", "-q", "--python", str(folder)]
            subprocess.run([*install, "-r", str(requirements)], check=True)
            (folder / "whole").touch()
    return folder / "bin" / "python"


@contextmanager
def s3() -> Iterator[Bucket]:
    """A store that answers as S3 does, with an empty bucket."""
    import requests

    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [str(moto_python()), "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 120
        while True:
            with suppress(OSError):
                if requests.put(f"{endpoint}/{BUCKET}", timeout=10).ok:
                    break
            assert process.poll() is None and time.monotonic() < end, "moto does not answer"
            time.sleep(0.2)
        keys = {"AWS_ACCESS_KEY_ID": "lab", "AWS_SECRET_ACCESS_KEY": PASSWORD}
        yield Bucket(
            f"s3://{BUCKET}/mlflow",
            {**keys, "MLFLOW_S3_ENDPOINT_URL": endpoint, "AWS_DEFAULT_REGION": "us-east-1"},
        )
    finally:
        process.kill()
        process.wait()


def python_path(*folders: Path) -> str:
    """A `PYTHONPATH` of folders, and what this process has in its own."""
    return os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)


@contextmanager
def lab_server(
    folder: Path, database: Database, bucket: Bucket, *, proxied: bool
) -> Iterator[Server]:
    """MLflow with a login, on PostgreSQL and S3.

    Args:
        folder: For its log and its list of users.
        database: Of its runs.
        bucket: Of its artifacts.
        proxied: Whether they pass through it, so that clients need no keys of the bucket.
    """
    configuration = folder / "basic_auth.ini"
    configuration.write_text(
        "[mlflow]\ndefault_permission = READ\nadmin_username = admin\n"
        f"admin_password = {PASSWORD}\ndatabase_uri = sqlite:///{folder / 'users.db'}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n",
        encoding="utf-8",
    )
    packages = [extra_folder("postgres"), extra_folder("s3"), installed(HERE / "basic_auth.txt")]
    places = (
        ("--artifacts-destination", bucket.uri)
        if proxied
        else ("--default-artifact-root", bucket.uri, "--no-serve-artifacts")
    )
    server = Server(
        folder,
        database.uri,
        *("--app-name", "basic-auth", *places),
        environment={
            **bucket.environment,
            "PYTHONPATH": python_path(*packages),
            "MLFLOW_AUTH_CONFIG_PATH": str(configuration),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": PASSWORD,
        },
    )
    server.start()
    try:
        yield server
    finally:
        server.kill()
