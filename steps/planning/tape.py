"""Tensors with a size and no content, and what autograd and autocast do to them.

A `Tape` offers the operations that the layers of a transformer are made of. Each allocates
its result, saves what its derivative needs, and knows what its backward pass allocates; the
`Meter` keeps the largest sum of what lives. Python's reference counts play torch's.
"""

import heapq
import math
import weakref
from collections.abc import Callable, Sequence
from functools import partial

from steps.models.devices import Device
from steps.planning.tensors import Backward, Leaf, Meter, Node, Storage, Tensor

# bitsandbytes: weights to a first-level block.
NF4_BLOCK = 64

# More documents than this are replayed in as many groups; only a fleeting tensor changes by that.
REPLAYED_DOCUMENTS = 8

# State of torch's random number generator, which a checkpointed layer keeps to draw the same
# dropout again. Always in host memory.
RANDOM_STATE_BYTES = 5056


class _Recomputed(Exception):
    """The recomputation has made the last saved tensor: torch stops it there, too."""


class _Frame:
    """A checkpointed layer: what it saves is counted, dropped, and made again when asked for."""

    def __init__(self) -> None:
        self.random_state: Tensor | None = None
        self.handles: list[weakref.ref[Callable[[], Tensor]]] = []
        self.layer: Callable[[], object] | None = None
        self.made: dict[int, Tensor] | None = None
        self.position = 0


