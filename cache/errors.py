"""Errors that a user can cause or mend: each message says what, where and what to do next."""


class MgcliError(Exception):
    """A user's mistake or a fault in the data; the command line prints the message and exits 1."""


class ClipTableError(MgcliError):
    """A clip table that cannot be read or does not make sense."""


class CacheError(MgcliError):
    """A cache that cannot be opened, read or written."""


class NonFiniteTokensError(CacheError):
    """Tokens that hold NaN or infinity, or overflow the stored type; they are never stored."""


class ProjectError(MgcliError):
    """A project file, or its absence, that stops a command."""


class LeakageError(MgcliError):
    """A split, or a backbone, that would test on what it was trained on."""


class ClusterError(MgcliError):
    """A cluster that cannot be joined, or has no room for work."""
