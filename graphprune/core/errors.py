"""Errors a user can act on. The command line prints their message as one sentence and exits with 1."""


class GraphpruneError(Exception):
    """Anything that went wrong for a reason the user can mend."""


class InputError(GraphpruneError):
    """A path, text or option value that can't be used."""


class ModelError(GraphpruneError):
    """A model that can't be read, or an architecture that isn't supported."""


class FormatError(GraphpruneError):
    """A file that is damaged, incomplete, of another version, or of another model."""


class InfeasibleError(GraphpruneError):
    """A sparsity that no legal mask reaches; the message names the nearest one that is reached."""


class NetworkError(GraphpruneError):
    """Something had to be fetched and could not be."""


class DownloadError(NetworkError):
    """A file was fetched and is not the one that was expected."""
