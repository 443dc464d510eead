"""Tensors that have a size and no content, and the meter that counts the living ones."""

from collections.abc import Callable

PARTS = ("weights", "adapter", "gradients", "optimizer", "activations", "logits", "reserve")


class Meter:
    """Sums up what lives, by part, and remembers the peak of each moment."""

    def __init__(self) -> None:
        self.live = dict.fromkeys(PARTS, 0)
        self.total = 0
        self.moment = "forward"
        self.peaks: dict[str, int] = {}
        self.parts: dict[str, dict[str, int]] = {}

    def enter(self, moment: str) -> None:
        """Begin a moment of the step."""
        self.moment = moment
        self.note()

    def add(self, part: str, size: int) -> None:
        """Count `size` more bytes as living, or fewer where it is negative."""
        self.live[part] += size
        self.total += size
        if size > 0:
            self.note()

    def note(self) -> None:
        """Remember what lives if it is more than ever in this moment."""
        if self.total > self.peaks.get(self.moment, -1):
            self.peaks[self.moment] = self.total
            self.parts[self.moment] = dict(self.live)


class Storage:
    """Memory that one or more tensors look at; it is freed with the last of them."""

    __slots__ = ("meter", "part", "size", "users")

    def __init__(self, meter: Meter, part: str, size: int) -> None:
        self.meter, self.part, self.size, self.users = meter, part, size, 0
        meter.add(part, size)

    def move_to(self, part: str) -> None:
        """Count this memory as another part."""
        self.meter.live[self.part] -= self.size
        self.meter.live[part] += self.size
        self.part = part


class Tensor:
    """A size in a storage.

    Python's reference counts are torch's: when the last one goes, the memory is free. So a
    local variable of the replay lives as long as its model in the real code.
    """

    __slots__ = ("elements", "node", "reshaped", "storage", "width")

    def __init__(
        self, storage: Storage, elements: int, width: int, node: "Node | Leaf | None" = None
    ) -> None:
        self.storage, self.elements, self.width, self.node = storage, elements, width, node
        # A gradient that is a view of another tensor: autograd adds nothing to it in place.
        self.reshaped = False
        storage.users += 1

    def __del__(self) -> None:
        self.storage.users -= 1
        if self.storage.users == 0:
            self.storage.meter.add(self.storage.part, -self.storage.size)

    def view(self) -> "Tensor":
        """The same memory, outside the graph."""
        return Tensor(self.storage, self.elements, self.width)


Backward = Callable[[Tensor], list[Tensor | None]]


class Node:
    """An operation in autograd's graph."""

    __slots__ = ("inputs", "kept", "number", "run")

    def __init__(self, number: int, inputs: "list[Node | Leaf | None]", run: Backward) -> None:
        self.number, self.inputs = number, inputs
        self.run: Backward | None = run
        # Attributes of a custom function's `ctx`: freed with the graph, not after the node's turn.
        self.kept: list[Tensor] = []


class Leaf:
    """A trained weight, which collects its gradient."""

    __slots__ = ("gradient", "part", "size", "width")

    def __init__(self, size: int, width: int, part: str = "gradients") -> None:
        self.size, self.width, self.part = size, width, part
        self.gradient: Tensor | None = None
