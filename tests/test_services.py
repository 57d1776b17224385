"""The service as a caller meets it: a real server on 127.0.0.1, a small model with random weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from PIL import Image

from captioner import Captioner, SearchOptions
from captioner.query import QUESTION_LIMITS
from captioner.v1 import captioner_pb2 as pb
from captioner.v1 import captioner_pb2_grpc
from services import errors
from services.server import MESSAGE_BYTES, SERVICE
from services.translation import MAXIMA
from tests.running_server import Held, failure, jpeg, reason, running, wait_until

OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


@pytest.fixture(scope="module")
def captioner(tiny_bundle: Path) -> Captioner:
    return Captioner.load(tiny_bundle, threads=1)


@pytest.fixture(scope="module")
def answerer(tiny_bundle_answers: Path) -> Captioner:
    return Captioner.load(tiny_bundle_answers, threads=1)


@pytest.fixture(scope="module")
def channel(captioner: Captioner) -> Iterator[grpc.Channel]:
    with running(captioner) as server, grpc.insecure_channel(server.target, OPTIONS) as opened:
        yield opened


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> Any:
    return captioner_pb2_grpc.CaptionServiceStub(channel)


@pytest.fixture(scope="module")
def asked(answerer: Captioner) -> Iterator[Any]:
    with running(answerer) as server, grpc.insecure_channel(server.target, OPTIONS) as opened:
        yield captioner_pb2_grpc.CaptionServiceStub(opened)


@pytest.fixture(scope="module")
def blind(tiny_bundle_inject: Path) -> Iterator[Any]:
    """A model without attention."""
    with running(tiny_bundle_inject) as server, grpc.insecure_channel(server.target, OPTIONS) as opened:
        yield captioner_pb2_grpc.CaptionServiceStub(opened)


@pytest.fixture
def held(captioner: Captioner) -> Held:
    return Held(captioner)


# Captions


def test_captions_are_those_of_the_library(stub: Any, captioner: Captioner) -> None:
    request = pb.CaptionImageRequest(image=jpeg(), beam_size=5, max_words=6, captions=2, length_power=0.5)
    response = stub.CaptionImage(request, timeout=10)
    expected = captioner.caption(jpeg(), beam_size=5, max_words=6, captions=2, length_power=0.5)
    assert [caption.text for caption in response.captions] == [caption.text for caption in expected]
    assert [caption.score for caption in response.captions] == pytest.approx([c.score for c in expected], abs=1e-4)
    for got, wanted in zip(response.captions, expected, strict=True):
        assert [word.text for word in got.words] == [word.text for word in wanted.words]
        assert [w.log_prob for w in got.words] == pytest.approx([w.log_prob for w in wanted.words], abs=1e-4)
        assert got.log_prob == pytest.approx(wanted.log_prob, abs=1e-4)
        assert not any(word.HasField("attention") for word in got.words)


def test_answer_names_its_model_and_the_time_of_each_stage(stub: Any, captioner: Captioner) -> None:
    response = stub.CaptionImage(pb.CaptionImageRequest(image=jpeg(), model=captioner.bundle.name), timeout=10)
    assert (response.model, response.model_version) == (captioner.bundle.name, captioner.bundle.version)
    stages = response.stage_durations
    assert stages.search.ToNanoseconds() > 0
    assert min(stage.ToNanoseconds() for stage in (stages.decode, stages.encode, stages.queue)) >= 0


def test_a_picture_that_is_remembered_is_not_looked_at_again(stub: Any) -> None:
    request = pb.CaptionImageRequest(image=jpeg(shade=33))
    stub.CaptionImage(request, timeout=10)
    again = stub.CaptionImage(request, timeout=10).stage_durations
    assert again.decode.ToNanoseconds() == again.encode.ToNanoseconds() == 0


def test_three_captions_unless_said_otherwise(stub: Any) -> None:
    assert len(stub.CaptionImage(pb.CaptionImageRequest(image=jpeg()), timeout=10).captions) == 3
    assert len(stub.CaptionImage(pb.CaptionImageRequest(image=jpeg(), beam_size=2), timeout=10).captions) == 2


def test_attention_on_request(stub: Any, captioner: Captioner) -> None:
    response = stub.CaptionImage(pb.CaptionImageRequest(image=jpeg(), include_attention=True), timeout=10)
    rows, columns, _ = captioner.bundle.grid
    words = [word for caption in response.captions for word in caption.words]
    assert words
    for word in words:
        assert (word.attention.rows, word.attention.columns) == (rows, columns)
        assert len(word.attention.weights) == rows * columns
        assert sum(word.attention.weights) == pytest.approx(1, abs=1e-3)


def test_attention_of_a_model_without(blind: Any) -> None:
    assert not blind.GetModel(pb.GetModelRequest(), timeout=10).model.has_attention
    assert blind.CaptionImage(pb.CaptionImageRequest(image=jpeg()), timeout=10).captions
    for call in (
        lambda: blind.CaptionImage(pb.CaptionImageRequest(image=jpeg(), include_attention=True), timeout=10),
        lambda: blind.DrawAttention(pb.DrawAttentionRequest(image=jpeg()), timeout=10),
    ):
        code, details = failure(call)
        assert (code, reason(details)) == (grpc.StatusCode.FAILED_PRECONDITION, "ATTENTION_UNAVAILABLE")


@pytest.mark.parametrize("name", ["beam_size", "max_words", "captions", "length_power"])
def test_maxima_are_the_ends_of_the_ranges(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        replace(MAXIMA, **{name: getattr(MAXIMA, name) + 1})


# Answers


def test_answers_are_those_of_the_library(asked: Any, answerer: Captioner) -> None:
    question = "what is the colour of the dog?"
    response = asked.AnswerQuestion(pb.AnswerQuestionRequest(image=jpeg(), question=question, top=3), timeout=10)
    expected = answerer.answer(jpeg(), question, top=3)
    assert [answer.text for answer in response.answers] == [answer.text for answer in expected.answers]
    wanted = [answer.probability for answer in expected.answers]
    assert [answer.probability for answer in response.answers] == pytest.approx(wanted, abs=1e-4)
    assert tuple(response.unknown_words) == expected.unknown_words
    assert not response.HasField("attention")
    assert (response.model, response.model_version) == (answerer.bundle.name, answerer.bundle.version)
    assert response.stage_durations.search.ToNanoseconds() > 0


def test_five_answers_unless_said_otherwise(asked: Any, answerer: Captioner) -> None:
    response = asked.AnswerQuestion(pb.AnswerQuestionRequest(image=jpeg(), question="what"), timeout=10)
    assert len(response.answers) == min(5, len(answerer.bundle.answers))


def test_candidates_are_chosen_from(asked: Any, answerer: Captioner) -> None:
    known = answerer.bundle.answers[0]
    request = pb.AnswerQuestionRequest(image=jpeg(), question="what", candidates=[known, "never heard"])
    response = asked.AnswerQuestion(request, timeout=10)
    assert [(answer.text, answer.probability) for answer in response.answers] == [(known, 1.0), ("never heard", 0.0)]
    assert response.unknown_candidates == ["never heard"]


def test_where_it_looked_for_an_answer(asked: Any, answerer: Captioner) -> None:
    request = pb.AnswerQuestionRequest(image=jpeg(), question="what", include_attention=True)
    attention = asked.AnswerQuestion(request, timeout=10).attention
    rows, columns, _ = answerer.bundle.grid
    assert (attention.rows, attention.columns, len(attention.weights)) == (rows, columns, rows * columns)
    assert sum(attention.weights) == pytest.approx(1, abs=1e-3)


def test_a_question_about_a_captioned_picture_needs_no_second_look(asked: Any) -> None:
    image = jpeg(shade=44)
    asked.CaptionImage(pb.CaptionImageRequest(image=image), timeout=10)
    response = asked.AnswerQuestion(pb.AnswerQuestionRequest(image=image, question="what"), timeout=10)
    assert response.stage_durations.encode.ToNanoseconds() == 0


# Figures


def shown(png: bytes) -> tuple[int, int]:
    """The size of a PNG file."""
    picture = Image.open(BytesIO(png), formats=("PNG",))
    picture.load()
    return picture.size


def test_a_figure_of_the_best_caption(stub: Any, captioner: Captioner) -> None:
    request = pb.DrawAttentionRequest(image=jpeg(), beam_size=4, max_words=5, length_power=1.0)
    response = stub.DrawAttention(request, timeout=20)
    [expected] = captioner.caption(jpeg(), beam_size=4, max_words=5, length_power=1.0, captions=1)
    assert response.caption.text == expected.text
    assert all(word.HasField("attention") for word in response.caption.words)
    assert min(shown(response.png)) > 200
    assert (response.model, response.model_version) == (captioner.bundle.name, captioner.bundle.version)


def test_a_figure_of_an_answer(asked: Any, answerer: Captioner) -> None:
    response = asked.DrawAttention(pb.DrawAttentionRequest(image=jpeg(), question="what is it"), timeout=20)
    assert response.answer.text == answerer.answer(jpeg(), "what is it").answers[0].text
    assert not response.HasField("caption")
    assert min(shown(response.png)) > 200


def test_a_figure_of_a_large_picture(stub: Any) -> None:
    large = pb.DrawAttentionRequest(image=jpeg(3000, 4000, 60))
    assert max(shown(stub.DrawAttention(large, timeout=30).png)) < 4000


# What a model cannot do


def test_a_model_that_answers_no_questions(stub: Any) -> None:
    for call in (
        lambda: stub.AnswerQuestion(pb.AnswerQuestionRequest(image=jpeg(), question="what"), timeout=10),
        lambda: stub.DrawAttention(pb.DrawAttentionRequest(image=jpeg(), question="what"), timeout=10),
    ):
        code, details = failure(call)
        assert (code, reason(details)) == (grpc.StatusCode.FAILED_PRECONDITION, "ANSWERS_UNAVAILABLE")


class Changed:
    """A captioner whose bundle says something else of its model."""

    def __init__(self, captioner: Captioner, **settings: Any):
        self._captioner = captioner
        self.bundle = replace(captioner.bundle, model=replace(captioner.bundle.model, **settings))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._captioner, name)


def test_a_model_that_writes_no_captions(answerer: Captioner) -> None:
    with running(Changed(answerer, captions=False)) as server, grpc.insecure_channel(server.target) as channel:
        stub: Any = captioner_pb2_grpc.CaptionServiceStub(channel)
        model = stub.GetModel(pb.GetModelRequest(), timeout=10).model
        assert (model.writes_captions, model.answers_questions, model.has_attention) == (False, True, False)
        pictures = [pb.StreamCaptionImagesRequest(id="1", request=pb.CaptionImageRequest(image=jpeg()))]
        [streamed] = stub.StreamCaptionImages(iter(pictures), timeout=10)
        assert streamed.error.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
        for call in (
            lambda: stub.CaptionImage(pb.CaptionImageRequest(image=jpeg()), timeout=10),
            lambda: stub.DrawAttention(pb.DrawAttentionRequest(image=jpeg()), timeout=10),
        ):
            code, details = failure(call)
            assert (code, reason(details)) == (grpc.StatusCode.FAILED_PRECONDITION, "CAPTIONS_UNAVAILABLE")


def test_a_model_that_says_not_where_it_looked_for_an_answer(answerer: Captioner) -> None:
    kind = replace(answerer.bundle.model.answerer, kind="product")  # type: ignore[type-var]
    with running(Changed(answerer, answerer=kind)) as server, grpc.insecure_channel(server.target) as channel:
        stub: Any = captioner_pb2_grpc.CaptionServiceStub(channel)
        request = pb.AnswerQuestionRequest(image=jpeg(), question="what", include_attention=True)
        for call in (
            lambda: stub.AnswerQuestion(request, timeout=10),
            lambda: stub.DrawAttention(pb.DrawAttentionRequest(image=jpeg(), question="what"), timeout=10),
        ):
            code, details = failure(call)
            assert (code, reason(details)) == (grpc.StatusCode.FAILED_PRECONDITION, "ATTENTION_UNAVAILABLE")


# Faults of the moment, and ours


def test_deadline_ends_the_work(held: Held) -> None:
    with running(held) as server, grpc.insecure_channel(server.target) as channel:
        stub = captioner_pb2_grpc.CaptionServiceStub(channel)
        held.hold()
        code, _ = failure(lambda: stub.CaptionImage(pb.CaptionImageRequest(image=jpeg()), timeout=0.3))
        assert code == grpc.StatusCode.DEADLINE_EXCEEDED
        wait_until(lambda: server.admitted == 0)
        held.let_go()
        assert stub.CaptionImage(pb.CaptionImageRequest(image=jpeg()), timeout=10).captions
        assert held.searches == 1  # of the second call alone


def test_cancelled_calls_are_dropped(held: Held) -> None:
    with running(held) as server, grpc.insecure_channel(server.target) as channel:
        stub = captioner_pb2_grpc.CaptionServiceStub(channel)
        held.hold()
        requests = [pb.CaptionImageRequest(image=jpeg(shade=n)) for n in range(3)]
        calls = [stub.CaptionImage.future(request, timeout=10) for request in requests]
        wait_until(lambda: server.admitted == 3)
        for call in calls:
            call.cancel()
        wait_until(lambda: server.admitted == 0)
        held.let_go()
        assert stub.CaptionImage(pb.CaptionImageRequest(image=jpeg()), timeout=10).captions
        assert held.searches == 1


@pytest.mark.parametrize("method", ["CaptionImage", "AnswerQuestion", "DrawAttention"])
def test_full_queue_refuses_at_once(answerer: Captioner, method: str) -> None:
    held = Held(answerer)
    with running(held, max_queue=2) as server, grpc.insecure_channel(server.target) as channel:
        stub: Any = captioner_pb2_grpc.CaptionServiceStub(channel)
        held.hold()
        requests = [pb.CaptionImageRequest(image=jpeg(shade=n)) for n in range(2)]
        calls = [stub.CaptionImage.future(request, timeout=10) for request in requests]
        wait_until(lambda: server.admitted == 2)
        kind = {"CaptionImage": pb.CaptionImageRequest, "DrawAttention": pb.DrawAttentionRequest}.get(method)
        request = kind(image=jpeg()) if kind else pb.AnswerQuestionRequest(image=jpeg(), question="what")
        code, details = failure(lambda: getattr(stub, method)(request, timeout=10))
        assert (code, reason(details)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert details["RetryInfo"].retry_delay.ToNanoseconds() > 0
        held.let_go()
        assert all(call.result().captions for call in calls)


def test_fault_of_ours_gives_an_id_and_nothing_else(captioner: Captioner, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Held):
        broken = False

        def encode(self, pixels_BHW3: Any, stop: Any = None) -> Any:
            if self.broken:
                raise KeyError("secret")
            return super().encode(pixels_BHW3, stop)

    broken = Broken(captioner)
    with running(broken) as server, grpc.insecure_channel(server.target) as channel:
        stub = captioner_pb2_grpc.CaptionServiceStub(channel)
        broken.broken = True
        code, details = failure(lambda: stub.CaptionImage(pb.CaptionImageRequest(image=jpeg()), timeout=10))
        broken.broken = False
        assert stub.CaptionImage(pb.CaptionImageRequest(image=jpeg()), timeout=10).captions
    assert (code, reason(details)) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "secret" not in details["message"]
    number = details["ErrorInfo"].metadata["id"]
    [record] = [record for record in caplog.records if number in record.getMessage()]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)


@pytest.mark.parametrize("letter", ["x", "\N{GRINNING FACE}", "\n"])
def test_status_fits_into_metadata(letter: str) -> None:
    status = errors.status_of(errors.OptionsError(dict.fromkeys("abcd", letter * 10000)))
    percent_encoded = 3 * len(status.message.encode())
    base64 = status.ByteSize() * 4 / 3
    assert percent_encoded + base64 < 6000  # of 8 KiB


# Reflection and the models


def test_reflection_tells_the_services(channel: grpc.Channel) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
    ]
    listed, file = stub.ServerReflectionInfo(iter(requests), timeout=10)
    names = {service.name for service in listed.list_services_response.service}
    assert names >= {"captioner.v1.CaptionService", "grpc.health.v1.Health"}
    assert file.file_descriptor_response.file_descriptor_proto


def test_get_model(stub: Any, captioner: Captioner) -> None:
    model = stub.GetModel(pb.GetModelRequest(), timeout=10).model
    assert (model.name, model.version) == (captioner.bundle.name, captioner.bundle.version)
    assert (model.precision, model.provider) == ("int8", "cpu")
    assert model.vocabulary_size == len(captioner.bundle.vocabulary) - 4
    assert model.has_attention
    assert model.search_defaults.beam_size == captioner.bundle.search.beam_size
    assert model.search_defaults.captions == 3
    assert SearchOptions(model.search_maxima.beam_size, model.search_maxima.max_words, 20, 2.0) == MAXIMA
    assert model.image_limits.max_bytes == 16 * 2**20 < MESSAGE_BYTES
    assert model.image_limits.max_pixels == 40_000_000
    assert (model.writes_captions, model.answers_questions, model.answer_count) == (True, False, 0)
    assert not model.HasField("question_limits")


def test_get_model_that_answers(asked: Any, answerer: Captioner) -> None:
    model = asked.GetModel(pb.GetModelRequest(), timeout=10).model
    assert (model.writes_captions, model.answers_questions, model.accepts_history) == (True, True, False)
    assert model.has_answer_attention
    assert model.answer_count == len(answerer.bundle.answers)
    assert model.question_limits.max_words == QUESTION_LIMITS.max_words
    assert model.question_limits.max_top == 20


def test_models_by_name_and_version(tiny_bundle: Path, tiny_bundle_inject: Path) -> None:
    with running([tiny_bundle, tiny_bundle_inject]) as server, grpc.insecure_channel(server.target) as channel:
        stub: Any = captioner_pb2_grpc.CaptionServiceStub(channel)
        first, second = stub.ListModels(pb.ListModelsRequest(), timeout=10).models
        assert (first.has_attention, second.has_attention) == (True, False)
        assert first.version != second.version
        assert stub.GetModel(pb.GetModelRequest(), timeout=10).model == first
        for model in (first, second):
            name = f"{model.name}@{model.version}"
            assert stub.GetModel(pb.GetModelRequest(model=name), timeout=10).model == model
            response = stub.CaptionImage(pb.CaptionImageRequest(image=jpeg(), model=name), timeout=10)
            assert response.model_version == model.version
