"""A forward pass of granitehybrid in float64, token by token, written from the format's facts alone:
the oracle for models that no other implementation has computed logits of.
"""
import numpy as np


def f32(value):
    """Multipliers lie in the file as float32."""
    return float(np.float32(value))


def silu(x):
    return x / (1 + np.exp(-x))


def softplus(x):
    return np.logaddexp(0, x)


def quantise(x):
    """What tern's Q8_0 products see of the activations: blocks of 32, one F32 scale each."""
    blocks = x.astype(np.float32).reshape(-1, 32)
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    largest[largest == 0] = 1
    quants = np.rint(blocks * (np.float32(127) / largest)).astype(np.float64)
    return (quants * (largest / np.float32(127))).reshape(-1)


class Forward:
    """With `quantised`, the names of matrices, their products round activations as tern does."""

    def __init__(self, spec, weights, quantised=()):
        self.spec = spec
        self.quantised = frozenset(quantised)
        self.weights = weights
        self.epsilon = f32(spec.epsilon)
        self.keys = {number: [] for number, kind in enumerate(spec.layers) if kind == "A"}
        self.values = {number: [] for number in self.keys}
        recurrent = [number for number, kind in enumerate(spec.layers) if kind == "M"]
        self.inputs = {number: np.zeros((spec.taps, spec.channels)) for number in recurrent}
        self.states = {number: np.zeros((spec.ssm_heads, spec.ssm_head_size, spec.state))
                       for number in recurrent}
        self.position = 0

    def norm(self, x, name):
        return x / np.sqrt(np.mean(x * x) + self.epsilon) * self.weights[name]

    def product(self, name, x):
        return self.weights[name] @ (quantise(x) if name in self.quantised else x)

    def project(self, x, name):
        y = self.product(name + ".weight", x)
        return y + self.weights[name + ".bias"] if name + ".bias" in self.weights else y

    def rotate(self, heads):
        """Pairs are neighbours where the whole head rotates. Where only a part does, the rows came
        interleaved over the whole head: put back, the first part rotates by halves."""
        spec = self.spec
        if spec.rope == 0:
            return heads
        pairs = spec.rope // 2
        angle = self.position * f32(spec.rope_base) ** (-2.0 * np.arange(pairs) / spec.rope)
        if spec.rope_divisors:
            angle = angle / self.weights["rope_freqs.weight"]
        cos, sin = np.cos(angle), np.sin(angle)
        if spec.rope == spec.head_size:
            first, second = np.s_[:, 0::2], np.s_[:, 1::2]
        else:
            heads = np.concatenate([heads[:, 0::2], heads[:, 1::2]], axis=1)
            first, second = np.s_[:, :pairs], np.s_[:, pairs:2 * pairs]
        out = heads.copy()
        out[first] = heads[first] * cos - heads[second] * sin
        out[second] = heads[first] * sin + heads[second] * cos
        return out

    def attention(self, x, number):
        spec = self.spec
        blk = f"blk.{number}.attn_"
        query = self.rotate(self.project(x, blk + "q").reshape(spec.heads, spec.head_size))
        key = self.rotate(self.project(x, blk + "k").reshape(spec.kv_heads, spec.head_size))
        self.keys[number].append(key)
        self.values[number].append(self.project(x, blk + "v").reshape(spec.kv_heads, -1))
        keys, values = np.array(self.keys[number]), np.array(self.values[number])
        scale = f32(spec.attention_scale) or 1 / np.sqrt(spec.head_size)
        out = []
        for head in range(spec.heads):
            shared = head // (spec.heads // spec.kv_heads)
            score = keys[:, shared] @ query[head] * scale
            weight = np.exp(score - score.max())
            out.append(weight @ values[:, shared] / weight.sum())
        return self.project(np.concatenate(out), blk + "output")

    def mamba2(self, x, number):
        spec = self.spec
        blk = f"blk.{number}.ssm_"
        z, rest, dt = np.split(self.project(x, blk + "in"), [spec.inner, spec.inner + spec.channels])
        inputs = self.inputs[number] = np.vstack([self.inputs[number][1:], rest])
        taps = self.weights[blk + "conv1d.weight"].reshape(spec.channels, spec.taps)
        mixed = silu((taps.T * inputs).sum(axis=0) + self.weights[blk + "conv1d.bias"])
        u = mixed[:spec.inner].reshape(spec.ssm_heads, spec.ssm_head_size)
        b, c = mixed[spec.inner:].reshape(2, spec.groups, spec.state)
        dt = softplus(dt + self.weights[blk + "dt.bias"])
        decay = np.exp(dt * self.weights[blk + "a"])
        y = np.empty_like(u)
        for head in range(spec.ssm_heads):
            group = head // (spec.ssm_heads // spec.groups)
            state = self.states[number][head]
            state *= decay[head]
            state += dt[head] * np.outer(u[head], b[group])
            y[head] = state @ c[group] + self.weights[blk + "d"][head] * u[head]
        y = (y.reshape(-1) * silu(z)).reshape(spec.groups, -1)
        y = y / np.sqrt(np.mean(y * y, axis=1, keepdims=True) + self.epsilon)
        return self.project(y.reshape(-1) * self.weights[blk + "norm.weight"], blk + "out")

    def feed_forward(self, x, number):
        blk = f"blk.{number}.ffn_"
        return self.project(silu(self.project(x, blk + "gate")) * self.project(x, blk + "up"),
                            blk + "down")

    def step(self, token):
        """The logits after one more token."""
        spec = self.spec
        residual = f32(spec.residual_scale)
        x = self.weights["token_embd.weight"][token] * f32(spec.embedding_scale)
        for number, kind in enumerate(spec.layers):
            mixer = self.attention if kind == "A" else self.mamba2
            x = x + residual * mixer(self.norm(x, f"blk.{number}.attn_norm.weight"), number)
            x = x + residual * self.feed_forward(self.norm(x, f"blk.{number}.ffn_norm.weight"),
                                                 number)
        self.position += 1
        output = "output.weight" if "output.weight" in self.weights else "token_embd.weight"
        return self.product(output, self.norm(x, "output_norm.weight")) / f32(spec.logit_scale)


def logits(spec, weights, tokens, quantised=()):
    forward = Forward(spec, weights, quantised)
    return np.array([forward.step(token) for token in tokens])
