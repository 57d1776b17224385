"""The whole captioner in torch: encoder, decoder and the search over it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from captioner.config import ModelConfig, SearchOptions
from captioner.model import search
from captioner.model.decoder import Decoder
from captioner.model.encoder import Encoder


class CaptionNetwork(nn.Module):
    """uint8 pixels [B, H, W, 3] to captions."""

    def __init__(self, config: ModelConfig, vocabulary_size: int, encoder_weights: str = "random"):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder, config.preprocessing, encoder_weights, config.encoder_stage)
        self.decoder = Decoder(config, self.grid, vocabulary_size)
        self.search = search.BeamSearch(self.decoder, vocabulary_size)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Rows, columns and channels of the encoder's grid."""
        return self.encoder.rows, self.encoder.columns, self.encoder.channels

    def find(self, grid_BPC: Tensor, options: SearchOptions) -> search.Found:
        """Search on a grid with the options of the runtime."""
        extra = search.inputs(options.beam_size, options.max_words, options.length_power, options.captions)
        found: search.Found = self.search(grid_BPC, *(x.to(grid_BPC.device) for x in extra))
        return found

    def state(self) -> dict[str, Tensor]:
        """Every weight once: what the search and tied layers share is not repeated."""
        parts = {"encoder": self.encoder, "decoder": self.decoder}
        state = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
        if self.config.tied_words:
            del state["decoder.words.weight"]
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take what state gave; anything missing or unknown is a RuntimeError that names it."""
        if self.config.tied_words and "decoder.embed.weight" in state:
            state = {**state, "decoder.words.weight": state["decoder.embed.weight"]}
        nn.ModuleDict({"encoder": self.encoder, "decoder": self.decoder}).load_state_dict(state)

    def save(self, path: Path) -> None:
        """Write all weights as safetensors."""
        from safetensors.torch import save_file

        save_file({key: value.detach().cpu().contiguous() for key, value in self.state().items()}, path)

    @classmethod
    def load(cls, config: ModelConfig, vocabulary_size: int, path: Path) -> CaptionNetwork:
        """A network in evaluation mode with the weights that save wrote."""
        from safetensors.torch import load_file

        network = cls(config, vocabulary_size)
        network.load_state(load_file(path))
        return network.eval()
