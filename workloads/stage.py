"""What one pipeline stage holds and runs: its layers and ends as blocks, its parameters, its activations."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import chain, groupby

from workloads import transformer
from workloads.accumulation import Accumulation, accumulation, table_accumulation
from workloads.graph import LAYER, Block, Segment, Work
from workloads.layout import chunk_layers, recomputed_layers
from workloads.model import Kind
from workloads.offload import most_resident_bytes
from workloads.ops import DTYPE_BYTES, Pointwise
from workloads.parallelism import expert
from workloads.parameters import Parameters, summed
from workloads.pieces import Piece, for_inputs, for_weights
from workloads.recompute import kept_bytes, needed, run_again
from workloads.routes import positions
from workloads.shard import Shard

# What the segments of each direction are called.
PASSES = {"F": "forward", "B": "backward", "I": "backward", "W": "weight gradients"}


def forward_block(name: str, pieces: Sequence[Piece]) -> Block:
    """The forward pass of some pieces."""
    return Block(name=name, phase="forward", pieces=tuple(piece.forward for piece in pieces))


def backward_block(name: str, pieces: Sequence[Piece], part: str = "B") -> Block:
    """The backward pass of some pieces, last first; or a `part` of it, I or W."""
    parts = {"B": lambda piece: piece.backward, "I": for_inputs, "W": for_weights}
    work = tuple(found for piece in reversed(pieces) if (found := parts[part](piece)))
    return Block(name=name, phase="backward", pieces=work)


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """The different blocks of a step, each made once."""

    shard: Shard

    @cached_property
    def kinds(self) -> Mapping[Kind, "Blocks"]:
        """Those of each kind of layer that the model has."""
        return {kind: Blocks(shard=self.shard.alike(kind)) for kind in self.shard.model.kinds}

    def exchanging(self, segment: Segment) -> Segment:
        """The pass with the exchanges of experts beside its computation."""
        return replace(segment, blocks=tuple((self._exchanging(block), count) for block, count in segment.blocks))

    @cached_property
    def _exchanging(self) -> Callable[[Block], Block]:
        return cache(expert.beside)

    @cached_property
    def layer(self) -> tuple[Piece, ...]:
        """Pieces of one layer."""
        return transformer.layer(self.shard)

    @cached_property
    def embedding(self) -> tuple[Piece, ...]:
        """Pieces in front of the first layer."""
        return transformer.embedding(self.shard)

    @cached_property
    def head(self) -> tuple[Piece, ...]:
        """Pieces behind the last layer."""
        return transformer.head(self.shard)

    @cached_property
    def layer_forward(self) -> Block:
        """One layer."""
        return forward_block(LAYER, self.layer)

    @cached_property
    def layer_backward(self) -> Block:
        """One layer."""
        return backward_block(LAYER, self.layer)

    @cached_property
    def layer_parts(self) -> Mapping[str, Block]:
        """One layer backward: the whole pass, B, and its parts, I and W."""
        return {"B": self.layer_backward, **{part: backward_block(LAYER, self.layer, part) for part in "IW"}}

    @cached_property
    def again(self) -> Block:
        """What the backward pass of one layer runs again, by the mode of the job; some stacks, only what it needs."""
        stops = self.shard.execution == "compile" or self.shard.stack.stops_early
        pieces = needed(self.layer) if stops else self.layer
        work = run_again(pieces, self.shard.recompute_mode, self.shard.training.recompute_modules)
        return Block(name=LAYER, phase="recompute", pieces=tuple(map(self._launched_again, work)))

    def _launched_again(self, work: tuple[Work, ...]) -> tuple[Work, ...]:
        """Without the kernels that a compiler makes: it fuses those that are run again into the backward pass."""
        made = self.shard.compiled_kernels
        return tuple(item for item in work if not (isinstance(item.op, Pointwise) and item.op.op in made))

    @cached_property
    def layer_accumulation(self) -> Accumulation:
        """Adding the gradients of one layer to their buffer."""
        return accumulation(self.shard, layer_parameters(self.shard))

    @cached_property
    def table_accumulation(self) -> Accumulation:
        """Adding the gradients of the embedding table to their buffer."""
        return table_accumulation(self.shard, self._table)

    @cached_property
    def head_accumulation(self) -> Accumulation:
        """Adding those of the projection onto the vocabulary, which is as large."""
        return accumulation(self.shard, self._table)

    @property
    def _table(self) -> Parameters:
        return Parameters(dense=float(self.shard.vocab * self.shard.model.hidden))

    @cached_property
    def ends(self) -> dict[str, Block]:
        """Embedding and head, forward and backward."""
        return {
            "embedding F": forward_block("embedding", self.embedding),
            "head F": forward_block("head", self.head),
            **{f"embedding {part}": backward_block("embedding", self.embedding, part) for part in "BIW"},
            **{f"head {part}": backward_block("head", self.head, part) for part in "BIW"},
        }

    @cached_property
    def ends_again(self) -> dict[str, Block]:
        """What the backward pass runs again of embedding and head, where it does; the loss never."""
        if not self.shard.stack.ends_recomputed or self.shard.recompute_mode != "full":
            return {}
        pieces = {"embedding": self.embedding, "head": self.head[:-1]}
        return {
            name: Block(name=name, phase="recompute", pieces=run_again(found, "full")) for name, found in pieces.items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Consecutive layers of the model on one stage; the first also embeds, the last has the head.

    Layers that predict further tokens are among those of the last, and its head stands behind each of them, too.

    Args:
        start: number of its first layer in the model.
        beside_first: whether its stage embeds, too, in this chunk or in another one.
    """

    stage: int
    index: int
    start: int
    layers: int
    first: bool
    last: bool
    recomputed: int
    beside_first: bool


