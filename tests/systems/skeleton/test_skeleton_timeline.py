"""Windows over a long recording, persons one by one, segments of equal names, and what is written of them."""

import csv
import json
import pickle

import numpy as np
import pytest
from filmed import Boxes, animate, frames

from sightword.cli.main import main
from sightword.errors import SightwordError
from sightword.systems.skeleton import timetable
from sightword.systems.skeleton.joints import JOINT_SETS
from sightword.systems.skeleton.predict import ActionRecognizer
from sightword.systems.skeleton.sequence import SkeletonSequence, parse_annotation, to_sequence
from sightword.systems.skeleton.span import Span, Windows, read_span
from sightword.systems.skeleton.timeline import timeline_of
from sightword.systems.skeleton.window import pieces_of, starts_of

COCO = JOINT_SETS["coco17"]
CLASSES = ("waving", "sitting down", "bowing")


def sequence(persons=1, frames=100, fps=10.0, name="hall"):
    """Persons who are there all the time."""
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 200, (persons, frames, 17, 2)).astype(np.float32)
    scores = np.full((persons, frames, 17), 0.9, np.float32)
    return SkeletonSequence(name, -1, points, scores, (240, 320), None, fps)


def windows(length, step=0.0, **other):
    return Windows(Span(length), Span(step), **other)


def told(names, options, recording):
    """The timeline of windows with these classes; a name with a ? has a probability of 0.4."""
    scores = []
    for name in names:
        score = np.full(3, 0.1, np.float32)
        score[CLASSES.index(name.rstrip("?"))] = 0.4 if name.endswith("?") else 0.8
        scores.append(score)
    return timeline_of(recording, list(pieces_of(recording, options)), scores, CLASSES, options, COCO)


def test_windows_cover_a_recording_and_the_last_one_ends_with_it():
    assert starts_of(100, 40, 20) == [0, 20, 40, 60]
    assert starts_of(105, 40, 20) == [0, 20, 40, 60, 65]
    assert starts_of(30, 40, 20) == [0]


def test_a_span_is_in_seconds_or_in_frames():
    assert read_span("2") == read_span("2.0s") == Span(2.0)
    assert read_span("60f") == read_span("60 frames") == Span(60.0, counted=True)
    assert Span(2.0).frames(15) == 30
    for text in ("", "two", "-1", "1.5f", "2m", "1e3"):
        with pytest.raises(ValueError):
            read_span(text)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"window": Span(0.2)}, "window=0.2 s is 2 frames at 10 a second. Pass at least 4f"),
        ({"window": Span(2), "step": Span(3)}, "step=3 s is 30 frames and window=2 s is 20"),
        ({"window": Span(2), "step": Span(0.01)}, "step=0.01 s is 0 frames"),
    ],
)
def test_windows_that_cannot_be_are_a_line(options, said):
    with pytest.raises(SightwordError, match=said):
        list(pieces_of(sequence(), Windows(**options)))


def test_a_step_without_windows_is_a_line():
    with pytest.raises(SightwordError, match="there are none. Pass window= as well"):
        Windows(step=Span(1))


def test_a_window_has_the_frames_and_the_person_that_it_says():
    recording = sequence(persons=2)
    pieces = list(pieces_of(recording, windows(4)))
    assert [(one.person, one.start, one.stop) for one in pieces[:2]] == [(0, 0, 40), (0, 20, 60)]
    assert [one.person for one in pieces] == [0] * 4 + [1] * 4
    np.testing.assert_array_equal(pieces[5].sequence.points, recording.points[1:, 20:60])
    together = list(pieces_of(recording, windows(4, each=False)))
    assert {one.person for one in together} == {-1}
    assert together[0].sequence.points.shape[0] == 2


def test_who_is_not_there_gets_no_name():
    recording = sequence(persons=2)
    recording.scores[1, 30:] = 0
    assert [one.start for one in pieces_of(recording, windows(4)) if one.person] == [0]
    made = told(["waving"] * 5, windows(4), recording)
    assert [person.who for person in made.people] == ["person 1", "person 2"]
    assert made.people[1].segments[0].end == 4.0


def test_neighbouring_windows_of_a_name_are_one_segment_with_the_mean_probability():
    made = told(["waving", "waving", "bowing", "bowing?"], windows(4), sequence())
    (first, second) = made.people[0].segments
    assert (first.start, first.end, first.name, first.windows) == (0.0, 5.0, "waving", 2)
    assert (second.start, second.end, second.name) == (5.0, 10.0, "bowing")
    assert second.confidence == pytest.approx(0.6)


