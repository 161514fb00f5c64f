"""Settings in the environment: what of it is a setting, what only looks like one, and what is misspelt."""

import difflib
import re
from collections.abc import Iterable
from typing import Any

from pydantic_settings import EnvSettingsSource

PREFIX = "NORMTREE_"
# What Kubernetes and Docker tell every container of a service named normtree, or normtree-something.
_LINK_NAME = re.compile(r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")
_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://")
_ALIKE = 0.6  # of difflib's ratio


class Environment(EnvSettingsSource):
    """The settings of ``NORMTREE_<NAME>``.

    Raises:
        ValueError: a name is no setting, but looks like one.
    """

    def __call__(self) -> dict[str, Any]:
        """Return the settings that are there."""
        for name, alike in unknown(self.env_vars, self.settings_cls.model_fields):
            if alike:
                raise ValueError(f"{name} is no setting; did you mean {alike}?")
        found = super().__call__()
        return {name: value for name, value in found.items() if not _LINK_VALUE.match(str(value))}


def unknown(environment: Iterable[str], settings: Iterable[str]) -> list[tuple[str, str | None]]:
    """Return the variables of our prefix that are no settings, each with the one it looks like, None for none.

    Args:
        environment: names of variables, in either case.
        settings: names of settings.
    """
    known = [name.upper() for name in settings]
    names = sorted({name.upper() for name in environment if name.upper().startswith(PREFIX)})
    found: list[tuple[str, str | None]] = []
    for name in names:
        rest = name.removeprefix(PREFIX)
        if rest not in known and not _LINK_NAME.fullmatch(rest):
            alike = difflib.get_close_matches(rest, known, 1, _ALIKE)
            found.append((name, PREFIX + alike[0] if alike else None))
    return found
