"""The whole model in torch: an encoder, and what speaks about its grid."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from captioner.config import ModelConfig, SearchOptions
from captioner.model import search
from captioner.model.answerer import Answerer
from captioner.model.decoder import Decoder
from captioner.model.encoder import Encoder


class Network(nn.Module):
    """uint8 pixels [B, H, W, 3] to captions, to answers, or to both, as the settings say."""

    def __init__(
        self,
        config: ModelConfig,
        vocabulary_size: int = 0,
        encoder_weights: str = "random",
        question_words: int = 0,
        answers: int = 0,
    ):
        """vocabulary_size: words of captions; question_words and answers: those known to the answerer."""
        super().__init__()
        self.config = config
        self.sizes = {"vocabulary_size": vocabulary_size, "question_words": question_words, "answers": answers}
        self.encoder = Encoder(config.encoder, config.preprocessing, encoder_weights, config.encoder_stage)
        if config.captions:
            self.decoder = Decoder(config, self.grid, vocabulary_size)
            self.search = search.BeamSearch(self.decoder, vocabulary_size)
        self.answerer = (
            None if config.answerer is None else Answerer(config.answerer, self.grid, question_words, answers)
        )

    @property
    def grid(self) -> tuple[int, int, int]:
        """Rows, columns and channels of the encoder's grid."""
        return self.encoder.rows, self.encoder.columns, self.encoder.channels

    @property
    def heads(self) -> list[nn.Module]:
        """What speaks about the grid: all but the encoder."""
        captioner = [self.decoder] if self.config.captions else []
        return [*captioner, *([] if self.answerer is None else [self.answerer])]

    def find(self, grid_BPC: Tensor, options: SearchOptions) -> search.Found:
        """Search on a grid with the options of the runtime."""
        extra = search.inputs(options.beam_size, options.max_words, options.length_power, options.captions)
        found: search.Found = self.search(grid_BPC, *(x.to(grid_BPC.device) for x in extra))
        return found

    def _parts(self) -> dict[str, nn.Module]:
        captioner = {"decoder": self.decoder} if self.config.captions else {}
        answerer = {} if self.answerer is None else {"answerer": self.answerer}
        return {"encoder": self.encoder, **captioner, **answerer}

    def state(self) -> dict[str, Tensor]:
        """Every weight once: what the search and tied layers share is not repeated."""
        parts = self._parts().items()
        state = {f"{name}.{key}": value for name, part in parts for key, value in part.state_dict().items()}
        if self.config.captions and self.config.tied_words:
            del state["decoder.words.weight"]
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take what state gave; anything missing or unknown is a RuntimeError that names it."""
        if self.config.captions and self.config.tied_words and "decoder.embed.weight" in state:
            state = {**state, "decoder.words.weight": state["decoder.embed.weight"]}
        nn.ModuleDict(self._parts()).load_state_dict(state)

    def save(self, path: Path) -> None:
        """Write all weights as safetensors."""
        from safetensors.torch import save

        # Not save_file, whose files only their owner may read: a server in a container is somebody else.
        path.write_bytes(save({key: value.detach().cpu().contiguous() for key, value in self.state().items()}))

    @classmethod
    def load(
        cls, config: ModelConfig, path: Path, vocabulary_size: int = 0, question_words: int = 0, answers: int = 0
    ) -> Network:
        """A network in evaluation mode with the weights that save wrote."""
        from safetensors.torch import load_file

        network = cls(config, vocabulary_size, question_words=question_words, answers=answers)
        network.load_state(load_file(path))
        return network.eval()
