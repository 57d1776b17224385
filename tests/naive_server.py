"""What a person writes in an afternoon: eager torch behind one lock, picture by picture. Services are compared with it.

    python -m tests.naive_server --bundle B --port P

The weights, the search and CaptionImage are the real ones. There are no batches, limits, deadlines, health, reasons or
metrics; calls wait for the lock in the threads of gRPC.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import grpc
import torch

from captioner import BadImage, Bundle, SearchOptions
from captioner.model.network import Network
from captioner.preprocess import load_pixels
from captioner.tokens import sentence
from captioner.v1 import captioner_pb2 as pb
from captioner.v1 import captioner_pb2_grpc
from captioner.vocabulary import END, PAD

THREADS = 64
"""Of gRPC: so many calls are read from their connections, and all but one of them wait."""
MESSAGE_BYTES = 20 * 2**20


class NaiveService(captioner_pb2_grpc.CaptionServiceServicer):
    """CaptionImage and GetModel."""

    def __init__(self, folder: Path):
        self.bundle = Bundle.open(folder)
        weights = self.bundle.folder / "weights.safetensors"
        self.network = Network.load(self.bundle.model, weights, **self.bundle.lexicon.sizes)
        self.lock = threading.Lock()

    def CaptionImage(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """See the proto."""
        default = self.bundle.search
        beams = request.beam_size if request.HasField("beam_size") else default.beam_size
        words = request.max_words if request.HasField("max_words") else default.max_words
        power = request.length_power if request.HasField("length_power") else default.length_power
        wanted = request.captions if request.HasField("captions") else min(3, beams)
        begin = monotonic()
        with self.lock, torch.inference_mode():
            entered = monotonic()
            try:
                pixels_HW3 = load_pixels(request.image, self.bundle.model.preprocessing)
                options = SearchOptions(beams, words, wanted, power)
            except (BadImage, ValueError) as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            decoded = monotonic()
            grid_BPC = self.network.encoder(torch.from_numpy(pixels_HW3)[None])
            encoded = monotonic()
            found = self.network.find(grid_BPC, options)
            end = monotonic()
        response = pb.CaptionImageResponse(model=self.bundle.name, model_version=self.bundle.version)
        for k in range(wanted):
            numbers = found.words_BKT[0, k].tolist()
            count = next((t for t, number in enumerate(numbers) if number in (END, PAD)), len(numbers))
            texts = [self.bundle.vocabulary.words[number] for number in numbers[:count]]
            log_probs = found.word_log_probs_BKT[0, k].tolist()
            response.captions.add(
                text=sentence(texts),
                log_prob=float(found.log_probs_BK[0, k]),
                score=float(found.scores_BK[0, k]),
                words=[pb.Word(text=text, log_prob=each) for text, each in zip(texts, log_probs, strict=False)],
            )
        durations = response.stage_durations
        stages = (decoded - entered, encoded - decoded, end - encoded, entered - begin)
        for name, seconds in zip(("decode", "encode", "search", "queue"), stages, strict=True):
            getattr(durations, name).FromNanoseconds(round(1e9 * seconds))
        return response

    def GetModel(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """See the proto."""
        model = pb.Model(name=self.bundle.name, version=self.bundle.version, precision="fp32", provider="cpu")
        return pb.GetModelResponse(model=model)


@contextmanager
def naive_server(folder: Path, port: int = 0) -> Iterator[tuple[grpc.Server, int]]:
    """A server on 127.0.0.1, and its port; 0 takes a free one. At the end calls in flight are cut off."""
    options = [("grpc.max_receive_message_length", MESSAGE_BYTES), ("grpc.so_reuseport", 0)]
    with ThreadPoolExecutor(THREADS) as threads:
        server = grpc.server(threads, options=options)
        captioner_pb2_grpc.add_CaptionServiceServicer_to_server(NaiveService(folder), server)
        port = server.add_insecure_port(f"127.0.0.1:{port}")
        server.start()
        try:
            yield server, port
        finally:
            server.stop(None).wait()


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m tests.naive_server", description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--port", type=int, default=50052)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch (one per core)")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with naive_server(given.bundle, given.port) as (server, port):
        print(f"listening on 127.0.0.1:{port}", flush=True)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, frame: server.stop(1.0))
        server.wait_for_termination()


if __name__ == "__main__":
    main()