def stage_chunks(shard: Shard, stage: int) -> tuple[Chunk, ...]:
    """The model chunks of a stage, chunk 0 first. `full:N` recomputes the first N layers of a stage."""
    layout = shard.layout
    dealt, ends = chunk_layers(shard.model, layout), not shard.training.layers_alone
    layers = (*dealt[:-1], dealt[-1] + shard.model.mtp_layers)
    numbered = positions(layout.routes).items()
    places = sorted((place.chunk, number) for place, (_, number) in numbered if place.stage == stage)
    left = recomputed_layers(shard.training, sum(layers[number] for _, number in places))
    chunks = []
    for index, number in places:
        chunks.append(
            Chunk(
                stage=stage,
                index=index,
                start=sum(layers[:number]),
                layers=layers[number],
                first=ends and number == 0,
                last=ends and number == layout.chunks - 1,
                recomputed=min(left, layers[number]),
                beside_first=any(other == 0 for _, other in places),
            )
        )
        left -= chunks[-1].recomputed
    return tuple(chunks)


def among_first(layers: range, count: int) -> int:
    """How many of some consecutive layers are among the first `count` of their chunk."""
    return max(min(count, layers.stop) - layers.start, 0)


def kinds(blocks: Blocks, chunk: Chunk, layers: range | None = None) -> list[tuple[Blocks, range]]:
    """Layers of a chunk, or some consecutive ones of them, as runs of one kind."""
    part = range(chunk.layers) if layers is None else layers
    runs = groupby(part, lambda layer: blocks.shard.model.kind(chunk.start + layer))
    found = [(blocks.kinds[kind], list(run)) for kind, run in runs]
    return [(kind, range(run[0], run[-1] + 1)) for kind, run in found]


def layer_blocks(
    blocks: Blocks, chunk: Chunk, direction: str, layers: range, *, first: bool
) -> list[tuple[Block, int]]:
    """The blocks of some consecutive layers of a chunk, in the order of a pass, the `first` one of a step or not."""
    found = [_alike(kind, chunk, direction, part, first=first) for kind, part in kinds(blocks, chunk, layers)]
    return list(chain.from_iterable(found if direction == "F" else reversed(found)))


def _alike(blocks: Blocks, chunk: Chunk, direction: str, layers: range, *, first: bool) -> list[tuple[Block, int]]:
    """Of layers of one kind; behind gradients of weights, they are added to their buffer."""
    if direction == "F":
        return [(blocks.layer_forward, len(layers))]
    added = blocks.layer_accumulation.first if first else blocks.layer_accumulation.further
    again = len(layers)
    if blocks.shard.recompute_mode == "full":
        again = among_first(layers, chunk.recomputed)
    recomputed = [(blocks.again, again)] if direction != "W" and again and blocks.again.pieces else []
    behind = [(added, len(layers))] if direction != "I" and added else []
    return [*recomputed, (blocks.layer_parts[direction], len(layers)), *behind]


def end_blocks(blocks: Blocks, name: str, direction: str, added: Block | None) -> list[tuple[Block, int]]:
    """The blocks of the embedding or the head; `added` behind gradients of weights."""
    again = [blocks.ends_again[name]] if direction in ("B", "I") and name in blocks.ends_again else []
    behind = [added] if direction in ("B", "W") and added else []
    found = [*again, blocks.ends[f"{name} {direction}"], *behind]
    count = 1 + blocks.shard.model.mtp_layers if name == "head" else 1
    return [(block, count) for block in found]


def chunk_segment(
    blocks: Blocks, chunk: Chunk, direction: str, layers: range | None = None, *, first: bool = False
) -> Segment:
    """A pass of a micro-batch, the `first` one of a step or not, through a chunk or through some of its layers.

    The embedding goes with layer 0 and the head with the last layer.
    """
    table, projection = blocks.table_accumulation, blocks.head_accumulation
    table_added, head_added = (table.first, projection.first) if first else (table.further, projection.further)
    part = range(chunk.layers) if layers is None else layers
    before = end_blocks(blocks, "embedding", direction, table_added) if chunk.first and part.start == 0 else []
    behind = end_blocks(blocks, "head", direction, head_added) if chunk.last and part.stop == chunk.layers else []
    middle = layer_blocks(blocks, chunk, direction, part, first=first)
    ordered = [*before, *middle, *behind] if direction == "F" else [*behind, *middle, *before]
    return Segment(name=PASSES[direction], blocks=tuple((block, count) for block, count in ordered if block.pieces))


