r"""The recurrent networks of the melody VAE, and fast greedy or sampled decoding.

**Encoder.** A bidirectional LSTM reads the tokens. The latent's parameters are a linear map of its
two last states, or, `by_position`, of all its states, where each step has weights of its own.

**Decoder.** The melody is cut into segments: one of all the steps (flat), or one for each bar,
whose codes a conductor LSTM emits from the latent (hierarchical). An LSTM writes each segment,

.. math:: p(x \mid z) = \prod_{s} \prod_{t} p(x_{s,t} \mid x_{s,<t}, c_s(z))

Its initial state is a function of the code :math:`c_s`. At each step its inputs are the token
before and the code, `by_position` through a linear map of the step.

**By position.** A plain LSTM takes hours to learn to count steps and to carry the code. So, by
default, each step has a linear map of its own between latent and LSTM, and skip connections around
the LSTMs: embeddings are concatenated to the encoder's states, the code to the states before the
logits, and the conductor's inputs to its outputs. At the start of training the network is nearly a
linear autoencoder of the grid, which learns within minutes. The paper has neither.

**First token of a bar.** The input before it is the symbol START, in training as in decoding, not
the last token of the bar before. So the bars are independent given :math:`z`, and are decoded
together: 16 bars cost 16 steps on `16 B` rows, not 256 steps on `B` rows. A note held over the bar
line is encoded in the code of the bar. Tokens that training drops are replaced by START as well.

**Decoding.** For a token :math:`v` and a code the gates before the nonlinearities are

.. math:: a_t = \underbrace{W_v e_v + b}_{\text{table}} + [W_c, W_h] [c_t; h_{t-1}]

The first is a row of a table of 131 rows; the second is one product, without the part of the code
where the code is the same at each step. The rows of the cell's input are doubled beforehand: since
:math:`\tanh a = 2 \, \mathrm{sigmoid}(2 a) - 1`, one call serves all gates.

On one core, with 256 units, this decodes 5,700 bars a second of 2-bar melodies in batches of 1,000,
and a loop over `nn.LSTMCell` 4,300; of single melodies 430 against 290 bars a second. Single
melodies of 16 bars are decoded 4 times as fast as by a loop over bars
(`benchmarks/melodies/speed.py`).

References:
    | Latent Constraints: Learning to Generate Conditionally from Unconditional Generative Models
      (Engel et al., 2017)
    | https://arxiv.org/abs/1711.05772
    | A Hierarchical Latent Vector Model for Learning Long-Term Structure in Music (Roberts et al.,
      2018)
    | https://arxiv.org/abs/1803.05428
"""

from __future__ import annotations

__all__ = ["START", "SYMBOLS", "SegmentDecoder", "SequenceEncoder"]

import functools
from typing import Protocol

import torch
from torch import Tensor, nn

SYMBOLS = 130
START = 130  # before the first token of a segment, and in place of a dropped one
ROWS = 512  # segments decoded at a time: their states stay in the cache


class Choose(Protocol):
    """`(logits (N, SYMBOLS), first, step) -> (N,)` tokens.

    Of the segments `first ... first + N - 1`, at step `step` of each.
    """

    def __call__(self, logits: Tensor, *, first: int, step: int) -> Tensor: ...


class SequenceEncoder(nn.Module):
    """Tokens `(B, segments * length)` to features `(B, features)`.

    Arguments:
        segments: Segments of a melody.
        length: Steps of a segment.
        embedding: Dimensions of a token's embedding.
        width: Units of the LSTM in each direction.
        layers: Layers of the LSTM.
        by_position: Use all states, each with weights of its own, not the two last ones.
    """

    def __init__(
        self,
        segments: int,
        length: int,
        embedding: int,
        width: int,
        layers: int,
        by_position: bool,
    ) -> None:
        super().__init__()
        self.segments, self.length = segments, length
        self.embedding = nn.Embedding(SYMBOLS, embedding)
        self.lstm = nn.LSTM(embedding, width, layers, bidirectional=True)
        self.features = 2 * width * (segments if by_position else 1)
        read = length * (2 * width + embedding)
        self.summary = nn.Linear(read, 2 * width) if by_position else None

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embedding(x.T)
        states, (last, _) = self.lstm(tokens)
        if self.summary is None:
            return torch.cat([last[-2], last[-1]], dim=1)
        read = torch.cat([states, tokens.to(states)], 2)
        by_segment = read.transpose(0, 1).unflatten(1, (self.segments, self.length)).flatten(2)
        features: Tensor = torch.relu(self.summary(by_segment))
        return features.flatten(1)


