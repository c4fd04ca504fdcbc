"""How fast melodies are decoded, beside a plain loop over `nn.LSTMCell`.

    python -m benchmarks.melodies.speed [--path FOLDER]

Both write the same tokens from the same weights, on one thread, in turns; the loop embeds the last
token, joins it with the code, and calls the cell, as it is usually written. Figures are bars a
second, medians over rounds of CPU time. Without `--path`, the networks are untrained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch
from latentctl_adapters.melody_lstm import START, SegmentDecoder
from latentctl_adapters.melody_vae import MelodyVAE
from torch import Tensor, nn

from benchmarks.shared.run import BaseFlags, Row, in_turns, report, run, table, write
from latentctl.random import noise, seeded

BATCHES = (1, 16, 256, 1000)


@dataclass
class Flags(BaseFlags):
    path: str | None = None  # Folder of a trained MelodyVAE.
    rounds: int = 7
    output_dir: Path = Path("outputs/melody_speed")


@torch.no_grad()
def plain(decoder: SegmentDecoder, z: Tensor, *, together: bool = True) -> Tensor:
    """Tokens of `z (B, latent_size)`, by an `nn.LSTMCell` for each layer.

    The segments of a melody are written at once if `together`, else one after the other.
    """
    lstm, length = decoder.lstm, decoder.length
    cells = []
    for layer in range(lstm.num_layers):
        size = lstm.input_size if layer == 0 else lstm.hidden_size
        cell = nn.LSTMCell(size, lstm.hidden_size)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(cell, name).copy_(getattr(lstm, f"{name}_l{layer}"))
        cells.append(cell)
    codes = decoder.codes(z)
    parts = [codes] if together else codes.view(len(z), decoder.segments, -1).unbind(1)
    written = []
    for part in parts:
        start = torch.tanh(decoder.start(part)).view(len(part), 2, len(cells), -1)
        states = [(start[:, 0, k], start[:, 1, k]) for k in range(len(cells))]
        code = decoder.code(part).view(len(part), -1, decoder.embedding.embedding_dim)
        token = torch.full((len(part),), START)
        tokens = []
        for t in range(length):
            here = code[:, t if decoder.by_position else 0]
            x = torch.cat([decoder.embedding(token), here], 1)
            for k, cell in enumerate(cells):
                states[k] = cell(x, states[k])
                x = states[k][0]
            logits = decoder.head(torch.cat([x, here], 1) if decoder.by_position else x)
            token = logits.argmax(1)
            tokens.append(token)
        written.append(torch.stack(tokens, 1))
    return torch.cat(written, 1).view(len(z), -1)


def models(path: str | None) -> dict[str, MelodyVAE]:
    if path:
        return {path: MelodyVAE.from_pretrained(path)}
    with seeded(0):
        return {
            "2 bars, decoder 256": MelodyVAE(latent_size=128, encoder_size=128, decoder_size=256),
            "2 bars, decoder 512": MelodyVAE(),
            "16 bars, decoder 256": MelodyVAE(bars=16, conductor_size=256, decoder_size=256),
        }


def main(flags: Flags) -> None:
    rows: list[Row] = []
    for name, model in models(flags.path).items():
        model.eval()
        bars, decoder = model.config["bars"], model.decoder
        for batch in BATCHES:
            z = noise(0, batch, (model.config["latent_size"],), seed=0)
            contenders: dict[str, Callable[[], Tensor]] = {
                "decode": partial(model.decode, z),
                "LSTMCell": partial(plain, decoder, z),
            }
            if decoder.segments > 1:
                contenders["bar after bar"] = partial(plain, decoder, z, together=False)
            tokens, seconds = in_turns(contenders, flags.rounds)
            cpu = {key: [spent for spent, _ in times] for key, times in seconds.items()}
            row = {"name": f"{name}, batch {batch}"}
            row |= {key: batch * bars / median(times) for key, times in cpu.items()}
            pairs = zip(cpu["LSTMCell"], cpu["decode"], strict=True)
            row["ratio"] = median(a / b for a, b in pairs)
            same = tokens["decode"] == tokens["LSTMCell"]
            rows.append(report({**row, "same tokens": same.float().mean().item()}))
    columns = ("name", "decode", "LSTMCell", "bar after bar", "ratio", "same tokens")
    print(f"Bars a second:\n\n{table(rows, columns)}")
    write(flags.output_dir / "speed.json", rows)


if __name__ == "__main__":
    run(main, Flags)
