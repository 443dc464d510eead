"""A link to a server that counts the requests on it, and that can be slow, cut or away.

    with Link(server.port) as link:
        link.latency = 0.3
        ...                      # a client of link.uri
        link.requests            # Counter({"POST runs/search": 4, ...})

It passes bytes through and knows of HTTP no more than how a request begins.
"""

import queue
import re
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from types import TracebackType

REQUEST = re.compile(rb"(GET|POST|PUT|PATCH|DELETE|HEAD) (/\S*) HTTP/1\.[01]\r\n")
# No request's first line is longer.
LONGEST_LINE = 8192
# Ids in a path: of runs, experiments, models.
IDS = re.compile(r"[0-9a-f]{32}|m-[0-9a-f]{32}|(?<=/)\d+(?=/|$)")


class Link:
    """A TCP proxy in threads of this process, on a port of its own.

    Attributes:
        port: Where clients connect.
        uri: The same, as HTTP has it.
        latency: Seconds that a message takes, half of them in each direction.
        requests: How often each method and path was asked for, ids and queries left out.
        refused: Connections that were turned away.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        """Prepare a link to a port of this machine."""
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.uri = f"http://127.0.0.1:{self.port}"
        self.latency = 0.0
        self.requests: Counter[str] = Counter()
        self.refused = 0
        self._away_until = 0.0
        self._cut_after: int | None = None
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    @property
    def total(self) -> int:
        """Requests so far."""
        return self.requests.total()

    def __enter__(self) -> "Link":
        """Take connections."""
        threading.Thread(target=self._accept, daemon=True, name="link").start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Cut everything."""
        self._listener.close()
        self.cut()

    def refuse(self, seconds: float) -> None:
        """Cut what is open, and refuse connections for a while."""
        self._away_until = time.monotonic() + seconds
        self.cut()

    def cut(self) -> None:
        """Break all open connections, in the middle of whatever they carry."""
        with self._lock:
            for one in self._open:
                _break(one)

    def cut_every(self, requests: int | None) -> None:
        """From now on break the connection on which each so-many-th request comes, unanswered."""
        self._cut_after = requests

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if time.monotonic() < self._away_until:
                self.refused += 1
                client.close()
                continue
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        """Carry one connection until a side closes it."""
        # A connection is made in one round trip.
        time.sleep(self.latency)
        try:
            server = socket.create_connection(self._target)
        except OSError:
            client.close()
            return
        for one in (client, server):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._open |= {client, server}
        ways = [
            threading.Thread(target=self._pass_on, args=way, daemon=True)
            for way in ((client, server, True), (server, client, False))
        ]
        for way in ways:
            way.start()
        for way in ways:
            way.join()
        with self._lock:
            self._open -= {client, server}
        client.close()
        server.close()

    def _pass_on(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        """Pass on what comes, as late as the link is long; a broken side breaks the other."""
        waiting: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
        deliver = threading.Thread(target=_deliver, args=(waiting, sink), daemon=True)
        deliver.start()
        start = content = b""
        try:
            while content := source.recv(2**18):
                if counted:
                    start = self._count(start + content)
                waiting.put((time.monotonic() + self.latency / 2, content))
        except OSError:
            _break(source)
        waiting.put((time.monotonic() + self.latency / 2, b""))
        deliver.join()

    def _count(self, content: bytes) -> bytes:
        """Count the requests that begin here; gives what may be the beginning of the next."""
        end = 0
        for found in REQUEST.finditer(content):
            method, path = found[1].decode(), found[2].decode()
            with self._lock:
                self.requests[f"{method} {kind(path)}"] += 1
                number = self.requests.total()
            if self._cut_after and number % self._cut_after == 0:
                raise ConnectionResetError
            end = found.end()
        return content[max(end, len(content) - LONGEST_LINE) :]


def kind(path: str) -> str:
    """A path without its prefix, its query, and the names of what it is about."""
    path = path.partition("?")[0]
    path = re.sub(r"^/(api|ajax-api)/2\.0/", "", path).removeprefix("mlflow/")
    return IDS.sub("*", path)


def _deliver(waiting: "queue.SimpleQueue[tuple[float, bytes]]", sink: socket.socket) -> None:
    """Send what waits, each at its time, until the end of it."""
    while True:
        due, content = waiting.get()
        time.sleep(max(0.0, due - time.monotonic()))
        if not content:
            _break(sink)
            return
        try:
            sink.sendall(content)
        except OSError:
            _break(sink)
            return


def _break(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
