"""Trains a small GPT on the characters of graphc's own documents, and lets it write.

    python examples/character_gpt.py [--steps N] [--length N] [--temperature T] [--seed N] [--out FOLDER]

Model: a decoder of three layers with causal attention, 96 features, 4 heads and a context of 64 characters; sinusoidal
positions, and one table for what goes in and what comes out (A. Radford et al., Improving Language Understanding by
Generative Pre-Training, 2018; Press and Wolf, Using the Output Embedding to Improve Language Models, 2017).
Data: ``docs/*.md`` of this repository, but for the page on the examples, which states the result. The last tenth of each
page is held out. Needs nothing but graphc; ``pip install graphc[plot]`` for the plot.
Result: bits per character of the text held out, beside those of pairs of characters counted in the same text (a bigram
model) and of the compressor xz that has seen the same text; then what the model writes.
"""

from __future__ import annotations

import argparse
import lzma
import time
from collections import Counter
from pathlib import Path

import numpy as np

import graphc
from graphc import Array, init, nn, optim

DOCS = Path(__file__).resolve().parent.parent / "docs"
CONTEXT = 64
BATCH = 32
UNKNOWN = "\ufffd"  # stands for all characters that the training text has fewer than five times


class GPT(nn.Module):
    """Scores [N, T, characters] for the character after each of [N, T], of those up to it alone."""

    def __init__(self, characters: int, features: int = 96, heads: int = 4, layers: int = 3) -> None:
        self.embedding = nn.Embedding(characters, features, weight_init=init.normal(0, features**-0.5))
        self.positions = nn.PositionalEncoding(features)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                features, heads, 4 * features, dropout=0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(features)
        self.head = nn.Linear(features, characters, bias=False)
        self.head.weight = self.embedding.weight
        self.scale = features**0.5  # brings the embeddings to the size of the positions

    def forward(self, *inputs: Array) -> Array:
        (characters,) = inputs
        x = self.positions(self.scale * self.embedding(characters))
        for layer in self.layers:
            x = layer(x, is_causal=True)
        return self.head(self.norm(x))


def make_optimizer() -> optim.Optimizer:
    return optim.clip_by_norm(optim.AdamW(3e-3, betas=(0.9, 0.98), weight_decay=0.01), 1.0)


