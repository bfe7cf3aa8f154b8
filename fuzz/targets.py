"""Every target by its name; a new one goes into the `TARGETS` of its module, a new module into the line below."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from . import captures, decoders, engines, sessions
from .target import Target

TARGETS: Final[Mapping[str, Target]] = MappingProxyType(
    {target.name: target for module in (sessions, decoders, engines, captures) for target in module.TARGETS}
)
