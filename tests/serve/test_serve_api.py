import base64
import io
import json
import pickle
import struct
import time
import zipfile
import zlib
from dataclasses import replace

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from sightword.serve.app import make_app
from sightword.serve.setting import Sources

JPEG = "image/jpeg"


def picture(size=(40, 30), kind="PNG", **options):
    rng = np.random.default_rng(1)
    buffer = io.BytesIO()
    pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def claims(side):
    """A PNG of a few bytes that says that it has many pixels."""
    content = bytearray(picture())
    content[16:24] = struct.pack(">II", side, side)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


def opened(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def problem(answer, status, *words):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert told["status"] == status
    assert all(word in told["detail"] for word in words), told["detail"]
    assert "\n" not in told["detail"]
    return told["detail"]


# ------------------------------------------------------------------------------------------------------------- server


def test_models_are_named_with_their_state_and_what_they_know(client):
    models = client.get("/v1/models").json()["models"]
    assert [model["system"] for model in models] == ["tokenizer", "intent", "retrieval", "skeleton", "points"]
    assert {model["state"] for model in models} == {"ready"}
    assert models[1]["classes"]
    assert models[0]["codes"] == 16


def test_data_that_do_not_fit_are_told_and_the_model_answers_without_them(runs, settings, tmp_path):
    (tmp_path / "nothing").mkdir()
    nothing = tmp_path / "nothing"
    clips = tmp_path / "clips.npz"
    clips.write_bytes(b"no recordings")
    systems = [str(runs[name]) for name in ("retrieval", "skeleton", "points")]
    wrong = Sources(gallery=(nothing,), clips=clips, scenes=(nothing,))
    with TestClient(make_app(replace(settings, models=tuple(systems), sources=wrong))) as opened:
        until = time.monotonic() + 60
        while opened.get("/readyz").status_code != 200:
            assert time.monotonic() < until
            time.sleep(0.05)
        for model in opened.get("/v1/models").json()["models"]:
            assert model["state"] == "ready"
            assert len(model["notes"]) == 1
            assert str(tmp_path) not in model["notes"][0]
        problem(opened.post("/v1/retrieval/search", json={"text": "a man"}), 404, "no gallery")
        problem(opened.post("/v1/points/ask", json={"queries": ["a chair"]}), 404, "no scene")


def test_metrics_count_by_route_and_never_by_path(client):
    client.get("/v1/retrieval/images/imgs/0")
    text = client.get("/metrics").text
    assert 'route="/v1/retrieval/images/{gallery}/{number}",status="200"' in text
    assert "imgs" not in text.replace("{gallery}", "")
    assert 'sightword_model_ready{model="' in text


def test_what_does_not_exist_is_a_problem_document(client):
    problem(client.get("/v1/nothing"), 404, "/v1/nothing")
    problem(client.delete("/v1/models"), 405)
    problem(client.post("/v1/intent", data={"sample": "0", "model": "other"}), 404, "'other'", "intent")


def test_openapi_has_an_example_of_every_answer(client):
    for path, verbs in client.get("/openapi.json").json()["paths"].items():
        for verb, route in verbs.items():
            assert route.get("description"), path
            content = route["responses"]["200"].get("content", {})
            if "application/json" in content and verb == "post":
                assert content["application/json"]["example"], path


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"text": NaN}', b"\xff", b'{"text": "\\ud800"}', b"null", b""])
def test_a_body_that_is_no_json_of_ours_is_a_problem_and_no_defect(client, content):
    for path in ("retrieval/search", "skeleton", "points/ask", "tokenizer/decode"):
        answer = client.post(f"/v1/{path}", content=content, headers={"content-type": "application/json"})
        assert 400 <= answer.status_code < 500, (path, answer.text)
        problem(answer, answer.status_code)


# ---------------------------------------------------------------------------------------------------------- tokenizer


