"""One training step, replayed: layers, adapters, losses and optimisers on a `Tape`.

The operations are those of transformers, peft, bitsandbytes and `steps.models.losses`, in
their order and with their local variables, because what lives how long decides the peak.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache

from steps.planning.shapes import CannotPlan, Shape, linears, other_weights
from steps.planning.sizes import StepSettings, nf4_bytes, optimizer_bytes
from steps.planning.tape import Tape
from steps.planning.tensors import Leaf, Meter, Tensor

# Positions whose logits exist at a time: `steps.models.losses.CHUNK`, whose module imports torch.
LOSS_CHUNK = 512

# Deeper models are extrapolated from this depth and the one before, see `replay`.
REPLAYED_LAYERS = 4


@lru_cache(maxsize=256)
def replay(shape: Shape, settings: StepSettings) -> tuple[dict[str, dict[str, int]], int]:
    """Peak parts of each moment of a step, and the number of trained weights.

    All layers are alike, so what lives at a given moment (during the loss, in the backward
    pass of the last layer, …) grows by the same bytes with each layer: two depths give
    every other, exactly.
    """
    if shape.layers <= REPLAYED_LAYERS + 1:
        return Step(replace(shape, notes=()), settings).run()
    fewer, fewer_trained = Step(replace(shape, layers=REPLAYED_LAYERS - 1), settings).run()
    more, more_trained = Step(replace(shape, layers=REPLAYED_LAYERS), settings).run()
    further = shape.layers - REPLAYED_LAYERS
    moments = {
        moment: {
            part: size + further * (size - fewer[moment].get(part, 0))
            for part, size in more[moment].items()
        }
        for moment in more
    }
    return moments, more_trained + further * (more_trained - fewer_trained)


@dataclass
class _Linear:
    """A linear layer: its weight (None where quantised), and its adapter."""

    rows: int
    columns: int
    weight: Tensor | None = None
    bias: Tensor | None = None
    lora: tuple[Tensor, Tensor] | None = None
    magnitude: Tensor | None = None


@dataclass
class Step:
    """One training step of a model, replayed."""

    shape: Shape
    settings: StepSettings
    meter: Meter = field(default_factory=Meter)
    leaves: list[Leaf] = field(default_factory=list)
    constant: list[Tensor] = field(default_factory=list)
    linears: dict[str, _Linear] = field(default_factory=dict)
    others: dict[str, Tensor] = field(default_factory=dict)

    def run(self) -> tuple[dict[str, dict[str, int]], int]:
        """Return the parts at the peak of each moment, and the number of trained weights.

        Raises:
            CannotPlan: Nothing is trained, as no layer is called what the adapter's targets are.
        """
        kv_width = self.shape.kv_heads * self.shape.head_width
        self.tape = Tape(self.meter, self.settings.half, self.settings.device, kv_width)
        self.meter.enter("loading")
        self._load()
        if not self.leaves:
            names = sorted({path.rpartition(".")[2] for path, *_ in linears(self.shape)})
            raise CannotPlan(
                f"qlora.target_modules is {self.settings.targets!r}, and none of the linear layers "
                f"that are planned for {self.shape.name} is called so: use all-linear, or some of "
                f"{', '.join(names)}"
            )
        moments = sum(optimizer_bytes(self.settings.optimizer, leaf) for leaf in self.leaves)
        self.constant.append(self.tape.new(moments, 1, "optimizer"))
        for _ in range(2 if self.settings.accumulates else 1):
            self._forward_and_backward()
        self.meter.enter("optimizer step")
        self._optimizer_step()
        self.meter.peaks.pop("loading")
        self.meter.parts.pop("loading")
        return self.meter.parts, sum(leaf.size for leaf in self.leaves)

    # Weights.

    def _load(self) -> None:
        settings, shape = self.settings, self.shape
        for path, rows, columns, bias in linears(shape):
            layer = self.linears[path] = _Linear(rows, columns)
            layer.weight = self._linear_weight(path, rows, columns)
            if bias:
                layer.bias = self._weight(path, bias, trained=settings.bias == "all")
            if settings.adapts and not self._is_saved(path) and _is_target(path, settings.targets):
                self._add_lora(layer)
        for path, size in other_weights(shape):
            self.others[path] = self._weight(path, size)
        if shape.tied:
            self._tie()
        if shape.family == "bert":
            # The buffers `position_ids` and `token_type_ids`.
            self.constant.append(self.tape.new(2 * shape.max_positions, 8, "weights"))

    def _tie(self) -> None:
        """The output head is the embedding, unless a copy of it is trained."""
        head, embedding = "lm_head", "model.embed_tokens"
        if self.shape.family == "bert":
            head, embedding = "cls.predictions.decoder", "bert.embeddings.word_embeddings"
        self.others[head] = self.others[embedding]
        if self._is_saved(head):
            # `make_float32` unties it; peft keeps the original beside the copy that is trained.
            size = self.others[embedding].elements
            self.constant.append(self.tape.new(size, 4, "weights"))
            self.others[head] = self._trained(size, 4, "adapter")

    def _is_saved(self, path: str) -> bool:
        """Whether peft trains a copy of this weight's module, or of one around it."""
        parents = [path[: end.start()] for end in re.finditer(r"\.|$", path)]
        return self.settings.adapts and any(
            parent.endswith(name) for parent in parents for name in self.settings.saved_modules
        )

    def _linear_weight(self, path: str, rows: int, columns: int) -> Tensor | None:
        """The weight of a linear layer; None where it is stored quantised."""
        weights = rows * columns
        if self.settings.bits == 16:
            return self._weight(path, weights)
        nested = self.settings.nested
        stored = nf4_bytes(weights, nested) if self.settings.bits == 4 else weights + 4 * rows
        self.constant.append(self.tape.new(stored, 1, "weights"))
        if self._is_saved(path):
            return self._trained(weights, 4, "adapter")
        return None

    def _weight(self, path: str, size: int, trained: bool = False) -> Tensor:
        """A weight of the base model, or the copy of it that is trained in its place."""
        if not self.settings.adapts:
            return self._trained(size, 4, "weights")
        # `add_adapter` holds what is trained whole in float32, the original beside its copy.
        width = 4 if self._is_saved(path) else self.settings.half or 4
        if trained:
            return self._trained(size, width, "weights")
        weight = self.tape.new(size, width, "weights")
        self.constant.append(weight)
        return self._trained(size, width, "adapter") if self._is_saved(path) else weight

    def _trained(self, size: int, width: int, part: str) -> Tensor:
        leaf = Leaf(size, width)
        self.leaves.append(leaf)
        tensor = self.tape.new(size, width, part)
        tensor.node = leaf
        self.constant.append(tensor)
        return tensor

    def _add_lora(self, layer: _Linear) -> None:
        """Peft casts adapters to float32, the master copy."""
        rank = self.settings.rank
        layer.lora = (
            self._trained(rank * layer.columns, 4, "adapter"),
            self._trained(layer.rows * rank, 4, "adapter"),
        )
        if self.settings.method == "dora":
            layer.magnitude = self._trained(layer.rows, 4, "adapter")

    # One micro-batch.

    def _forward_and_backward(self) -> None:
        self.starts: list[int] = []
        self.meter.enter("forward")
        loss = self._llama() if self.shape.family == "llama" else self._bert()
        self.tape.weight_copies = {}
        self.tape.backward(loss, self._moment_of)

    def _moment_of(self, number: int) -> str:
        """Which part of the model an operation's backward pass belongs to."""
        if number > self.end:
            return "backward: head"
        if number >= self.starts[-1]:
            return "backward: last layer"
        if number >= self.starts[1] if len(self.starts) > 1 else False:
            return "backward: middle"
        return "backward: first layer"

    def _embedded_words(self, table: Tensor) -> Tensor:
        words = self.tape.embedding(table, self.settings.tokens * self.shape.width)
        if self.settings.checkpointing and words.node is None:
            # Transformers lets the first checkpointed layer have an input that wants a gradient.
            words.node = Leaf(words.elements, words.width, "activations")
        return words

    def _through_layers(self, layer: Callable[[int, Tensor], Tensor], hidden: Tensor) -> Tensor:
        for i in range(self.shape.layers):
            self.starts.append(self.tape.number + 1)
            if self.settings.checkpointing:
                hidden = self.tape.checkpoint(
                    lambda x, i=i: layer(i, x),  # type: ignore[misc]
                    hidden,
                    self.settings.offloads,
                )
            else:
                hidden = layer(i, hidden)
        self.end = self.tape.number
        return hidden

    def _llama(self) -> Tensor:
        tape, shape, settings = self.tape, self.shape, self.settings
        inputs = tape.new(4 * settings.tokens, 8)
        hidden = self._llama_model()
        tape.part = "logits"
        self.meter.enter("loss")
        loss = self._chunked_loss(hidden, self.others["lm_head"])
        tape.part = "activations"
        del inputs, shape
        return loss

    def _llama_model(self) -> Tensor:
        """`LlamaModel.forward`."""
        tape, shape, settings = self.tape, self.shape, self.settings
        embedded = self._embedded_words(self.others["model.embed_tokens"])
        angles = settings.tokens * shape.head_width
        cosines, sines = tape.new(angles, embedded.width), tape.new(angles, embedded.width)
        hidden = self._through_layers(
            lambda i, x: self._llama_layer(i, x, cosines, sines), embedded
        )
        return tape.rms_norm(hidden, self.others["model.norm"], settings.tokens)

    def _llama_layer(self, i: int, hidden: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """`LlamaDecoderLayer.forward`."""
        tape, tokens, path = self.tape, self.settings.tokens, f"model.layers.{i}"
        residual = hidden
        hidden = tape.rms_norm(hidden, self.others[f"{path}.input_layernorm"], tokens)
        hidden = self._llama_attention(path, hidden, cosines, sines)
        hidden = tape.add(residual, hidden)
        residual = hidden
        hidden = tape.rms_norm(hidden, self.others[f"{path}.post_attention_layernorm"], tokens)
        hidden = self._llama_mlp(f"{path}.mlp", hidden)
        return tape.add(residual, hidden)

    def _llama_attention(self, path: str, hidden: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        tape = self.tape
        q = tape.rearrange(self._linear(f"{path}.self_attn.q_proj", hidden))
        k = tape.rearrange(self._linear(f"{path}.self_attn.k_proj", hidden))
        if self.shape.head_norms:
            heads = self.settings.tokens * self.shape.heads
            groups = self.settings.tokens * self.shape.kv_heads
            q = tape.rms_norm(q, self.others[f"{path}.self_attn.q_norm"], heads)
            k = tape.rms_norm(k, self.others[f"{path}.self_attn.k_norm"], groups)
        v = tape.rearrange(self._linear(f"{path}.self_attn.v_proj", hidden))
        q, k = self._rotated(q, k, cosines, sines)
        out = self._attended(q, k, v)
        return self._linear(f"{path}.self_attn.o_proj", out)

    def _rotated(
        self, q: Tensor, k: Tensor, cosines: Tensor, sines: Tensor
    ) -> tuple[Tensor, Tensor]:
        return self.tape.rotate(q, cosines, sines), self.tape.rotate(k, cosines, sines)

    def _attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shape = self.shape
        return self.tape.attention(
            q, k, v, shape.heads, self.settings.rows, shape.attention_dropout
        )

    def _llama_mlp(self, path: str, hidden: Tensor) -> Tensor:
        gate = self.tape.activation(self._linear(f"{path}.gate_proj", hidden))
        return self._linear(
            f"{path}.down_proj",
            self.tape.multiply(gate, self._linear(f"{path}.up_proj", hidden)),
        )

    def _bert(self) -> Tensor:
        """`BertForMaskedLM.forward` with `use_masked_loss`: the head sees what is masked."""
        tape, shape, settings = self.tape, self.shape, self.settings
        inputs = tape.new(5 * settings.tokens, 8)
        hidden = self._through_layers(self._bert_layer, self._bert_embeddings())
        hidden = self._index(hidden, settings.masked * shape.width)
        hidden = self._linear("cls.predictions.transform.dense", hidden)
        hidden = tape.activation(hidden)
        norm = self.others["cls.predictions.transform.LayerNorm"]
        hidden = tape.layer_norm(hidden, norm, settings.masked)
        self.meter.enter("loss")
        tape.part = "logits"
        logits = tape.linear(
            hidden,
            self.others["cls.predictions.decoder"],
            self.others["cls.predictions.bias"],
            settings.masked,
        )
        loss = self._cross_entropy(logits)
        tape.part = "activations"
        del inputs, shape
        return loss

    def _bert_embeddings(self) -> Tensor:
        tape, shape, tokens = self.tape, self.shape, self.settings.tokens
        size = tokens * shape.width
        table = "bert.embeddings."
        words = self._embedded_words(self.others[f"{table}word_embeddings"])
        types = tape.embedding(self.others[f"{table}token_type_embeddings"], size)
        embedded = tape.add(words, types)
        positions = tape.embedding(self.others[f"{table}position_embeddings"], size)
        embedded = tape.add(embedded, positions)
        embedded = tape.layer_norm(embedded, self.others[f"{table}LayerNorm"], tokens)
        return tape.dropout(embedded, shape.hidden_dropout)

    def _bert_layer(self, i: int, hidden: Tensor) -> Tensor:
        """`BertLayer.forward`."""
        path = f"bert.encoder.layer.{i}"
        attended = self._bert_output(
            f"{path}.attention.output", self._bert_attention(path, hidden), hidden
        )
        inner = self.tape.activation(self._linear(f"{path}.intermediate.dense", attended))
        return self._bert_output(f"{path}.output", inner, attended)

    def _bert_attention(self, path: str, hidden: Tensor) -> Tensor:
        q, k, v = (
            self.tape.rearrange(self._linear(f"{path}.attention.self.{name}", hidden))
            for name in ("query", "key", "value")
        )
        return self._attended(q, k, v)

    def _bert_output(self, path: str, hidden: Tensor, residual: Tensor) -> Tensor:
        tape = self.tape
        hidden = self._linear(f"{path}.dense", hidden)
        hidden = tape.dropout(hidden, self.shape.hidden_dropout)
        return tape.layer_norm(
            tape.add(hidden, residual), self.others[f"{path}.LayerNorm"], self.settings.tokens
        )

    # A linear layer with its adapter.

    def _linear(self, path: str, x: Tensor) -> Tensor:
        """`peft.tuners.lora.Linear.forward`, `Linear4bit` and `Linear8bitLt`."""
        layer, tape = self.linears[path], self.tape
        # Fewer than the batch's where the head sees only some of them.
        tokens = x.elements // layer.columns
        quantised = layer.weight is None
        if layer.weight is None:
            weights = layer.rows * layer.columns
            result = tape.quantized_linear(x, weights, layer.rows, self.settings.bits, tokens)
        else:
            result = tape.linear(x, layer.weight, layer.bias, tokens)
        if layer.lora is None:
            return result
        if quantised and self.settings.bits == 4:
            result = tape.copy(result)
        # Peft leaves the cast to autocast for quantised layers, but asks only for CUDA's.
        asks_autocast = (
            quantised and self.settings.device == "cuda" and self.settings.half is not None
        )
        master = x if asks_autocast else tape.cast(x, 4)
        if layer.magnitude is not None:
            return self._dora(layer, master, result)
        a, b = layer.lora
        dropped = tape.dropout(master, self.settings.dropout)
        low = tape.linear(dropped, a, None, tokens)
        del dropped
        update = tape.linear(low, b, None, tokens)
        del low
        update = tape.scale(update)
        return tape.add(result, tape.cast(update, result.width))

    def _dora(self, layer: _Linear, x: Tensor, result: Tensor) -> Tensor:
        """Peft's DoRA: the norm of the merged weight is computed anew in each forward pass."""
        assert layer.lora is not None
        assert layer.magnitude is not None
        tape, tokens = self.tape, x.elements // layer.columns
        a, b = layer.lora
        vectors = tape.dropout(x, self.settings.dropout)
        weights = layer.rows * layer.columns
        # The adapter's product, made by sending the identity through it, and the plain weight.
        identity = tape.new(layer.columns**2, 4)
        low = tape.linear(identity, a, None, layer.columns)
        product = tape.cast(tape.linear(low, b, None, layer.columns), 4)
        # Autograd keeps what it needs of them as long as the product lives.
        del identity, low
        shared = layer.weight is not None and layer.weight.width == 4
        plain = layer.weight if shared and layer.weight is not None else tape.new(weights, 4)
        scaled = tape.new(weights, 4)
        merged = tape.new(weights, 4)
        del scaled, merged
        low = tape.linear(vectors, a, None, tokens)
        update = tape.linear(low, b, None, tokens)
        if self.settings.dropout:
            again = tape.linear(vectors, plain, None, tokens)
        else:
            # The layer's result without its bias.
            again = result if layer.bias is None else tape.scale(result)
        # `(magnitude - 1) * again + magnitude * update * scaling`, from the left.
        share = tape.multiply(layer.magnitude, again)
        update = tape.add(share, tape.scale(tape.multiply(layer.magnitude, update)))
        del low, product, plain, again, share
        return tape.cast(tape.add(result, update), result.width)

    # Losses.

    def _chunked_loss(self, hidden: Tensor, head: Tensor) -> Tensor:
        """`steps.models.losses.linear_cross_entropy_sum`, variable by variable."""
        tape, shape, settings = self.tape, self.shape, self.settings
        targets = settings.rows * (settings.length - 1)
        picked = tape.slice(hidden, hidden.elements)
        picked = self._index(picked, targets * shape.width)
        width, product = picked.width, self.settings.half or picked.width
        gradient_of_hidden = tape.new(picked.elements, width)
        trains_head = head.node is not None
        gradient_of_head = tape.new(head.elements, 4, "gradients") if trains_head else None
        plain_head = tape.cast(head.view(), width)
        logits = gradient = None
        # All full chunks after the second are like it.
        full_chunks, rest = divmod(targets, LOSS_CHUNK)
        for chunk in [LOSS_CHUNK] * min(full_chunks, 2) + [rest] * (rest > 0):
            logits = self._chunk_logits(chunk, plain_head, width, product)
            # `logsumexp` subtracts the maximum in a tensor of its own.
            shifted = tape.new(logits.elements, 4)
            del shifted
            gradient = tape.cast(logits.view(), width)
            self._chunk_product(chunk * shape.width, gradient, plain_head, product)
            if trains_head:
                copies = tape.new(chunk * (shape.vocabulary + shape.width) * (width != product), 2)
                summed = tape.new(head.elements, product)
                del copies
                as_float = tape.cast(summed, 4)
                del summed, as_float
        del logits, gradient, plain_head
        saved = [gradient_of_hidden] + ([] if gradient_of_head is None else [gradient_of_head])
        return tape.operation(tape.new(1, 4), [picked, head], saved=saved)

    def _index(self, x: Tensor, elements: int) -> Tensor:
        """Some positions, a copy; their gradient is put back into zeros."""
        return self.tape.operation(self.tape.new(elements, x.width, "activations"), [x])

    def _chunk_logits(self, chunk: int, head: Tensor, width: int, product: int) -> Tensor:
        """`(rows @ head.T).float()`, with autocast's copies of both factors."""
        tape = self.tape
        rows_copy = tape.new(chunk * self.shape.width if width != product else 0, product)
        head_copy = tape.cast(head, product)
        raw = tape.new(chunk * self.shape.vocabulary, product)
        del rows_copy, head_copy
        return tape.cast(raw, 4)

    def _chunk_product(self, elements: int, gradient: Tensor, head: Tensor, product: int) -> None:
        """`gradient @ head`, likewise."""
        tape = self.tape
        gradient_copy, head_copy = tape.cast(gradient, product), tape.cast(head, product)
        result = tape.new(elements, product)
        del gradient_copy, head_copy, result

    def _cross_entropy(self, logits: Tensor) -> Tensor:
        """`CrossEntropyLoss`, which autocast computes in float32."""
        tape = self.tape
        scores = tape.cast(logits, 4)
        del logits
        logarithms = tape.softmax(scores)
        del scores
        return tape.operation(tape.new(1, 4), [logarithms], saved=[logarithms])

    # The optimiser.

    def _optimizer_step(self) -> None:
        if self.settings.optimizer != "adamw_torch":
            return
        sizes = [leaf.size for leaf in self.leaves]
        if self.settings.device == "cuda":
            # The `foreach` form takes the roots of all second moments at once.
            self.tape.new(sum(sizes), 4, "optimizer")
        else:
            self.tape.new(2 * max(sizes), 4, "optimizer")


def _is_target(path: str, targets: str | tuple[str, ...]) -> bool:
    """Peft's rule: all linear layers, a pattern for the whole name, or the ends of names."""
    if isinstance(targets, str):
        return targets == "all-linear" or re.fullmatch(targets, path) is not None
    return any(path == name or path.endswith(f".{name}") for name in targets)
