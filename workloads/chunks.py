"""How many layers each chunk of a pipeline has: as a job says, or evenly with the embedding and the head as layers."""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import groupby

# `2x62` for sixty-two chunks of two layers.
RUN = re.compile(r"(\d{1,9})(?:x([1-9]\d{0,3}))?")


@cache
def even(layers: int, chunks: int, mtp_layers: int = 0) -> tuple[int, ...]:
    """Layers of each chunk, in model order.

    Equal shares where they divide; else the embedding and the head count as a layer each, as Megatron-LM's
    account_for_embedding_in_pipeline_split does (126 layers on 64 chunks), and the last chunks have one less where
    that does not divide either. With layers that predict further tokens the embedding counts as none, the head as one
    and each of them as two more, as in Megatron-Bridge's recipes for DeepSeek-V3 (61 layers on 16 chunks: 4, ..., 1).
    """
    if layers % chunks == 0:
        return (layers // chunks,) * chunks
    front, behind = (0, 1 + 2 * mtp_layers) if mtp_layers else (1, 1)
    share, rest = divmod(layers + front + behind, chunks)
    shares = [share + (number < rest) for number in range(chunks)]
    over = max(behind - shares[-1], 0)
    return (shares[0] - front - over, *shares[1:-1], shares[-1] - behind + over)


@cache
def read(text: str) -> tuple[int, ...]:
    """The numbers of a text such as `1 2x62 1`; raises ValueError if it is not one."""
    runs = [RUN.fullmatch(word) for word in text.split()]
    if not runs or None in runs:
        raise ValueError(f"{text!r}: layers of each chunk are needed, as in '5 6x14 5'")
    return tuple(int(run[1]) for run in runs if run for _ in range(int(run[2] or 1)))


def spelt(shares: Sequence[int]) -> str:
    """The text for `read`."""
    runs = [(layers, len(list(same))) for layers, same in groupby(shares)]
    return " ".join(f"{layers}x{count}" if count > 1 else f"{layers}" for layers, count in runs)


def faults(layers: int, chunks: int, text: str, mtp_layers: int = 0) -> Iterator[str]:
    """What is wrong with a split of so many layers into so many chunks, as the text says or even."""
    if not text:
        if layers % chunks and layers + 2 < chunks:
            yield f"layers = {layers}, the embedding and the head are fewer than pp x vp = {chunks}"
        elif min(even(layers, chunks, mtp_layers)) < 0:
            yield f"layers = {layers} are too few for pp x vp = {chunks} beside {mtp_layers} MTP layers on the last"
        return
    try:
        shares = read(text)
    except ValueError as error:
        yield f"layout.chunk_layers = {error}"
        return
    if len(shares) != chunks:
        yield f"layout.chunk_layers is of {len(shares)} chunks, and pp x vp = {chunks}"
    if sum(shares) != layers:
        yield f"layout.chunk_layers adds up to {sum(shares)}, and layers = {layers}"
    if 0 in shares[1:-1]:
        yield f"layout.chunk_layers = {text!r}: only the first and the last chunk may do without layers"
