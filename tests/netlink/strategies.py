"""Hypothesis strategies for the `handshake` family's messages."""

from hypothesis import strategies as st

from ktls_agent.sansio.netlink.events import AcceptReply, CertificateSerials

u32 = st.integers(0, 2**32 - 1)
s32 = st.integers(-(2**31), 2**31 - 1)
descriptors = st.integers(0, 2**31 - 1)
statuses = st.integers(0, 4095)
sequences = st.integers(1, 2**32 - 1)
family_ids = st.integers(17, 0xFFFF)
names = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=40)
raw_names = (
    st.binary(max_size=40)
    .filter(lambda name: b"\0" not in name)
    .map(lambda name: name.decode(errors="surrogateescape"))
)
certificates = st.builds(CertificateSerials, certificate=s32 | st.none(), private_key=s32 | st.none())
accept_replies = st.builds(
    AcceptReply,
    sockfd=descriptors | st.none(),
    message_type=u32 | st.none(),
    timeout_ms=u32 | st.none(),
    auth_mode=u32 | st.none(),
    peer_identities=st.lists(u32, max_size=5).map(tuple),
    certificates=st.lists(certificates, max_size=3).map(tuple),
    peername=names | raw_names | st.none(),
    keyring=u32 | st.none(),
)
