"""Self-critical training: sampled captions are pushed up or down by how much more they are worth than their siblings.

    loss = - sum over samples k of (r_k - mean of the other samples' r) log p(sample k) / number of words
           + the cross-entropy of the true captions (training.loss)

(Rennie et al., 2017; the baseline is that of Luo, 2020: the other samples of the same picture.) Cross-entropy keeps the
sentences whole: without it they shrink to what is safe to say of any picture. What a sample is worth
is what it adds to the two scores of all samples of a batch, each as a share of that score:

    r_k = d log BLEU_k + cider_k / mean cider

BLEU-4 of a corpus (Papineni et al., 2002) is not a mean over sentences. With m_n of t_n n-grams matched, length c and
closest reference length l in a sample, and M_n, T_n, C and L their means over the batch,

    log BLEU = 1/4 sum_n log(M_n / T_n) + min(0, 1 - L / C)
    d log BLEU_k = 1/4 sum_n (m_n / M_n - t_n / T_n) + [C < L] (L c / C^2 - l / C)

cider_k is the cosine of the n-gram counts of sample and references, weighted by how rare an n-gram is, mean over
n = 1 to 4 and the references (what CIDEr-D measures; Vedantam et al., 2015). END counts as a word in both, so that a
sample is rewarded for ending where a sentence ends.
Shapes: B pictures, K samples of each, N = B K, T words, S state, V words known.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from captioner.model.decoder import Decoder
from captioner.vocabulary import END, PAD, START, UNKNOWN
from training.data import Batch

SAMPLES = 5
LONGEST = 20
ORDERS = (1, 2, 3, 4)
Words = tuple[int, ...]
Vector = tuple[list[dict[Words, float]], list[float]]
"""Weighted n-grams by n - 1, and the length of each vector."""
Grams = list[Counter[Words]]
"""Counts of n-grams, by n - 1."""


def grams(words: Sequence[int]) -> Grams:
    """Counts of 1- to 4-grams."""
    return [Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1)) for n in ORDERS]


class References:
    """Every training picture's captions, as numbers that end with END, ready to compare samples with."""

    def __init__(self, references: Sequence[Sequence[Sequence[int]]]):
        counted = [[grams(sentence) for sentence in sentences] for sentences in references]
        seen = Counter(gram for sentences in counted for gram in {g for s in sentences for counts in s for g in counts})
        total = math.log(max(2, len(references)))
        self.rarity = {gram: total - math.log(count) for gram, count in seen.items()}
        self.rarest = total
        self.vectors = [[self._vector(s) for s in sentences] for sentences in counted]
        self.lengths = [[len(sentence) for sentence in sentences] for sentences in references]
        self.most: list[Grams] = []
        """The highest count of each n-gram in one caption of a picture."""
        for sentences in counted:
            self.most.append([Counter() for _ in ORDERS])
            for sentence in sentences:
                for most, counts in zip(self.most[-1], sentence, strict=True):
                    most |= counts

    def counts(self, picture: int, words: Sequence[int]) -> list[float]:
        """m_1 to m_4, t_1 to t_4, c, l and cider of a sample that ends with END, about training picture `picture`."""
        own = grams(words)
        matches = [(counts & most).total() for counts, most in zip(own, self.most[picture], strict=True)]
        lengths = self.lengths[picture]
        closest = min(lengths, key=lambda length: (abs(length - len(words)), length))
        return [*matches, *(counts.total() for counts in own), len(words), closest, self.cider(picture, own)]

    def cider(self, picture: int, own: Grams) -> float:
        """Mean cosine with the picture's captions, in [0, 1]."""
        vector, others = self._vector(own), self.vectors[picture]
        return sum(self._cosine(vector, other) for other in others) / len(others)

    def _vector(self, counts: Grams) -> Vector:
        weighed = [{g: n * self.rarity.get(g, self.rarest) for g, n in one.items()} for one in counts]
        return weighed, [math.sqrt(sum(value * value for value in one.values())) for one in weighed]

    def _cosine(self, a: Vector, b: Vector) -> float:
        total = 0.0
        for own, other, own_norm, other_norm in zip(a[0], b[0], a[1], b[1], strict=True):
            shared = sum(min(value, other[gram]) * other[gram] for gram, value in own.items() if gram in other)
            total += shared / (own_norm * other_norm) if shared else 0.0
        return total / len(ORDERS)


