"""The engine that everything uses: photos in, captions out, through three stages that can be run one by one.

    pixels = captioner.pixels(photo)            decode, turn upright, resize
    grid   = captioner.encode(pixels[None])     the encoder's graph
    found  = captioner.search(grid, options)    the decoder's graph, with beam search inside

Axes: B photos, H height, W width, 3 red, green and blue, P grid cells (row by row), C channels, K beams, T steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captioner import sharing
from captioner.bundle import Bundle, BundleError, Precision
from captioner.config import SearchOptions
from captioner.engine import Provider, Session, Stop
from captioner.images import LIMITS, ImageLimits, Photo, file_bytes
from captioner.memory import DEFAULT_BYTES, GridMemory, photo_key
from captioner.preprocess import load_pixels
from captioner.query import Query
from captioner.questions import QuestionReader
from captioner.results import Answered, Caption, Word
from captioner.tokens import sentence
from captioner.vocabulary import END, PAD

NEVER = -1e9  # the first score of all beams but one, so that the search starts from one empty sentence
IMPOSSIBLE = -1e8  # below it a beam never came from that empty sentence: there are fewer sentences than beams

__all__ = ["Captioner", "Photo"]


class Captioner:
    """A loaded model; safe to use from several threads."""

    def __init__(
        self,
        bundle: Bundle,
        precision: Precision,
        encoder: Session,
        decoder: Session | None,
        answerer: Session | None = None,
        limits: ImageLimits = LIMITS,
        memory: GridMemory | None = None,
    ):
        self.bundle = bundle
        self.precision = precision
        self.limits = limits
        self.memory = GridMemory() if memory is None else memory
        """What the encoder saw in the last photos."""
        sessions = [session for session in (encoder, decoder, answerer) if session is not None]
        self.provider: Provider = "cuda" if all(session.provider == "cuda" for session in sessions) else "cpu"
        """What onnxruntime really uses for all graphs."""
        self._encoder = encoder
        self._decoder = decoder
        self._answerer = answerer
        self._questions = QuestionReader(bundle)

    @classmethod
    def load(
        cls,
        bundle: str | Path | Bundle | None = None,
        precision: Precision | None = None,
        threads: int | None = None,
        provider: Provider = "cpu",
        require_gpu: bool = False,
        limits: ImageLimits = LIMITS,
        memory_bytes: int = DEFAULT_BYTES,
    ) -> Captioner:
        """Open a bundle: a folder, a .zip, or None for the one that comes with the package ($CAPTIONER_BUNDLE, if set).

        precision: None for int8 where it is there. threads: of one run, None for all usable cores.
        memory_bytes: for what the encoder saw in the last photos; 0 remembers nothing.
        Raises BundleError, or EngineError (no onnxruntime, or require_gpu and there is none).
        """
        bundle = bundle if isinstance(bundle, Bundle) else sharing.load(bundle)
        precision = precision or bundle.precision
        encoder, decoder, answerer = (
            Session(bundle.graph(graph, precision), threads, provider, require_gpu) if graph in bundle.graphs else None
            for graph in ("encoder", "captioner", "answerer")
        )
        assert encoder is not None  # every bundle has one
        return cls(bundle, precision, encoder, decoder, answerer, limits, GridMemory(memory_bytes))

    @classmethod
    def from_hub(
        cls,
        repo_id: str,
        revision: str | None = None,
        version: str | None = None,
        token: str | None = None,
        **settings: Any,
    ) -> Captioner:
        """Download a bundle as sharing.from_hub does, and open it; settings as in load()."""
        return cls.load(sharing.from_hub(repo_id, revision, version, token), **settings)

    def options(
        self,
        beam_size: int | None = None,
        max_words: int | None = None,
        captions: int | None = None,
        length_power: float | None = None,
    ) -> SearchOptions:
        """Search settings; None is the bundle's default, for captions the best 3 or as many as there are beams."""
        default = self.bundle.search
        beams = default.beam_size if beam_size is None else beam_size
        return SearchOptions(
            beam_size=beams,
            max_words=default.max_words if max_words is None else max_words,
            captions=max(1, min(3, beams)) if captions is None else captions,
            length_power=default.length_power if length_power is None else length_power,
        )

    def caption(
        self,
        photo: Photo,
        beam_size: int | None = None,
        max_words: int | None = None,
        captions: int | None = None,
        length_power: float | None = None,
    ) -> list[Caption]:
        """The best captions of one photo, best first; settings as in options(). Raises BadImage or ValueError."""
        return self.caption_batch([photo], self.options(beam_size, max_words, captions, length_power))[0]

    def caption_batch(self, photos: Sequence[Photo], options: SearchOptions | None = None) -> list[list[Caption]]:
        """Captions of photos of any sizes in one run; options None are the bundle's own (one caption each)."""
        if not photos:
            return []
        return self.search(self.look(photos), options or self.bundle.search)

    def answer(
        self,
        photo: Photo,
        question: str,
        top: int = 5,
        history: Sequence[tuple[str, str]] = (),
        candidates: Sequence[str] = (),
    ) -> Answered:
        """The most probable answers to a question about a photo; settings as in Query.

        The encoder runs once for any number of questions about a photo, captions too, while it is remembered. Raises
        BadImage, BadQuestion, or BundleError where the bundle answers no questions.
        """
        query = Query(question, top, tuple(history), tuple(candidates))
        self.check_query(query)
        return self.answer_batch(self.look([photo]), [query], [0])[0]

    def look(self, photos: Sequence[Photo]) -> NDArray[np.float32]:
        """What the encoder sees in every grid cell of the photos [B, P, C]; only those not remembered are encoded."""
        files = [file_bytes(photo, self.limits) if isinstance(photo, str | Path) else photo for photo in photos]
        keys = [photo_key(photo) for photo in files]
        grids = [self.memory.get(key) for key in keys]
        new = [n for n, grid_PC in enumerate(grids) if grid_PC is None]
        if new:
            seen_BPC = self.encode(np.stack([self.pixels(files[n]) for n in new]))
            for n, grid_PC in zip(new, seen_BPC, strict=True):
                self.memory.put(keys[n], grid_PC)
                grids[n] = grid_PC
        return np.stack([grid_PC for grid_PC in grids if grid_PC is not None])

    def pixels(self, photo: Photo) -> NDArray[np.uint8]:
        """The encoder's input [H, W, 3] for one photo; raises BadImage."""
        return load_pixels(photo, self.bundle.model.preprocessing, self.limits)

    def encode(self, pixels_BHW3: NDArray[np.uint8], stop: Stop | None = None) -> NDArray[np.float32]:
        """What the encoder sees in every grid cell [B, P, C]; nothing is remembered."""
        size = self.bundle.model.preprocessing
        wanted = (size.height, size.width, 3)
        if pixels_BHW3.ndim != 4 or pixels_BHW3.shape[1:] != wanted or pixels_BHW3.dtype != np.uint8:
            got = f"{pixels_BHW3.dtype} {list(pixels_BHW3.shape)}"
            raise ValueError(f"pixels must be uint8 [photos, {', '.join(map(str, wanted))}], got {got}")
        return self._encoder.run(["grid"], {"pixels": pixels_BHW3}, stop)[0]

    def search(
        self, grid_BPC: NDArray[np.float32], options: SearchOptions, stop: Stop | None = None
    ) -> list[list[Caption]]:
        """The best captions of every photo, best first; fewer than asked only if there are no more sentences."""
        if self._decoder is None:
            raise BundleError(f"bundle {self.bundle.name} answers questions only: it writes no captions")
        first_scores_K = np.full(options.beam_size, NEVER, np.float32)
        first_scores_K[0] = 0.0
        inputs: dict[str, NDArray[Any]] = {
            "grid": grid_BPC,
            "first_scores": first_scores_K,
            "steps": np.arange(options.max_words, dtype=np.int64),
            "length_power": np.array(options.length_power, np.float32),
            "wanted": np.array(options.captions, np.int64),
        }
        outputs = ["words", "word_log_probs", "log_probs", "scores"]
        if self.bundle.model.attention == "none":
            words_BKT, each_BKT, total_BK, scores_BK = self._decoder.run(outputs, inputs, stop)
            attention_BKTP = None
        else:
            words_BKT, each_BKT, total_BK, scores_BK, attention_BKTP = self._decoder.run(
                [*outputs, "attention"], inputs, stop
            )
        return [
            [
                self._caption(
                    words_BKT[b, k],
                    each_BKT[b, k],
                    float(total_BK[b, k]),
                    float(scores_BK[b, k]),
                    None if attention_BKTP is None else attention_BKTP[b, k],
                )
                for k in range(options.captions)
                if total_BK[b, k] > IMPOSSIBLE
            ]
            for b in range(len(words_BKT))
        ]

    def check_query(self, query: Query) -> None:
        """Raise BadQuestion or BundleError where this model cannot be asked that."""
        self._questions.check(query)

    def answer_batch(
        self,
        grid_BPC: NDArray[np.float32],
        queries: Sequence[Query],
        pictures: Sequence[int],
        stop: Stop | None = None,
    ) -> list[Answered]:
        """The answers to each query about the photo whose row of the grid `pictures` names, in one run.

        Queries that go together have the same candidates. Raises as check_query does.
        """
        if not queries:
            return []
        inputs = self._questions.inputs(grid_BPC, queries, pictures)
        assert self._answerer is not None  # inputs() has checked it
        names = ["log_probs", *(["attention"] if self._questions.looks else [])]
        log_probs_NA, *attention_NP = self._answerer.run(names, inputs, stop)
        return self._questions.answered(queries, log_probs_NA, attention_NP[0] if attention_NP else None)

    def _caption(
        self,
        words_T: NDArray[np.int64],
        each_T: NDArray[np.float32],
        log_prob: float,
        score: float,
        attention_TP: NDArray[np.float32] | None,
    ) -> Caption:
        rows, columns, _ = self.bundle.grid
        words = []
        for t, number in enumerate(words_T):
            if number in (END, PAD):
                break
            # A copy: a view would keep the attention of the whole batch in memory.
            attention = None if attention_TP is None else attention_TP[t].reshape(rows, columns).copy()
            words.append(Word(self.bundle.vocabulary.words[number], float(each_T[t]), attention))
        return Caption(sentence(word.text for word in words), log_prob, score, tuple(words))
