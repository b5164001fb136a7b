"""The version of the package, and the mark on images that it writes."""

VERSION = "0.1.0"
MARK = "sightword"  # keyword of the PNG text in each image that a command writes: `data.image.list_images` skips these
