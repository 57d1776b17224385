"""The recurrent decoder: words, one by one, from a grid of picture features.

With v the mean of the projected grid, x_t the vector of the word before, and h, c all zero before the first step unless
said otherwise, the picture starts the decoder in one of three ways:

    first_step     gates_0 = W_x x_0 + W_h h + W_ih v + b, later gates_t = W_x x_t + W_h h_{t-1} + b
                   (Karpathy and Fei-Fei, 2015, equation 14); W_ih is `image_to_gates`, on the first layer only
    first_word     one more step before the first word, with x = W_v v (Vinyals et al., 2015, equation 10)
    initial_state  h = tanh(W_h0 v), c = tanh(W_c0 v) for each layer (Xu et al., 2015, section 3.1.2)

With soft attention every step also sees z_t (captioner.model.attention), the gates are W [x_t; z_t; h_{t-1}] + b, and
the deep output layer is (Xu et al., equation 7; the scores are words(...) below, tied to the word vectors by choice)

    p(y_t) = softmax(L_o (x_t + L_h h_t + L_z z_t))

and without attention p(y_t) = softmax(L_o L_h h_t).

Shapes: B pictures, K beams or captions of a picture, T words, P grid cells, C channels, F projected channels,
A attention units, E word vector, H hidden units, L layers, S = 2 L H state (h then c of each layer), G = 4H gates,
V words known, M words of all captions of a batch, R rows worked through for them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from captioner.config import ModelConfig
from captioner.model.attention import SoftAttention
from captioner.model.cells import LstmStack


class Memory(NamedTuple):
    """What the decoder keeps of each picture while it speaks."""

    grid_BPF: Tensor
    keys_B1PA: Tensor
    """Without attention empty."""
    image_gates_B1G: Tensor
    """W_ih v; without first_step empty."""


class Taught(NamedTuple):
    """Teacher-forced scores of every word of a batch of captions."""

    scores_MV: Tensor
    """Before softmax."""
    targets_M: Tensor
    caption_M: Tensor
    """Whose word it is: b * K + k."""
    looked_BKP: Tensor | None
    """How much attention each cell got over a whole caption; None without attention."""


class Decoder(nn.Module):
    """Words from a grid [B, P, C]; `grid` is its rows, columns and channels C, `vocabulary_size` is V."""

    def __init__(self, config: ModelConfig, grid: tuple[int, int, int], vocabulary_size: int):
        super().__init__()
        c = self.config = config
        rows, columns, channels = grid
        self.project = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, c.feature_size), nn.ReLU())
        self.position_PF = nn.Parameter(torch.zeros(rows * columns, c.feature_size)) if c.positions else None
        self.attend = SoftAttention(c.feature_size, c.hidden_size, c.attention_size) if c.attention == "soft" else None
        seen_size = c.feature_size if self.attend else 0
        self.cells = LstmStack(c.embed_size, seen_size, c.hidden_size, c.layers, c.dropout)
        self.embed = nn.Embedding(vocabulary_size, c.embed_size)
        nn.init.normal_(self.embed.weight, std=c.embed_size**-0.5)
        self.image_to_gates = (
            nn.Linear(c.feature_size, 4 * c.hidden_size, bias=False) if c.conditioning == "first_step" else None
        )
        self.image_to_word = nn.Linear(c.feature_size, c.embed_size) if c.conditioning == "first_word" else None
        self.image_to_state = (
            nn.Linear(c.feature_size, 2 * c.layers * c.hidden_size) if c.conditioning == "initial_state" else None
        )
        self.hidden_to_output = nn.Linear(c.hidden_size + seen_size, c.embed_size)
        self.words = nn.Linear(c.embed_size, vocabulary_size)
        nn.init.zeros_(self.words.bias)
        if c.tied_words:
            self.words.weight = self.embed.weight
        self.dropout = nn.Dropout(c.dropout)

    def start(self, grid_BPC: Tensor) -> tuple[Memory, Tensor]:
        """Look at the pictures once: the memory and the first state [B, S]."""
        c = self.config
        grid_BPF = self.project(grid_BPC)
        if self.position_PF is not None:
            grid_BPF = grid_BPF + self.position_PF
        grid_BPF = self.dropout(grid_BPF)
        picture_BF = grid_BPF.mean(dim=1)
        nothing = picture_BF[:, :0]
        memory = Memory(
            grid_BPF,
            self.attend.keys(grid_BPF) if self.attend else nothing,
            self.image_to_gates(picture_BF)[:, None] if self.image_to_gates else nothing,
        )
        if self.image_to_state:
            return memory, self.image_to_state(picture_BF).tanh()
        state_BS = picture_BF.new_zeros(1, 2 * c.layers * c.hidden_size).expand(picture_BF.shape[0], -1)
        if self.image_to_word:
            word_BE = self.image_to_word(picture_BF)
            unseen_BF = picture_BF * 0 if self.attend else nothing
            state_BS, _ = self.cells(self.cells.gates(word_BE), unseen_BF, state_BS)
        return memory, state_BS

    def step(self, t: Tensor, words_BK: Tensor, state_BKS: Tensor, memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities of the next word [B, K, V], the next state, and where was looked [B, K, P or 0].

        `t` is the number of the step, a scalar tensor: the picture joins the gates at 0 only.
        """
        word_BKE = self.embed(words_BK)
        seen_BKF, where_BKP = self._look(memory, state_BKS)
        gates_BKG = self.cells.gates(word_BKE)
        if self.image_to_gates:
            gates_BKG = gates_BKG + memory.image_gates_B1G * (t == 0)
        state_BKS, hidden_BKH = self.cells(gates_BKG, seen_BKF, state_BKS)
        scores_BKV = self._scores(word_BKE, hidden_BKH, seen_BKF)
        return scores_BKV.log_softmax(dim=2), state_BKS, where_BKP

    def teach(self, grid_BPC: Tensor, words_BKT: Tensor, lengths_BK: Tensor) -> Taught:
        """Scores of the true next words of K captions of each picture.

        words_BKT holds <start>, the words, <end> and padding; lengths_BK counts the words to predict, <end> included,
        and lies on the CPU (0: no caption). Pictures come by their longest caption, longest first, and so do the
        captions of a picture: each step then takes a block of those still going. The captions of a picture share
        its projected grid, and so its gradient.
        """
        memory, state_BS = self.start(grid_BPC)
        going_TBK = lengths_BK[None] > torch.arange(int(lengths_BK[0, 0]))[:, None, None]
        blocks_T = list(zip(going_TBK.any(2).sum(1).tolist(), going_TBK.sum(2).amax(1).tolist(), strict=True))
        words_R = torch.cat([words_BKT[:n, :k, t].flatten() for t, (n, k) in enumerate(blocks_T)])
        targets_R = torch.cat([words_BKT[:n, :k, t + 1].flatten() for t, (n, k) in enumerate(blocks_T)])
        kept_R = torch.cat([going_TBK[t, :n, :k].flatten() for t, (n, k) in enumerate(blocks_T)])
        numbers_BK = torch.arange(lengths_BK.numel()).view_as(lengths_BK)
        caption_R = torch.cat([numbers_BK[:n, :k].flatten() for n, k in blocks_T])
        kept_M = kept_R.nonzero().squeeze(1).to(words_R.device)
        word_RE = self.dropout(self.embed(words_R))
        gates = torch.split(self.cells.gates(word_RE), [n * k for n, k in blocks_T])
        looked_BKP = grid_BPC.new_zeros(*lengths_BK.shape, grid_BPC.shape[1]) if self.attend else None
        state_BKS = state_BS[:, None].expand(-1, lengths_BK.shape[1], -1)
        hiddens, seens = [], []
        for t, (n, k) in enumerate(blocks_T):
            if n < memory.grid_BPF.shape[0]:
                memory = Memory(memory.grid_BPF[:n], memory.keys_B1PA[:n], memory.image_gates_B1G)
            state_BKS = state_BKS[:n, :k]
            seen_BKF, where_BKP = self._look(memory, state_BKS)
            gates_BKG = gates[t].view(n, k, -1)
            if t == 0 and self.image_to_gates:
                gates_BKG = gates_BKG + memory.image_gates_B1G
            state_BKS, hidden_BKH = self.cells(gates_BKG, seen_BKF, state_BKS)
            if looked_BKP is not None:
                where_BKP = where_BKP * going_TBK[t, :n, :k, None].to(where_BKP.device)
                gone = (0, 0, 0, looked_BKP.shape[1] - k, 0, looked_BKP.shape[0] - n)
                looked_BKP = looked_BKP + nn.functional.pad(where_BKP, gone)
            hiddens.append(hidden_BKH.flatten(0, 1))
            seens.append(seen_BKF.flatten(0, 1))
        hidden_MH, seen_MF = torch.cat(hiddens)[kept_M], torch.cat(seens)[kept_M]
        return Taught(
            self._scores(word_RE[kept_M], hidden_MH, seen_MF),
            targets_R[kept_M],
            caption_R.to(kept_M.device)[kept_M],
            looked_BKP,
        )

    def _look(self, memory: Memory, state_BKS: Tensor) -> tuple[Tensor, Tensor]:
        """What the attention sees from the last layer's hidden state, and where; both empty without attention."""
        if self.attend is None:
            return state_BKS[:, :, :0], state_BKS[:, :, :0]
        hidden_BKH = torch.split(state_BKS, self.config.hidden_size, dim=2)[-2]
        seen: tuple[Tensor, Tensor] = self.attend(memory.grid_BPF, memory.keys_B1PA, hidden_BKH)
        return seen

    def _scores(self, word: Tensor, hidden: Tensor, seen: Tensor) -> Tensor:
        """The output layer: scores before softmax [..., V]."""
        output = self.hidden_to_output(torch.cat([self.dropout(hidden), seen], dim=-1))
        if self.attend:
            output = output + word
        scores: Tensor = self.words(self.dropout(output))
        return scores