class SegmentDecoder(nn.Module):
    """Latents `(B, latent_size)` to logits or tokens of `segments * length` steps.

    Arguments:
        latent_size: Dimensions of the latent.
        segments: Segments of a melody, each with a code of its own; 1 for a flat decoder, whose
            code is the latent itself.
        length: Steps of a segment.
        embedding: Dimensions of a token's embedding, and of the code as each step sees it.
        conductor_size: Units of the conductor.
        conductor_layers: Layers of the conductor.
        width: Units of the LSTM that decodes a segment.
        layers: Layers of it.
        by_position: Give each step a linear map of its own for the code.
    """

    def __init__(
        self,
        latent_size: int,
        segments: int,
        length: int,
        embedding: int,
        conductor_size: int,
        conductor_layers: int,
        width: int,
        layers: int,
        by_position: bool,
    ) -> None:
        super().__init__()
        self.segments, self.length, self.by_position = segments, length, by_position
        self.conductor: nn.LSTM | None = None
        code_size = latent_size
        if segments > 1:
            size = conductor_size
            self.conductor = nn.LSTM(size, size, conductor_layers)
            self.conductor_start = nn.Linear(latent_size, 2 * conductor_layers * size)
            self.conductor_input = nn.Linear(latent_size, size * (segments if by_position else 1))
            code_size = 2 * size if by_position else size
        self.start = nn.Linear(code_size, 2 * layers * width)
        self.code = nn.Linear(code_size, embedding * (length if by_position else 1))
        self.embedding = nn.Embedding(SYMBOLS + 1, embedding)
        self.lstm = nn.LSTM(2 * embedding, width, layers)
        self.head = nn.Linear(width + (embedding if by_position else 0), SYMBOLS)

    def codes(self, z: Tensor) -> Tensor:
        """The codes of all segments, `(B * segments, code_size)`."""
        if self.conductor is None:
            return z
        lstm = self.conductor
        state = _state(self.conductor_start(z), lstm.num_layers)
        inputs = self._per_step(self.conductor_input(z), self.segments)
        codes: Tensor = lstm(inputs, state)[0]
        if self.by_position:
            codes = torch.cat([codes, inputs.to(codes)], 2)
        return codes.transpose(0, 1).flatten(0, 1)

    def forward(self, z: Tensor, before: Tensor) -> Tensor:
        """Logits `(B, steps, SYMBOLS)` where `before (B, steps)` are the tokens before each."""
        codes = self.codes(z)
        tokens = self.embedding(before.reshape(len(codes), self.length).T)
        code = self._per_step(self.code(codes), self.length)
        inputs = torch.cat([tokens, code.to(tokens)], 2)
        states, _ = self.lstm(inputs, _state(self.start(codes), self.lstm.num_layers))
        if self.by_position:
            states = torch.cat([states, code.to(states)], 2)
        logits: Tensor = self.head(states).transpose(0, 1).reshape(*before.shape, SYMBOLS)
        return logits

    def _per_step(self, values: Tensor, steps: int) -> Tensor:
        """Inputs `(steps, B, embedding)` of an LSTM."""
        if self.by_position:
            by_step: Tensor = values.unflatten(1, (steps, values.shape[1] // steps))
            return by_step.transpose(0, 1)
        return values.expand(steps, *values.shape)

    @torch.no_grad()
    def write(self, z: Tensor, choose: Choose) -> Tensor:
        """Tokens `(B, segments * length)`, step after step, of all segments at once.

        Arguments:
            z: Latents, `(B, latent_size)`.
            choose: Chooses the token of each step.
        """
        codes, weights = self.codes(z), _Weights(self)
        parts = [
            self._write(part, weights, functools.partial(choose, first=i * ROWS))
            for i, part in enumerate(codes.split(ROWS))
        ]
        tokens = torch.cat(parts) if parts else codes.new_zeros(0, self.length, dtype=torch.long)
        return tokens.view(len(z), self.segments * self.length)

    def _write(self, codes: Tensor, weights: _Weights, choose: functools.partial[Tensor]) -> Tensor:
        h, c = (list(part) for part in _state(self.start(codes), self.lstm.num_layers))
        code = self._per_step(self.code(codes), self.length)
        size = code.shape[2] if self.by_position else 0
        once = None if self.by_position else code[0] @ weights.code
        known = codes.new_empty(len(codes), size + self.lstm.hidden_size)  # code, lowest state
        lowest = known[:, size:].copy_(h[0])
        token = torch.full((len(codes),), START, device=codes.device)
        tokens = torch.empty(self.length, len(codes), dtype=torch.long, device=codes.device)
        for t in range(self.length):
            gates = weights.table.index_select(0, token)
            if once is None:
                known[:, :size] = code[t]
            else:
                gates.add_(once)
            _cell(gates.addmm_(known, weights.known), c[0], lowest)
            below = lowest
            for k, (bias, from_below, recurrent) in enumerate(weights.above, 1):
                gates = torch.addmm(bias, below, from_below).addmm_(h[k], recurrent)
                _cell(gates, c[k], h[k])
                below = h[k]
            features = torch.cat([known[:, :size], below], 1) if weights.above else known
            token = choose(torch.addmm(self.head.bias, features, weights.head), step=t)
            tokens[t] = token
        return tokens.T


class _Weights:
    """The weights of a decoder as a step uses them: transposed, and twice those of the cell input.

    They are computed at each call of `write`, which takes no longer than a step or two, so that
    they always agree with the parameters.
    """

    def __init__(self, decoder: SegmentDecoder) -> None:
        lstm, width = decoder.lstm, decoder.lstm.hidden_size
        weight = decoder.head.weight
        twice = torch.ones(4 * width, dtype=weight.dtype, device=weight.device)
        twice[2 * width : 3 * width] = 2

        def gates(name: str, layer: int) -> Tensor:
            values: Tensor = getattr(lstm, f"weight_{name}_l{layer}").T * twice
            return values.contiguous()

        def bias(layer: int) -> Tensor:
            both: Tensor = getattr(lstm, f"bias_ih_l{layer}") + getattr(lstm, f"bias_hh_l{layer}")
            return both * twice

        size = decoder.embedding.embedding_dim
        inputs, recurrent = gates("ih", 0), gates("hh", 0)
        self.table = torch.addmm(bias(0), decoder.embedding.weight, inputs[:size])
        self.code = inputs[size:]
        self.known = torch.cat([self.code, recurrent]) if decoder.by_position else recurrent
        self.above = [(bias(k), gates("ih", k), gates("hh", k)) for k in range(1, lstm.num_layers)]
        self.head = torch.cat([weight[:, width:], weight[:, :width]], 1).T.contiguous()


def _cell(gates: Tensor, c: Tensor, h: Tensor) -> None:
    """Update the states `c` and `h` in place, from gates whose cell input is doubled."""
    i, f, g, o = gates.sigmoid_().chunk(4, 1)
    c.mul_(f).addcmul_(i, g, value=2).sub_(i)
    torch.mul(c.tanh(), o, out=h)


def _state(values: Tensor, layers: int) -> tuple[Tensor, Tensor]:
    """Initial states `h, c (layers, B, units)`, in (-1, 1), of `(B, 2 * layers * units)`."""
    shape = (2, layers, values.shape[1] // (2 * layers))
    h, c = torch.tanh(values).unflatten(1, shape).permute(1, 2, 0, 3).contiguous()
    return h, c
