"""Makes granitehybrid models with random weights and odd shapes: a GGUF file that needs no library to
write, and the same weights as float64 arrays, exactly as the file holds them.
"""
import dataclasses
import struct

import numpy as np

ALIGNMENT = 32
TYPE_NUMBERS = {"f32": 0, "f16": 1, "q8_0": 8, "bf16": 30}
U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9


@dataclasses.dataclass
class Spec:
    layers: str = "MAM"  # a letter a block: M Mamba-2, A attention
    hidden: int = 48
    vocabulary: int = 97
    heads: int = 4
    kv_heads: int = 2
    head_size: int = 20
    ssm_heads: int = 6
    ssm_head_size: int = 20
    groups: int = 3
    state: int = 24
    taps: int = 4
    feed_forward: int = 72
    rope: int = 0  # rotated dimensions of a head; 0: no rotary positions
    rope_base: float = 10000.0
    rope_divisors: bool = False
    is_tied: bool = True
    has_biases: bool = False
    types: tuple = ("f32",)  # of the matrices, in turn
    epsilon: float = 1e-5
    embedding_scale: float = 6.0
    residual_scale: float = 0.4
    attention_scale: float = 0.0  # 0: 1 / sqrt(head size)
    logit_scale: float = 3.0

    @property
    def inner(self):
        return self.ssm_heads * self.ssm_head_size

    @property
    def channels(self):
        return self.inner + 2 * self.groups * self.state


def encode(values, kind):
    """The bytes of a matrix in a weight type, and the float64 values that they stand for."""
    if kind == "f32":
        stored = values.astype("<f4")
        return stored.tobytes(), stored.astype(np.float64)
    if kind == "f16":
        stored = values.astype("<f2")
        return stored.tobytes(), stored.astype(np.float64)
    if kind == "bf16":
        bits = values.astype("<f4").view("<u4")
        bits = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")
        return bits.tobytes(), (bits.astype("<u4") << 16).view("<f4").astype(np.float64)
    blocks = values.reshape(-1, 32)
    scale = (np.abs(blocks).max(axis=1) / 127).astype("<f2")
    quants = np.clip(np.rint(blocks / scale.astype(np.float64)[:, None]), -127, 127).astype(np.int8)
    data = b"".join(s.tobytes() + q.tobytes() for s, q in zip(scale, quants))
    return data, (scale.astype(np.float64)[:, None] * quants).reshape(values.shape)


