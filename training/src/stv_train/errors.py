"""Errors that a user can act on. The command prints their message alone and exits with status 2."""


class TrainError(Exception):
    """A full sentence that names the field or file, the limit and the value found."""


class OutsideDomain(Exception):
    """The text is no problem (or no line) that the tasks of this pack can read."""