def load_text() -> tuple[str, str]:
    """The text to train on, and the one held out."""
    pages = [
        path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md")) if path.stem != "examples"
    ]
    cuts = [len(page) * 9 // 10 for page in pages]
    train = "\n".join(page[:cut] for page, cut in zip(pages, cuts, strict=True))
    return train, "\n".join(page[cut:] for page, cut in zip(pages, cuts, strict=True))


class Alphabet:
    """The characters of a text and their numbers."""

    def __init__(self, text: str) -> None:
        counts = Counter(text)
        self.characters = [UNKNOWN, *sorted(c for c, count in counts.items() if count >= 5)]
        self._numbers = {c: number for number, c in enumerate(self.characters)}

    def encode(self, text: str) -> np.ndarray:
        return np.array([self._numbers.get(c, 0) for c in text], np.int32)

    def decode(self, numbers: list[int]) -> str:
        return "".join(self.characters[number] for number in numbers)


def windows(text: np.ndarray, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Stretches [rows, CONTEXT] and, for each of their characters, the next one."""
    rows = np.lib.stride_tricks.sliding_window_view(text, CONTEXT + 1)[::stride]
    return rows[:, :-1], rows[:, 1:]


def train(model: GPT, text: np.ndarray, steps: int, seed: int, target: str) -> list[float]:
    """Steps on stretches from random places; the rate rises for a tenth of them, then falls. Gives the losses in bits.

    `graphc.fit` goes over rows of data in epochs. Here is none: the loop is written out, around one compiled step.
    """
    optimizer = make_optimizer()
    course = optim.schedules.OneCycle(steps, pct_start=0.1)
    model.init(seed)
    params = model.parameters
    state = optimizer.init(params)

    def step(
        params: dict[str, Array], state: dict[str, Array], rate: Array, x: Array, y: Array
    ) -> tuple[Array, dict[str, Array], dict[str, Array]]:
        def loss(params: dict[str, Array]) -> Array:
            scores, _ = model.apply(params, {}, x, train=True)
            return nn.cross_entropy(scores, y)

        value, gradients = graphc.value_and_grad(loss)(params)
        return value, *optimizer.update(params, gradients, state, rate)

    batch = graphc.i32[BATCH, CONTEXT]
    begun = time.perf_counter()
    compiled = graphc.compile(
        step, params, state, np.float32(0), batch, batch, donate=("params", "state"), target=target
    )
    print(
        f"{sum(a.size for a in params.values()):,} weights, compiled in {time.perf_counter() - begun:.1f} s"
    )
    x, y = windows(text, 1)
    random, losses, begun = np.random.default_rng(seed), [], time.perf_counter()
    for number in range(steps):
        rows = random.integers(0, len(x), BATCH)
        rate = np.float32(course(optimizer.learning_rate, number))
        value, params, state = compiled(params, state, rate, x[rows], y[rows])
        losses.append(float(value) / np.log(2))
        if (number + 1) % 100 == 0 or number + 1 == steps:
            spent = time.perf_counter() - begun
            mean = np.mean(losses[-100:])
            print(f"step {number + 1:5d}  {mean:.3f} bits per character  {spent:.0f} s", flush=True)
    model.load_state(params)
    return losses


def bits_of_model(model: GPT, text: np.ndarray) -> float:
    """Bits per character of a text; each has at least half a context before it."""
    half = CONTEXT // 2
    x, y = windows(text, half)
    found = []
    for start in range(0, len(x) - BATCH + 1, BATCH):  # whole batches: one compiled function
        scores = np.asarray(model(x[start : start + BATCH]), np.float64)[:, half:]
        likely = np.take_along_axis(scores, y[start : start + BATCH, half:, None], axis=-1)[..., 0]
        found.append(np.logaddexp.reduce(scores, axis=-1) - likely)
    return float(np.mean(found) / np.log(2))


def bits_of_pairs(train: np.ndarray, text: np.ndarray, characters: int) -> float:
    """The same by how often a character followed the one before it; a tenth is added to each count."""
    counts = np.full((characters, characters), 0.1)
    np.add.at(counts, (train[:-1], train[1:]), 1)
    chances = counts / counts.sum(axis=1, keepdims=True)
    return float(-np.log2(chances[text[:-1], text[1:]]).mean())


def bits_of_xz(train: str, text: str) -> float:
    """The bits by which what xz makes of the training text grows with the other text behind it, per character."""
    alone, both = (len(lzma.compress(t.encode(), preset=9)) for t in (train, train + text))
    return 8 * (both - alone) / len(text)


def write(model: GPT, prompt: np.ndarray, length: int, temperature: float, seed: int) -> list[int]:
    """Characters drawn one after the other, each from the model's chances after the last CONTEXT ones."""
    random, text = np.random.default_rng(seed), prompt.tolist()
    for _ in range(length):
        scores = np.asarray(model(np.array([text[-CONTEXT:]], np.int32)), np.float64)[0, -1] / temperature
        chances = np.exp(scores - scores.max())
        chances[0] = 0  # the unknown character is none to write
        text.append(int(random.choice(len(chances), p=chances / chances.sum())))
    return text[len(prompt) :]


def plot(losses: list[float], levels: dict[str, float], path: Path) -> None:
    """The loss of each step and a running mean, with the levels that the text held out has."""
    try:
        from matplotlib import pyplot
    except ImportError:
        print("no plot: matplotlib is not installed (pip install graphc[plot])")
        return
    style = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
             "grid.color": "#e6e6e6", "grid.linewidth": 0.7, "axes.axisbelow": True, "axes.titlesize": 10,
             "axes.titlelocation": "left", "legend.frameon": False, "legend.fontsize": 8}  # fmt: skip
    with pyplot.rc_context(style):
        figure, axis = pyplot.subplots(figsize=(7, 3.6), layout="constrained")
        steps, wide = np.arange(1, len(losses) + 1), min(25, len(losses))
        mean = np.convolve(losses, np.ones(wide) / wide, mode="valid")
        axis.plot(steps, losses, color="#c2410c", alpha=0.25, linewidth=0.8)
        axis.plot(steps[wide - 1 :], mean, color="#c2410c", linewidth=1.6, label="GPT, batches of training")
        for (name, level), color in zip(levels.items(), ("#c2410c", "#2563eb", "#0f766e"), strict=True):
            axis.axhline(
                level, color=color, linewidth=1.1, linestyle="--", label=f"{name}, held out: {level:.2f}"
            )
        axis.set(title="Characters of the documents", xlabel="step", ylabel="bits per character")
        axis.set(ylim=(0, max(losses) * 1.05), xlim=(0, len(losses)))
        axis.legend()
        figure.savefig(path, dpi=130)
        pyplot.close(figure)
    print(f"plot: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a small GPT on the characters of graphc's documents.")
    parser.add_argument("--target", default="cpu", help="cpu (default) or cuda")
    parser.add_argument(
        "--steps", type=int, default=1000, help=f"of {BATCH} x {CONTEXT} characters (default: 1000)"
    )
    parser.add_argument("--layers", type=int, default=3, help="of the model (default: 3)")
    parser.add_argument("--length", type=int, default=600, help="characters to write (default: 600)")
    parser.add_argument(
        "--temperature", type=float, default=0.8, help="below 1: likelier text (default: 0.8)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of weights, places and what is written (default: 0)"
    )
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the plot (default: out)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    train_text, held_text = load_text()
    alphabet = Alphabet(train_text)
    text, held, characters = *map(alphabet.encode, (train_text, held_text)), len(alphabet.characters)
    print(f"{len(text):,} characters to train on, {len(held):,} held out, {characters} different ones")
    model = GPT(characters, layers=options.layers)
    losses = train(model, text, options.steps, options.seed, options.target)
    levels = {
        "GPT": bits_of_model(model, held),
        "pairs": bits_of_pairs(text, held, characters),
        "xz": bits_of_xz(train_text, held_text),
    }
    for name, bits in levels.items():
        print(f"{name:6} {bits:.3f} bits per character held out")
    prompt = held[:CONTEXT]
    written = write(model, prompt, options.length, options.temperature, options.seed)
    print(f"--- after {alphabet.decode(prompt.tolist())!r} it writes\n{alphabet.decode(written)}\n---")
    plot(losses, levels, options.out / "character_gpt.png")


if __name__ == "__main__":
    main()
