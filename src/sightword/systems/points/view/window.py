"""The window: a stage's points, boxes and cameras as viser draws them, and the panel beside them."""

import threading
from collections.abc import Sequence

import numpy as np
import viser
import viser.transforms

from sightword.systems.points.ask import PointFeatures
from sightword.systems.points.scannet.reader import Frame, read_color
from sightword.systems.points.view.stage import COLOURINGS, Box, Colouring, Known, Stage, open_height, outside, spacing

PHOTO = 320  # pixels of the longer side of a camera's picture
CAMERAS = 40  # that are drawn at most, spread evenly
PLAIN, CHOSEN = (110, 119, 129), (214, 60, 40)  # frusta
CORNERS = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
EDGES = [(a, b) for a in range(8) for b in range(a + 1, 8) if bin(a ^ b).count("1") == 1]
TEXT = '<div style="padding:0 12px 8px;font-size:13px;line-height:1.35">{}</div>'
CLICK = "Click a camera to see what it contributes."
HINT = "Write what to find, with commas between texts that compete, and press Enter."


class Window:
    """A stage on a server. Everything that a browser changes comes in through `ask`, `paint` and `look`."""

    def __init__(self, server: viser.ViserServer, stage: Stage, colouring: Colouring = "photo") -> None:
        self.server, self.stage, self.colouring = server, stage, colouring
        self.camera: int | None = None  # the one whose points are lit
        self._busy = threading.RLock()  # callbacks come from many threads
        self._marks: list[viser.SceneNodeHandle] = []
        self._cameras: dict[int, viser.CameraFrustumHandle] = {}  # by place among the stage's frames
        self._drawn: dict[int, viser.CameraFrustumHandle] = {}  # by the frame's number
        server.scene.set_up_direction(np.asarray(stage.points.up))
        self._stand()
        self._panel()
        self.renew()

    def _stand(self) -> None:
        """Choose where a browser that opens the window looks from, and where its button for that leads back to."""
        cameras = np.array([frame.pose[:3, 3].numpy() for frame in self.stage.frames])
        place, middle = outside(self.stage.xyz.numpy(), self.stage.points.up, cameras)
        first = self.server.initial_camera
        first.position, first.look_at = tuple(place), tuple(middle)

    def _panel(self) -> None:
        gui = self.server.gui
        with gui.add_form(None) as form:
            self.question = gui.add_text("Find", "", hint=HINT)
        self.choice = gui.add_dropdown("Colour by", COLOURINGS, initial_value=self.colouring)
        self.answer = gui.add_html("")
        self.show_cameras = gui.add_checkbox("Cameras", True)
        self.show_boxes = gui.add_checkbox("Boxes", True)
        self.size = gui.add_slider("Point size, mm", 2, 60, 1, round(1000 * spacing(self.stage.xyz.numpy())))
        self.cut = gui.add_slider("Cut off the top, %", 0, 95, 1, self._usual_cut(), hint="to look into a room")
        self.photo = gui.add_image(np.full((2, 2, 3), 255, np.uint8), visible=False)
        self.told = gui.add_html(TEXT.format(CLICK))
        self.back = gui.add_button("Show all points again", visible=False)
        form.on_submit(lambda _: self.ask(self.question.value))
        self.choice.on_update(lambda _: self.paint(self.choice.value))
        self.back.on_click(lambda _: self.look(None))
        self.show_cameras.on_update(lambda _: self._show())
        self.show_boxes.on_update(lambda _: self._show())
        self.cut.on_update(lambda _: self.renew())
        self.size.on_update(lambda _: setattr(self.cloud, "point_size", self.size.value / 1000))

    def renew(self) -> None:
        """Draw the points and cameras that the stage has now."""
        with self._busy, self.server.atomic():
            low, high = self._span()
            shown = self.stage.height <= high - self.cut.value / 100 * (high - low) + 1e-6
            self._rows = shown.nonzero().squeeze(1).numpy()
            self.cloud = self.server.scene.add_point_cloud(
                "/points",
                self.stage.xyz.numpy()[self._rows],
                self.stage.colours(self.colouring)[self._rows],
                point_size=self.size.value / 1000,
                point_shape="circle",
                point_shading="flat",
                precision="float32",
            )
            frames = self.stage.frames
            few = np.unique(np.linspace(0, len(frames) - 1, min(CAMERAS, len(frames))).round().astype(int)).tolist()
            for index in self._drawn.keys() - {frames[place].index for place in few}:
                self._drawn.pop(index).remove()
            self._cameras = {place: self._frustum(frames[place]) for place in few}
            self.camera = None
            self._answered()

    def _span(self) -> tuple[float, float]:
        """The lowest and the highest point, in metres along the vertical."""
        return float(self.stage.height.min()), float(self.stage.height.max())

    def _usual_cut(self) -> int:
        low, high = self._span()
        return round(100 * (high - open_height(self.stage.height.numpy())) / max(high - low, 1e-6))

    def renew_from(self, points: PointFeatures, frames: Sequence[Frame], known: Known | None) -> None:
        """Show a map that grew. Whatever was asked is answered again."""
        with self._busy:
            self.stage.renew(points, frames, known)
            self._stand()
            self.renew()

    def ask(self, question: str) -> None:
        """Answer a question, and show it: by query, unless the user chose another colouring of the answer."""
        with self._busy:
            if self.question.value != question:
                self.question.value = question
            self.stage.ask(question)
            self.camera = None
            if self.stage.answer is not None and self.colouring == "photo":
                self.colouring = self.choice.value = "query"
            self._answered()

    def paint(self, colouring: Colouring) -> None:
        """Colour the points in another way."""
        with self._busy:
            self.colouring, self.camera = colouring, None
            self._answered()

    def look(self, camera: int | None) -> None:
        """Light the points that a camera sees, and show its photo; None: all points again."""
        with self._busy:
            self.camera = camera
            for place, handle in self._cameras.items():
                handle.color = CHOSEN if place == camera else PLAIN
            self._answered()

    def _answered(self) -> None:
        seen = None if self.camera is None else self.stage.seen(self.camera)
        with self.server.atomic():
            colours = self.stage.colours(self.colouring) if seen is None else self.stage.lit(seen)
            self.cloud.colors = colours[self._rows]
            self.answer.content = TEXT.format(self.stage.told())
            self.photo.visible = self.back.visible = seen is not None
            self.told.content = TEXT.format(CLICK if seen is None else seen.told)
            if seen is not None and self.camera is not None:
                self.photo.image = photo_of(self.stage.frames[self.camera])
            else:
                for handle in self._cameras.values():
                    handle.color = PLAIN
            for mark in self._marks:
                mark.remove()
            boxes = self.stage.boxes(self.colouring)
            self._marks = [mark for number, box in enumerate(boxes) for mark in self._box(number, box)]

    def _show(self) -> None:
        with self._busy:
            for handle in self._cameras.values():
                handle.visible = self.show_cameras.value
            for mark in self._marks:
                mark.visible = self.show_boxes.value

    def _box(self, number: int, box: Box) -> Sequence[viser.SceneNodeHandle]:
        low, high = np.asarray(box.low), np.asarray(box.high)
        corners = low + CORNERS * (high - low)
        shown = self.show_boxes.value
        # from the box's middle upwards, so that the label stands on its upper side
        up = np.asarray(self.stage.points.up)
        top = (low + high) / 2 + up * float(np.abs(up) @ (high - low)) / 2
        return (
            self.server.scene.add_line_segments(
                f"/objects/{number}/box",
                corners[np.array(EDGES)].astype(np.float32),
                box.colour,
                thickness=2.5,
                thickness_units="screen",
                visible=shown,
            ),
            self.server.scene.add_label(
                f"/objects/{number}/label", box.label, position=tuple(top), anchor="bottom-center", visible=shown
            ),
        )

    def _frustum(self, frame: Frame) -> viser.CameraFrustumHandle:
        handle = self._drawn.get(frame.index)
        if handle is None:
            image = photo_of(frame)
            width, height = 2 * float(frame.K_color[0, 2]) + 1, 2 * float(frame.K_color[1, 2]) + 1
            pose = (frame.pose @ frame.place).numpy()
            handle = self.server.scene.add_camera_frustum(
                f"/cameras/{frame.index}",
                fov=2 * float(np.arctan(height / 2 / abs(float(frame.K_color[1, 1])))),
                aspect=width / height,
                scale=0.15,
                thickness=1.5,
                thickness_units="screen",
                color=PLAIN,
                image=image,
                wxyz=viser.transforms.SO3.from_matrix(pose[:3, :3]).wxyz,
                position=tuple(pose[:3, 3]),
                visible=self.show_cameras.value,
            )
            self._drawn[frame.index] = handle
            index = frame.index
            handle.on_click(lambda _: self._clicked(index))
        return handle

    def _clicked(self, index: int) -> None:
        """Light the points of the frame of a number; a second click shows all again."""
        with self._busy:
            place = next((at for at in self._cameras if self.stage.frames[at].index == index), None)
            self.look(None if place == self.camera else place)


def photo_of(frame: Frame) -> np.ndarray:
    """Return a frame's colour picture, reduced, (H, W, 3) uint8."""
    image = read_color(frame)
    image.thumbnail((PHOTO, PHOTO))
    return np.asarray(image)
