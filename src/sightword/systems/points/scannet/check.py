"""Is a set of posed RGB-D scenes complete and readable? Whether its parts belong together, the doctor says."""

from pathlib import Path

from tqdm import tqdm

from sightword.data.finding import CheckReport, Finding, Level
from sightword.data.image import read_image
from sightword.errors import SightwordError
from sightword.systems.points.doctor.diagnosis import UNPROVEN, diagnose
from sightword.systems.points.lift.cloud import read_cloud, recorded
from sightword.systems.points.scannet.convention import Convention
from sightword.systems.points.scannet.reader import (
    SKIP,
    find_scenes,
    list_doubles,
    list_frames,
    read_scene,
    read_scenes_file,
    scene_folder,
    stored_depth,
)


def check_scannet(root: str, scenes_file: str = "", convention: Convention | None = None) -> CheckReport:
    """Open every frame of posed RGB-D in ScanNet's layout once, and judge whether depth, poses, intrinsics, colour and
    cloud of each scene belong together.

    root: the folder of the scenes, or one scene. scenes_file: a list of those to look at; all if empty. convention: of
    the files. Raises SightwordError if there is no scene.
    """
    names = read_scenes_file(scenes_file) if scenes_file else find_scenes(root)
    findings: list[Finding] = []
    images = 0
    for name in names:
        try:
            checked = _Scene(name, scene_folder(root, name), convention or Convention())
        except SightwordError as error:
            findings.append(Finding("error", "missing scenes", str(error), (name,)))
            continue
        checked.look()
        images += checked.images
        findings += checked.findings
    unsure = [finding for finding in findings if finding.kind == UNPROVEN]
    open_ = f"whether depth and poses of {len(unsure)} of {len(names)} scenes belong together" if unsure else ""
    return CheckReport(images, tuple(findings), undecided=open_)


class _Scene:
    """The check of one scene; `look` fills `findings` and counts `images`."""

    def __init__(self, name: str, folder: Path, convention: Convention) -> None:
        self.name, self.folder, self.convention = name, folder, convention
        self.images = 0
        self.findings: list[Finding] = []
        self._sound: dict[str, set[int]] = {"colour": set(), "depth": set()}  # frames that are readable
        self._sizes: dict[str, tuple[int, ...]] = {}  # of the first colour and depth frame

    def look(self) -> None:
        """Check the files, and have the doctor look at the frames and the cloud."""
        self._files()
        try:
            scene = read_scene(self.folder, convention=self.convention)
        except SightwordError as error:
            self._error("unreadable scenes", str(error))
            return
        lost = [line for line in scene.skipped if "not finite" in line]
        for line in scene.skipped:
            if line not in lost and "is missing" not in line and "are both" not in line:
                self._error("unusable poses", line)
        self._note("usable frames", f"{len(scene.frames)} frames can be used")
        if lost:
            self._note("lost poses", f"{len(lost)} frames have a pose that is not finite and are left out", len(lost))
        self._clouds()
        sound = self._sound["colour"] & self._sound["depth"]
        if kept := [frame for frame in scene.frames if frame.index in sound]:
            self.findings += diagnose(scene._replace(frames=kept))

    def _error(self, kind: str, message: str, *files: Path) -> None:
        self._add("error", kind, message, files)

    def _note(self, kind: str, message: str, count: int = 1) -> None:
        self._add("note", kind, message, (), count)

    def _add(self, level: Level, kind: str, message: str, files: tuple[Path, ...], count: int = 1) -> None:
        shown = tuple(map(str, files)) or (str(self.folder),)
        self.findings.append(Finding(level, kind, f"{self.name}: {message}", shown, count))

    def _files(self) -> None:
        """Open every image once."""
        for index, names in list_doubles(self.folder).items():
            self._error("files of one index", f"frame {index} is left out: {names}")
        bar = tqdm(list_frames(self.folder).items(), desc=f"check {self.name}", unit=" frames", disable=None)
        for index, (color, depth, pose) in bar:
            lost = [part for part, file in (("colour", color), ("depth", depth), ("pose", pose)) if file is None]
            if lost:
                self._error("missing files", f"frame {index}: its {' and its '.join(lost)} is missing")
            for look, file in ((self._color, color), (self._depth, depth)):
                if file is None:
                    continue
                self.images += 1
                try:
                    look(index, file)
                except ValueError as error:
                    self._error("unreadable images", str(error).replace(SKIP, ""), file)

    def _color(self, index: int, file: Path) -> None:
        self._size("colour", index, file, read_image(file, upright=False).size[::-1])

    def _depth(self, index: int, file: Path) -> None:
        depth = stored_depth(file, self.convention.depth_scale)
        if depth.any():
            self._size("depth", index, file, tuple(depth.shape))
        else:
            self._error("empty depth", f"frame {index}: its depth is 0 everywhere", file)

    def _size(self, kind: str, index: int, file: Path, size: tuple[int, ...]) -> None:
        usual = self._sizes.setdefault(kind, size)
        if size == usual:
            self._sound[kind].add(index)
        else:
            self._error(
                "images of two sizes", f"frame {index}: its {kind} is {_by(size)}, the first is {_by(usual)}", file
            )

    def _clouds(self) -> None:
        """The recorded cloud, if there is one, is readable."""
        for file in recorded(self.folder, self.name).values():
            try:
                cloud = read_cloud(file)
            except SightwordError as error:
                self._error("unreadable clouds", str(error), file)
                continue
            labels = "" if cloud.label is None else f", {len(cloud.label.unique())} labels"
            self._note("clouds", f"{file.name} has {len(cloud.xyz)} points{labels}")


def _by(size: tuple[int, ...]) -> str:
    return f"{size[1]} x {size[0]}"