def rewards(counts_NX: Tensor) -> Tensor:
    """What each sample is worth [N], from its counts [N, 11]; 0 for a score that no sample of the batch adds to."""
    mean_X = counts_NX.mean(dim=0)
    share_NX = counts_NX / mean_X.clamp(min=1e-9)
    reward_N = (share_NX[:, :4] - share_NX[:, 4:8]).mean(dim=1) + share_NX[:, 10]
    length, closest = mean_X[8], mean_X[9]
    if length < closest:
        reward_N = reward_N + closest / length * (share_NX[:, 8] - share_NX[:, 9])
    return reward_N


def bleu(counts_NX: Tensor) -> float:
    """BLEU-4 of the samples as a corpus, END a word like any other."""
    total_X = counts_NX.double().sum(dim=0)
    precision = (total_X[:4] / total_X[4:8].clamp(min=1)).clamp(min=1e-9).log().mean().exp()
    return float(precision * (1 - total_X[9] / total_X[8]).clamp(max=0).exp())


@torch.no_grad()
def sample(
    decoder: Decoder, grid_BPC: Tensor, samples: int = SAMPLES, generator: torch.Generator | None = None
) -> Tensor:
    """Draw captions of each picture: <start>, words, END, padding [B, K, T]; marks are never drawn.

    A caption that has not ended after LONGEST words is ended there.
    """
    memory, state_BS = decoder.start(grid_BPC)
    state_BKS = state_BS[:, None].expand(-1, samples, -1)
    words_BK = torch.full(state_BKS.shape[:2], START, device=grid_BPC.device)
    drawn = [words_BK]
    for t in range(LONGEST):
        log_probs_BKV, state_BKS, _ = decoder.step(torch.tensor(t, device=grid_BPC.device), words_BK, state_BKS, memory)
        log_probs_BKV[:, :, [PAD, START, UNKNOWN]] = -math.inf
        next_B = torch.multinomial(log_probs_BKV.exp().flatten(0, 1).float(), 1, generator=generator)
        ended_BK = (words_BK == END) | (words_BK == PAD)
        words_BK = next_B.view_as(words_BK).masked_fill(ended_BK, PAD)
        drawn.append(words_BK)
        if bool((ended_BK | (words_BK == END)).all()):
            break
    last_BK = torch.where((words_BK == END) | (words_BK == PAD), PAD, END)
    return torch.stack([*drawn, last_BK], dim=2)


def longest_first(words_BKT: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Captions and lengths as Decoder.teach wants them, the order of pictures [B] and, in it, of captions [B, K]."""
    lengths_BK = (words_BKT[:, :, 1:] != PAD).sum(dim=2)
    order_B = lengths_BK.amax(dim=1).argsort(descending=True)
    order_BK = lengths_BK.argsort(dim=1, descending=True)[order_B]
    words_BKT = words_BKT[order_B].gather(1, order_BK[:, :, None].expand_as(words_BKT))
    return words_BKT, lengths_BK[order_B].gather(1, order_BK), order_B, order_BK


def sampled_batch(
    batch: Batch, decoder: Decoder, grid_BPC: Tensor, references: References
) -> tuple[Batch, Tensor, float]:
    """A batch of samples in the place of the captions, the advantage of each [B, K], and the BLEU-4 of all."""
    words_BKT = sample(decoder, grid_BPC).cpu()
    counts_NX = torch.tensor(
        [
            references.counts(picture, [word for word in words if word != PAD])
            for picture, samples in zip(batch.pictures, words_BKT[:, :, 1:].tolist(), strict=True)
            for words in samples
        ]
    )
    rewards_BK = rewards(counts_NX).view(words_BKT.shape[:2])
    words_BKT, lengths_BK, order_B, order_BK = longest_first(words_BKT)
    weights_BK = advantages(rewards_BK)[order_B].gather(1, order_BK)
    pictures = [batch.pictures[b] for b in order_B.tolist()]
    images_B = batch.images_B[order_B.to(batch.images_B.device)]
    samples = Batch(pictures, images_B, words_BKT.to(grid_BPC.device), lengths_BK)
    return samples, weights_BK.to(grid_BPC.device), bleu(counts_NX)


def advantages(rewards_BK: Tensor) -> Tensor:
    """How much more each sample is worth than the mean of its siblings."""
    others_BK = (rewards_BK.sum(dim=1, keepdim=True) - rewards_BK) / (rewards_BK.shape[1] - 1)
    return rewards_BK - others_BK