def layer_matrices(shard: Shard) -> float:
    """Weights of the linear layers of one layer on one rank."""
    further = shard.model.mtp_matmul_parameters if shard.predicts else 0
    return (shard.model.layer_matmul_parameters + further) / shard.layout.tp


def layer_parameters(shard: Shard) -> Parameters:
    """Of one layer on one rank: matrices split by tensor parallelism; norms, router, latent columns on every rank."""
    model, layout = shard.model, shard.layout
    whole = model.hidden * (model.experts + model.down_columns) + (model.experts if model.biases == "all" else 0)
    matrices = model.layer_matmul_parameters + model.layer_bias_parameters - whole
    dense = matrices / layout.tp + (model.layer_parameters - matrices)
    if shard.predicts:
        dense += model.mtp_matmul_parameters / layout.tp + 3 * model.norm_parameters
    return Parameters(dense=dense, experts=model.layer_expert_parameters / (layout.expert_tp * layout.ep))


def parameters_of(shard: Shard, chunk: Chunk, layers: range | None = None) -> Parameters:
    """Of the layers of a chunk on one rank, or of some of them."""
    parts = kinds(Blocks(shard=shard), chunk, layers)
    return summed(layer_parameters(kind.shard) * len(part) for kind, part in parts)


def matrices_of(shard: Shard, chunk: Chunk, layers: range | None = None) -> float:
    """Weights of the linear layers of the layers of a chunk on one rank, or of some of them."""
    parts = kinds(Blocks(shard=shard), chunk, layers)
    return sum(layer_matrices(kind.shard) * len(part) for kind, part in parts)


def chunk_parameters(shard: Shard, chunk: Chunk) -> Parameters:
    """Of a chunk on one rank, with the embedding and the head where they are."""
    return parameters_of(shard, chunk) + Parameters(dense=end_parameters(shard, chunk))


def end_parameters(shard: Shard, chunk: Chunk) -> float:
    """Of the embedding and the head of a chunk, where it has them.

    A head that shares the embedding's weights keeps a copy of them if it is on another stage, and so do layers that
    predict further tokens.
    """
    model, total = shard.model, 0.0
    table = float(shard.vocab * model.hidden)
    if chunk.first:
        rest = model.embedding_parameters - model.vocab * model.hidden
        total += table + rest
    if chunk.last:
        shared = model.tied_embeddings and chunk.beside_first
        total += model.final_norm_parameters + model.pretraining_head_parameters + (0.0 if shared else table)
        copied = model.mtp_layers > 0 and not chunk.beside_first and not model.tied_embeddings
        total += table if copied else 0.0
    return total


def layer_kept_bytes(blocks: Blocks, *, recomputed: bool) -> float:
    """Activations that one layer keeps of one micro-batch."""
    mode = blocks.shard.recompute_mode
    if mode == "full" and not recomputed:
        mode = "none"
    rows = blocks.shard.split_tokens
    input_bytes = rows * blocks.shard.model.hidden * DTYPE_BYTES[blocks.shard.residual_dtype]
    return kept_bytes(blocks.layer, mode, input_bytes, blocks.shard.training.recompute_modules)


def chunk_put_off_bytes(blocks: Blocks, chunk: Chunk) -> float:
    """What the weight gradients of a chunk and a micro-batch need, once its gradients of inputs are there.

    The inputs of its linear layers, and the gradients of their outputs (arXiv:2401.10241, Table 1).
    """
    head = _put_off_bytes(blocks.head) if chunk.last else 0.0
    return head + sum(_put_off_bytes(kind.layer) * len(layers) for kind, layers in kinds(blocks, chunk))


def _put_off_bytes(pieces: Sequence[Piece]) -> float:
    return sum(piece.saved_bytes + piece.output_bytes for piece in pieces if for_weights(piece))


def layers_kept_bytes(blocks: Blocks, chunk: Chunk) -> tuple[float, ...]:
    """Activations that each layer of a chunk keeps of one micro-batch, nothing run again."""
    parts = kinds(blocks, chunk)
    return tuple(layer_kept_bytes(kind, recomputed=False) for kind, layers in parts for _ in layers)


def chunk_kept_bytes(blocks: Blocks, chunk: Chunk) -> float:
    """Activations that a chunk keeps of one micro-batch, the loss left out: it is run back at once."""
    if away := blocks.shard.training.offloaded_layers:
        return most_resident_bytes(layers_kept_bytes(blocks, chunk), away)
    full = blocks.shard.recompute_mode == "full"
    total = 0.0
    for kind, layers in kinds(blocks, chunk):
        again = among_first(layers, chunk.recomputed) if full else 0
        total += again * layer_kept_bytes(kind, recomputed=True)
        total += (len(layers) - again) * layer_kept_bytes(kind, recomputed=False)
    return total