def test_segments_below_the_level_are_unsure_and_become_one():
    made = told(["waving", "bowing?", "sitting down?", "bowing?"], windows(4), sequence())
    first, second = made.people[0].segments
    assert (first.name, second.name, second.action) == ("waving", "unsure", "bowing")
    assert second.windows == 3
    assert [one.name for one in told(["bowing?"] * 4, windows(4, sure=0.3), sequence()).people[0].segments] == [
        "bowing"
    ]


def test_a_gap_ends_a_segment():
    recording = sequence(frames=200)
    recording.scores[:, 50:130] = 0
    pieces = list(pieces_of(recording, windows(4)))
    made = told(["waving"] * len(pieces), windows(4), recording)
    assert [(one.start, one.end) for one in made.people[0].segments] == [(0.0, 6.0), (12.0, 20.0)]


def test_the_frame_rate_is_the_recordings_or_said_to_be_assumed():
    assert not told(["waving"] * 4, windows(4), sequence()).assumed
    unknown = sequence(fps=None, frames=300)
    made = told(["waving"] * 4, windows(4), unknown)
    assert made.assumed
    assert made.duration == pytest.approx(10)
    assert "30 frames a second assumed" in made.described
    assert timetable.rules_of([made])["seconds"].startswith("1 of 1 recordings do not state their frames in a second")
    assert not told(["waving"] * 4, windows(4, fps=30), unknown).assumed


@pytest.mark.parametrize(
    ("fps", "expected"), [(25, 25.0), (29.97, 29.97), (0, None), ("25", None), (True, None), (float("nan"), None)]
)
def test_a_row_may_state_its_frame_rate_and_ids(fps, expected):
    row = {"frame_dir": "a", "keypoint": np.ones((2, 3, 17, 2)), "img_shape": (9, 9), "fps": fps, "ids": [4, 2]}
    parsed = parse_annotation(row)
    assert (parsed.fps, parsed.ids) == (expected, (4, 2))
    made = to_sequence(parsed)
    assert (made.fps, made.ids, made.depth) == (expected, (4, 2), None)
    assert parse_annotation({**row, "ids": [4]}).ids is None


def test_persons_have_the_ids_of_the_recording():
    made = told(["waving"] * 8, windows(4), sequence(persons=2)._replace(ids=(3, 7)))
    assert [person.who for person in made.people] == ["person 3", "person 7"]


def test_a_timeline_is_plain_values_one_line_and_a_figure():
    made = told(["waving", "bowing", "bowing", "bowing?"], windows(4), sequence())
    found = made.to_dict()
    assert json.loads(json.dumps(found)) == found
    assert found["people"][0]["segments"][0]["action"] == "waving"
    assert len(found["people"][0]["windows"]) == 4
    assert repr(made) == "ActionTimeline('hall', 10.0 s, 1 person, 2 segments: bowing, waving)"
    page = np.asarray(made.plot())
    assert page.shape[1] == 1180
    assert len({tuple(pixel) for pixel in page[::4, ::4].reshape(-1, 3).tolist()}) > 5


def test_a_recording_without_people_still_has_a_figure():
    recording = sequence()
    recording.scores[:] = 0
    made = told([], windows(4), recording)
    assert made.people == ()
    assert made.plot().height > 100
    assert "hall: nobody is named" in timetable.lines([made])[0]


def test_a_head_and_shoulders_alone_get_no_name():
    recording = sequence()
    recording.scores[:, :, 5:] = 0
    assert list(pieces_of(recording, windows(4))) == []
    recording.scores[:, :, 5:11] = 0.5
    assert len(list(pieces_of(recording, windows(4)))) == 4


