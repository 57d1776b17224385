"""What a model is trained to lower. For captions

    loss = [ sum over words of cross-entropy with smoothed labels
             + lambda sum over captions and cells p of (1 - sum_t alpha_tp)^2 ] / number of words

The second term is the doubly stochastic penalty (Xu et al., 2015, equation 14).
and for answers the cross-entropy with the soft scores of each question, made a distribution (or, where any words can
be an answer, the logistic loss of each triple, Jabri et al., 2016, section 3.2), and a weight times the entropy of
where the last hop looked, so that it looks at few cells (minimum entropy, Grandvalet and Bengio, 2005, of attention).
Shapes: M words of all captions, V words known, K captions of each of B pictures or questions of each of B rows, P grid
cells, A answers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from captioner.model.decoder import Taught
from captioner.model.network import Network
from training.data import Batch
from training.questions import QuestionBatch
from training.steps import Step


def caption_loss(taught: Taught, label_smoothing: float, doubly_stochastic: float) -> Tensor:
    """The loss per word, a scalar."""
    scores_MV, targets_M = taught.scores_MV.float(), taught.targets_M
    loss = functional.cross_entropy(scores_MV, targets_M, label_smoothing=label_smoothing)
    if taught.looked_BKP is not None and doubly_stochastic:
        looked_BKP = taught.looked_BKP.float()
        written_BK1 = looked_BKP.detach().sum(2, keepdim=True) > 0  # a picture may have fewer captions than others
        loss = loss + doubly_stochastic * ((1 - looked_BKP) * written_BK1).square().sum() / len(targets_M)
    return loss


def self_critical_loss(taught: Taught, weights_BK: Tensor) -> Tensor:
    """Minus the log-probability of each sampled word times its caption's weight, per word."""
    log_probs_M = -functional.cross_entropy(taught.scores_MV.float(), taught.targets_M, reduction="none")
    return -(log_probs_M * weights_BK.flatten()[taught.caption_M]).mean()


def answer_loss(scores_BKA: Tensor, targets_BKA: Tensor, label_smoothing: float, choice: bool) -> Tensor:
    """The loss per question, a scalar; places whose targets are all 0 have no question.

    choice: one of the answers is right; else each is right or wrong by itself.
    """
    total_BK = targets_BKA.sum(dim=2)
    if choice:
        share_BKA = targets_BKA / total_BK.clamp(min=1e-9)[:, :, None]
        share_BKA = share_BKA * (1 - label_smoothing) + label_smoothing / targets_BKA.shape[2]
        loss_BK = -(share_BKA * scores_BKA.float().log_softmax(dim=2)).sum(dim=2)
    else:
        each_BKA = functional.binary_cross_entropy_with_logits(scores_BKA.float(), targets_BKA, reduction="none")
        loss_BK = each_BKA.sum(dim=2)
    return _per_question(loss_BK, targets_BKA)


def attention_entropy(attention_BKP: Tensor, targets_BKA: Tensor) -> Tensor:
    """The mean entropy, in nats, of where was looked for the questions that there are; a scalar."""
    shares_BKP = attention_BKP.float().clamp(min=1e-9)  # at 0 the gradient is infinite
    return _per_question(torch.special.entr(shares_BKP).sum(dim=2), targets_BKA)


def _per_question(values_BK: Tensor, targets_BKA: Tensor) -> Tensor:
    """The mean over the places that have a question."""
    asked_BK = targets_BKA.sum(dim=2) > 0
    return (values_BK * asked_BK).sum() / asked_BK.sum().clamp(min=1)


class TrainingLoss(nn.Module):
    """The network and its losses as one module, so that data parallelism sees every parameter used in one forward."""

    def __init__(
        self,
        network: Network,
        label_smoothing: float,
        doubly_stochastic: float = 0.0,
        answer_weight: float = 1.0,
        entropy_weight: float = 0.0,
    ):
        super().__init__()
        self.network, self.label_smoothing = network, label_smoothing
        self.doubly_stochastic, self.answer_weight = doubly_stochastic, answer_weight
        self.entropy_weight = entropy_weight

    def forward(self, step: Step, samples: Batch | None = None, weights_BK: Tensor | None = None) -> Tensor:
        """Cross-entropy of true captions and answers; with samples and weights the self-critical loss as well."""
        losses = []
        if step.captions is not None:
            losses.append(caption_loss(self._teach(step.captions), self.label_smoothing, self.doubly_stochastic))
        if step.questions is not None:
            losses.append(self.answer_weight * self._answer(step.questions))
        if samples is not None and weights_BK is not None:
            training = self.network.decoder.training
            self.network.decoder.eval()  # samples were drawn without dropout
            losses.append(self_critical_loss(self._teach(samples), weights_BK))
            self.network.decoder.train(training)
        return torch.stack(losses).sum()

    def _answer(self, batch: QuestionBatch) -> Tensor:
        assert self.network.answerer is not None
        grid_BPC = self._grid(batch.images_B)
        found = self.network.answerer(
            grid_BPC, batch.question_BKQ, batch.history_BKQ, batch.candidates_AW, batch.options_BKO
        )
        choice = self.network.answerer.config.kind != "jabri" or batch.options_BKO is not None
        loss = answer_loss(found.scores_BKA, batch.targets, self.label_smoothing, choice)
        if found.attention_BKP is not None and self.entropy_weight:
            loss = loss + self.entropy_weight * attention_entropy(found.attention_BKP, batch.targets)
        return loss

    def _grid(self, images_B: Tensor) -> Tensor:
        """Grids as they are, pixels through the encoder."""
        grid_BPC: Tensor = self.network.encoder(images_B) if images_B.dim() == 4 else images_B
        return grid_BPC

    def _teach(self, batch: Batch) -> Taught:
        grid_BPC = self._grid(batch.images_B)
        taught: Taught = self.network.decoder.teach(grid_BPC, batch.words_BKT, batch.lengths_BK)
        return taught