def test_a_picture_is_encoded_and_its_ids_are_decoded(client):
    form = {"pictures": "true", "figure": "true"}
    answer = client.post("/v1/tokenizer/encode", files={"image": picture()}, data=form).json()
    assert answer["size"] == answer["original_size"] == [30, 40]
    assert opened(answer["decoded"]).size == (40, 30)
    assert opened(answer["figure"]).width > 40
    decoded = client.post("/v1/tokenizer/decode", json={"ids": answer["ids"], "size": answer["size"]}).json()
    assert np.array_equal(np.array(opened(decoded["decoded"])), np.array(opened(answer["decoded"])))


def test_a_large_picture_is_reduced_and_the_answer_says_so(client):
    answer = client.post("/v1/tokenizer/encode", files={"image": picture((200, 100))}, data={"side": "64"}).json()
    assert (answer["size"], answer["original_size"]) == ([32, 64], [100, 200])


def test_a_picture_is_upright_and_a_thumbnail_says_nothing_of_its_file(client, world):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = picture((40, 30), "JPEG", exif=exif)
    assert client.post("/v1/tokenizer/encode", files={"image": turned}).json()["size"] == [40, 30]
    sample = client.get("/v1/tokenizer/samples/0")
    assert sample.headers["content-type"] == JPEG
    assert not Image.open(io.BytesIO(sample.content)).getexif()


def test_every_code_has_a_picture(client):
    tile = client.get("/v1/models").json()["models"][0]["codebook"]
    book = Image.open(io.BytesIO(client.get("/v1/tokenizer/codebook").content))
    assert book.width == tile["tile"] * tile["columns"]


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([[0, 16]], ["from 0 to 15"]),
        ([[-1]], ["from 0 to 15"]),
        ([[0], [0, 1]], ["different lengths"]),
        ([[]], ["none"]),
        ([["a"]], ["ids"]),
        ([[0] * 2000] * 500, ["more than"]),
    ],
)
def test_ids_that_cannot_be_decoded_are_refused(client, ids, words):
    answer = client.post(
        "/v1/tokenizer/decode", content=json.dumps({"ids": ids}), headers={"content-type": "application/json"}
    )
    problem(answer, answer.status_code, *(words if answer.status_code == 422 else []))
    assert answer.status_code in (413, 422)


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"", 422, ["empty"]),
        (b"no picture", 415, ["not readable as a picture"]),
        (picture()[:200], 415, ["not readable"]),
        (picture((400, 300)), 413, ["400×300", "100,000"]),
        (claims(60_000), 413, ["100,000"]),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, []),
    ],
)
def test_what_is_no_picture_or_too_large_is_refused(client, content, status, words):
    for path in ("/v1/tokenizer/encode", "/v1/intent"):
        told = problem(client.post(path, files={"image": ("x.png", content)}), status, *words)
        assert "0x" not in told


def test_one_picture_is_needed(client):
    problem(client.post("/v1/intent"), 422, "send one picture")
    problem(client.post("/v1/intent", files={"image": picture()}, data={"sample": "0"}), 422, "send one picture")
    problem(client.post("/v1/intent", data={"sample": "../../etc/passwd"}), 404, "no sample")


# ------------------------------------------------------------------------------------------------------------- intent


def test_contributions_and_the_bias_add_up_to_the_logits(client):
    answer = client.post("/v1/intent", data={"sample": "0", "explain": "true"}).json()
    told = answer["explanation"]
    for number, name in enumerate(told["logits"]):
        total = told["bias"][name]
        for stream in told["streams"].values():
            total += sum(stream["adds"][code][number] for row in stream["grid"] for code in row)
        assert total == pytest.approx(told["logits"][name], abs=1e-3)
        assert answer["scores"][name] == pytest.approx(1 / (1 + np.exp(-told["logits"][name])), abs=1e-6)


def test_the_words_of_the_grid_are_those_of_the_answer(client):
    answer = client.post("/v1/intent", files={"image": picture()}, data={"explain": "true"}).json()
    for name, stream in answer["explanation"]["streams"].items():
        assert [[stream["words"][code] for code in row] for row in stream["grid"]] == answer["words"][name]


