"""A browser for the tests of a file that ask for one."""

from tests.viz._browser import browser  # noqa: F401