class Tape:
    """The operations, as torch's autograd and autocast treat them.

    Sizes are in elements, `width` is bytes an element. Each operation allocates its result,
    saves what its derivative needs, and knows what its backward pass allocates.
    """

    def __init__(self, meter: Meter, half: int | None, device: Device, kv_width: int) -> None:
        self.meter, self.half, self.device, self.kv_width = meter, half, device, kv_width
        self.part = "activations"
        self.number = 0
        self.frame: _Frame | None = None
        self.weight_copies: dict[int, Tensor] = {}

    def new(self, elements: int, width: int, part: str | None = None) -> Tensor:
        """Allocate a tensor."""
        return Tensor(Storage(self.meter, part or self.part, elements * width), elements, width)

    def attach(self, out: Tensor, inputs: Sequence[Tensor], run: Backward) -> Tensor:
        """Put an operation into the graph, if anything above it is trained."""
        if any(x.node is not None for x in inputs):
            self.number += 1
            out.node = Node(self.number, [x.node for x in inputs], run)
        return out

    def save(self, tensor: Tensor) -> Callable[[], Tensor | None]:
        """Keep a tensor for the backward pass; the result hands it out, once."""
        frame = self.frame
        if frame is None:
            held = [tensor.view()]
            return held.pop
        if frame.made is None:
            handle = partial(self.fetch, frame, len(frame.handles))
            frame.handles.append(weakref.ref(handle))
            return handle
        # What nobody will ask for, as its part of the graph is gone, is not kept either.
        if frame.handles[frame.position]() is not None:
            frame.made[frame.position] = tensor.view()
        frame.position += 1
        if frame.position == len(frame.handles):
            raise _Recomputed
        return lambda: None

    def fetch(self, frame: _Frame, index: int) -> Tensor:
        """Hand out what a checkpointed layer saved, recomputing the layer the first time."""
        if frame.made is None:
            assert frame.layer is not None
            frame.made = {}
            outer = self.frame, self.weight_copies, self.part
            self.frame, self.weight_copies, self.part = frame, {}, "activations"
            state_meanwhile = self._random_state()
            try:
                frame.layer()
            except _Recomputed:
                pass
            finally:
                self.frame, self.weight_copies, self.part = outer
                del state_meanwhile
        return frame.made.pop(index)

    def checkpoint(
        self, layer: Callable[[Tensor], Tensor], hidden: Tensor, offloads: bool = False
    ) -> Tensor:
        """Run a layer as torch's non-reentrant checkpoint does.

        Args:
            layer: The layer.
            hidden: Its input, kept for the recomputation.
            offloads: Keep a copy in host memory instead (`torch.autograd.graph.save_on_cpu`);
                where the host is the device, that copy counts like any tensor.
        """
        on_host = self.device == "cpu"
        elements, width, node = hidden.elements, hidden.width, hidden.node
        copy = self.new(elements, width) if offloads and on_host else None
        frame = self.frame = _Frame()
        frame.random_state = self._random_state()
        out = layer(hidden)
        self.frame = None

        def again() -> None:
            source = copy if on_host else self.new(elements, width)
            assert source is not None
            layer(Tensor(source.storage, elements, width, node))

        frame.layer = again if offloads else lambda: layer(hidden)
        return out

    def _random_state(self) -> Tensor | None:
        return self.new(RANDOM_STATE_BYTES, 1) if self.device == "cpu" else None

    def operation(
        self,
        out: Tensor,
        inputs: Sequence[Tensor],
        saved: Sequence[Tensor] = (),
        scratch: int = 0,
        flattens: bool = False,
    ) -> Tensor:
        """An operation whose backward pass makes one new tensor for each input that wants one.

        Args:
            out: The result.
            inputs: What it was computed from.
            saved: What its derivative needs.
            scratch: Bytes that its backward pass takes for itself.
            flattens: Whether it reshapes its first input, so that the gradient is reshaped back.
        """
        wanted = any(x.node is not None for x in inputs)
        sizes = [(x.elements, x.width) if x.node is not None else None for x in inputs]
        handles = [self.save(x) for x in saved] if wanted else []

        def run(gradient: Tensor) -> list[Tensor | None]:
            values = [take() for take in handles]
            own = self.new(scratch, 1)
            results = [None if size is None else self.new(*size) for size in sizes]
            if results[0] is not None:
                results[0].reshaped = flattens
            del values, own
            return results

        return self.attach(out, inputs, run)

    # Elementwise and copying operations.

    def cast(self, x: Tensor, width: int) -> Tensor:
        """`to(dtype)`: nothing where the number format is that already."""
        return x if x.width == width else self.operation(self.new(x.elements, width), [x])

    def copy(self, x: Tensor) -> Tensor:
        """`clone`: its gradient is the one it is given."""
        return self.attach(self.new(x.elements, x.width), [x], lambda g: [g.view()])

    def scale(self, x: Tensor) -> Tensor:
        """Times a number, or any elementwise operation that saves nothing."""
        return self.operation(self.new(x.elements, x.width), [x])

    def rearrange(self, x: Tensor) -> Tensor:
        """A transposed view: no memory, but its gradient is laid out anew."""
        return self.operation(x.view(), [x])

    def slice(self, x: Tensor, elements: int) -> Tensor:
        """A part of a tensor, a view; its gradient is as large as the whole."""
        return self.operation(Tensor(x.storage, elements, x.width), [x])

    def concatenate(self, pieces: Sequence[Tensor]) -> Tensor:
        """A new tensor, whose gradient is handed on in views."""
        out = self.new(sum(piece.elements for piece in pieces), pieces[0].width)
        sizes = [piece.elements for piece in pieces]
        return self.attach(out, pieces, lambda g: [Tensor(g.storage, n, g.width) for n in sizes])

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """A sum in the wider number format; its gradient is handed on, cast where it must be."""
        widths = (a.width, b.width)
        widened = [self._widened(x, max(widths)) for x in (a, b)]
        out = self.new(max(a.elements, b.elements), max(widths))
        del widened

        def run(g: Tensor) -> list[Tensor | None]:
            return [g.view() if w == g.width else self.new(g.elements, w) for w in widths]

        return self.attach(out, [a, b], run)

    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        """A product, of which one factor may be broadcast."""
        width = max(a.width, b.width)
        widened = [self._widened(x, width) for x in (a, b)]
        out = self.new(max(a.elements, b.elements), width)
        del widened
        sizes = [(x.elements, x.width) for x in (a, b)]
        saved = [
            (of, self.save(other)) for of, x, other in ((0, a, b), (1, b, a)) if x.node is not None
        ]

        def run(g: Tensor) -> list[Tensor | None]:
            values = [(of, take()) for of, take in saved]
            # Both products have the full size before a broadcast factor's is summed up; torch
            # computes the second factor's first.
            full: list[Tensor | None] = [None, None]
            for of, other in reversed(values):
                assert other is not None
                widened = self._widened(other, g.width)
                full[of] = self.new(g.elements, g.width)
                del widened
            del values, other
            return [
                None if x is None else x if (x.elements, x.width) == size else self.new(*size)
                for x, size in zip(full, sizes, strict=True)
            ]

        return self.attach(out, [a, b], run)

    def _widened(self, x: Tensor, width: int) -> Tensor | None:
        """The copy of a narrower operand that the CPU's elementwise operations take for their time.

        CUDA's read it as it is (`TensorIterator`, `promote_inputs_to_common_dtype`).
        """
        return self.new(x.elements, width) if self.device == "cpu" and x.width < width else None

    def activation(self, x: Tensor) -> Tensor:
        """SiLU or GELU, whose derivative needs the argument."""
        return self.operation(self.new(x.elements, x.width), [x], saved=[x])

    def softmax(self, x: Tensor) -> Tensor:
        """Softmax, its logarithm, or a reciprocal root: the derivative needs the result."""
        out = self.new(x.elements, x.width)
        return self.operation(out, [x], saved=[out])

    def dropout(self, x: Tensor, probability: float) -> Tensor:
        """Dropout: the CPU keeps a mask in the tensor's own number format, CUDA one byte."""
        if probability == 0.0:
            return x
        mask = self.new(x.elements, x.width if self.device == "cpu" else 1)
        return self.operation(self.new(x.elements, x.width), [x], saved=[mask])

    def embedding(self, table: Tensor, elements: int) -> Tensor:
        """Rows of a table, whose gradient is as large as the table."""
        return self.operation(self.new(elements, table.width), [table])

    # Norms.

    def rms_norm(self, x: Tensor, weight: Tensor, rows: int) -> Tensor:
        """`LlamaRMSNorm.forward`, line by line."""
        hidden = self.cast(x, 4)
        squares = self._square(hidden)
        mean = self.operation(self.new(rows, 4), [squares])
        del squares
        shifted = self.scale(mean)
        del mean
        inverse = self.softmax(shifted)
        del shifted
        hidden = self.multiply(hidden, inverse)
        hidden = self.cast(hidden, x.width)
        return self.multiply(weight, hidden)

    def _square(self, x: Tensor) -> Tensor:
        # The derivative of a power makes the lower power and its multiple on the way.
        size = x.elements * x.width
        return self.operation(self.new(x.elements, x.width), [x], saved=[x], scratch=2 * size)

    def layer_norm(self, x: Tensor, weight: Tensor, rows: int) -> Tensor:
        """LayerNorm; autocast computes it in float32 on CUDA. `weight` holds the bias, too."""
        in_float = self.half is not None and self.device == "cuda"
        source = self.cast(x, 4) if in_float else x
        factor = self.cast(weight, 4) if in_float else weight
        out = self.new(source.elements, source.width)
        # The mean and the deviation of each row.
        statistics = self.new(2 * rows, source.width)
        return self.operation(out, [source, factor], saved=[source, factor, statistics])

    # Matrix products.

    def for_product(self, x: Tensor) -> Tensor:
        """What autocast makes of an argument of a matrix product.

        The copy of a float32 weight that is trained is cached until the forward pass ends.
        """
        if self.half is None or x.width == self.half:
            return x
        if not isinstance(x.node, Leaf):
            return self.cast(x, self.half)
        if id(x) not in self.weight_copies:
            self.weight_copies[id(x)] = self.cast(x, self.half)
        return self.weight_copies[id(x)]

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None, rows: int) -> Tensor:
        """`rows` vectors times a weight."""
        outputs = weight.elements // (x.elements // rows)
        # The caller's tensors outlive autocast's copies of them: they keep their names.
        offset = [] if bias is None else [self.for_product(bias)]
        factor = self.for_product(weight)
        vectors = self.for_product(x)
        out = self.new(rows * outputs, vectors.width)
        # The vectors of all rows become one matrix for it.
        return self.product(out, vectors, factor, offset, flattens=True)

    def product(
        self,
        out: Tensor,
        a: Tensor,
        b: Tensor,
        offset: Sequence[Tensor] = (),
        flattens: bool = False,
    ) -> Tensor:
        """A matrix product: each factor is saved for the other's gradient."""
        saved = [x for x, other in ((a, b), (b, a)) if other.node is not None]
        return self.operation(out, [a, b, *offset], saved=saved, flattens=flattens)

    def quantized_linear(
        self, x: Tensor, weights: int, outputs: int, bits: int, rows: int
    ) -> Tensor:
        """A product with a frozen 4-bit or 8-bit weight, which is dequantised for its time."""
        width = self.half or 4
        vectors = self.cast(x, width)
        out = self.new(rows * outputs, width)
        # The dequantised weight, and with double quantisation its scales.
        scratch = weights * width + (4 * math.ceil(weights / NF4_BLOCK) if bits == 4 else 0)
        plain = self.new(scratch, 1)
        del plain
        self.operation(out, [vectors], scratch=scratch)
        recomputing = self.frame is not None and self.frame.made is not None
        if bits == 8 and isinstance(out.node, Node) and not recomputing:
            # bitsandbytes hangs the input on `ctx`, where checkpointing does not reach it.
            out.node.kept.append(vectors.view())
        return out

    # Attention.

    def rotate(self, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """`apply_rotary_pos_emb` of queries or keys."""
        straight = self.multiply(x, cosines)
        first, second = self.slice(x, x.elements // 2), self.slice(x, x.elements // 2)
        turned = self.concatenate([self.scale(second), first])
        crossed = self.multiply(turned, sines)
        del turned, first, second
        return self.add(straight, crossed)

    def attention(
        self, q: Tensor, k: Tensor, v: Tensor, heads: int, rows: int, dropout: float
    ) -> Tensor:
        """`per_document_sdpa`: one call for each of the rows, and the outputs joined."""
        length = k.elements // self.kv_width // rows
        calls = min(rows, REPLAYED_DOCUMENTS)
        outputs = []
        for call in range(calls):
            together = rows * (call + 1) // calls - rows * call // calls
            parts = [
                x if rows == 1 else self.slice(x, x.elements // rows * together) for x in (q, k, v)
            ]
            outputs.append(self._sdpa(parts, heads, together, length, dropout))
            del parts
        return self.concatenate(outputs)

    def _sdpa(
        self, parts: list[Tensor], heads: int, documents: int, length: int, dropout: float
    ) -> Tensor:
        q, k, v = (self.for_product(part) for part in parts)
        if self.device == "cpu" and dropout > 0:
            weights = heads * length**2 * documents
            return self._sdpa_with_all_weights(q, k, v, weights, dropout)
        out = self.new(q.elements, q.width)
        normalisers = self.new(heads * length * documents, 4)
        # Flash attention on CUDA sums the queries' gradient up in float32.
        scratch = 4 * q.elements if self.device == "cuda" else 0
        return self.operation(out, [q, k, v], saved=[q, k, v, out, normalisers], scratch=scratch)

    def _sdpa_with_all_weights(
        self, q: Tensor, k: Tensor, v: Tensor, weights: int, dropout: float
    ) -> Tensor:
        """SDPA's plain path, which dropout on the CPU takes: length x length weights a head."""
        queries, keys, values = self.cast(q, 4), self.cast(k, 4), self.cast(v, 4)
        queries, keys = self.scale(queries), self.scale(keys)
        scores = self.product(self.new(weights, 4), queries, keys)
        del queries, keys
        probabilities = self.softmax(scores)
        del scores
        probabilities = self.dropout(probabilities, dropout)
        # SDPA hands back a cast copy of the weights, which nobody reads.
        unread = self.new(weights if q.width != 4 else 0, q.width)
        out = self.cast(self.product(self.new(q.elements, 4), probabilities, values), q.width)
        del unread
        return out

    # The backward pass.

    def backward(self, root: Tensor, layer_of: Callable[[int], str]) -> None:
        """Autograd's engine: latest operation first, gradients summed where paths meet.

        Args:
            root: The loss.
            layer_of: The moment that an operation's number belongs to.
        """
        assert root.node is not None
        waiting: dict[Node | Leaf, int] = {}
        stack = [root.node]
        seen = {root.node}
        while stack:
            node = stack.pop()
            for source in node.inputs if isinstance(node, Node) else ():
                if source is not None:
                    waiting[source] = waiting.get(source, 0) + 1
                    if source not in seen:
                        seen.add(source)
                        stack.append(source)
        del seen
        buffers: dict[Node | Leaf, Tensor] = {root.node: self.new(1, root.width)}
        assert isinstance(root.node, Node)
        ready = [(-root.node.number, root.node)]
        while ready:
            _, node = heapq.heappop(ready)
            self.meter.enter(layer_of(node.number))
            gradient = buffers.pop(node)
            assert node.run is not None
            results = node.run(gradient)
            # What the operation saved dies with its closure.
            node.run = None
            del gradient
            for i, source in enumerate(node.inputs):
                if source is None:
                    continue
                part = results[i]
                results[i] = None
                assert part is not None
                self._receive(buffers, source, part)
                del part
                waiting[source] -= 1
                if waiting[source] == 0:
                    if isinstance(source, Leaf):
                        self._accumulate(source, buffers.pop(source))
                    else:
                        heapq.heappush(ready, (-source.number, source))

    def _receive(self, buffers: dict[Node | Leaf, Tensor], node: Node | Leaf, part: Tensor) -> None:
        held = buffers.get(node)
        if held is None:
            buffers[node] = part
        elif held.storage.users > 1 or held.reshaped:
            # Someone else still reads it, or may: the sum needs memory of its own.
            buffers[node] = self.new(held.elements, held.width)

    def _accumulate(self, leaf: Leaf, gradient: Tensor) -> None:
        if leaf.gradient is not None:
            return
        if gradient.storage.users == 1:
            gradient.storage.move_to(leaf.part)
            leaf.gradient = gradient
        else:
            leaf.gradient = self.new(gradient.elements, gradient.width, leaf.part)