# ---------------------------------------------------------------------------------------------------------- retrieval


def search(client, **body):
    return client.post("/v1/retrieval/search", json={"text": "a woman in a red coat", **body})


def test_the_best_pictures_come_first_and_each_is_shown(client):
    answer = search(client, top=5, explain=True).json()
    scores = [hit["score"] for hit in answer["hits"]]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 5
    assert client.get(answer["hits"][0]["image"]).headers["content-type"] == JPEG
    assert answer["words"] == ["a", "woman", "in", "a", "red", "coat"]
    assert np.array(answer["carried"]).shape == (5, 6)


def test_a_word_carried_what_the_score_loses_without_it(client):
    whole = search(client, top=20, explain=True).json()
    shorter = search(client, text="a woman in a coat", top=20).json()
    scores = {hit["number"]: hit["score"] for hit in shorter["hits"]}
    for hit, carried in zip(whole["hits"], whole["carried"], strict=True):
        if hit["number"] in scores:
            assert carried[4] == pytest.approx(hit["score"] - scores[hit["number"]], abs=1e-4)


def test_many_searches_at_once_are_answered_as_each_alone(client):
    from concurrent.futures import ThreadPoolExecutor

    texts = ["a woman in a red coat", "a man", "a woman with a white handbag and black trousers"] * 7
    alone = {text: search(client, text=text, top=3).json()["hits"] for text in set(texts)}
    with ThreadPoolExecutor(20) as pool:
        together = list(pool.map(lambda text: search(client, text=text, top=3).json()["hits"], texts))
    for text, hits in zip(texts, together, strict=True):
        assert [hit["score"] for hit in hits] == pytest.approx([hit["score"] for hit in alone[text]], abs=1e-4)


def test_own_pictures_become_a_gallery_and_the_oldest_makes_room(client):
    files = [("images", (f"{number}.png", picture((20 + number, 60)))) for number in range(3)]
    names = [client.post("/v1/retrieval/index", files=files).json()["gallery"] for _ in range(3)]
    answer = search(client, gallery=names[-1], top=10).json()
    assert len(answer["hits"]) == answer["images"] == 3
    assert client.get(answer["hits"][0]["image"]).status_code == 200
    problem(search(client, gallery=names[0]), 404, names[0])


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"text": ""}, 400, ["empty"]),
        ({"text": "xyzzy"}, 400, ["xyzzy"]),
        ({"text": "a " * 600}, 413, ["1000"]),
        ({"top": 0}, 422, ["top"]),
        ({"top": 21}, 413, ["20"]),
        ({"gallery": "../people"}, 404, ["no gallery"]),
        ({"surplus": 1}, 422, ["surplus"]),
    ],
)
def test_a_search_that_cannot_be_answered_says_why(client, world, body, status, words):
    told = problem(search(client, **body), status, *words)
    assert str(world["root"]) not in told


def test_too_many_pictures_are_refused(client):
    files = [("images", (f"{number}.png", picture())) for number in range(5)]
    problem(client.post("/v1/retrieval/index", files=files), 413, "4 are the most")
    problem(client.get("/v1/retrieval/images/imgs/100000"), 404)


# ----------------------------------------------------------------------------------------------------------- skeleton


def recording(frames=12, joints=17):
    rng = np.random.default_rng(0)
    return np.clip(50 + 20 * rng.standard_normal((frames, joints, 2)), 1, 99)


def test_own_words_compete_with_the_classes(client):
    answer = client.post("/v1/skeleton", json={"sample": 0, "labels": ["raising one arm"], "detail": True}).json()
    assert answer["own"] == ["raising one arm"]
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert np.array(answer["points"]).shape == (*np.array(answer["joint_scores"]).shape, 2)
    assert answer["truth"]