def test_tables_and_figures_are_written_under_names_that_are_files(tmp_path):
    made = [told(["waving"] * 4, windows(4), sequence(name=name)) for name in ("../a b", "客厅", "", "../a b")]
    files = timetable.write(tmp_path / "out", made, 4, {})
    assert all(file.parent == tmp_path / "out" for file in files)
    assert len(set(files)) == 7
    with open(tmp_path / "out" / "segments.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert (rows[0]["recording"], rows[0]["person"], rows[0]["end_s"]) == ("../a b", "person 1", "10.000")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a classifier, two batches long, and a long recording of two people."""
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(12):
        points = rng.uniform(100, 400, (1, 20, 17, 2)).astype(np.float32)
        score = np.ones((1, 20, 17), np.float32)
        row = {"frame_dir": f"r{number}", "label": number % 3, "img_shape": (480, 640)}
        rows.append({**row, "keypoint": points, "keypoint_score": score})
    names = [row["frame_dir"] for row in rows]
    (folder / "a.pkl").write_bytes(pickle.dumps({"split": {"train": names}, "annotations": rows}))
    points = rng.uniform(100, 400, (2, 90, 17, 2)).astype(np.float32)
    long = {"frame_dir": "long", "img_shape": (480, 640), "keypoint": points, "fps": 15.0}
    long["keypoint_score"] = np.ones((2, 90, 17), np.float32)
    (folder / "long.pkl").write_bytes(pickle.dumps([long]))
    (folder / "labels.txt").write_text("\n".join(CLASSES))
    argv = [f"data.annotations={folder / 'a.pkl'}", f"system.labels={folder / 'labels.txt'}", "data.train=train"]
    argv += ["data.val=", "data.hold_out=0.3", "data.test=train", "trainer.steps=2", "system.base=4", "data.frames=6"]
    argv += ["data.batch_size=4", "data.test_views=1", f"out={folder}", "name=first", "trainer.val_every=2"]
    assert main(["train", "experiment=skeleton/slowonly_mini", *argv]) == 0
    return folder


def test_recognise_writes_a_timeline_for_every_person(run, tmp_path, capsys):
    model = f"model={run / 'skeleton' / 'slowonly_mini' / 'first'}"
    argv = [model, f"annotations={run / 'long.pkl'}", "window=2", f"out={tmp_path / 'out'}"]
    assert main(["recognise", *argv]) == 0
    out = capsys.readouterr().out
    assert "person 1" in out
    assert "person 2" in out
    assert "15 frames a second" in out
    found = json.loads((tmp_path / "out" / "timelines.json").read_text())
    (recording,) = found["recordings"]
    assert [len(person["windows"]) for person in recording["people"]] == [5, 5]
    assert recording["people"][0]["windows"][-1]["end"] == 6.0
    assert (tmp_path / "out" / "timeline_long.png").is_file()


def test_python_has_the_same_timeline(run):
    recognizer = ActionRecognizer.from_pretrained(run / "skeleton" / "slowonly_mini" / "first")
    (made,) = recognizer.timeline(run / "long.pkl", window=2.0)
    assert len(made.people) == 2
    rng = np.random.default_rng(1)
    one = recognizer.timeline(rng.uniform(10, 200, (60, 17, 2)), size=(240, 320), window=Span(30, counted=True), fps=20)
    assert one.duration == 3.0
    assert not one.assumed


def test_the_people_of_a_video_are_found_and_named_in_windows(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sightword.systems.skeleton.video.job.estimator_of", lambda pose: Boxes())
    video = animate(tmp_path / "walk.gif", frames(40))
    argv = [f"model={run / 'skeleton' / 'slowonly_mini' / 'first'}", f"video={video}", f"out={tmp_path / 'out'}"]
    assert main(["recognise", *argv]) == 0
    printed = capsys.readouterr().out
    assert "walk: person 1, 2, 40 frames at 10 a second, 4.0 s" in printed
    assert "windows of 2 s every 1 s" in printed
    assert "next:" not in printed
    (found,) = json.loads((tmp_path / "out" / "timelines.json").read_text())["recordings"]
    assert [person["person"] for person in found["people"]] == ["person 1", "person 2"]
    assert [one["start"] for one in found["people"][0]["windows"]] == [0, 1, 2]
    assert (tmp_path / "out" / "skeletons.pkl").is_file()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["annotations=a.pkl"], "are two sources"),
        (["up=z"], "needs no keys that say how annotations are read"),
    ],
)
def test_a_video_beside_what_is_of_annotations_is_a_line(run, tmp_path, capsys, keys, said):
    model = f"model={run / 'skeleton' / 'slowonly_mini' / 'first'}"
    assert main(["recognise", model, f"video={tmp_path / 'a.gif'}", f"out={tmp_path / 'out'}", *keys]) == 2
    assert said in capsys.readouterr().err


def test_a_classifier_refuses_words_at_the_prompt(run, capsys):
    model = f"model={run / 'skeleton' / 'slowonly_mini' / 'first'}"
    assert main(["recognise", model, "labels=waving, sitting down"]) == 2
    assert "this model is a classifier" in capsys.readouterr().err
