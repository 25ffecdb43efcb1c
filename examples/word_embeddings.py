"""Learns vectors of words from the company that they keep, and shows which words have similar ones.

    python examples/word_embeddings.py [--epochs N] [--seed N] [--out FOLDER]

Model: skip-gram with negative sampling (T. Mikolov et al., Distributed Representations of Words and Phrases and their
Compositionality, 2013, arXiv:1310.4546): a word's vector has a large scalar product with the second vectors of the words
near it, and a small one with those of words drawn at random, within the compiled step, by their frequency to the 3/4.
Data: the reference of the Python language that comes with Python (``pydoc_data.topics``, which ``help("while")`` shows)
and the pages in ``docs/`` of this repository, about 100,000 words. Needs nothing but graphc; ``pip install
graphc[demo]`` for the plot.
Result: how often the word that stood near scores higher than five random ones, for pairs of the tenth of the text that is
held out, beside the same by the words' frequency alone; the nearest neighbours of some words; a map of common ones.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from pathlib import Path
from pydoc_data import topics

import numpy as np

import graphc
from graphc import Array, init, nn, optim

DOCS = Path(__file__).resolve().parent.parent / "docs"
LEAST = 8  # times that a word must occur
WINDOW = 4  # words to the left and right that are near
NOISE = 5  # random words for each pair
BATCH = 512
SHOWN = ("int", "list", "class", "raise", "while", "first", "kernel", "gradient")


class SkipGram(nn.Module):
    """Scores [N, 1 + NOISE] for words [N]: of the words near them [N] first, then of random ones.

    A third argument [N, NOISE] gives the random words; without it a training call draws them, others have none.
    """

    def __init__(self, frequencies: np.ndarray, features: int = 64) -> None:
        words = len(frequencies)
        start = init.uniform(-0.5 / features, 0.5 / features)
        self.words = nn.Embedding(words, features, weight_init=start)
        self.near = nn.Embedding(words, features, weight_init=init.zeros())
        self.chances = (frequencies**0.75).astype(np.float32)

    def forward(self, *inputs: Array) -> Array:
        center, near, *noise = inputs
        if self.training and not noise:
            shape = (*near.shape, NOISE)
            noise = [graphc.random.choice(self.next_key(), len(self.chances), shape, p=self.chances)]
        candidates = graphc.concat([near[:, None], *noise], axis=1)
        return (self.near(candidates) * self.words(center)[:, None, :]).sum(axis=-1)


def loss(scores: Array, true: Array) -> Array:
    """Of each pair, the sum of the cross-entropies of "it is the true one" for all candidates."""
    is_true = graphc.one_hot(true, scores.shape[-1])
    each = nn.binary_cross_entropy_with_logits(scores, is_true, reduction="none")
    return each.sum(axis=-1).mean()


def make_optimizer() -> optim.Optimizer:
    return optim.Adam(3e-3)


def load_pages() -> list[list[str]]:
    """The words of each page: letters and underscores, in small letters."""
    own = [path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md")) if path.stem != "examples"]
    return [re.findall(r"[a-z_]{2,}", page.lower()) for page in [*topics.topics.values(), *own]]


def pairs(pages: list[np.ndarray]) -> np.ndarray:
    """[pairs, 2]: each word of a page with every word near it."""
    found = []
    for page in pages:
        for distance in range(1, WINDOW + 1):
            found += [(page[:-distance], page[distance:]), (page[distance:], page[:-distance])]
    return np.concatenate([np.stack(pair, axis=1) for pair in found]).astype(np.int32)


def thinned(
    pages: list[np.ndarray], frequencies: np.ndarray, random: np.random.Generator
) -> list[np.ndarray]:
    """The pages without most of the commonest words, which stand near all others: each stays with √(1e-3 / share)."""
    kept = np.sqrt(1e-3 * frequencies.sum() / frequencies)
    return [page[random.random(len(page)) < kept[page]] for page in pages]


def neighbours(vectors: np.ndarray, word: int, count: int) -> np.ndarray:
    """The words whose vectors have the smallest angles to that of a word; the vectors have length 1."""
    return np.argsort(-(vectors @ vectors[word]))[1 : count + 1]


def plot(vectors: np.ndarray, names: list[str], path: Path) -> None:
    """A map of words by t-SNE, which keeps neighbours (van der Maaten and Hinton, JMLR 9, 2008)."""
    try:
        from matplotlib import pyplot
        from sklearn.manifold import TSNE
    except ImportError:
        print("no plot: matplotlib or scikit-learn is not installed (pip install graphc[demo])")
        return
    places = TSNE(perplexity=12, metric="cosine", init="random", random_state=0).fit_transform(vectors)
    with pyplot.rc_context({"font.size": 8, "axes.titlesize": 10, "axes.titlelocation": "left"}):
        figure, axis = pyplot.subplots(figsize=(9, 7), layout="constrained")
        axis.scatter(*places.T, s=6, color="#c2410c", linewidths=0)
        for name, place in zip(names, places, strict=True):
            axis.annotate(name, place, xytext=(3, 2), textcoords="offset points", fontsize=7, color="#303030")
        axis.set(title="Words by the company that they keep", xticks=[], yticks=[])
        axis.spines[:].set_color("#c8c8c8")
        figure.savefig(path, dpi=130)
        pyplot.close(figure)
    print(f"plot: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Learn vectors of words by skip-gram with negative sampling."
    )
    parser.add_argument("--target", default="cpu", help="cpu (default), cuda, or interpreter (numpy)")
    parser.add_argument("--epochs", type=int, default=10, help="passes over the pairs (default: 10)")
    parser.add_argument("--pairs", type=int, help="train on so many only (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of vectors, batches and noise (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the plot (default: out)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(options.seed)

    pages = load_pages()
    counts = Counter(word for page in pages for word in page[: len(page) * 9 // 10])
    names = [word for word, count in counts.most_common() if count >= LEAST]
    numbers = {word: number for number, word in enumerate(names)}
    frequencies = np.array([counts[word] for word in names], np.float64)
    coded = [np.array([numbers[word] for word in page if word in numbers], np.int32) for page in pages]
    cuts = [len(page) * 9 // 10 for page in coded]
    train = pairs(thinned([page[:cut] for page, cut in zip(coded, cuts, strict=True)], frequencies, random))
    held = pairs(thinned([page[cut:] for page, cut in zip(coded, cuts, strict=True)], frequencies, random))
    train = random.permutation(train)[: options.pairs]
    print(f"{sum(map(len, pages)):,} words, {len(names):,} of them known, {len(train):,} pairs")

    model = SkipGram(frequencies)
    history = graphc.fit(
        model,
        ((train[:, 0], train[:, 1]), np.zeros(len(train), np.int32)),  # the true word is candidate 0
        loss=loss,
        optimizer=make_optimizer(),
        epochs=options.epochs,
        batch_size=BATCH,
        schedule=optim.schedules.Polynomial(options.epochs),
        drop_last=True,
        seed=options.seed,
        target=options.target,
    )
    print(f"loss {history['loss'][0]:.3f} -> {history['loss'][-1]:.3f}")
    print(
        f"{np.median(history['us_per_step']):.0f} us a step of {BATCH} pairs with {NOISE} random words each"
    )

    chances = model.chances / model.chances.sum(dtype=np.float64)
    noise = random.choice(len(names), (len(held), NOISE), p=chances).astype(np.int32)
    scores = np.asarray(model(held[:, 0], held[:, 1], noise))
    usual = frequencies[np.column_stack([held[:, 1], noise])]
    print(f"{len(held):,} pairs held out: the true word scores highest of {1 + NOISE} for")
    print(f"  {(scores.argmax(axis=1) == 0).mean():.3f} of them by the vectors")
    print(
        f"  {(usual.argmax(axis=1) == 0).mean():.3f} by the words' frequency, {1 / (1 + NOISE):.3f} by chance"
    )

    vectors = model.parameters["words.weight"]
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for word in SHOWN:
        if word in numbers:
            print(f"{word:9} {' '.join(names[near] for near in neighbours(vectors, numbers[word], 8))}")
    shown = [number for number, name in enumerate(names) if len(name) > 3][60:210]
    plot(vectors[shown], [names[number] for number in shown], options.out / "word_embeddings.png")


if __name__ == "__main__":
    main()
