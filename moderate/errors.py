"""The tree of errors that end a run. Each message is the one line that a user reads."""


class ModerateError(Exception):
    """Base of every error that a user can cause and mend; the command line exits with 2."""


class UsageError(ModerateError):
    """Options that contradict each other or name something that is not there."""


class ConfigError(ModerateError):
    """A configuration file that cannot be read or holds a wrong key or value."""


class PolicyError(ModerateError):
    """A policy that cannot be found or does not hold together."""


class WeightsError(ModerateError):
    """Weights that cannot be found, were tampered with, or do not fit their description."""


class DeviceError(ModerateError):
    """A device or precision that this machine does not have, or a device that has failed."""


class MissingLibraryError(DeviceError):
    """A library that is needed and not installed; the message names what to install."""


class InputError(ModerateError):
    """No input was found."""


class OutputError(ModerateError):
    """A result or summary file that cannot be written."""


class ReaderGoneError(OutputError):
    """Whoever read standard output has closed it, as `head` does; nothing needs to be said."""


class RunError(ModerateError):
    """The run could not be finished."""


class StateError(ModerateError):
    """The state folder, or a run's record in it, that cannot be used as asked."""
