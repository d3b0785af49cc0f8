"""What a user can mend: errors whose message names the file, key or value and says what to do. The command line shows no traceback."""

from __future__ import annotations


class GristmillError(Exception):
    """An error that the user can mend, told in its message."""


class InputError(GristmillError, ValueError):
    """Input that cannot be used as it is: a missing column, an empty corpus, a folder without usable files."""
