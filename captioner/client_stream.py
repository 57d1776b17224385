"""Many photos, for the sync and the async client alike: their keys, and the bookkeeping of a stream."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from captioner.client_calls import CaptionOptions, PhotoFile, caption_request, check_timeout, request_name
from captioner.client_messages import CaptionReply, ClientError, picture_outcome
from captioner.v1 import captioner_pb2 as pb

STREAM_TIMEOUT = 3600.0
"""Seconds."""
Outcome: TypeAlias = CaptionReply | ClientError | OSError
"""Captions, why there are none, or why the file cannot be read."""
Photos: TypeAlias = Mapping[Any, PhotoFile] | Iterable[PhotoFile]
"""Known by their keys, or by their places from 0."""


def keyed(photos: Photos) -> Iterator[tuple[Any, PhotoFile]]:
    """Each photo with its key or place."""
    return iter(photos.items() if isinstance(photos, Mapping) else enumerate(photos))


async def keyed_async(photos: Photos | AsyncIterable[PhotoFile]) -> AsyncGenerator[tuple[Any, PhotoFile], None]:
    """The same, also of photos that are waited for."""
    if isinstance(photos, AsyncIterable):
        place = 0
        async for photo in photos:
            yield place, photo
            place += 1
    else:
        for pair in keyed(photos):
            yield pair


class Sent:
    """The photos of a stream that were sent and have no result, and those that could not be sent."""

    def __init__(self, options: CaptionOptions):
        self.options = options
        self.request_id = request_name(options.get("request_id"))
        timeout = options.get("timeout")
        self.timeout = STREAM_TIMEOUT if timeout is None else timeout
        """Seconds, of the whole stream."""
        check_timeout(self.timeout)
        self.error: Exception | None = None
        """What ended the photos before their end."""
        self._keys: dict[str, Any] = {}
        self._number = 0
        self._unread: deque[tuple[Any, OSError]] = deque()

    def request(self, key: Any, photo: PhotoFile) -> pb.StreamCaptionImagesRequest | None:
        """The message for a photo; None if its file cannot be read."""
        try:
            request = caption_request(photo, self.options)
        except OSError as e:
            self._unread.append((key, e))
            return None
        self._number += 1
        self._keys[str(self._number)] = key
        return pb.StreamCaptionImagesRequest(id=str(self._number), request=request)

    def result(self, response: pb.StreamCaptionImagesResponse) -> tuple[Any, Outcome]:
        """What became of a photo."""
        return self._keys.pop(response.id), picture_outcome(response, self.request_id)

    def unread(self) -> Iterator[tuple[Any, Outcome]]:
        """The photos since the last call whose files cannot be read."""
        while self._unread:
            yield self._unread.popleft()
