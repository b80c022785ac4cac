"""Features of sentences: of a frozen encoder, and two yardsticks that need no network.

encoder_features    every letter's states, averaged over letters and layers
bag_of_words        tf-idf of the task's own training sentences: what is in the words that were labelled
WordVectors         of the unlabelled reviews, by counting which words stand near each other: what the reviews know
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from prepare_text import letters_only
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.utils.extmath import randomized_svd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data2vec.pretraining.evaluation.probe import evaluating, hidden_layers


WORD = r"[a-z']+|[.,!?]"
WORDS, NEAR, DIM = 6000, 5, 96  # of the word vectors: how many, how far words see, channels


def encoder_features(
    encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str], most: int
) -> np.ndarray:
    """The mean of all hidden states over the tokens of a sentence, (sentences, dim).

    A sentence is reduced to its letters as the pretraining text was. What is longer than the encoder reads at once is
    read in pieces; of a long text the last `most` tokens.
    """
    room = encoder.config.max_position_embeddings - encoder.config.pad_token_id - 3  # first and last token are special
    ids = tokenizer([letters_only(text) or "a" for text in sentences], add_special_tokens=False)["input_ids"]
    pieces = [
        (number, [tokenizer.cls_token_id, *row[start : start + room], tokenizer.sep_token_id])
        for number, row in enumerate(row[-most:] for row in ids)
        for start in range(0, len(row), room)
    ]
    pieces.sort(key=lambda piece: len(piece[1]))  # batches of alike lengths
    total = np.zeros((len(sentences), encoder.config.hidden_size))
    tokens = np.zeros((len(sentences), 1))
    with evaluating(encoder), torch.no_grad():
        for start in range(0, len(pieces), 256):
            numbers, rows = zip(*pieces[start : start + 256], strict=True)
            batch = tokenizer.pad({"input_ids": list(rows)}, return_tensors="pt")
            layers, real = hidden_layers(encoder, dict(batch), "average")
            ordinary = real & ~torch.isin(batch["input_ids"], torch.tensor(tokenizer.all_special_ids))
            np.add.at(total, list(numbers), (layers["average"] * ordinary.unsqueeze(-1)).sum(1).numpy())
            np.add.at(tokens, list(numbers), ordinary.sum(1, keepdim=True).numpy())
    return (total / np.maximum(tokens, 1)).astype(np.float32)


def bag_of_words(sentences: Sequence[str]) -> TfidfVectorizer:
    return TfidfVectorizer(token_pattern=WORD, sublinear_tf=True).fit(sentences)


class WordVectors:
    """Singular vectors of the positive pointwise mutual information of words that stand within five of each other.

    Levy and Goldberg (2014), with contexts to the power of 0.75. A sentence is the mean of its words, frequent ones
    counting less (Arora et al. 2017, without the last step).
    """

    def __init__(self, texts: Sequence[str]):
        documents = [re.findall(WORD, text.lower()) for text in texts]
        counts = Counter(word for words in documents for word in words)
        self.number = {word: i for i, (word, _) in enumerate(counts.most_common(WORDS))}
        total = sum(counts.values())
        self.weight = np.array([1 / (1 + 1000 * counts[word] / total) for word in self.number])
        gap = [-1] * NEAR  # so that no word sees the next document
        ids = np.concatenate([[*(self.number.get(word, -1) for word in words), *gap] for words in documents])
        near = _near(ids, len(self.number))
        u, values, _ = randomized_svd(_positive_information(near), min(DIM, len(self.number) - 1), random_state=0)
        vectors = u * np.sqrt(values)
        self.vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)  # (words, dim)

    def __call__(self, sentences: Sequence[str]) -> np.ndarray:
        found = np.zeros((len(sentences), self.vectors.shape[1]))
        for row, text in enumerate(sentences):
            words = [self.number[word] for word in re.findall(WORD, text.lower()) if word in self.number]
            if words:
                found[row] = (self.vectors[words] * self.weight[words, None]).mean(0)
        return found


def _near(ids: np.ndarray, words: int) -> sparse.csr_matrix:
    """How often two words stand within `NEAR` of each other, (words, words)."""
    counts = sparse.csr_matrix((words, words))
    for distance in range(1, NEAR + 1):
        left, right = ids[:-distance], ids[distance:]
        known = (left >= 0) & (right >= 0)
        pairs = (np.ones(int(known.sum())), (left[known], right[known]))
        counts = counts + sparse.coo_matrix(pairs, shape=(words, words)).tocsr()
    return sparse.csr_matrix(counts + counts.T)


def _positive_information(near: sparse.csr_matrix) -> sparse.csr_matrix:
    of_word = np.maximum(np.asarray(near.sum(1)).ravel(), 1e-9)
    of_context = of_word**0.75 / (of_word**0.75).sum()
    pairs = near.tocoo()
    information = np.log(pairs.data / (of_word[pairs.row] * of_context[pairs.col]))
    return sparse.csr_matrix((np.maximum(information, 0), (pairs.row, pairs.col)), shape=near.shape)
