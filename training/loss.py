"""What a caption model is trained to lower.

    loss = [ sum over words of cross-entropy with smoothed labels
             + lambda sum over captions and cells p of (1 - sum_t alpha_tp)^2 ] / number of words

The second term is the doubly stochastic penalty (Xu et al., 2015, equation 14).
Shapes: M words of all captions, V words known, K captions of each of B pictures, P grid cells.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from captioner.model.decoder import Taught
from captioner.model.network import CaptionNetwork
from training.data import Batch


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


class CaptionLoss(nn.Module):
    """The network and its loss as one module, so that data parallelism sees every parameter used in one forward."""

    def __init__(self, network: CaptionNetwork, label_smoothing: float, doubly_stochastic: float):
        super().__init__()
        self.network, self.label_smoothing, self.doubly_stochastic = network, label_smoothing, doubly_stochastic

    def forward(self, batch: Batch, samples: Batch | None = None, weights_BK: Tensor | None = None) -> Tensor:
        """Cross-entropy of true captions; with samples and their weights, the self-critical loss of those as well."""
        loss = caption_loss(self._teach(batch), self.label_smoothing, self.doubly_stochastic)
        if samples is None or weights_BK is None:
            return loss
        training = self.network.decoder.training
        self.network.decoder.eval()  # samples were drawn without dropout
        loss = loss + self_critical_loss(self._teach(samples), weights_BK)
        self.network.decoder.train(training)
        return loss

    def _teach(self, batch: Batch) -> Taught:
        pixels = batch.images_B.dim() == 4
        grid_BPC = self.network.encoder(batch.images_B) if pixels else batch.images_B
        taught: Taught = self.network.decoder.teach(grid_BPC, batch.words_BKT, batch.lengths_BK)
        return taught