def test_key_points_are_recognised_alike_as_json_and_as_a_file(client, tmp_path):
    points = recording().round(2)
    sent = client.post("/v1/skeleton", json={"keypoints": points.tolist(), "size": [100, 100]}).json()
    buffer = io.BytesIO()
    np.savez(buffer, keypoint=points.astype(np.float32), img_shape=np.array([100, 100]))
    as_json = json.dumps({"keypoints": points.tolist(), "size": [100, 100]}).encode()
    for content in (buffer.getvalue(), as_json):
        answer = client.post("/v1/skeleton/file", files={"file": ("clip.npz", content)})
        assert answer.json()["probabilities"] == sent["probabilities"]


def pickled():
    buffer = io.BytesIO()
    np.savez(buffer, keypoint=np.array([{"a": 1}], dtype=object))
    return buffer.getvalue()


def bomb():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("keypoint.npy", b"\0" * 5_000_000)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (pickled(), 415),
        (pickle.dumps([1]), 415),
        (bomb(), 413),
        (b"PK\x03\x04 no zip", 415),
        (b"{", 415),
        (b"[[" * 50_000, 415),
        (b"[]", 422),
    ],
)
def test_a_file_that_is_no_recording_is_refused_and_nothing_in_it_is_executed(client, content, status):
    problem(client.post("/v1/skeleton/file", files={"file": ("x.npz", content)}), status)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 422, ["one recording"]),
        ({"keypoints": recording().tolist()}, 422, ["size"]),
        ({"keypoints": recording(joints=5).tolist(), "size": [100, 100]}, 400, ["5 joints"]),
        ({"keypoints": [[[1, 2]], [[1]]], "size": [100, 100]}, 422, ["different lengths"]),
        ({"keypoints": (recording() / 100).tolist(), "size": [100, 100]}, 400, ["normalised"]),
        ({"keypoints": recording(frames=700).round(0).tolist(), "size": [100, 100]}, 413, ["the most"]),
        ({"sample": 99}, 404, ["no sample"]),
        ({"sample": 0, "labels": ["a"] * 3 + ["b", "c", "d", "e"]}, 413, ["4 are the most"]),
    ],
)
def test_a_recording_that_cannot_be_recognised_says_why(client, body, status, words):
    problem(client.post("/v1/skeleton", json=body), status, *words)


# ------------------------------------------------------------------------------------------------------------- points


def test_a_scene_is_asked_and_objects_have_boxes_in_metres(client):
    body = {"queries": ["a chair", "a bed"], "packed": True, "full": True}
    answer = client.post("/v1/points/ask", json=body).json()
    assert [found["query"] for found in answer["found"]] == ["a chair", "a bed"]
    layout = client.get(f"/v1/points/scenes/{answer['scene']}").json()
    for values in answer["packed"].values():
        assert len(base64.b64decode(values)) == layout["points"] <= 500
    for found in answer["found"]:
        for thing in found["objects"]:
            assert thing["size"] == pytest.approx(np.subtract(thing["high"], thing["low"]), abs=2e-3)
    assert len(answer["result"]["points"]) == layout["of"]


def test_a_cloud_has_the_points_that_the_layout_states(client):
    scene = client.get("/v1/points/scenes").json()["scene"]
    layout = client.get(f"/v1/points/scenes/{scene}").json()
    content = client.get(layout["cloud"]).content
    assert len(content) == 15 * layout["points"]
    xyz = np.frombuffer(content, "<f4", 3 * layout["points"]).reshape(-1, 3)
    assert (np.quantile(xyz, 0.5, 0) < layout["high"]).all()
    assert client.get(layout["cameras"][0]["image"]).headers["content-type"] == JPEG


def test_a_scene_that_was_not_given_is_not_read(client):
    for name in ("..", "%2e%2e%2fpeople", "scene9999_99"):
        assert client.get(f"/v1/points/scenes/{name}").status_code == 404
    problem(client.post("/v1/points/ask", json={"queries": ["a chair"], "scene": "/etc"}), 404, "no scene")
    problem(client.post("/v1/points/ask", json={"queries": []}), 400, "no text query")
    problem(client.post("/v1/points/ask", json={"queries": ["a"] * 5}), 413, "4 are the most")
