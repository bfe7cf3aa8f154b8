"""Every number of the `handshake` family is the kernel's: compared with its YAML, of 6.12 and of 7.3."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyroute2 import netlink

from ktls_agent.sansio.netlink import spec
from ktls_agent.sansio.netlink.spec import AttributeSet, Kind

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("KTLS_AGENT_DATA", ROOT.parent / "shared" / "data")) / "kernel"
KINDS = {"u32": Kind.U32, "s32": Kind.S32, "string": Kind.STRING, "nest": Kind.X509}
SINCE_618 = {"keyring"}


@pytest.fixture(params=["6.12", "7.3"])
def kernel(request: pytest.FixtureRequest) -> Any:
    path = DATA / f"handshake-{request.param}.yaml"
    if not path.exists():
        pytest.skip(f"the kernel's specification is not at {path}; set KTLS_AGENT_DATA")
    return yaml.safe_load(path.read_text())


def definition(kernel: Any, name: str) -> Any:
    return next(entry for entry in kernel["definitions"] if entry["name"] == name)


def uapi(names: list[str], start: int = 1) -> dict[str, int]:
    return {name.replace("-", "_").upper(): number for number, name in enumerate(names, start)}


def test_the_family_is_the_kernels(kernel: Any) -> None:
    assert kernel["name"] == spec.FAMILY_NAME
    assert kernel.get("version", 1) == spec.FAMILY_VERSION
    assert definition(kernel, "max-errno")["value"] == spec.MAX_ERRNO


@pytest.mark.parametrize(
    ("table", "name"),
    [(spec.HandlerClass, "handler-class"), (spec.MessageType, "msg-type"), (spec.Auth, "auth")],
)
def test_enumerations_are_the_kernels(kernel: Any, table: Any, name: str) -> None:
    entries = definition(kernel, name)["entries"]
    expected = uapi([entry for entry in entries if entry != "max"], definition(kernel, name)["value-start"])
    assert {member.name: member.value for member in table} == expected


def test_commands_are_the_kernels(kernel: Any) -> None:
    expected = uapi([operation["name"] for operation in kernel["operations"]["list"]])
    assert {command.name: command.value for command in spec.Command} == expected


def test_multicast_groups_are_the_kernels(kernel: Any) -> None:
    groups = [group["name"] for group in kernel["mcast-groups"]["list"]]
    assert [group.value for group in spec.MulticastGroup] == groups
    # A handler class's READY goes to the group whose place in the list is the class's number.
    assert [handler.name.lower() for handler in spec.HandlerClass] == groups


@pytest.mark.parametrize(
    ("table", "name"),
    [(spec.X509Attribute, "x509"), (spec.AcceptAttribute, "accept"), (spec.DoneAttribute, "done")],
)
def test_attributes_are_the_kernels(kernel: Any, table: type[AttributeSet], name: str) -> None:
    attributes = next(entry for entry in kernel["attribute-sets"] if entry["name"] == name)["attributes"]
    expected = [
        (number, entry["name"], KINDS[entry["type"]], entry.get("multi-attr", False))
        for number, entry in enumerate(attributes, 1)
    ]
    missing = {"keyring"} - {entry["name"] for entry in attributes}
    ours = [
        (attribute.number, attribute.name.lower().replace("_", "-"), attribute.kind, attribute.repeated)
        for attribute in table
    ]
    assert [entry for entry in ours if entry[1] not in missing & SINCE_618] == expected


def test_done_claims_nothing_above_3() -> None:
    assert max(attribute.number for attribute in spec.DoneAttribute) == 3


def test_numbers_of_netlink_are_the_ones_that_pyroute2_has() -> None:
    assert all(
        getattr(netlink, f"NLMSG_{member.name}") == member
        for member in spec.NlmsgType
        if member is not spec.NlmsgType.GENL_ID_CTRL
    )
    assert netlink.GENL_ID_CTRL == spec.NlmsgType.GENL_ID_CTRL
    assert all(getattr(netlink, f"NLM_F_{flag.name}") == flag for flag in spec.NlmsgFlag)
    assert all(getattr(netlink, f"CTRL_CMD_{command.name}") == command for command in spec.CtrlCommand)
    assert all(getattr(netlink, f"CTRL_ATTR_{a.name}") == a.number for a in spec.CtrlAttribute)
    assert all(getattr(netlink, f"CTRL_ATTR_MCAST_GRP_{a.name}") == a.number for a in spec.CtrlGroupAttribute)


def test_kinds_of_the_controllers_attributes_are_the_ones_that_pyroute2_has() -> None:
    kinds = dict(netlink.ctrlmsg.nla_map)
    assert all(kinds[f"CTRL_ATTR_{a.name}"] == a.kind.value for a in spec.CtrlAttribute)


def test_a_set_is_found_by_number() -> None:
    assert spec.by_number(spec.DoneAttribute)[2] is spec.DoneAttribute.SOCKFD