class Maker:
    """Draws the weights; `weights` holds them by name, rows first."""

    def __init__(self, spec, seed):
        self.spec = spec
        self.random = np.random.default_rng(seed)
        self.records = []  # name, dimensions fastest first, type, bytes
        self.weights = {}
        self.matrix_count = 0

    def add(self, name, values, kind, dims):
        data, exact = encode(values, kind)
        self.records.append((name, dims, kind, data))
        self.weights[name] = exact

    def matrix(self, name, columns, rows, scale=1.0, has_bias=None):
        kind = self.spec.types[self.matrix_count % len(self.spec.types)]
        self.matrix_count += 1
        values = self.random.normal(0, scale / np.sqrt(columns), (rows, columns))
        self.add(name + ".weight", values, kind, (columns, rows))
        if self.spec.has_biases if has_bias is None else has_bias:
            self.vector(name + ".bias", rows, 0.0, 0.3)

    def vector(self, name, size, centre, spread, dims=None):
        values = self.random.normal(centre, spread, size)
        self.add(name, values, "f32", dims or (size,))

    def attention(self, blk):
        spec = self.spec
        for part, heads in (("q", spec.heads), ("k", spec.kv_heads), ("v", spec.kv_heads)):
            self.matrix(f"{blk}.attn_{part}", spec.hidden, heads * spec.head_size, 2.0)
        self.matrix(f"{blk}.attn_output", spec.heads * spec.head_size, spec.hidden, 2.0)

    def mamba2(self, blk):
        spec = self.spec
        self.matrix(f"{blk}.ssm_in", spec.hidden, spec.inner + spec.channels + spec.ssm_heads)
        self.matrix(f"{blk}.ssm_out", spec.inner, spec.hidden, 2.0)
        self.vector(f"{blk}.ssm_conv1d.weight", spec.channels * spec.taps, 0.2, 0.5,
                    (spec.taps, spec.channels))
        self.vector(f"{blk}.ssm_conv1d.bias", spec.channels, 0.1, 0.3)
        self.vector(f"{blk}.ssm_dt.bias", spec.ssm_heads, -1.0, 1.0)
        decay = -np.exp(self.random.normal(-0.5, 1.0, spec.ssm_heads))
        self.add(f"{blk}.ssm_a", decay, "f32", (1, spec.ssm_heads))
        self.vector(f"{blk}.ssm_d", spec.ssm_heads, 0.5, 0.5, (1, spec.ssm_heads))
        self.vector(f"{blk}.ssm_norm.weight", spec.inner, 1.0, 0.3,
                    (spec.inner // spec.groups, spec.groups))

    def make(self):
        spec = self.spec
        self.matrix("token_embd", spec.hidden, spec.vocabulary, 1.0, has_bias=False)
        if not spec.is_tied:
            self.matrix("output", spec.hidden, spec.vocabulary, 8.0, has_bias=False)
        self.vector("output_norm.weight", spec.hidden, 0.2, 1.0)
        if spec.rope_divisors:
            self.add("rope_freqs.weight", self.random.uniform(1, 8, spec.rope // 2), "f32",
                     (spec.rope // 2,))
        for number, kind in enumerate(spec.layers):
            blk = f"blk.{number}"
            self.vector(f"{blk}.attn_norm.weight", spec.hidden, 1.0, 0.3)
            self.attention(blk) if kind == "A" else self.mamba2(blk)
            self.vector(f"{blk}.ffn_norm.weight", spec.hidden, 1.0, 0.3)
            self.matrix(f"{blk}.ffn_gate", spec.hidden, spec.feed_forward)
            self.matrix(f"{blk}.ffn_up", spec.hidden, spec.feed_forward)
            self.matrix(f"{blk}.ffn_down", spec.feed_forward, spec.hidden, 2.0)


def text_bytes(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def key_bytes(spec):
    kv_heads = [spec.kv_heads if kind == "A" else 0 for kind in spec.layers]
    keys = [("general.architecture", STRING, text_bytes("granitehybrid"))]
    for name, value in {
            "block_count": len(spec.layers), "embedding_length": spec.hidden,
            "context_length": 1 << 16, "feed_forward_length": spec.feed_forward,
            "attention.head_count": spec.heads, "attention.key_length": spec.head_size,
            "attention.value_length": spec.head_size, "rope.dimension_count": spec.rope or 4,
            "ssm.conv_kernel": spec.taps, "ssm.state_size": spec.state,
            "ssm.group_count": spec.groups, "ssm.inner_size": spec.inner,
            "ssm.time_step_rank": spec.ssm_heads}.items():
        keys.append(("granitehybrid." + name, U32, struct.pack("<I", value)))
    for name, value in {
            "attention.layer_norm_rms_epsilon": spec.epsilon, "rope.freq_base": spec.rope_base,
            "embedding_scale": spec.embedding_scale, "residual_scale": spec.residual_scale,
            "attention.scale": spec.attention_scale, "logit_scale": spec.logit_scale}.items():
        keys.append(("granitehybrid." + name, F32, struct.pack("<f", value)))
    keys.append(("granitehybrid.rope.scaling.finetuned", BOOL, bytes([spec.rope > 0])))
    keys.append(("granitehybrid.attention.head_count_kv", ARRAY,
                 struct.pack(f"<IQ{len(kv_heads)}i", I32, len(kv_heads), *kv_heads)))
    return len(keys), b"".join(text_bytes(name) + struct.pack("<I", kind) + value
                               for name, kind, value in keys)


def padding(size):
    return bytes(-size % ALIGNMENT)


def make(path, spec, seed):
    """Writes the model to PATH; returns its weights as float64 arrays by name, and the names of those
    in Q8_0."""
    maker = Maker(spec, seed)
    maker.make()
    count, keys = key_bytes(spec)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(maker.records), count) + keys
    data = b""
    for name, dims, kind, content in maker.records:
        head += text_bytes(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims,
                                               TYPE_NUMBERS[kind], len(data))
        data += content + padding(len(content))
    path.write_bytes(head + padding(len(head)) + data)
    return maker.weights, [name for name, _, kind, _ in maker.records if kind == "q8_0"]
