"""The one exception that means "the user's input or machine is at fault": a line that names the file and the mend."""


class HowlError(Exception):
    """Something outside the program is wrong. ``str(error)`` is one line: the file at fault and how to mend it.

    Commands print that line and exit with 1; library users may catch it.
    """


class ImageError(HowlError):
    """A photo that cannot be read: missing, empty, truncated or not an image."""
